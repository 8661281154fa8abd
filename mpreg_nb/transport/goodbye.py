"""Why a link ends: what is told to the other end, what this end can tell."""

from websockets.protocol import Protocol

LONGEST_REASON = 120
"""Bytes of a close frame's reason; the protocol allows 123."""


def short_reason(reason: str) -> str:
    """Return as much of `reason` as a close frame takes."""
    return reason.encode()[:LONGEST_REASON].decode(errors="ignore")


def why_ended(protocol: Protocol, error: Exception | None) -> str:
    """Return what the other end said, or else what befell the connection."""
    goodbye = protocol.close_rcvd
    broken = protocol.parser_exc
    if goodbye is not None:
        reason = goodbye.reason if goodbye.reason.isprintable() else ""
        return f"closed by the other end: {goodbye.code} {reason}".rstrip()
    if broken is not None and not isinstance(broken, EOFError):
        return f"the other end violated the protocol: {broken}"
    return f"the connection was lost: {error or 'it ended without a goodbye'}"
