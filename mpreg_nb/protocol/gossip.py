"""The control lane: what nodes tell each other about members and offers.

Three kinds of struct. *Facts* about one node (`MemberRecord`, `Load`, `Offer`)
are also used inside the node and on the data lane. *Items* are news that is
passed on from node to node until all have it. *Messages* go from one node to
one other; their sender is the node at the other end of the link.

Only node peers reach this lane; a client that sends one of these is cut off.
No struct holds a wall time: clocks of different nodes are never compared.
"""

import enum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

NodeName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
"""A node as people know it; one live process at a time has it."""

FunctionName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
ResourceName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Url: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]

Epoch: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""Random bytes of one process; tells two processes of one name apart."""

Version: TypeAlias = Annotated[str, Meta(max_length=64)]
"""Hexadecimal hash of the shipped bytes of a function."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Small: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Measure: TypeAlias = Annotated[float, Meta(ge=0)]


class MemberState(enum.IntEnum):
    """What is held of one process; a larger value wins over a smaller one."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Told(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
):
    """Base of all that is told here; never sent by itself."""


# ------------------------------------------------------------------- facts


class Load(Told, frozen=True, kw_only=True, tag="load"):
    """How busy a node is, by its own account."""

    running: Small = 0
    queued: Small = 0
    slots: Small = 1
    latency_ms: Measure = 0.0  # moving average of calls run there
    loop_lag_ms: Measure = 0.0
    degraded: bool = False  # its own event loop is late: do not send it more
    cpu_percent: Measure = 0.0
    memory_mb: Small = 0
    uptime_s: Count = 0  # instead of a start time
    serial: Count = 0  # of the same process, a later account has a larger one
    shared_memory_mb: Small = 0  # that it passes on or keeps, of whichever process


class MemberRecord(Told, frozen=True, kw_only=True, tag="member"):
    """One process of one node. All but state, by and age_s is its own word."""

    name: NodeName
    generation: Small  # of the name: raised by each process that takes it over
    epoch: Epoch
    incarnation: Count = 1  # raised by the process itself, to refute
    state: MemberState = MemberState.ALIVE
    urls: Annotated[tuple[Url, ...], Meta(max_length=16)] = ()
    resources: Annotated[frozenset[ResourceName], Meta(max_length=1024)] = frozenset()
    workers: Small = 1
    slots: Small = 1
    host: Annotated[str, Meta(max_length=256)] = ""
    python: Annotated[str, Meta(max_length=64)] = ""
    catalog_version: Count = 0
    by: Annotated[tuple[NodeName, ...], Meta(max_length=16)] = ()  # who says so
    age_s: Count = 0  # in this state, as the sender counts; set when synced
    certificate_ends_s: Count = 0  # on the wall clock; 0: it has no certificate
    engine: Annotated[str, Meta(max_length=256)] = ""  # URL of what runs its calls


class Offer(Told, frozen=True, kw_only=True, tag="offer"):
    """One node has one version of one function.

    It serves calls iff it is not placed, or the node holds all of `resources`.
    `removed` with a version: this node has that version no longer. `removed`
    with an empty version: the name was unregistered, which voids every
    registration of it with a smaller (counter, origin).
    """

    function: FunctionName
    version: Version
    resources: Annotated[frozenset[ResourceName], Meta(max_length=1024)] = frozenset()
    counter: Count = 0  # 1 + the highest known when it was registered
    origin: Annotated[str, Meta(max_length=128)] = ""  # node it was registered at
    idempotent: bool = False
    isolation: Annotated[str, Meta(pattern="^(process|thread|inline)$")] = "process"
    placed: bool = True  # to be served by every node that holds its resources
    signature: Annotated[str, Meta(max_length=4096)] = ""
    doc: Annotated[str, Meta(max_length=16_384)] = ""
    size_bytes: Count = 0  # of the code
    removed: bool = False
    python: Annotated[str, Meta(max_length=16)] = ""  # minor version; "": any

    @property
    def needs_worker(self) -> bool:
        """Whether it runs in a worker process; a node may have none."""
        return self.isolation == "process"


# ------------------------------------------------------------------- items


class Verdict(Told, frozen=True, kw_only=True, tag="verdict"):
    """SUSPECT, DEAD or LEFT, said of one process by the nodes in `by`.

    LEFT counts only if `by` is the node itself.
    """

    name: NodeName
    generation: Small
    epoch: Epoch
    incarnation: Count
    state: MemberState
    by: Annotated[tuple[NodeName, ...], Meta(max_length=16)]
    refused: Annotated[tuple[NodeName, ...], Meta(max_length=16)] = ()
    # those of `by` who were refused at every url of it, not merely unanswered


class Announce(Told, frozen=True, kw_only=True, tag="announce"):
    """The catalog of `owner` is at `version`; `delta` leads there from version - 1.

    Without a delta the entries are pulled.
    """

    owner: NodeName
    generation: Small
    version: Count
    delta: tuple[Offer, ...] | None = None


class LoadNews(Told, frozen=True, kw_only=True, tag="busy"):
    """The load of `name` has changed by so much that all should know."""

    name: NodeName
    generation: Small
    serial: Count  # later news of one process have a larger one
    load: Load


Item: TypeAlias = MemberRecord | Verdict | Announce | LoadNews
Items: TypeAlias = Annotated[tuple[Item, ...], Meta(max_length=1024)]


# ---------------------------------------------------------------- messages


class Hello(Told, frozen=True, kw_only=True, tag="hello"):
    """First message of each side of a new control link."""

    record: MemberRecord
    joined: bool  # False: its generation may still rise, do not pass it on


class Ping(Told, frozen=True, kw_only=True, tag="ping"):
    """Are you there? Answered by `Ack` if the receiver is that process."""

    seq: Count
    epoch: Epoch
    items: Items = ()
    load: Load | None = None


class Ack(Told, frozen=True, kw_only=True, tag="ack"):
    """I am here."""

    seq: Count
    items: Items = ()
    load: Load | None = None


class PingReq(Told, frozen=True, kw_only=True, tag="ping?"):
    """Ping `target` for me; answered by `IndirectAck` or `Nack`."""

    seq: Count
    target: NodeName
    epoch: Epoch
    items: Items = ()


class IndirectAck(Told, frozen=True, kw_only=True, tag="ack!"):
    """The target of your `PingReq` is there."""

    seq: Count
    items: Items = ()


class Nack(Told, frozen=True, kw_only=True, tag="nack"):
    """I am here, but the target of your `PingReq` does not answer me."""

    seq: Count
    items: Items = ()


class Gossip(Told, frozen=True, kw_only=True, tag="gossip"):
    """News, and the sender's own load where that has just changed."""

    items: Items = ()
    load: Load | None = None


