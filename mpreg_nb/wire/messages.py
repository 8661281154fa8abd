"""The data lane: calls, replies and registrations, and the union of all its messages.

One struct per message. A request carries an `id` that its answers repeat; ids
are unique in the world, so a hop passes a request on without renaming it.

Where a message has a `payload`, that is a pickle that nodes never open. It is
inline when it is a single part of at most `INLINE_BYTES`; otherwise `payload`
is empty and the parts travel beside the message (`Connection.send`).
"""

from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from mpreg_nb.wire.drills import Partition
from mpreg_nb.wire.gossip import Load, Offer
from mpreg_nb.wire.history import (
    HeldAsk,
    HeldTold,
    Printed,
    RunResume,
    RunTold,
    RunWatch,
    WhyAsk,
    WhyTold,
)
from mpreg_nb.wire.message import Count, Message, Name, RequestId, Version
from mpreg_nb.wire.pictures import LoadsTold, Snapshot, Traffic, TrafficAsk, Watch
from mpreg_nb.wire.runs import RunList, Runs, RunStart, RunState, StepFetch
from mpreg_nb.wire.versions import Versions, VersionsAsk

# ------------------------------------------------------------------- calls


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="kept"):
    """A result, or some parts of one, that stayed on the node that made it."""

    owner: Name
    id: RequestId  # of the call that made it
    size_bytes: Count
    first: Count = 0  # of its parts
    count: Count = 0  # 0: all of them


class Gathered(msgspec.Struct, frozen=True, array_like=True, tag="gathered"):
    """A list of results, each wherever it is; put together by who needs it."""

    items: tuple[bytes | Kept, ...]


Result: TypeAlias = bytes | Kept | Gathered
"""What a step of a run gave: a pickle that is small, or where it is."""


class Call(Message, frozen=True, kw_only=True, array_like=True, tag="call"):
    """Ask a node to run `function` where all of `resources` are held."""

    id: RequestId
    function: Name
    payload: bytes  # (args, kwargs)
    version: Version | None = None  # None: the newest that the node knows
    resources: frozenset[Name] = frozenset()
    node: Name | None = None  # run it there or refuse
    remaining_ms: Count | None = None  # each hop subtracts what it spent
    wait_ms: Count = 0  # how long to wait for a node that fits
    hops_left: Annotated[int, Meta(ge=0, le=8)] = 1  # 0: run it here or refuse
    holder: Name | None = None  # a node that has the code of `version`
    attempt: Annotated[int, Meta(ge=0, le=255)] = 0
    inputs: tuple[Result, ...] = ()  # that the payload refers to
    keep: bool = False  # a large result stays with the node that made it
    json: bool = False  # arguments and result are JSON, not pickles
    quiet: bool = False  # prints are not sent back
    split: bool = False  # do not call it, but take its first argument apart
    folder: bytes = b""  # of the caller, see wire.working_folder
    space: bytes = b""  # run it in the worker of this space, or refuse


class Reply(Message, frozen=True, kw_only=True, array_like=True, tag="reply"):
    """The function returned."""

    id: RequestId
    payload: bytes
    node: Name
    version: str = ""
    queued_us: Count = 0
    run_us: Count = 0
    kept: Kept | None = None  # instead of a payload, where `keep` was asked
    builtin: bool = False  # the payload is the call's own, see wire.builtins
    load: Load | None = None
    waited_us: Count = 0  # for a node that fits


Kind: TypeAlias = Literal[
    "application",  # the function raised; payload holds the exception
    "no_route",
    "no_code",  # the version that was named is nowhere to be had
    "overloaded",
    "draining",
    "deadline",
    "cancelled",
    "node_lost",
    "worker_crashed",
    "too_large",
    "not_picklable",
    "bad_request",
    "gone",  # a result that is no longer held
]


