"""Messages of the data lane: calls, code, results, runs and snapshots of the cluster.

One struct per message. A request carries an `id` that its answers repeat; ids
are unique in the world, so a hop passes a request on without renaming it.

Where a message has a `payload`, that is a pickle that nodes never open. It is
inline when it is a single part of at most `INLINE_BYTES`; otherwise `payload`
is empty and the parts travel beside the message (`Connection.send`).
"""

import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from mpreg_nb.protocol.gossip import Load, MemberRecord, Offer

RequestId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""8 random bytes of the asking session, then a big-endian counter of 8 bytes."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Version: TypeAlias = Annotated[str, Meta(min_length=32, max_length=32)]
"""Hexadecimal digits of the first 128 bits of the sha256 of what was shipped."""


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of every message of the data lane; never sent by itself."""

    before_others: ClassVar[bool] = False
    """Whether its parts arrive before all messages with its id that are sent later."""


class SideCall(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="call"):
    """A call of a step that is not its own: its fallback or undo, the split of a map.

    A fallback refers to the failure, its first and only input, and names no inputs.
    """

    function: Name
    payload: bytes  # as that of a StepPlan
    parts: Count = 0
    version: Version | None = None
    inputs: tuple[Name, ...] = ()
    idempotent: bool = False


class Condition(SideCall, frozen=True, kw_only=True, array_like=True, tag="when"):
    """A split that has one item if the step is to run, and none if it is skipped."""

    shown: str = ""  # in Python's syntax, for people


class Given(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="given"):
    """A value that came with the workflow; `name` is that of an input."""

    name: str = ""
    payload: bytes
    parts: Count = 0
    key: str = ""  # of a value of the engine, see EngineRef, in place of a payload


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One step of a run, as the node that drives it needs it."""

    name: Name
    function: Name
    payload: bytes  # (args, kwargs) with references; never opened by nodes
    parts: Count = 0  # how many of the message's parts are this step's payload
    version: Version | None = None
    resources: frozenset[Name] = frozenset()
    node: Name | None = None
    inputs: tuple[Name, ...] = ()  # steps whose results the payload refers to
    after: tuple[Name, ...] = ()  # steps to wait for without a result
    attempts: Annotated[int, Meta(ge=1, le=1000)] = 1
    retry_on: tuple[str, ...] = ()  # qualified class names
    timeout_ms: Count | None = None
    idempotent: bool = False
    json: bool = False
    split: SideCall | None = None  # of a map; the payload refers to an item first
    fallback: SideCall | Given | None = None
    undo: SideCall | None = None
    condition: Condition | None = None
    delay_ms: Count | None = None  # before the second attempt
    backoff: Annotated[float, Meta(ge=1)] = 1.0  # factor of each further delay


class RunStart(Message, frozen=True, kw_only=True, array_like=True, tag="run_start"):
    """Execute a workflow; answered by RunState until `status` is an end."""

    id: RequestId
    workflow: str
    steps: Annotated[tuple[StepPlan, ...], Meta(min_length=1, max_length=10_000)]
    quiet: bool = False
    inputs: Annotated[tuple[Given, ...], Meta(max_length=10_000)] = ()
    folder: bytes = b""  # of the caller, see working_folder
    chain_ms: float = 5.0  # of work that a worker is given in steps, see `Job.then`
    depth: Count = 0  # as that of a call
    chunk_ms: float = 5.0  # of work in short items of a map, see serialize.chunks


StepStatus: TypeAlias = Literal[
    "waiting",
    "running",
    "done",
    "failed",
    "skipped",
    "cancelled",
    "fallback",
    "undone",
]


class StepSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where one step is; the same data as a row of `Run.frame()`."""

    name: Name
    status: StepStatus
    node: str = ""
    version: str = ""
    attempts: Count = 0
    queued_ms: float | None = None
    run_ms: float | None = None
    started_ms: float | None = None  # after the start of the run
    result_bytes: Count | None = None
    cause: str = ""  # for a skipped step that whose result it lacks; "": its condition
    items: Count = 0  # of a map, once they are known
    items_done: Count = 0
    undo_error: str = ""  # why it could not be undone
    error: str = ""  # class and first line of why it failed, or tried anew


class StepCall(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One call of a step that has ended; each item of a map is one."""

    id: RequestId
    step: Name
    function: Name
    node: str
    status: Literal["done", "failed", "cancelled", "lost"]
    waited_us: Count = 0
    queued_us: Count = 0
    run_us: Count = 0
    total_us: Count = 0
    received_bytes: Count = 0
    ended_at_s: float = 0.0  # wall clock of the driving node


