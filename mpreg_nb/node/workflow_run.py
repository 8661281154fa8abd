"""One run of a workflow that this node coordinates, and the calls of its steps.

The state machine says which step to send when; each step is a call like any other. A
small result is sent with the calls that refer to it; a large one stays where it was
made, and calls say where that is. Nothing is unpickled here.
"""

import asyncio
import math
import random
import time
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple, Protocol, assert_never
from weakref import ref

import msgspec
from msgspec.structs import replace

from mpreg_nb.node.calls import Calls
from mpreg_nb.node.map_items import PROBE_S, PROBES, MapItems
from mpreg_nb.node.pending_call import Followers, Sink
from mpreg_nb.node.results import ResultStore
from mpreg_nb.node.run_plan import RunPlans
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import (
    Call,
    EngineRef,
    Failed,
    Failure,
    Given,
    Ids,
    Line,
    Output,
    Printed,
    Reply,
    Result,
    ResultRef,
    ResultRefs,
    RunSnapshot,
    RunStart,
    RunState,
    RunSummary,
    SideCall,
    Started,
    StepCall,
    StepPlan,
    StepSnapshot,
    step_counts,
)
from mpreg_nb.protocol.output_tail import OutputTail
from mpreg_nb.protocol.worker import JobDone
from mpreg_nb.routing.router import Wanted
from mpreg_nb.serialize.chunks import (
    Chunk,
    job_failure,
    outcome_of_chunk,
    pack_chunk,
)
from mpreg_nb.serialize.exceptions import (
    call_status,
    error_line,
    failure_line,
    pack_error,
)
from mpreg_nb.serialize.items import gather, read_head
from mpreg_nb.settings import INLINE_BYTES, RIDE_ALONG_BYTES
from mpreg_nb.workflows.run import (
    FallbackResult,
    RunMachine,
)
from mpreg_nb.workflows.state import (
    Cancelled,
    CancelStep,
    Effect,
    Execution,
    FallingBack,
    InputSkipped,
    Items,
    ItemsChanged,
    MissingResult,
    Part,
    RunEnded,
    Sent,
    Skipped,
    StartStep,
    StepBackoff,
    StepDone,
    StepRow,
    StepRunning,
    StepState,
    StepWaiting,
    TimedOut,
)
from mpreg_nb.workflows.state import StepFailed as StepFailed

LOST_KINDS = ("node_lost", "worker_crashed")
"""Failures that are no fault of the function."""


