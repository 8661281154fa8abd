"""What a node says went wrong, as the error that a user sees."""

import pickle
from typing import Any, Literal, TypeAlias

import msgspec

from mpreg_nb.errors import (
    LONGEST_LINE,
    BadRequest,
    CallCancelled,
    CallTimeout,
    NodeLost,
    NoRoute,
    NotPicklable,
    Overloaded,
    PayloadTooLarge,
    WorkerCrashed,
)
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.exceptions import add_note
from mpreg_nb.wire.messages import Failed, Failure
from mpreg_nb.wire.remote import tell


def error_of(
    failed: Failed,
    parts: Parts,
    *,
    function: str,
    resources: frozenset[str] = frozenset(),
    node: str | None = None,
    timeout_s: float = 0.0,
) -> Exception:
    """Return the error to raise for `failed`, an answer to a call of `function`.

    `node` is where the call was narrowed to, `timeout_s` what it was given. In which
    call of a step it was raised is in a note, and in the attribute `where`.
    """
    failure = failed.failure
    timeout_s = failure.timeout_ms / 1e3 or timeout_s
    error = _plain_error(
        failed,
        parts,
        function=function,
        resources=resources,
        node=node,
        timeout_s=timeout_s,
    )
    if failure.where:
        add_note(error, f"In {failure.where}.")
        tell(error, "where", failure.where)
    return error


def _plain_error(
    failed: Failed,
    parts: Parts,
    *,
    function: str,
    resources: frozenset[str],
    node: str | None,
    timeout_s: float,
) -> Exception:
    failure = failed.failure
    match failure.kind:
        case "application":
            from mpreg_nb.wire.payload import remote_error

            whole = parts or (failed.payload,)
            error = remote_error(whole, function=function, node=failure.node)
            tell(error, "argument_types", failure.argument_types)
            return error
        case "no_route":
            return NoRoute(
                function,
                frozenset(failure.lines) or resources,
                dict(failure.offers),
                held=dict(failure.held),
                pinned=node,
                similar=failure.similar or None,
                reason=failure.cause,
            )
        case "no_code":
            return NoRoute(function, resources, {})
        case "overloaded":
            return Overloaded(function, failure.size_bytes)
        case "deadline":
            return CallTimeout(function, timeout_s, executed=failure.executed)
        case "cancelled":
            return CallCancelled(function, executed=failure.executed)
        case "draining":
            return NodeLost(
                failure.node,
                "it is leaving the cluster",
                function=function,
                executed="no",
            )
        case "node_lost":
            return NodeLost(
                failure.node,
                failure.message or "the connection was lost",
                function=function,
                executed=failure.executed,
            )
        case "gone":
            return NodeLost(
                failure.node,
                failure.message or "it no longer holds the result",
                function=function,
                executed="yes",
            )
        case "worker_crashed":
            return WorkerCrashed(
                function,
                failure.node,
                failure.cause,
                memory_mb=failure.memory_mb,
                last_lines=failure.lines,
                executed=failure.executed,
            )
        case "too_large":
            return PayloadTooLarge(
                f"the arguments or the result of {function}",
                failure.size_bytes,
                failure.limit_bytes,
            )
        case "not_picklable":
            reason, _, cure = failure.message.partition("\n")
            cure = cure or "Return what it is created from, or plain data"
            return NotPicklable(f"the result of {function}", reason, cure)
        case "bad_request":
            return BadRequest(failure.message)


class _Packed:
    """Pickled as a call that makes the error."""

    def __init__(self, failed: bytes, parts: tuple[bytes, ...], function: str) -> None:
        self._made_of = failed, parts, function

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, self._made_of


def pack_error(failed: Failed, parts: Parts, *, function: str) -> bytes:
    """Return a pickle of the error to raise for `failed`, without making it here."""
    encoded = msgspec.msgpack.encode(failed)
    return pickle.dumps(_Packed(encoded, tuple(map(bytes, parts)), function), 5)


def restored(failed: bytes, parts: Parts, function: str) -> Exception:
    """Return the error of an encoded failure. Pickles call this."""
    message = msgspec.msgpack.decode(failed, type=Failed)
    return error_of(message, parts, function=function)


def failure_line(failure: Failure) -> str:
    """Say in a line what happened, where the error itself is not at hand."""
    match failure.kind:
        case "application":
            return failure.message
        case "deadline":
            return f"no result within {failure.timeout_ms / 1e3:g} s"
        case "worker_crashed":
            return f"the worker process ended: {failure.cause}"
    return failure.message or failure.kind.replace("_", " ")


_CLASSES: dict[str, type[Exception]] = {
    "no_route": NoRoute,
    "no_code": NoRoute,
    "overloaded": Overloaded,
    "deadline": CallTimeout,
    "cancelled": CallCancelled,
    "draining": NodeLost,
    "node_lost": NodeLost,
    "gone": NodeLost,
    "worker_crashed": WorkerCrashed,
    "too_large": PayloadTooLarge,
    "not_picklable": NotPicklable,
    "bad_request": BadRequest,
}


def error_line(failure: Failure) -> str:
    """Return class and first line of an error, and in which call of a step it came.

    >>> error_line(Failure(kind="application", message="ValueError: no\\nmore"))
    'ValueError: no'
    >>> error_line(Failure(kind="deadline", timeout_ms=500, where="item [3]"))
    'CallTimeout: no result within 0.5 s (item [3])'
    """
    line = failure_line(failure).partition("\n")[0]
    if failure.kind == "node_lost" and failure.node:
        line = f"node {failure.node}: {line}"
    if failure.kind == "no_route":
        line = f"no live node holds {', '.join(failure.lines) or 'the function'}"
    if failure.kind != "application":
        line = f"{_CLASSES[failure.kind].__name__}: {line}"
    if len(line) > LONGEST_LINE:
        line = line[: LONGEST_LINE - 1] + "…"
    return f"{line} ({failure.where})" if failure.where else line


CallStatus: TypeAlias = Literal["done", "failed", "cancelled", "lost"]

_STATUS: dict[str, CallStatus] = {
    "cancelled": "cancelled",
    "draining": "lost",
    "node_lost": "lost",
    "gone": "lost",
    "worker_crashed": "lost",
}


def call_status(failure: Failure) -> CallStatus:
    """Return how a call without a result ended, as tables name it."""
    return _STATUS.get(failure.kind, "failed")