class RunState(Message, frozen=True, kw_only=True, array_like=True, tag="run_state"):
    """The steps of a run that changed since the last one."""

    id: RequestId
    status: Literal["running", "done", "failed", "cancelled"]
    steps: tuple[StepSnapshot, ...]
    duration_ms: float = 0.0
    results: tuple[tuple[Name, bytes], ...] = ()  # at the end: small ones of outputs
    calls: tuple[StepCall, ...] = ()  # that have ended since the last one
    failures: tuple[tuple[Name, "Failed"], ...] = ()  # at the end: the first, if small


class StepFetch(Message, frozen=True, kw_only=True, array_like=True, tag="step_fetch"):
    """Ask for the result or failure of one step of a run, once it has ended."""

    id: RequestId
    run: RequestId
    step: Name


class RunList(Message, frozen=True, kw_only=True, array_like=True, tag="run_list"):
    """Ask which runs this node drives or remembers."""

    id: RequestId


class RunSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One run with its steps and its graph."""

    run: RequestId
    workflow: str
    status: Literal["running", "done", "failed", "cancelled"]
    steps: tuple[StepSnapshot, ...]
    edges: tuple[tuple[Name, Name], ...]  # from, to
    started_at_s: float  # wall clock of the driving node
    duration_ms: float


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One run, as a row of `cluster.runs()`; as small for 10,000 steps as for one."""

    run: RequestId
    workflow: str
    status: Literal["running", "done", "failed", "cancelled"]
    steps: Count
    done: Count  # with a result, be it that of a fallback
    failed: Count
    started_at_s: float  # wall clock of the driving node
    duration_ms: float


def summary_of(run: RunSnapshot) -> RunSummary:
    """Return what a row says of a run."""
    return RunSummary(
        run=run.run,
        workflow=run.workflow,
        status=run.status,
        started_at_s=run.started_at_s,
        duration_ms=run.duration_ms,
        **step_counts([step.status for step in run.steps]),
    )


def step_counts(statuses: Sequence[str]) -> dict[str, int]:
    """Return what a row of a run says of its steps.

    >>> step_counts(["done", "fallback", "failed", "skipped"])
    {'steps': 4, 'done': 2, 'failed': 1}
    """
    done = statuses.count("done") + statuses.count("fallback")
    return {"steps": len(statuses), "done": done, "failed": statuses.count("failed")}


class Runs(Message, frozen=True, kw_only=True, array_like=True, tag="runs"):
    """The runs that this node drives or remembers, newest first."""

    id: RequestId
    runs: tuple[RunSummary, ...]


Stream: TypeAlias = Literal["stdout", "stderr", "display"]