class StepSink:
    """Where one attempt of one call of a step reports to."""

    __slots__ = (
        "_run",
        "attempt",
        "call_id",
        "function",
        "given",
        "items",
        "part",
        "sent_s",
        "step",
    )

    def __init__(
        self,
        run: "WorkflowRun",
        step: str,
        attempt: int,
        part: Part,
        call_id: bytes,
        items: tuple[int, ...] = (),
    ) -> None:
        """items: of a map, where the call is a chunk of them; `part` is the first."""
        self._run = run
        self.items = items
        self.step = step
        self.attempt = attempt
        self.part = part
        self.call_id = call_id
        self.given = False  # to the node, which will say what became of it
        self.function = ""
        self.sent_s = 0.0

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Hand the message to the run."""
        if self.items:
            self._run.said_of_chunk(self, message, tuple(parts))
        else:
            self._run.said(self, message, tuple(parts))

    def of_item(self, item: int, call_id: bytes) -> "StepSink":
        """Return what stands for the call of one item of a chunk."""
        sink = StepSink(self._run, self.step, self.attempt, item, call_id)
        sink.function, sink.sent_s = self.function, self.sent_s
        return sink


Dealt = dict[tuple[str, Part], tuple[Buffer, ...]]
"""The parts of calls that have some, by step and part."""


class Placement(Protocol):
    """How a run gives the calls of its steps to the node, and who notes why where."""

    def hand_over(
        self,
        run: "WorkflowRun",
        sink: StepSink,
        call: Call,
        parts: tuple[Buffer, ...],
        then: Followers | None,
    ) -> None:
        """Give a call to the node, with calls that its worker may go on with."""

    def take_answer(
        self, run: "WorkflowRun", effect: StartStep, call: Call, behind: str
    ) -> tuple[str, JobDone] | None:
        """Return version and answer of a call, if both came with that of `behind`."""

    def go_on(
        self, run: "WorkflowRun", sink: StepSink, call: Call, behind: str
    ) -> bool:
        """Take in a call that the worker of step `behind` went on with; False: not."""


def deal(
    request: RunStart, parts: tuple[Buffer, ...]
) -> tuple[Dealt, dict[str, tuple[bytes, tuple[Buffer, ...]]]]:
    """Return the parts of each call, and payload and parts of each input by name."""
    dealt: Dealt = {}
    first = 0
    for plan in request.steps if parts else ():
        sides: tuple[tuple[Part, StepPlan | SideCall | Given | None], ...] = (
            ("call", plan),
            ("condition", plan.condition),
            ("split", plan.split),
            ("fallback", plan.fallback),
            ("undo", plan.undo),
        )
        for part, side in sides:
            if side is not None and side.parts:
                dealt[plan.name, part] = parts[first : first + side.parts]
                first += side.parts
    given: dict[str, tuple[bytes, tuple[Buffer, ...]]] = {}
    for value in request.inputs:
        given[value.name] = value.payload, parts[first : first + value.parts]
        first += value.parts
    return dealt, given


def bare(plan: StepPlan) -> StepPlan:
    """Return a step as it was asked for, without the arguments of its calls."""
    sides = {
        "condition": plan.condition,
        "split": plan.split,
        "fallback": plan.fallback,
        "undo": plan.undo,
    }
    without: dict[str, Any] = {
        name: side and replace(side, payload=b"", parts=0)
        for name, side in sides.items()
    }
    # Large arguments of a map travel as inputs that nobody gave a name.
    named = tuple(name for name in plan.inputs if not name.startswith("/"))
    return replace(plan, payload=b"", parts=0, inputs=named, **without)


def failed_of(failure: object, run_id: bytes) -> tuple[Failed, tuple[Buffer, ...]]:
    """Return a failure that the machine keeps as the message of a node would be."""
    match failure:
        case (Failed() as failed, tuple() as parts):
            return failed, parts
        case TimedOut(timeout_s, part):
            said = Failure(
                kind="deadline",
                executed="unknown",
                where=where(part),
                timeout_ms=int(timeout_s * 1e3),
            )
        case MissingResult(step):
            text = f"it refers to the result of step {step!r}, which has none"
            said = Failure(kind="bad_request", message=text)
        case InputSkipped(step, cause):
            said = Failure(kind="skipped", message=step, cause=cause)
        case ItemsChanged(items):
            text = f"its items were lost, and when taken apart again they are {items}"
            said = Failure(kind="bad_request", message=text)
        case _:
            raise AssertionError(f"a run does not fail with {failure!r}")
    return Failed(id=run_id, failure=said), ()


def where(part: Part, state: object = None) -> str:
    """Say which call of a step failed, if it is not its own, and what went before.

    >>> where(3), where("fallback"), where("condition"), where("call")
    ('item [3]', 'the fallback', 'the condition', '')
    """
    if isinstance(part, int):
        return f"item [{part}]"
    if part == "condition":
        return "the condition"
    if part != "fallback":
        return ""
    if not isinstance(state, FallingBack):
        return "the fallback"
    failed, _ = failed_of(state.failure, b"")
    return f"the fallback, after {failure_line(failed.failure)}"


def call_of(sink: StepSink, outcome: Reply | Failed, now: float) -> StepCall:
    """Return what the tables of callers note of a call that has ended."""
    failed = outcome if isinstance(outcome, Failed) else None
    kept = None if isinstance(outcome, Failed) else outcome.kept
    node = outcome.failure.node if isinstance(outcome, Failed) else outcome.node
    if failed is not None and failed.failure.kind == "no_route":
        node = ""  # who says that nobody fits has not taken it
    return StepCall(
        id=sink.call_id,
        step=sink.step,
        function=sink.function,
        node=node,
        status="done" if failed is None else call_status(failed.failure),
        waited_us=outcome.waited_us,
        queued_us=outcome.queued_us,
        run_us=outcome.run_us,
        total_us=max(0, int((now - sink.sent_s) * 1e6)),
        received_bytes=len(outcome.payload) if kept is None else kept.size_bytes,
        ended_at_s=time.time(),
    )


def execution(outcome: Reply | Failed, node: str) -> Execution:
    """Return where an attempt ran and how long."""
    return Execution(
        node=node,
        version=outcome.version,
        queued_s=outcome.queued_us / 1e6,
        run_s=outcome.run_us / 1e6 if outcome.run_us else None,
    )


def state_of(row: StepRow) -> StepSnapshot:
    """Return the row of a step as it travels."""
    return StepSnapshot(
        name=row.step,
        status=row.status,
        node=row.node,
        version=row.version,
        attempts=row.attempts,
        queued_ms=_ms(row.queued_s),
        run_ms=_ms(row.run_s),
        started_ms=_ms(row.started_s),
        result_bytes=row.result_bytes,
        cause=row.cause,
        items=row.items,
        items_done=row.items_done,
        undo_error=_undo_error(row),
        error=_error(row.failure),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _error(failure: object) -> str:
    if failure is None:
        return ""
    failed, _ = failed_of(failure, b"")
    return error_line(failed.failure)


def _undo_error(row: StepRow) -> str:
    if row.undo_failure is None:
        return ""
    failed, _ = failed_of(row.undo_failure, b"")
    return failure_line(failed.failure)


MOST_FOLLOWERS = 63
"""Steps that are given to a worker with the one that they follow."""

TO_COME = ResultRefs(items=())
"""Stands for the result of the step before, among the inputs of one that follows."""

MOST_UNDER_WAY = 512
"""Calls of one run at once, half of what a node takes; others are held back here."""

AGAIN_S = 0.05
"""Before the next call, when nodes had no room and nothing else is under way."""

LONGEST_FULL_S = 30.0
"""After so long without an outcome, a call that nodes have no room for fails."""

CALLS_NOTHING = ("condition", "split")
"""Parts that only look at a value, and do not call the function of the step."""

NOTED_ITEMS = PROBES
"""Items of a map of which it is noted why they went where they went."""

Key = tuple[str, Part]


class Early(NamedTuple):
    """A call whose worker had gone on with it, and answered, before it was due."""

    call: Call
    version: str
    answer: JobDone


class RunCalls:
    """The calls of one run, by step and part."""

    def __init__(
        self,
        run: "WorkflowRun",
        request: RunStart,
        parts: tuple[Buffer, ...],
        *,
        me: str,
        calls: Calls,
        store: ResultStore,
        placement: Placement,
        ids: Ids,
    ) -> None:
        # Weak: a run that is forgotten takes its results along at once. In a circle
        # they would stay until the collector comes, which counts objects, not bytes.
        self._run_ref = ref(run)
        self._me = me
        self._calls = calls
        self._store = store
        self._placement = placement
        self._next: Mapping[str, str] = {}  # see `run_plan.followers`
        self._chain_s = request.chain_ms / 1e3
        self._chunk_s = request.chunk_ms / 1e3
        self._offered: dict[str, tuple[str, Call]] = {}  # step -> the one before, call
        self._ids = ids
        self._quiet = request.quiet
        self._folder = request.folder
        self._depth = request.depth
        self._plans: Mapping[str, StepPlan] = {s.name: s for s in request.steps}
        self._under_way: dict[Key, StepSink] = {}
        self._open: set[bytes] = set()  # ids of these calls
        self._held: dict[Key, int] = {}  # -> attempt, in the order to send them
        self._maps: dict[str, MapItems] = {}  # of maps whose items may go in chunks
        self._ending: set[bytes] = set()  # ids of cancelled calls, until they end
        self._room = MOST_UNDER_WAY  # less while nodes are full
        self._full_since = math.inf
        self._pause: asyncio.TimerHandle | None = None
        self._probing: dict[str, asyncio.TimerHandle] = {}
        self._items: dict[str, list[bytes | ResultRef]] = {}  # of the maps under way
        self._gathered: dict[str, tuple[Items, Result]] = {}
        self._own: list[ResultRef] = []  # what is held only for this run
        self._loop = asyncio.get_running_loop()
        self._parts, given = deal(request, parts)
        self._given: dict[str, Result] = {
            name: self._hold(*value) for name, value in given.items()
        }
        for value in request.inputs:
            if value.key:
                self._given[value.name] = EngineRef(value.key)
        self.fallbacks = {
            plan.name: self._fallback(plan.name, plan.fallback)
            for plan in request.steps
            if isinstance(plan.fallback, Given)
        }
        """The results of steps for which a value was given, should they fail."""

    @property
    def _run(self) -> "WorkflowRun":
        run = self._run_ref()
        if run is None:
            raise AssertionError("a run that nobody holds makes calls")
        return run

    def chain(self, followers: Mapping[str, str]) -> None:
        """Have workers go on with the steps that follow others, if that is wanted."""
        if self._chain_s:
            self._next = followers

    # ------------------------------------------------------------------- calls

    def start(self, effect: StartStep) -> Early | None:
        """Put a call in line, which `flush` sends, unless a worker has it already.

        What a worker has even answered already is returned.
        """
        offered = self._offered.pop(effect.step, None)
        if offered is not None and effect.part == "call":
            before, call = offered
            run = self._run
            found = self._placement.take_answer(run, effect, call, before)
            if found is not None:
                return Early(call, *found)
            if self._go_on(effect, offered):
                return None
        self._hold_back(effect.step, effect.part, effect.attempt)
        return None

    def _hold_back(self, step: str, part: Part, attempt: int) -> None:
        if isinstance(part, int) and step in self._maps:
            self._maps[step].waiting[part] = attempt
        else:
            self._held[step, part] = attempt

    def _go_on(self, effect: StartStep, offered: tuple[str, Call]) -> bool:
        """Take in the call of a step that the worker of the one before went on with."""
        step, attempt = effect.step, effect.attempt
        before, call = offered
        inputs = tuple(map(self.result, self._plans[step].inputs))
        call = replace(call, inputs=inputs)
        sink = StepSink(self._run, step, attempt, "call", call.id)
        sink.given = True
        sink.function, sink.sent_s = call.function, time.monotonic()
        if not self._placement.go_on(self._run, sink, call, before):
            return False
        self._under_way[step, "call"] = sink
        self._open.add(sink.call_id)
        self._run.machine.started(step, attempt, self._me, sink.sent_s)
        return True

    def _followers(self, step: str, call: Call) -> Followers | None:
        """Return the calls that a worker may go on with after that of `step`."""
        found: list[Call] = []
        here = (None, self._me)
        if call.node not in here:
            return None
        state = self._run.machine.state
        while (after := self._next.get(step)) and len(found) < MOST_FOLLOWERS:
            plan = self._plans[after]
            waits = isinstance(state(after), StepWaiting)
            if not waits or plan.node not in here:
                break
            inputs = [TO_COME if n == step else self._given[n] for n in plan.inputs]
            if not all(one is TO_COME or isinstance(one, bytes) for one in inputs):
                break
            follower = self._made(plan, plan, tuple(inputs), attempt=1)
            self._offered[after] = step, follower
            found.append(follower)
            step = after
        return Followers(tuple(found), self._chain_s) if found else None

    def catch_up(self) -> None:
        """Take in which steps workers have gone on with by now."""
        if self._offered:
            self._calls.catch_up()

    def cancel(self, effect: CancelStep) -> None:
        """End a call, or do not begin it."""
        step, part = key = (effect.step, effect.part)
        self._held.pop(key, None)
        if isinstance(part, int) and step in self._maps:
            self._maps[step].waiting.pop(part, None)
        sink = self._under_way.pop(key, None)
        if sink is None or sink.call_id not in self._open:
            return  # of a chunk that is cancelled; all of its items are
        self._open.remove(sink.call_id)
        if sink.given:
            self._ending.add(sink.call_id)
            self._calls.cancel(sink.call_id)

    def flush(self) -> None:
        """Send what is in line, as far as there is room.

        What was done is undone only when nothing of the run runs any more.
        """
        goes_on = True
        while goes_on:
            goes_on = False
            if self._held and self._has_room:
                key = next(iter(self._held))
                if key[1] == "undo" and self._ending:
                    return
                self._send(key, self._held.pop(key))
                goes_on = True
            for step, items in self._maps.items():  # they and the others take turns
                if items.waiting and self._has_room:
                    goes_on |= self._send_items(step, items)

    @property
    def _has_room(self) -> bool:
        return len(self._open) < self._room and not self._pause

    def _send_items(self, step: str, items: MapItems) -> bool:
        """Send the next item or chunk of a map; False: it waits for an outcome."""
        attempt = next(iter(items.waiting.values()))
        taken = items.take(self._items[step])
        if not taken:
            if items.is_probing and step not in self._probing:
                later = self._loop.call_later
                self._probing[step] = later(PROBE_S, self._stop_probing, step, items)
            return False
        self._send((step, taken[0]), attempt, taken if len(taken) > 1 else ())
        return True

    def _stop_probing(self, step: str, items: MapItems) -> None:
        del self._probing[step]
        items.gave_up_probing = True
        self.flush()

    def has(self, sink: StepSink) -> bool:
        """Whether the run still waits for this call, which it may have sent anew."""
        return self._under_way.get((sink.step, sink.part)) is sink

    def over(self, sink: StepSink, *, refused: bool = False) -> bool:
        """Note that a call has ended, wanted or not; False: it is to be sent again.

        refused: no node had room for it. Then fewer calls are under way at once,
            until there is room again. JSON clients hear of it instead.
        """
        self._ending.discard(sink.call_id)
        parts = sink.items or (sink.part,)
        wanted = self.has(sink)
        if wanted:
            self._open.discard(sink.call_id)
            for part in parts:
                self._under_way.pop((sink.step, part), None)
            if sink.step in self._maps:
                self._maps[sink.step].over(len(parts))
        if not refused or self._plans[sink.step].json:
            self._room = min(self._room + 1, MOST_UNDER_WAY)
            self._full_since = math.inf
            return True
        now = self._loop.time()
        self._full_since = min(self._full_since, now)
        if not wanted or now - self._full_since > LONGEST_FULL_S:
            return True
        self._room = max(1, len(self._open))
        self.send_again(sink, parts)
        if not self._open and self._pause is None:
            self._pause = self._loop.call_later(AGAIN_S, self._flush_again)
        return False

    def send_again(self, sink: StepSink, parts: Iterable[Part]) -> None:
        """Have calls sent that certainly did not run; it is the same attempt."""
        for part in parts:
            self._hold_back(sink.step, part, sink.attempt)

    def send_one_by_one(self, sink: StepSink) -> None:
        """Send the items of a chunk that could not begin; each says by itself why."""
        if sink.step in self._maps:
            self._maps[sink.step].one_by_one = True
        self.send_again(sink, sink.items)

    def took(self, step: str, run_us: Collection[int]) -> None:
        """Learn how long items of a map take."""
        if step in self._maps:
            self._maps[step].took(run_us)

    def item_result(self, result: bytes) -> bytes | ResultRef:
        """Return the result of an item of a chunk, or where it is kept if large."""
        if len(result) <= RIDE_ALONG_BYTES:
            return result
        return self._hold(b"", (result,))

    def keep(self, result: ResultRef) -> None:
        """Let go with the run of a result that no state of a step may ever name."""
        self._own.append(result)

    def next_id(self) -> bytes:
        """Return an id for a call that travelled in a chunk."""
        return self._ids.next()

    def stop(self) -> None:
        """Send nothing any more."""
        for timer in (self._pause, *self._probing.values()):
            if timer is not None:
                timer.cancel()
        self._items.clear()
        self._maps.clear()

    def _flush_again(self) -> None:
        self._pause = None
        self.flush()

    def _send(self, key: Key, attempt: int, items: tuple[int, ...] = ()) -> None:
        step, part = key
        call = self._chunk(step, items) if items else self._call(step, part, attempt)
        sink = StepSink(self._run, step, attempt, part, call.id, items)
        self._open.add(call.id)
        for each in items or (part,):
            self._under_way[step, each] = sink
        # In a turn of its own: the call may end at once, and the machine must be
        # done with the event that led here before it hears of the next.
        self._loop.call_soon(self._hand_over, key, sink, call)

    def _hand_over(self, key: Key, sink: StepSink, call: Call) -> None:
        if not self.has(sink):
            return  # it was cancelled
        sink.given = True
        sink.function, sink.sent_s = call.function, time.monotonic()
        step, part = key
        parts = self._parts.get((step, "call" if isinstance(part, int) else part), ())
        if isinstance(part, int) and part >= NOTED_ITEMS:
            self._calls.receive(sink, call, parts)
            return
        then: Followers | None = None
        if part == "call" and step in self._next:
            then = self._followers(step, call)
        self._placement.hand_over(self._run, sink, call, parts, then)

    def _call(self, step: str, part: Part, attempt: int) -> Call:
        plan = self._plans[step]
        made: StepPlan | SideCall = plan
        if part == "call":
            inputs = tuple(map(self.result, plan.inputs))
        elif isinstance(part, int):
            inputs = (self._items[step][part], *map(self.result, plan.inputs))
        else:
            made = _side_call(plan, part)
            if part == "fallback":
                inputs = (self._error(step),)
            else:
                inputs = tuple(map(self.result, made.inputs))
        call = self._made(plan, made, inputs, attempt=attempt)
        if part == "fallback":  # it runs wherever its function can
            return replace(call, resources=frozenset(), node=None)
        return replace(call, split=True) if part in CALLS_NOTHING else call

    def _chunk(self, step: str, items: tuple[int, ...]) -> Call:
        """Return one call of several items, see `_to_send`."""
        plan = self._plans[step]
        all_items = self._items[step]
        given = [one for one in map(all_items.__getitem__, items) if type(one) is bytes]
        inputs = tuple(map(self.result, plan.inputs))
        call = self._made(plan, plan, inputs, attempt=1)
        payload = pack_chunk(Chunk(given, plan.payload))
        return replace(call, payload=payload, items=len(items))

    def _to_send(self, plan: StepPlan) -> MapItems | None:
        """Return what decides how the items of a map are sent; None: one by one.

        A deadline is of one call. Arguments in memory that several processes share are
        as they are for one call only if no chunk shares them.
        """
        if (
            not self._chunk_s
            or (plan.json or plan.parts or plan.timeout_ms is not None)
            or not all(isinstance(self.result(name), bytes) for name in plan.inputs)
        ):
            return None
        wanted = Wanted(plan.function, plan.version, plan.resources, plan.node)
        now = time.monotonic()
        router = self._calls.router
        offers = [chosen.offer for chosen in router.fitting(wanted, now)]
        if not offers or not all(o.placed and o.needs_worker for o in offers):
            return None
        self._calls.look_at_own_load(now)
        loads = [v.reported for v in router.explain(wanted, now) if not v.reason]
        slots = sum(1 if load is None else max(1, load.slots) for load in loads)
        return MapItems(self._chunk_s, max(1, slots))

    def _made(
        self,
        plan: StepPlan,
        made: StepPlan | SideCall,
        inputs: tuple[Result, ...],
        *,
        attempt: int,
    ) -> Call:
        """Return a call of a step. made: the step itself, or what else is called."""
        return Call(
            id=self._ids.next(),
            function=made.function,
            payload=made.payload,
            version=made.version,
            resources=plan.resources,
            node=plan.node,
            attempt=min(attempt, 255),
            inputs=inputs,
            keep=True,
            json=plan.json,
            quiet=self._quiet,
            folder=self._folder,
            depth=self._depth,
        )

    def _error(self, step: str) -> bytes:
        state = self._run.machine.state(step)
        if not isinstance(state, FallingBack):
            raise AssertionError(f"step {step} did not fail and falls back")
        failed, parts = failed_of(state.failure, self._run.id)
        function = self._plans[step].function
        return pack_error(failed, parts or (failed.payload,), function=function)

    # ----------------------------------------------------------------- results

    def result(self, name: str) -> Result:
        """Return the result of a step that is done, or an input."""
        given = self._given.get(name)
        if given is not None:
            return given
        state = self._run.machine.result(name)
        if state is None:
            raise AssertionError(f"the result of {name} is not there yet")
        items = state.result
        if not isinstance(items, Items):
            result: Result = items
            return result
        known = self._gathered.get(name)
        if known is None or known[0] is not items:
            known = self._gathered[name] = (items, self._gather(items.results))
        return known[1]

    def lacking(
        self, step: str, part: Part, lost: Collection[bytes]
    ) -> dict[str, list[int]] | None:
        """Return the steps whose results a call lacks, and which items of a map.

        lost: the ids of results that nobody holds. `step` itself: the items of this
            map. Returns None if something else is lost, which nobody makes again.
        """
        lacking: dict[str, list[int]] = {}
        if isinstance(part, int) and self._is_lost(self._items[step][part], lost):
            lacking[step] = []
        for name in self._needed(step, part):
            if name in self._given:
                if self._is_lost(self._given[name], lost):
                    return None
                continue
            state = self._run.machine.result(name)
            result = None if state is None else state.result
            if isinstance(result, Items):
                self._gathered.pop(name, None)
                one_by_one = enumerate(result.results)
                items = [n for n, one in one_by_one if self._is_lost(one, lost)]
                if items:
                    lacking[name] = items
            elif self._is_lost(result, lost):
                lacking[name] = []
        return lacking

    def _needed(self, step: str, part: Part) -> tuple[str, ...]:
        plan = self._plans[step]
        return plan.inputs if part != "split" else _side_call(plan, part).inputs

    def _is_lost(self, result: object, lost: Collection[bytes]) -> bool:
        if not isinstance(result, ResultRef) or result.id not in lost:
            return False
        self._own.append(result)  # its node may hold it and be out of reach for now
        return True

    def deal_out(self, step: str, reply: Reply, parts: tuple[Buffer, ...]) -> int:
        """Take in the items of a map and return how many there are."""
        items: list[bytes | ResultRef] = []
        first = 0
        for entry in read_head(parts[0] if parts else reply.payload):
            if isinstance(entry, bytes):
                items.append(entry)
            elif reply.kept is not None:
                where = reply.kept
                items.append(ResultRef(where.owner, where.id, 0, first, entry))
                first += entry
        self._items[step] = items
        if step not in self._maps:
            to_send = self._to_send(self._plans[step])
            if to_send is not None:
                self._maps[step] = to_send
        return len(items)

    def gone(self, step: str) -> None:
        """Forget the items of a map that has ended."""
        self._items.pop(step, None)
        self._maps.pop(step, None)
        timer = self._probing.pop(step, None)
        if timer is not None:
            timer.cancel()

    def kept(self, states: Mapping[str, StepState]) -> list[ResultRef]:
        """Return all that nodes hold for this run."""
        held: list[object] = [*self._own]
        for state in states.values():
            if isinstance(state, StepDone):
                result = state.result
                held += result.results if isinstance(result, Items) else (result,)
        found = {result.id: result for result in held if isinstance(result, ResultRef)}
        return list(found.values())

    def _gather(self, results: tuple[bytes | ResultRef, ...]) -> Result:
        small = [result for result in results if isinstance(result, bytes)]
        if sum(map(len, small)) > INLINE_BYTES:
            key = self._ids.next()
            blob = ResultRef(self._me, key, self._store.put(key, tuple(small)))
            self._own.append(blob)
            places = iter(range(len(small)))
            return ResultRefs(
                tuple(
                    ResultRef(self._me, key, len(result), next(places), 1)
                    if isinstance(result, bytes)
                    else result
                    for result in results
                )
            )
        if len(small) < len(results):
            return ResultRefs(results)
        return self._hold(b"", gather([(result,) for result in small]))

    def _hold(self, payload: bytes, parts: tuple[Buffer, ...]) -> bytes | ResultRef:
        result = self._store.hold(self._me, self._ids.next(), payload, parts)
        if isinstance(result, ResultRef):
            self._own.append(result)
        return result

    def _fallback(self, step: str, given: Given) -> FallbackResult:
        result = self._hold(given.payload, self._parts.get((step, "fallback"), ()))
        return FallbackResult(result=result, result_bytes=size_bytes(result))


STEP_BYTES = 2048
"""What a step takes besides its arguments and its result, about."""

ITEM_BYTES = 256
"""And an item of a map."""


def size_of_end(state: StepState) -> int:
    """Return what the result or the failure of a step takes in memory."""
    if type(state) is StepDone and type(state.result) is bytes:
        return len(state.result)
    size = 0
    failure = getattr(state, "failure", None)
    if isinstance(failure, tuple):
        failed, parts = failure
        size += len(failed.payload) + sum(map(len, parts))
    result = state.result if isinstance(state, StepDone) else None
    if isinstance(result, Items):
        size += sum(len(one) for one in result.results if isinstance(one, bytes))
        size += ITEM_BYTES * len(result.results)
    elif isinstance(result, bytes):
        size += len(result)
    return size


def size_bytes(result: bytes | ResultRef) -> int:
    """Return how large a result is, wherever it is."""
    return result.size_bytes if isinstance(result, ResultRef) else len(result)


def _side_call(plan: StepPlan, part: Part) -> SideCall:
    sides = {
        "condition": plan.condition,
        "split": plan.split,
        "fallback": plan.fallback,
        "undo": plan.undo,
    }
    side = sides[str(part)]
    if not isinstance(side, SideCall):
        raise AssertionError(f"step {plan.name} has no call to {part}")
    return side


class RunSubscribers:
    """The callers that are told of one run; anybody may join and leave."""

    def __init__(self, run_id: bytes, sink: Sink) -> None:
        self._run_id = run_id
        self._sinks = [sink]
        self.lines = OutputTail()

    def __len__(self) -> int:
        return len(self._sinks)

    def add(self, sink: Sink) -> None:
        """Tell `sink` too from now on; again changes nothing."""
        if sink not in self._sinks:
            self._sinks.append(sink)

    def drop(self, sink: Sink) -> None:
        """Tell `sink` nothing more."""
        if sink in self._sinks:
            self._sinks.remove(sink)

    def tell(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Send `message` to all of them."""
        for sink in self._sinks:
            sink.send(message, parts)

    def printed(self, step: str, output: Output, parts: Parts = ()) -> None:
        """Pass on what a step printed, and keep it for who asks later."""
        line = Line(
            step=step,
            node=output.node,
            stream=output.stream,
            text=output.text,
            lines_cut=output.lines_cut,
            characters_cut=output.characters_cut,
        )
        self.lines.add(line, parts)
        self.tell(Printed(id=self._run_id, line=line), parts)


