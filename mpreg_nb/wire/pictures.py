"""The data lane: what a node knows at one moment, for frames and views."""

from typing import Literal

import msgspec

from mpreg_nb.wire.gossip import Load, MemberRecord, Offer
from mpreg_nb.wire.message import Count, Message, Name, RequestId


class NodePicture(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One member as the answering node sees it."""

    record: MemberRecord
    load: Load | None = None
    rtt_ms: float | None = None


class FunctionPicture(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one node counted of one version of one function."""

    function: Name
    version: str
    node: Name
    calls: Count = 0
    errors: Count = 0
    p50_ms: float | None = None


class EventPicture(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Something that happened to the cluster, as one node saw it."""

    at_s: float  # wall clock of the node that saw it
    node: str
    event: str
    detail: str = ""


class Watch(Message, frozen=True, kw_only=True, array_like=True, tag="watch"):
    """Send a Snapshot now and after changes; `period_ms` 0: only this once."""

    id: RequestId
    period_ms: Count = 0


class Snapshot(Message, frozen=True, kw_only=True, array_like=True, tag="snapshot"):
    """What one node knows, at one moment. `nodes` are sorted by name."""

    id: RequestId
    node: Name
    nodes: tuple[NodePicture, ...]
    offers: tuple[tuple[Name, Offer], ...]  # owner, what it offers
    functions: tuple[FunctionPicture, ...] = ()  # these two only when asked once
    events: tuple[EventPicture, ...] = ()


class LoadsTold(Message, frozen=True, kw_only=True, array_like=True, tag="loads"):
    """How busy some nodes are since the last Snapshot of the Watch `id`."""

    id: RequestId
    loads: tuple[tuple[Name, Load], ...]


class LinkPicture(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What went between one node and one peer since their links opened.

    All links of the two together. A link that was lost takes its counts with it,
    so that a smaller figure than before means that they began anew.
    """

    peer: Name
    role: Literal["node", "client"]
    sent_bytes: Count = 0
    received_bytes: Count = 0
    sent_messages: Count = 0
    received_messages: Count = 0


class TrafficAsk(
    Message, frozen=True, kw_only=True, array_like=True, tag="traffic_ask"
):
    """Tell what went over your links; answered by Traffic."""

    id: RequestId


class Traffic(Message, frozen=True, kw_only=True, array_like=True, tag="traffic"):
    """What went over the links of one node. `links` are sorted by role and peer."""

    id: RequestId
    node: Name
    links: tuple[LinkPicture, ...]