class Line(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one step printed or logged at once; whole lines where possible."""

    step: Name
    node: Name
    stream: Stream
    text: str
    lines_cut: Count = 0  # left out before the text, since they were too many
    characters_cut: Count = 0


class Printed(Message, frozen=True, kw_only=True, array_like=True, tag="run_printed"):
    """A step of the run `id` printed, logged or displayed something, see Output."""

    before_others: ClassVar[bool] = True

    id: RequestId
    line: Line


class RunWatch(Message, frozen=True, kw_only=True, array_like=True, tag="run_watch"):
    """Ask for all that is known of a run, and to hear what happens to it from now."""

    id: RequestId
    run: RequestId


class RunFollowed(Message, frozen=True, kw_only=True, array_like=True, tag="run_told"):
    """A run as it is now; what happens later is told as to who began it."""

    id: RequestId
    run: RunSnapshot
    plans: tuple[StepPlan, ...]  # without payloads
    lines: tuple[Line, ...] = ()  # the last that its steps printed


class RunResume(Message, frozen=True, kw_only=True, array_like=True, tag="run_resume"):
    """Begin the run `new` of what has no result in `run`; answered by RunTold."""

    id: RequestId
    run: RequestId
    new: RequestId
    versions: tuple[tuple[Name, Version], ...] = ()  # newest of these functions


class ExplainStep(Message, frozen=True, kw_only=True, array_like=True, tag="why_ask"):
    """Ask why a step of a run went where it went; answered by WhyTold."""

    id: RequestId
    run: RequestId
    step: Name


class NodeChance(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What spoke for or against one node when an attempt of a step was sent."""

    node: Name
    reason: str  # "" if it fits
    in_flight: Count  # calls that the driving node had sent there
    score: float  # expected wait, the lower the better
    running: Count | None = None  # by the node's own last account
    queued: Count | None = None
    slots: Count | None = None


class StepChoice(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where one attempt of a step was sent, and what there was to choose from."""

    attempt: Count
    sent_ms: float  # after the start of the run
    function: Name
    chosen: str  # a node; "" if it was sent nowhere
    nodes: tuple[NodeChance, ...]
    version: str = ""  # that was asked for; "": the newest
    resources: frozenset[Name] = frozenset()  # those of the registration too
    more_nodes: Count = 0  # that are left out, none of them chosen
    part: str = ""  # of the step, such as "item [3]" or "the fallback"
    behind: str = ""  # the step before, whose worker went on with this one


class StepExplanation(
    Message, frozen=True, kw_only=True, array_like=True, tag="why_told"
):
    """The choices for a step that the driving node remembers, first attempt first."""

    id: RequestId
    choices: tuple[StepChoice, ...]


class HasResults(Message, frozen=True, kw_only=True, array_like=True, tag="held_ask"):
    """Ask which of these results a node still holds; answered by HeldTold."""

    id: RequestId
    ids: tuple[RequestId, ...]


class HeldResults(Message, frozen=True, kw_only=True, array_like=True, tag="held_told"):
    """Those of the results that are held."""

    id: RequestId
    ids: tuple[RequestId, ...]


class NodeSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One member as the answering node sees it."""

    record: MemberRecord
    load: Load | None = None
    rtt_ms: float | None = None


class FunctionSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one node counted of one version of one function."""

    function: Name
    version: str
    node: Name
    calls: Count = 0
    errors: Count = 0
    p50_ms: float | None = None


class EventSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Something that happened to the cluster, as one node saw it."""

    at_s: float  # wall clock of the node that saw it
    node: str
    event: str
    detail: str = ""


CatalogMark: TypeAlias = tuple[str, Count]
"""A process, and how far its catalog had got: what changed since then can be told."""


class Watch(Message, frozen=True, kw_only=True, array_like=True, tag="watch"):
    """Send a Snapshot now and after changes; `period_ms` 0: only this once."""

    id: RequestId
    period_ms: Count = 0
    known: CatalogMark = ("", 0)  # of the last Snapshot: only what changed since


class Snapshot(Message, frozen=True, kw_only=True, array_like=True, tag="snapshot"):
    """What one node knows, at one moment. `nodes` are sorted by name."""

    id: RequestId
    node: Name
    nodes: tuple[NodeSnapshot, ...]
    offers: tuple[tuple[Name, Offer], ...]  # owner, what it offers
    functions: tuple[FunctionSnapshot, ...] = ()  # these two only when asked once
    events: tuple[EventSnapshot, ...] = ()
    mark: CatalogMark = ("", 0)
    changed: tuple[Name, ...] | None = None
    """The functions that `offers` is about; others are as they were. None: all are."""


class LoadsReport(Message, frozen=True, kw_only=True, array_like=True, tag="loads"):
    """How busy some nodes are since the last Snapshot of the Watch `id`."""

    id: RequestId
    loads: tuple[tuple[Name, Load], ...]


class LinkSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
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


class TrafficRequest(
    Message, frozen=True, kw_only=True, array_like=True, tag="traffic_ask"
):
    """Tell what went over your links; answered by Traffic."""

    id: RequestId


class Traffic(Message, frozen=True, kw_only=True, array_like=True, tag="traffic"):
    """What went over the links of one node. `links` are sorted by role and peer."""

    id: RequestId
    node: Name
    links: tuple[LinkSnapshot, ...]


PACKAGES = ("mpreg_nb", "cloudpickle", "msgspec", "numpy", "pandas")
"""Those that write pickles, and whose objects are most often in them."""


class VersionsRequest(
    Message, frozen=True, kw_only=True, array_like=True, tag="versions_ask"
):
    """Tell which versions you have; answered by Versions."""

    id: RequestId


class Versions(Message, frozen=True, kw_only=True, array_like=True, tag="versions"):
    """The version of Python and of each of `PACKAGES`; "" where it is not there."""

    id: RequestId
    node: Name
    versions: tuple[tuple[str, str], ...]


def installed() -> dict[str, str]:
    """Return name -> version of what this interpreter would import, Python first.

    This package is left out where it was not installed, and so has no version.
    """
    import importlib.metadata
    import platform

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package != "mpreg_nb":
                found[package] = ""
    return found


def minor_of(version: str) -> str:
    """Return the minor version, to which compiled code of Python is bound.

    >>> minor_of("3.12.1"), minor_of("3.13.0rc2"), minor_of("")
    ('3.12', '3.13', '')
    """
    return ".".join(version.split(".")[:2])


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The minor version of this process."""


LONGEST_CUT_MS = 600_000
"""The node itself ends what a client began and did not live to end."""


class Partition(Message, frozen=True, kw_only=True, array_like=True, tag="partition"):
    """For `for_ms`, hear none of `nodes` and say nothing to them; answered by Reply.

    As if the cable were cut: links stay and carry nothing, dials get no answer.
    """

    id: RequestId
    nodes: tuple[Name, ...]
    for_ms: Annotated[int, Meta(ge=1, le=LONGEST_CUT_MS)]


# ------------------------------------------------------------------- calls


class ResultRef(msgspec.Struct, frozen=True, array_like=True, tag="kept"):
    """A result, or some parts of one, that stayed on the node that made it."""

    owner: Name
    id: RequestId  # of the call that made it
    size_bytes: Count
    first: Count = 0  # of its parts
    count: Count = 0  # 0: all of them
    shared: bool = False  # many calls will want it, one after the other


class ResultRefs(msgspec.Struct, frozen=True, array_like=True, tag="gathered"):
    """A list of results, each wherever it is; put together by who needs it."""

    items: tuple[bytes | ResultRef, ...]


class EngineRef(msgspec.Struct, frozen=True, array_like=True, tag="engine"):
    """A value that the engine of the workers has, not made by a call of ours."""

    key: str  # of the engine, as Python writes it


Result: TypeAlias = bytes | ResultRef | ResultRefs | EngineRef
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
    folder: bytes = b""  # of the caller, see working_folder
    space: bytes = b""  # run it in the worker of this space, or refuse
    idempotent: bool = False  # it may run twice; it may come again with the same id
    items: Count = 0  # so many calls in one, see serialize.chunks; 0: it is one call
    depth: Count = 0  # of calls that wait for it: 1 for those of a function, and so on


class Reply(Message, frozen=True, kw_only=True, array_like=True, tag="reply"):
    """The function returned."""

    id: RequestId
    payload: bytes
    node: Name
    version: str = ""
    queued_us: Count = 0
    run_us: Count = 0
    kept: ResultRef | None = None  # instead of a payload, where `keep` was asked
    builtin: bool = False  # the payload is the call's own, see serialize.code
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
    "unauthenticated",  # the token of the caller does not allow it
    "skipped",  # step `message` has no result, for that of step `cause` is not there
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
    lost: tuple[RequestId, ...] = ()  # results that it needs, and nobody holds
    retry_budget_exhausted: bool = False  # else it would have been tried again
    engine: str = ""  # URL of what runs the calls, where no node fits
    ran: Count | None = None  # of a chunk: how many of its items had ended, if known


PASSED_ON = "passed on"
"""Cause of "node_lost" where the node that leaves had passed the call on: it may still
run on another node, which can be asked for it by `Resume`."""


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


class LeaseRequest(
    Message, frozen=True, kw_only=True, array_like=True, tag="lease_ask"
):
    """Let this client call `function` in a worker of this machine directly."""

    id: RequestId
    function: str
    version: str
    resources: frozenset[str] = frozenset()


class LeaseAnswer(Message, frozen=True, kw_only=True, array_like=True, tag="leased"):
    """The lease, which may be one that the client has; number 0: there is none now."""

    id: RequestId
    number: int = 0
    path: str = ""  # of the Unix socket where the worker listens
    key: bytes = b""  # that it is to be shown


class LeaseRevoked(
    Message, frozen=True, kw_only=True, array_like=True, tag="lease_revoked"
):
    """The worker begins no more jobs of this lease; `gone`: it answers none either.

    It comes again as soon as it is certain which job was the last to begin (`begun`):
    those after that one may run elsewhere, before the last one has ended.
    """

    number: int
    gone: bool = False
    begun: int | None = None


class LeasedCalls(
    Message, frozen=True, kw_only=True, array_like=True, tag="lease_lost"
):
    """The lease is to end: say what became of these calls, one `Failed` for each.

    The worker is gone, or it has calls that wait behind one that takes long.
    """

    number: int
    calls: tuple[tuple[RequestId, int], ...]  # and their numbers in the lease


class LeasedCancel(
    Message, frozen=True, kw_only=True, array_like=True, tag="lease_cancel"
):
    """End a call that a worker was sent directly; the worker answers it."""

    number: int
    id: RequestId
    place: int  # its number in the lease
    unless_begun: bool = False


LEASE_OVER = "its lease was over"
"""Cause of the failure of a call that the worker of a lease has not begun."""


class Resume(Message, frozen=True, kw_only=True, array_like=True, tag="resume"):
    """Go on with these calls here: `entry`, by which they were sent, is gone.

    A call that is found goes on as if it had come by this link. Of the others, a node
    says `NotHeld` to another node, and Failed("node_lost") to a client.
    """

    ids: tuple[RequestId, ...]
    entry: Name


class NotHeld(Message, frozen=True, kw_only=True, array_like=True, tag="not_held"):
    """This node has none of these calls that another one asked for."""

    ids: tuple[RequestId, ...]


class Fetch(Message, frozen=True, kw_only=True, array_like=True, tag="fetch"):
    """Ask for a result that is held; answered by Reply or Failed("gone")."""

    id: RequestId
    kept: ResultRef


class Hold(Message, frozen=True, kw_only=True, array_like=True, tag="hold"):
    """Hold a value for calls that name it as an input; answered by Reply with `kept`.

    It is held until it is released, or until the link of its caller is lost.
    """

    id: RequestId
    payload: bytes


class Release(Message, frozen=True, kw_only=True, array_like=True, tag="release"):
    """These results, or all of these runs, are not needed any more; no answer."""

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
    | ExplainStep
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


class LeaveRequest(Message, frozen=True, kw_only=True, array_like=True, tag="leave"):
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
    | LeaseRequest
    | LeaseAnswer
    | LeaseRevoked
    | LeasedCalls
    | LeasedCancel
    | Resume
    | NotHeld
    | Fetch
    | Hold
    | Release
    | SpaceOpen
    | SpaceClose
    | Register
    | Registered
    | CodePull
    | CodePush
    | Watch
    | Snapshot
    | LoadsReport
    | TrafficRequest
    | Traffic
    | RunStart
    | RunState
    | StepFetch
    | RunList
    | Runs
    | RunWatch
    | RunFollowed
    | RunResume
    | Printed
    | ExplainStep
    | StepExplanation
    | HasResults
    | HeldResults
    | Relay
    | LeaveRequest
    | Partition
    | VersionsRequest
    | Versions
    | Notice
)
"""Everything that may travel on the data lane."""


REQUESTS: frozenset[type] = frozenset(
    (
        Call,
        LeaseRequest,
        Fetch,
        SpaceOpen,
        Register,
        CodePull,
        CodePush,
        Watch,
        TrafficRequest,
        RunStart,
        StepFetch,
        RunList,
        RunWatch,
        RunResume,
        ExplainStep,
        HasResults,
        Relay,
        LeaveRequest,
        Partition,
        VersionsRequest,
    )
)
"""Those whose sender waits for an answer with the same id."""

ANSWERS: frozenset[type] = frozenset(
    (
        Reply,
        Failed,
        LeaseAnswer,
        Registered,
        CodePush,
        Traffic,
        RunState,
        Runs,
        RunFollowed,
        StepExplanation,
        HeldResults,
        Versions,
    )
)
"""Those for which their receiver waits, under the id of its request."""


SHOWN = 8
"""Characters of a run's id that tables show; `get_run` takes them."""


def run_id() -> bytes:
    """Return an id for a run: all random, so that its beginning tells it apart."""
    return os.urandom(16)


class Ids:
    """Ids of one session: its 8 random bytes, then a counter."""

    def __init__(self) -> None:
        self.session = os.urandom(8)
        self._next = itertools.count(1).__next__

    def next(self) -> bytes:
        """Return an id that no other call of this method returns, anywhere."""
        return self.session + self._next().to_bytes(8, "big")