TOLD_BYTES = 256 << 10
"""Of all failures that are told with the end of a run."""

TELL_EVERY_S = 0.1
"""How often changes of a run that goes on are told; failures and its end at once."""


class WorkflowRun:
    """One execution: the machine, the calls under way, the results so far."""

    def __init__(
        self,
        request: RunStart,
        parts: tuple[Buffer, ...],
        sink: Sink,
        *,
        me: str,
        calls: Calls,
        store: ResultStore,
        placement: Placement,
        ids: Ids,
        on_end: Callable[["WorkflowRun"], None],
        plans: RunPlans,
        done: Mapping[str, StepDone] | None = None,
    ) -> None:
        """`done` is what need not run, for it has a result from an earlier run."""
        self.id = request.id
        self._me = me
        self.request = request
        self.parts = parts
        self.workflow = request.workflow
        self.started_at_s = time.time()
        self.subscribers = RunSubscribers(request.id, sink)
        self._on_end = on_end
        self._plans = {plan.name: plan for plan in request.steps}
        self.began_s = time.monotonic()
        self._ended = math.inf
        self._call_rows: list[StepCall] = []  # of calls that ended, not yet told
        self._told = 0  # revision of the machine that the caller knows
        self._loop = asyncio.get_running_loop()
        self._tell_timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._step_ended: dict[str, asyncio.Event] = {}
        self._calls = RunCalls(
            self,
            request,
            parts,
            me=me,
            calls=calls,
            store=store,
            placement=placement,
            ids=ids,
        )
        plan = plans.of(request, self._calls.fallbacks)
        self._needs, self.outputs = plan.needs, plan.outputs
        self._calls.chain(plan.followers)
        self.machine = RunMachine(
            request.workflow,
            plan.steps,
            rng=random.Random(),  # noqa: S311 - spreads retries, guards nothing
            done=done,
            dependents=plan.dependents,
        )

    def start(self) -> None:
        """Send the steps that wait for nothing."""
        self._perform(self.machine.start(time.monotonic()))

    def cancel(self) -> None:
        """Cancel what is under way, and with it the run."""
        self._calls.catch_up()
        self._perform(self.machine.cancel(time.monotonic()))

    def sink_lost(self, sink: Sink) -> None:
        """Tell a caller that is gone nothing more; the run itself goes on."""
        self.subscribers.drop(sink)

    async def ended(self, step: str) -> Result | tuple[Failed, tuple[Buffer, ...]]:
        """Wait for the end of `step` and return its result, or how it failed."""
        while not self._has_ended(step):
            await self._step_ended.setdefault(step, asyncio.Event()).wait()
        state = self.machine.state(step)
        match state:
            case StepDone():
                return self._calls.result(step)
            case StepFailed():
                return failed_of(state.failure, self.id)
            case Skipped(cause):
                failure = Failure(kind="skipped", message=step, cause=cause)
            case _:
                failure = Failure(kind="cancelled")
        return Failed(id=self.id, failure=failure), ()

    def kept(self) -> list[ResultRef]:
        """Return the results that other nodes, or this one, hold for this run."""
        return self._calls.kept({s: self.machine.state(s) for s in self._plans})

    def size_bytes(self) -> int:
        """Return what the run takes here, about: arguments, results and failures.

        What nodes hold of it is not counted.
        """
        size = sum(map(len, self.parts)) + STEP_BYTES * len(self._plans)
        size += sum(len(value.payload) for value in self.request.inputs)
        for plan in self._plans.values():
            size += len(plan.payload) + size_of_end(self.machine.state(plan.name))
            for side in (plan.condition, plan.split, plan.fallback, plan.undo):
                if side is not None:
                    size += len(side.payload)
        return size

    def summary(self) -> RunSummary:
        """Return the run as a row of the table of all runs."""
        return RunSummary(
            run=self.id,
            workflow=self.workflow,
            status=self.machine.status,
            started_at_s=self.started_at_s,
            duration_ms=self._duration_ms(),
            **step_counts(self.machine.statuses()),
        )

    def snapshot(self) -> RunSnapshot:
        """Return the run with its graph and a row for each step."""
        return RunSnapshot(
            run=self.id,
            workflow=self.workflow,
            status=self.machine.status,
            steps=tuple(map(state_of, self.machine.rows())),
            edges=tuple(
                (needed, step)
                for step, names in self._needs.items()
                for needed in names
            ),
            started_at_s=self.started_at_s,
            duration_ms=self._duration_ms(),
        )

    def bare_plans(self) -> tuple[StepPlan, ...]:
        """Return the steps as they were asked for, without their arguments."""
        return tuple(map(bare, self._plans.values()))

    # ----------------------------------------------------------------- the work

    def _perform(self, effects: Iterable[Effect]) -> None:
        todo = list(effects)
        for effect in todo:  # which grows on the way
            match effect:
                case StartStep():
                    early = self._calls.start(effect)
                    if early is not None:
                        todo += self._ended_early(effect, early)
                case CancelStep():
                    self._calls.cancel(effect)
                case RunEnded():
                    self._finish()
                case _:
                    assert_never(effect)
        self._calls.flush()
        for step in [step for step in self._step_ended if self._has_ended(step)]:
            self._step_ended.pop(step).set()
        if self.machine.status == "running":
            self._set_alarm()
            if self._tell_timer is None:
                self._tell_timer = self._loop.call_later(TELL_EVERY_S, self._tell)

    def _ended_early(self, effect: StartStep, early: Early) -> list[Effect]:
        """Take in the result of a step that its worker had gone on with."""
        call, version, answer = early
        if self.subscribers:
            self._call_rows.append(
                StepCall(
                    id=call.id,
                    step=effect.step,
                    function=call.function,
                    node=self._me,
                    status="done",
                    queued_us=0,
                    run_us=answer.run_us,
                    total_us=answer.run_us,
                    received_bytes=len(answer.payload),
                    ended_at_s=time.time(),
                )
            )
        return self.machine.ended_early(
            effect.step,
            effect.attempt,
            answer.payload,
            time.monotonic(),
            execution=Execution(
                node=self._me,
                version=version,
                queued_s=0.0,
                run_s=answer.run_us / 1e6 if answer.run_us else None,
            ),
            result_bytes=len(answer.payload),
        )

    def said(self, sink: StepSink, message: Any, parts: tuple[Buffer, ...]) -> None:
        """Take in what became of one attempt of one call of a step."""
        now = time.monotonic()
        step, attempt, part = sink.step, sink.attempt, sink.part
        wanted = self._calls.has(sink)
        match message:
            case Reply():
                self._note(sink, message, now)
                self._calls.over(sink)
                if message.kept is not None and not (wanted and part == "call"):
                    self._calls.keep(message.kept)
                effects = self._returned(sink, message, parts, now) if wanted else []
            case Failed(failure=failure):
                refused = failure.kind == "overloaded"
                if not self._calls.over(sink, refused=refused):
                    self._perform(())
                    return
                self._note(sink, message, now)
                if part != "call":
                    named = where(part, self.machine.state(step))
                    failure = msgspec.structs.replace(failure, where=named)
                    message = msgspec.structs.replace(message, failure=failure)
                effects = self._failed(sink, message, parts, now) if wanted else []
            case Started(node=node):
                if not wanted:
                    return
                effects = self.machine.started(step, attempt, node, now, part=part)
            case Output():
                self.subscribers.printed(step, message, parts)
                return
            case _:
                return
        self._perform(effects)
        if part != "call" and self._has_ended(step):
            self._calls.gone(step)
        self._tell_failures((step,))

    def said_of_chunk(
        self, sink: StepSink, message: Any, parts: tuple[Buffer, ...]
    ) -> None:
        """Take in what became of items of a map that went together."""
        now = time.monotonic()
        step = sink.step
        wanted = self._calls.has(sink)
        match message:
            case Reply():
                self._calls.over(sink)
                effects = self._chunk_returned(sink, message, parts, now, wanted)
            case Failed(failure=failure):
                effects = []
                refused = failure.kind == "overloaded"
                if not self._calls.over(sink, refused=refused):
                    pass  # it is sent again
                elif wanted and failure.executed == "no":
                    self._calls.send_one_by_one(sink)
                else:
                    effects = self._chunk_failed(sink, message, parts, now, wanted)
            case Started(node=node):
                if not wanted:
                    return
                attempt, first = sink.attempt, sink.part
                effects = self.machine.started(step, attempt, node, now, part=first)
            case Output():
                self.subscribers.printed(step, message, parts)
                return
            case _:
                return
        self._perform(effects)
        if self._has_ended(step):
            self._calls.gone(step)
        self._tell_failures((step,))

    def _chunk_returned(
        self,
        sink: StepSink,
        reply: Reply,
        parts: tuple[Buffer, ...],
        now: float,
        wanted: bool,
    ) -> list[Effect]:
        """Take in the results of items, and the failure of the one after them."""
        try:
            outcome = outcome_of_chunk(parts[0] if parts else reply.payload)
        except msgspec.DecodeError as error:
            text = f"its answer to a chunk of a map cannot be read: {error}"
            failure = Failure(kind="bad_request", message=text, node=reply.node)
            broken = Failed(id=sink.call_id, failure=failure)
            return self._chunk_failed(sink, broken, (), now, wanted)
        done = len(outcome.results)
        ended = outcome.failed
        self._calls.took(sink.step, outcome.run_us)
        self._note_items(sink, reply, outcome.run_us, outcome.results, now)
        if not wanted:
            return []
        # First: the failure may cancel them.
        self._calls.send_again(sink, sink.items[done if ended is None else done + 1 :])
        results = map(self._calls.item_result, outcome.results)
        effects = self.machine.finished_items(
            sink.step,
            sink.attempt,
            zip(sink.items, results, map(len, outcome.results), strict=False),
            now,
            execution=execution(reply, reply.node),
        )
        if ended is not None:
            failed = Failed(
                id=sink.call_id,
                failure=job_failure(ended, reply.node),
                payload=ended.payload,
                version=reply.version,
                queued_us=reply.queued_us + sum(outcome.run_us),
                run_us=ended.run_us,
            )
            effects += self._item_failed(sink, sink.items[done], failed, (), now)
        return effects

    def _chunk_failed(
        self,
        sink: StepSink,
        failed: Failed,
        parts: tuple[Buffer, ...],
        now: float,
        wanted: bool,
    ) -> list[Effect]:
        """Have the items fail that have run, or may have.

        Where a worker died, the item that it ran comes first: it is named, then. Those
        before it have lost their results with the worker; those after it did not run.
        """
        items, ran = sink.items, failed.failure.ran
        if wanted and ran is not None:
            self._calls.send_again(sink, items[ran + 1 :])
            items = (*items[ran : ran + 1], *items[:ran])
        effects: list[Effect] = []
        for item in items:
            effects += self._item_failed(sink, item, failed, parts, now)
        return effects

    def _item_failed(
        self,
        sink: StepSink,
        item: int,
        failed: Failed,
        parts: tuple[Buffer, ...],
        now: float,
    ) -> list[Effect]:
        """Have one item of a chunk fail, as if it had travelled by itself."""
        one = sink.of_item(item, self._calls.next_id())
        self._note(one, failed, now)
        failure = replace(failed.failure, where=where(item), ran=None)
        return self._failed(one, replace(failed, failure=failure), parts, now)

    def _note_items(
        self,
        sink: StepSink,
        reply: Reply,
        run_us: Sequence[int],
        results: Sequence[bytes],
        now: float,
    ) -> None:
        """Keep what callers' tables note of items that went together.

        Those before an item were its queue.
        """
        if not self.subscribers or isinstance(self.machine.state(sink.step), Cancelled):
            return
        total_us = max(0, int((now - sink.sent_s) * 1e6))
        before_us, after_us = reply.queued_us, sum(run_us)
        ended_at_s = time.time()
        for took_us, result in zip(run_us, results, strict=True):
            after_us -= took_us
            self._call_rows.append(
                StepCall(
                    id=self._calls.next_id(),
                    step=sink.step,
                    function=sink.function,
                    node=reply.node,
                    status="done",
                    waited_us=reply.waited_us,
                    queued_us=before_us,
                    run_us=took_us,
                    total_us=max(took_us, total_us - after_us),
                    received_bytes=len(result),
                    ended_at_s=ended_at_s - after_us / 1e6,
                )
            )
            before_us += took_us

    def _note(self, sink: StepSink, outcome: Reply | Failed, now: float) -> None:
        """Keep what callers' tables note of a call; a cancelled run says it itself."""
        cancelled = isinstance(self.machine.state(sink.step), Cancelled)
        if self.subscribers and sink.part not in CALLS_NOTHING and not cancelled:
            self._call_rows.append(call_of(sink, outcome, now))

    def _returned(
        self, sink: StepSink, reply: Reply, parts: tuple[Buffer, ...], now: float
    ) -> list[Effect]:
        step, attempt, part = sink.step, sink.attempt, sink.part
        said = execution(reply, reply.node)
        if part == "condition":
            is_true = bool(read_head(parts[0] if parts else reply.payload))
            return self.machine.decided(step, attempt, now, is_true=is_true)
        if part == "split":
            items = self._calls.deal_out(step, reply, parts)
            return self.machine.divided(step, attempt, items, now, execution=said)
        if isinstance(part, int):
            self._calls.took(step, (reply.run_us,))
        result = reply.kept or reply.payload
        return self.machine.finished(
            step,
            attempt,
            result,
            now,
            execution=said,
            result_bytes=size_bytes(result),
            part=part,
        )

    def _failed(
        self, sink: StepSink, failed: Failed, parts: tuple[Buffer, ...], now: float
    ) -> list[Effect]:
        """Have a call repeated, or what it lacks made again, or the step fail."""
        step, attempt, part = sink.step, sink.attempt, sink.part
        failure = failed.failure
        if failure.lost and part not in ("fallback", "undo"):
            lacking = self._calls.lacking(step, part, failure.lost)
            named = ", ".join(map(repr, lacking or ()))
            if named:
                text = f"the result of {named} is lost"
                if failure.message:
                    text += f" ({failure.message})"
                text += "; a step is made again if its function has idempotent=True"
                failure = replace(failure, message=text)
                failed = replace(failed, failure=failure)
            effects = lacking is not None and self.machine.lost(
                step, attempt, (failed, parts), now, results=lacking, part=part
            )
            if isinstance(effects, list):
                return effects
        return self.machine.failed(
            step,
            attempt,
            (failed, parts),
            now,
            types=failure.types,
            retryable=bool(failure.lost) or failure.kind in LOST_KINDS,
            execution=execution(failed, failure.node),
            part=part,
        )

    def _finish(self) -> None:
        self._ended = time.monotonic()
        for timer in (self._tell_timer, self._alarm):
            if timer is not None:
                timer.cancel()
        self._calls.stop()
        self._tell()
        self._on_end(self)

    def _tell_failures(self, steps: Iterable[str]) -> None:
        """Tell at once that one of `steps` failed for good; the run may take long."""
        if self.machine.status == "running" and any(
            isinstance(self.machine.state(step), StepFailed) for step in steps
        ):
            self._tell()

    def _tell(self) -> None:
        if self._tell_timer is not None:
            self._tell_timer.cancel()
            self._tell_timer = None
        rows = self.machine.changed_since(self._told)
        status = self.machine.status
        self._told = self.machine.revision
        if not self.subscribers or (not rows and status == "running"):
            return
        calls, self._call_rows = tuple(self._call_rows), []
        results: tuple[tuple[str, bytes], ...] = ()
        failures: tuple[tuple[str, Failed], ...] = ()
        if status != "running":
            ended = {step: self.machine.state(step) for step in self.outputs}
            done = [
                step for step, state in ended.items() if isinstance(state, StepDone)
            ]
            found = [(step, self._calls.result(step)) for step in done]
            results = tuple((step, r) for step, r in found if isinstance(r, bytes))
            failures = tuple(self._small_failures())
        self.subscribers.tell(
            RunState(
                id=self.id,
                status=status,
                steps=tuple(map(state_of, rows)),
                duration_ms=self._duration_ms(),
                results=results,
                calls=calls,
                failures=failures,
            )
        )

    def _small_failures(self) -> Iterator[tuple[str, Failed]]:
        """Return failures to tell without being asked: a run may be forgotten soon."""
        size_bytes = 0
        for step, failure in self.machine.failures().items():
            failed, parts = failed_of(failure, self.id)
            size_bytes += len(failed.payload) + sum(map(len, parts))
            if size_bytes > TOLD_BYTES:
                return
            if not parts:
                yield step, failed

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.machine.deadline < math.inf:
            delay_s = max(0.0, self.machine.deadline - time.monotonic())
            self._alarm = self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        effects = self.machine.tick(time.monotonic())
        self._perform(effects)
        self._tell_failures(
            effect.step for effect in effects if isinstance(effect, CancelStep)
        )

    def _has_ended(self, step: str) -> bool:
        return not isinstance(
            self.machine.state(step),
            (StepWaiting, Sent, StepRunning, StepBackoff, FallingBack),
        )

    def _duration_ms(self) -> float:
        return (min(self._ended, time.monotonic()) - self.began_s) * 1e3