class Digest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that must differ if two records of one node differ."""

    name: NodeName
    generation: Small
    epoch_head: Small  # first four bytes of the epoch
    incarnation: Count
    state: MemberState
    catalog_version: Count


class SyncDigest(Told, frozen=True, kw_only=True, tag="digest"):
    """First the root alone; whoever has another root answers with all entries.

    The receiver of entries pushes what the sender lacks and pulls what it lacks.
    """

    root: Annotated[bytes, Meta(min_length=8, max_length=8)]
    entries: Annotated[tuple[Digest, ...], Meta(max_length=100_000)] | None = None


class SyncPull(Told, frozen=True, kw_only=True, tag="pull"):
    """Send me your records of these nodes."""

    names: Annotated[tuple[NodeName, ...], Meta(max_length=100_000)]


class SyncPush(Told, frozen=True, kw_only=True, tag="push"):
    """Records that the receiver lacks; `last` closes a row of pushes."""

    records: Annotated[tuple[MemberRecord, ...], Meta(max_length=100_000)]
    last: bool = True


class CatalogPull(Told, frozen=True, kw_only=True, tag="offers?"):
    """Send me what changed in the catalog of `owner` since `from_version`."""

    owner: NodeName
    generation: Small
    from_version: Count = 0


class CatalogPush(Told, frozen=True, kw_only=True, tag="offers"):
    """Part `part` of `parts` of what leads from `from_version` to `version`.

    From version 0: the whole catalog of `owner`, in place of all known of it.
    """

    owner: NodeName
    generation: Small
    version: Count
    from_version: Count
    offers: Annotated[tuple[Offer, ...], Meta(max_length=100_000)]
    part: Small = 0
    parts: Annotated[int, Meta(ge=1, le=100_000)] = 1


class Leave(Told, frozen=True, kw_only=True, tag="leave"):
    """I am going; send me nothing new. My calls end within `drain_s`."""

    generation: Small
    epoch: Epoch
    incarnation: Count
    drain_s: Measure = 0.0
    reason: Annotated[str, Meta(max_length=256)] = ""


class YouAreDead(Told, frozen=True, kw_only=True, tag="dead"):
    """I hold you SUSPECT, DEAD or LEFT, as told here; refute it if you can."""

    verdict: Verdict


Control: TypeAlias = (
    Hello
    | Ping
    | Ack
    | PingReq
    | IndirectAck
    | Nack
    | Gossip
    | SyncDigest
    | SyncPull
    | SyncPush
    | CatalogPull
    | CatalogPush
    | Leave
    | YouAreDead
)
"""Everything that may be sent on the control lane."""
