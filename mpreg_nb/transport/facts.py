"""What is known of a link: who is at the other end, and what went through."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["client", "node"]
"""What the dialling side is. Each role proves itself with a key of its own."""

Lane: TypeAlias = Literal["control", "data", "json"]
"""What may travel: wire.gossip, wire.messages, or JSON text of foreign clients."""

FailureKind: TypeAlias = Literal[
    "refused", "timed_out", "not_trusted", "wrong_cluster", "wrong_node"
]
"""Why a dial led to no link."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerFacts:
    """Who is at the other end of a link; all of it was part of the proof.

    For a JSON client, which only shows its token, `name` is empty.
    """

    role: Role
    """What the other end is. The side that was dialled is always a node."""

    name: str
    cluster_id: str
    lane: Lane
    address: str
    """Host and port of the socket's other end; no name to rely on."""

    dialled: bool
    """Whether this side opened the link."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkStatistics:
    """What went through one link since it opened."""

    bytes_in: int
    bytes_out: int
    frames_in: int
    frames_out: int
    messages_in: int
    messages_out: int
    strikes: int
    """Batches or messages that could not be understood."""

    unknown: int
    """Messages of a kind that this version does not know; they are ignored."""

    backlog_bytes: int
    """Handed to the transport and not yet taken by the system."""

    streams_in: int
    streams_out: int
    """Payloads under way that are too large to travel inside their message."""
