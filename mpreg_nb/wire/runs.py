"""The data lane: workflows that a node drives."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from mpreg_nb.wire.message import Count, Message, Name, RequestId, Version


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


class Given(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="given"):
    """A value that came with the workflow; `name` is that of an input."""

    name: str = ""
    payload: bytes
    parts: Count = 0


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


class RunStart(Message, frozen=True, kw_only=True, array_like=True, tag="run_start"):
    """Execute a workflow; answered by RunState until `status` is an end."""

    id: RequestId
    workflow: str
    steps: Annotated[tuple[StepPlan, ...], Meta(min_length=1, max_length=10_000)]
    quiet: bool = False
    inputs: Annotated[tuple[Given, ...], Meta(max_length=10_000)] = ()
    folder: bytes = b""  # of the caller, see wire.working_folder


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


class StepState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
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
    cause: str = ""  # the failed step, for a skipped one
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
    steps: tuple[StepState, ...]
    duration_ms: float = 0.0
    results: tuple[tuple[Name, bytes], ...] = ()  # at the end: small ones of outputs
    calls: tuple[StepCall, ...] = ()  # that have ended since the last one


class StepFetch(Message, frozen=True, kw_only=True, array_like=True, tag="step_fetch"):
    """Ask for the result or failure of one step of a run, once it has ended."""

    id: RequestId
    run: RequestId
    step: Name


class RunList(Message, frozen=True, kw_only=True, array_like=True, tag="run_list"):
    """Ask which runs this node drives or remembers."""

    id: RequestId


class RunPicture(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One run with its steps and its graph."""

    run: RequestId
    workflow: str
    status: Literal["running", "done", "failed", "cancelled"]
    steps: tuple[StepState, ...]
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


def summary_of(run: RunPicture) -> RunSummary:
    """Return what a row says of a run."""
    return RunSummary(
        run=run.run,
        workflow=run.workflow,
        status=run.status,
        steps=len(run.steps),
        done=sum(step.status in ("done", "fallback") for step in run.steps),
        failed=sum(step.status == "failed" for step in run.steps),
        started_at_s=run.started_at_s,
        duration_ms=run.duration_ms,
    )


class Runs(Message, frozen=True, kw_only=True, array_like=True, tag="runs"):
    """The runs that this node drives or remembers, newest first."""

    id: RequestId
    runs: tuple[RunSummary, ...]