class Failure(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Why a call has no result, and what is known about its execution."""

    kind: Kind
    message: str = ""
    executed: Literal["no", "yes", "unknown"] = "no"
    node: str = ""  # where it happened
    types: tuple[str, ...] = ()  # qualified names of the exception's classes
    cause: str = ""
    size_bytes: Count = 0
    limit_bytes: Count = 0
    memory_mb: float | None = None
    lines: tuple[str, ...] = ()
    offers: tuple[tuple[str, frozenset[str]], ...] = ()  # node, what it offers
    held: tuple[tuple[str, frozenset[str]], ...] = ()  # node, what it holds
    similar: str = ""
    retry_after_ms: Count = 0
    argument_types: tuple[str, ...] = ()  # where the function raised
    where: str = ""  # in which call of a step, such as "item 3"
    timeout_ms: Count = 0  # of the attempt that took too long


class Failed(Message, frozen=True, kw_only=True, array_like=True, tag="failed"):
    """The request ended without a result; `failure` says why."""

    id: RequestId
    failure: Failure
    payload: bytes = b""  # the exception, where the function raised
    version: str = ""
    queued_us: Count = 0
    run_us: Count = 0
    load: Load | None = None
    waited_us: Count = 0  # for a node that fits


class Waiting(Message, frozen=True, kw_only=True, array_like=True, tag="waiting"):
    """These calls wait in the queue of a node; `Started` comes before they run.

    A call that was never said to wait may have begun as soon as it was sent.
    """

    ids: tuple[RequestId, ...]
    load: Load | None = None  # of that node, where it says so itself


class Recall(Message, frozen=True, kw_only=True, array_like=True, tag="recall"):
    """Give these calls back that have not begun, as another node has room for them.

    Each that is given back ends as Failed("overloaded"); the others go on, and no
    word is said of them.
    """

    ids: tuple[RequestId, ...]


class Started(Message, frozen=True, kw_only=True, array_like=True, tag="started"):
    """The call has left the queue of `node`; from here on it may have effects."""

    id: RequestId
    node: Name


class Output(Message, frozen=True, kw_only=True, array_like=True, tag="output"):
    """What the function printed or logged; whole lines where possible.

    On the stream "display" the text is one display, as JSON; if it is long, it
    comes as a part beside the message. What was cut are displays and bytes then.
    """

    before_others: ClassVar[bool] = True

    id: RequestId
    node: Name
    stream: Literal["stdout", "stderr", "display"]
    text: str
    lines_cut: Count = 0  # left out before the text, since they were too many
    characters_cut: Count = 0


class Cancel(Message, frozen=True, kw_only=True, array_like=True, tag="cancel"):
    """End the call or run `id`; it is answered as any other end of it."""

    id: RequestId


class Fetch(Message, frozen=True, kw_only=True, array_like=True, tag="fetch"):
    """Ask for a result that is held; answered by Reply or Failed("gone")."""

    id: RequestId
    kept: Kept


class Release(Message, frozen=True, kw_only=True, array_like=True, tag="release"):
    """These results are not needed any more; no answer."""

    ids: tuple[RequestId, ...]


class SpaceOpen(Message, frozen=True, kw_only=True, array_like=True, tag="space_open"):
    """Start a worker for the calls that name the space `id`; answered by Reply.

    It lasts until it is closed, or until the link of its caller is lost.
    """

    id: RequestId


class SpaceClose(
    Message, frozen=True, kw_only=True, array_like=True, tag="space_close"
):
    """End the space `id` with its worker; no answer."""

    id: RequestId


Relayed: TypeAlias = (
    RunWatch
    | RunResume
    | RunList
    | StepFetch
    | WhyAsk
    | Cancel
    | SpaceOpen
    | SpaceClose
)
"""What a node passes on to another, for a client without a link to that."""


class Relay(Message, frozen=True, kw_only=True, array_like=True, tag="relay"):
    """Pass `message`, which has the same id, on to `node`, and all answers back."""

    id: RequestId
    node: Name
    message: Relayed


# --------------------------------------------------------------- functions


class Register(Message, frozen=True, kw_only=True, array_like=True, tag="register"):
    """Store a function and place it on every node that holds its resources."""

    id: RequestId
    function: Name
    version: Version
    payload: bytes  # the function
    resources: frozenset[Name] = frozenset()
    idempotent: bool = False
    isolation: Literal["process", "thread"] = "process"
    signature: str = ""
    doc: str = ""
    python: str = ""  # the minor version that alone runs the code; "": any


class Registered(Message, frozen=True, kw_only=True, array_like=True, tag="registered"):
    """The function is stored; `nodes` are those that serve it or soon will."""

    id: RequestId
    offer: Offer
    nodes: tuple[Name, ...]


class CodePull(Message, frozen=True, kw_only=True, array_like=True, tag="code_pull"):
    """Ask a node for the code of `version`; answered by CodePush or Failed."""

    id: RequestId
    version: Version


class CodePush(Message, frozen=True, kw_only=True, array_like=True, tag="code_push"):
    """The code of a version, and how it was registered."""

    id: RequestId
    offer: Offer
    payload: bytes


# ------------------------------------------------------------------- nodes


class Leave(Message, frozen=True, kw_only=True, array_like=True, tag="leave"):
    """Ask this node to drain and leave; answered by Reply when it begins."""

    id: RequestId


class Notice(Message, frozen=True, kw_only=True, array_like=True, tag="notice"):
    """Something the other side should know and cannot answer."""

    kind: Literal["draining", "strike"]
    text: str = ""


Data: TypeAlias = (
    Call
    | Reply
    | Failed
    | Waiting
    | Recall
    | Started
    | Output
    | Cancel
    | Fetch
    | Release
    | SpaceOpen
    | SpaceClose
    | Register
    | Registered
    | CodePull
    | CodePush
    | Watch
    | Snapshot
    | LoadsTold
    | TrafficAsk
    | Traffic
    | RunStart
    | RunState
    | StepFetch
    | RunList
    | Runs
    | RunWatch
    | RunTold
    | RunResume
    | Printed
    | WhyAsk
    | WhyTold
    | HeldAsk
    | HeldTold
    | Relay
    | Leave
    | Partition
    | VersionsAsk
    | Versions
    | Notice
)
"""Everything that may travel on the data lane."""
