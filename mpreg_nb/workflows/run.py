"""The state machine of one run: which calls to send, when to retry, what to undo.

A step is sent the moment that all it waits for is done; there are no levels. One with
a condition has it tested first; where it is false, the step is skipped, and so is what
uses its result, unless that has a fallback. What only comes after it goes on. When a
step fails for good, its fallback gives the result; without one, what depends on it is
skipped and all else continues. A map is sent as a split, then as one call for each
item; an item that fails for good fails the map. When no step is open any more and not
all went well, the steps that are done are undone one after another, the last first.
Then the run ends, once.

The result of a step may be lost while the run goes on, with the node that holds it.
The call that needed it rests, and the step is sent again if it may run twice: of a
map, the items whose results are lost. Such attempts spend no retries.

Every method takes `now`, seconds on any monotonic clock, and returns what the
caller must do. The caller sleeps until `deadline`, then calls `tick`. Events
about an attempt that is over, or of an unknown step, change nothing.

The time of an attempt runs from being sent; that of an item from when a node started
it, since the items of a map queue behind each other.

Source of undoing: Garcia-Molina, Salem, "Sagas", SIGMOD 1987.
"""

import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from mpreg_nb.errors import CallTimeout
from mpreg_nb.workflows.graph import (
    LONGEST_DELAY_S,
    check_order,
    dependents_of,
    type_name,
)
from mpreg_nb.workflows.state import (
    UNSAID,
    Attempt,
    Cancelled,
    CancelStep,
    Effect,
    Execution,
    FallingBack,
    FellBack,
    InputSkipped,
    Items,
    ItemsChanged,
    MissingResult,
    NotUndone,
    Part,
    RunEnded,
    RunStatus,
    Sent,
    Skipped,
    StartStep,
    StepBackoff,
    StepDone,
    StepFailed,
    StepRunning,
    StepTable,
    StepWaiting,
    TableReads,
    TimedOut,
    Undone,
)

SPLIT_ATTEMPTS = 2
"""More tries to take items apart when a node or worker is lost: that does no harm."""

MOST_REMADE = 3
"""Times that the result of one step is made again; nodes may have no room for it."""

MOST_SPARED = 20
"""Attempts of one call that spend no retry, since they lacked results."""


class FallbackCall(msgspec.Struct, frozen=True, kw_only=True):
    """A fallback: after the last failure, the result of a call."""


class FallbackResult(msgspec.Struct, frozen=True, kw_only=True):
    """A fallback: after the last failure, this value."""

    result: Any  # a handle that the machine does not look into
    result_bytes: int | None = None


Fallback: TypeAlias = FallbackCall | FallbackResult


class UndoCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that reverses a step; `inputs` are the steps it refers to."""

    inputs: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)


class RunStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step. For a map, attempts and time are those of each item."""

    name: str
    dependencies: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)  # see graph.type_name
    delay_s: float | None = None  # before the second attempt; None: by chance
    backoff: float = 1.0  # factor of each further delay
    timeout_s: float | None = None  # of each attempt, from being sent; see run.py
    is_map: bool = False
    has_condition: bool = False
    after: frozenset[str] = frozenset()  # dependencies whose results it does not use
    idempotent: bool = False
    fallback: Fallback | None = None
    undo: UndoCall | None = None

    def more(self, part: Part, types: Iterable[str], *, retryable: bool) -> int:
        """Return how many more attempts a failure of this kind may lead to.

        types: the names of the exception's classes, its own first.
        retryable: the node or its worker was lost.
        """
        match part:
            case "fallback":
                return 0
            case "undo":
                undo = self.undo or UndoCall()
                more, retry_on = undo.more_attempts, undo.retry_on
            case "split" | "condition" if retryable:
                return max(self.more_attempts, SPLIT_ATTEMPTS)
            case _:
                more, retry_on = self.more_attempts, self.retry_on
        return more if retryable or not set(retry_on).isdisjoint(types) else 0

    def rest_s(self, failures: int, draw: float) -> float:
        """Return seconds to wait after the `failures`-th failure.

        delay * backoff^(failures - 1), at most an hour; without a delay `backoff_s`.

        >>> RunStep(name="fit", delay_s=0.5, backoff=2.0).rest_s(3, 0.9)
        2.0
        >>> RunStep(name="fit", delay_s=0.0, backoff=2.0).rest_s(5000, 0.9)
        0.0
        """
        if self.delay_s is None:
            return backoff_s(failures, draw)
        if not self.delay_s:
            return 0.0
        try:
            return min(LONGEST_DELAY_S, self.delay_s * self.backoff ** (failures - 1))
        except OverflowError:  # it is larger than any float
            return LONGEST_DELAY_S


class Rng(Protocol):
    """The part of random.Random that is used."""

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        ...


def backoff_s(failures: int, draw: float) -> float:
    """Return seconds to wait after the `failures`-th failure; `draw` is from [0, 1).

    draw * min(2 s, 50 ms * 2^(failures - 1)), called full jitter.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.

    >>> backoff_s(1, 0.5), backoff_s(2, 0.5), backoff_s(100, 0.5)
    (0.025, 0.05, 1.0)
    """
    return draw * min(2.0, 0.05 * 2.0 ** min(failures - 1, 10))


class Compensation:
    """The steps to undo, one after another, once all others have ended.

    A step that fell back is not: what it was to do, it did not do.
    """

    def __init__(self, table: StepTable, undos: Mapping[str, UndoCall | None]) -> None:
        self._table = table
        self._undos = {step: undo for step, undo in undos.items() if undo is not None}
        self._todo: list[str] = []  # the step that was done last comes last
        self.has_begun = False
        self.run_status: RunStatus = "done"
        """How the run ends when all is undone that can be."""

    def done(self, step: str, state: StepDone) -> None:
        """Record a step that is done, and may have to be undone."""
        if step in self._undos and not isinstance(state, FellBack):
            self._todo.append(step)

    def begin(self, status: RunStatus) -> None:
        """Start to undo if the run failed; forget the steps if it succeeded."""
        self.has_begun = True
        self.run_status = status
        if status == "done":
            self._todo.clear()

    def next(self) -> str | None:
        """Return the next step to undo; None if there is none left.

        Those that refer to a result that there is not are passed over.
        """
        while self._todo:
            step = self._todo.pop()
            lacking = [
                needed
                for needed in sorted(self._undos[step].inputs)
                if not isinstance(self._table[needed], StepDone)
            ]
            if not lacking:
                return step
            self.not_undone(step, MissingResult(lacking[0]))
        return None

    def undone(self, step: str) -> None:
        """Record that `step` was undone."""
        done = self._done(step)
        state = Undone(done.attempt, done.result, done.result_bytes)
        self._table.change(step, state)

    def not_undone(self, step: str, failure: Any) -> None:
        """Record that `step` could not be undone, and why."""
        done = self._done(step)
        state = NotUndone(done.attempt, done.result, done.result_bytes, failure)
        self._table.change(step, state)

    def _done(self, step: str) -> StepDone:
        state = self._table[step]
        if not isinstance(state, StepDone):
            raise AssertionError(f"step {step} was not done and cannot be undone")
        return state


NAMED_NODES = 3
"""How many of the nodes that ran items are named where there are more."""


class MapStep:
    """Results of the items of a map by position, and the nodes that ran them."""

    def __init__(self, items: int) -> None:
        self._results: list[Any] = [None] * items
        self._open = items
        self._size_bytes = 0
        self._nodes: dict[str, None] = {}
        self._version = ""
        self.execution = Execution()

    def keep(self, before: StepDone, lost: Collection[int]) -> None:
        """Take the results from before, but for those of the items `lost`."""
        self._results = list(before.result.results)
        self._open = len(lost)
        self._size_bytes = before.result_bytes or 0
        self.execution = before.attempt.execution

    @property
    def done(self) -> int:
        """How many items have a result."""
        return len(self._results) - self._open

    @property
    def is_done(self) -> bool:
        """Return whether all items have a result."""
        return self._open == 0

    @property
    def size_bytes(self) -> int:
        """Return the size of all results so far."""
        return self._size_bytes

    def finished(
        self, item: int, result: Any, result_bytes: int | None, said: Execution
    ) -> None:
        """Note the result of an item; to be called once for each."""
        if self._results[item] is None:
            self._size_bytes += result_bytes or 0
        self._results[item] = result
        self._open -= 1
        if said.node not in self._nodes or said.version != self._version:
            self._nodes[said.node] = None
            self._version = said.version
            self.execution = Execution(node=shown(self._nodes), version=said.version)

    def gathered(self) -> Items:
        """Return all results in the order of the items."""
        return Items(tuple(self._results))


def shown(nodes: dict[str, None]) -> str:
    """Name the nodes that ran items.

    >>> shown(dict.fromkeys(["n2", "n1"]))
    'n1, n2'
    >>> shown(dict.fromkeys(["n1", "n2", "n3", "n4", "n5"]))
    'n1, n2, n3 and 2 more'
    """
    names = sorted(filter(None, nodes))
    more = len(names) - NAMED_NODES
    listed = ", ".join(names[:NAMED_NODES])
    return f"{listed} and {more} more" if more > 0 else listed


class Timer(NamedTuple):
    """Compared by its first two fields; `order` is never the same twice."""

    at_s: float
    order: int
    step: str
    attempt: int
    after_s: float
    rested: bool  # the next attempt may be sent; else: the time of this one is up
    part: Part = "call"


class Timers:
    """Timers of attempts. The table says which of them have not been overtaken.

    An attempt that ends leaves its timer behind, to be dropped when it comes up:
    that costs nothing at the end of the attempt.
    """

    def __init__(self, table: StepTable) -> None:
        self._table = table
        self._heap: list[Timer] = []
        self._order = count()

    def add(
        self,
        now: float,
        after_s: float,
        step: str,
        attempt: int,
        *,
        rested: bool,
        part: Part = "call",
    ) -> None:
        """Add a timer that expires `after_s` from now."""
        order = next(self._order)
        timer = Timer(now + after_s, order, step, attempt, after_s, rested, part)
        heapq.heappush(self._heap, timer)

    @property
    def deadline(self) -> float:
        """When the next timer expires; infinity if there is none."""
        while self._heap and not self._still_wanted(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0].at_s if self._heap else math.inf

    def pop(self) -> Timer:
        """Remove and return the timer that expires next."""
        return heapq.heappop(self._heap)

    def _still_wanted(self, timer: Timer) -> bool:
        step, part, attempt = timer.step, timer.part, timer.attempt
        if timer.rested:
            return self._table.rests(step, part, attempt)
        return self._table.under_way(step, part, attempt) is not None


Lacking: TypeAlias = Literal["result", "items"]
"""What a call lacks: the result of another step, or its own item of a map."""


class Remaking(msgspec.Struct, frozen=True):
    """A step that was done, and is sent again since its result is lost."""

    before: StepDone
    lost: frozenset[int] = frozenset()  # of a map: the items


class Resting(msgspec.Struct, frozen=True):
    """A call that rests until results are there again."""

    attempt: Attempt
    failure: Any  # of the attempt that lacked them
    lacks: frozenset[tuple[str, Lacking]]  # of which steps


class LostResults:
    """What is made again in one run, and which calls rest until it is there."""

    def __init__(self) -> None:
        self.remaking: dict[str, Remaking] = {}
        self.old: dict[str, StepDone] = {}  # what was lost
        self.resting: dict[tuple[str, Part], Resting] = {}
        self._times: Counter[str] = Counter()
        self._unspent: dict[tuple[str, Part], int] = {}
        self._splits: dict[str, int] = {}

    def may_remake(self, step: str) -> bool:
        """Whether a step was not made again too often."""
        return self._times[step] < MOST_REMADE

    def count(self, step: str) -> None:
        """Note that a step, or its split, is sent again."""
        self._times[step] += 1

    def split(self, step: str, attempt: int) -> None:
        """Note which attempt has taken the items of a map apart."""
        self._splits[step] = attempt

    def next_split(self, step: str) -> int:
        """Return the number of the next attempt to take items apart."""
        number = self._splits.pop(step, 0)
        self.free(step, "split", number)
        return number + 1

    def is_split(self, step: str) -> bool:
        """Whether the items of a map that is under way are there."""
        return step in self._splits

    def rest(self, step: str, part: Part, resting: Resting) -> None:
        """Note that a call rests."""
        self.resting[step, part] = resting

    def spare(self, step: str, part: Part) -> bool:
        """Let an attempt spend no retry; False: too many have spent none."""
        unspent = self._unspent.get((step, part), 0) + 1
        self.free(step, part, unspent)
        return unspent <= MOST_SPARED

    def free(self, step: str, part: Part, attempts: int) -> None:
        """Note how many attempts of a call spent no retry."""
        self._unspent[step, part] = attempts

    def spent(self, step: str, part: Part, attempt: int) -> int:
        """Return which attempt this is of those that count."""
        return attempt - self._unspent.get((step, part), 0)

    def made(self, step: str, what: Lacking) -> list[tuple[str, Part, Resting]]:
        """Return the calls that rested for `step` and now lack nothing."""
        ready: list[tuple[str, Part, Resting]] = []
        for (name, part), resting in list(self.resting.items()):
            if (step, what) not in resting.lacks:
                continue
            left = resting.lacks - {(step, what)}
            if left:
                self.resting[name, part] = replace(resting, lacks=left)
            else:
                ready.append((name, part, self.resting.pop((name, part))))
        return ready

    def given_up(self, step: str) -> list[tuple[str, Part, Resting]]:
        """Return the calls that rested for `step`, which has no result any more."""
        self.remaking.pop(step, None)
        return [
            (name, part, self.resting.pop((name, part)))
            for (name, part), resting in list(self.resting.items())
            if (step, "result") in resting.lacks
        ]

    def drop(self, step: str) -> None:
        """Forget the resting calls of a step that needs them no longer."""
        for key in [key for key in self.resting if key[0] == step]:
            del self.resting[key]


TIMEOUT_TYPES = tuple(type_name(cls) for cls in CallTimeout.__mro__[:-1])
"""The classes of a timeout, as `failed` takes them: what retries compare."""


def checked_dependents(
    workflow: str, steps: Sequence[RunStep]
) -> Mapping[str, list[str]]:
    """Return step -> steps that depend on it, for steps that can all be run.

    Raises:
        InvalidWorkflow: these steps could never all be run.
    """
    check_order(
        workflow,
        [(step.name, step.dependencies) for step in steps],
        mentions=[(step.name, step.undo.inputs) for step in steps if step.undo],
    )
    return dependents_of({step.name: step.dependencies for step in steps})


class RunMachine(TableReads):
    """The states of all steps of one run; see the head of this file.

    Invariant: `status` is "running" exactly while a step has no end yet, or one is
    being undone.
    """

    def __init__(
        self,
        workflow: str,
        steps: Sequence[RunStep],
        *,
        rng: Rng,
        done: Mapping[str, StepDone] | None = None,
        dependents: Mapping[str, list[str]] | None = None,
    ) -> None:
        """Take steps in any order; `rng` spreads retries.

        done: what is not to be run, for it has a result from an earlier run.
        dependents: what `checked_dependents` says, if it is known.

        Raises:
            InvalidWorkflow: these steps could never all be run.
        """
        if dependents is None:
            dependents = checked_dependents(workflow, steps)
        self.workflow = workflow
        self.status: RunStatus = "running"
        self._rng = rng
        self._steps = {step.name: step for step in steps}
        self._table = StepTable(self._steps)
        self._fans: dict[str, MapStep] = {}  # of the maps under way
        self._lost = LostResults()
        self._doomed: list[tuple[str, Part, Resting]] = []
        self._is_failing = False
        self._dependents = dependents
        self._missing = {step.name: len(step.dependencies) for step in steps}
        self._undoing = Compensation(self._table, {s.name: s.undo for s in steps})
        self._timers = Timers(self._table)
        for step, state in (done or {}).items():
            self._complete(step, state)

    # ------------------------------------------------------------ what happens

    def start(self, now: float) -> list[Effect]:
        """Send the steps that wait for nothing; a second time, nothing."""
        if self._table.started_at_s != math.inf or self.status != "running":
            return []
        self._table.started_at_s = now
        ready = [
            step
            for step, state in self._table.items()
            if self._missing[step] == 0 and isinstance(state, StepWaiting)
        ]
        effects: list[Effect] = [self._begin(step, now) for step in ready]
        return effects + self._end(now)

    def started(
        self,
        step: str,
        attempt: int,
        node: str,
        now: float,
        *,
        version: str = "",
        part: Part = "call",
    ) -> list[Effect]:
        """Record that `node` started the attempt."""
        if self._table.begun(step, part, attempt, node, version, now):
            timeout_s = self._steps[step].timeout_s
            if isinstance(part, int) and timeout_s is not None:
                self._timers.add(now, timeout_s, step, attempt, rested=False, part=part)
        return []

    def decided(
        self, step: str, attempt: int, now: float, *, is_true: bool
    ) -> list[Effect]:
        """Record whether the condition of a step holds: send the step, or skip it."""
        if self._table.under_way(step, "condition", attempt) is None:
            return []
        self._table.drop(step, "condition")
        return [self._begin_call(step, now)] if is_true else self._skip(step, now)

    def divided(
        self,
        step: str,
        attempt: int,
        items: int,
        now: float,
        *,
        execution: Execution = UNSAID,
    ) -> list[Effect]:
        """Record how many items a map has, and send them all."""
        if self._table.under_way(step, "split", attempt) is None:
            return []
        self._table.drop(step, "split")
        self._lost.split(step, attempt)
        fan = self._fans.get(step)
        if fan is not None:  # for the items that are still open
            if items == self._table.whole(step).items:
                return self._send_rested(step, "items", now)
            return self._stop_map(step, ItemsChanged(items), now)
        whole = replace(self._table.whole(step), items=items)
        fan = self._fans[step] = MapStep(items)
        first, todo = 1, list(range(items))
        remaking = self._lost.remaking.get(step)
        if remaking is not None:
            first = whole.number + 1
            if items == len(remaking.before.result.results):
                todo = sorted(remaking.lost)
                fan.keep(remaking.before, todo)
                whole = replace(whole, items_done=fan.done)
            for item in todo:
                self._lost.free(step, item, first - 1)
        if fan.is_done:
            return self._gather(step, whole.ended(now, execution), now)
        self._table.change_whole(step, whole)
        return [self._send(step, first, now, item) for item in todo]

    def finished(
        self,
        step: str,
        attempt: int,
        result: Any,
        now: float,
        *,
        execution: Execution = UNSAID,
        result_bytes: int | None = None,
        part: Part = "call",
    ) -> list[Effect]:
        """Record the result of an attempt; send the steps that waited only for it."""
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None or part in ("split", "condition"):
            return []
        if part == "call":
            ended = under_way.ended(now, execution)
            self._complete(step, StepDone(ended, result, result_bytes))
            return self._release(step, now)
        if isinstance(part, int):
            done = ((part, result, result_bytes),)
            return self.finished_items(step, attempt, done, now, execution=execution)
        self._table.drop(step, part)
        if part == "undo":
            self._undoing.undone(step)
            return self._undo_next(now)
        state, ended = self._table[step], under_way.ended(now, execution)
        if isinstance(state, FallingBack):
            ended = replace(ended, number=state.attempt.number + ended.number)
            self._complete(step, FellBack(ended, result, result_bytes, state.failure))
        return self._release(step, now)

    def ended_early(
        self,
        step: str,
        attempt: int,
        result: Any,
        now: float,
        *,
        execution: Execution,
        result_bytes: int,
    ) -> list[Effect]:
        """Record the result of a plain call that was there when it was to be sent."""
        if self._table.under_way(step, "call", attempt) is None:
            return []
        ended = Attempt(
            number=attempt, sent_at_s=now, started_at_s=now, execution=execution
        )
        self._complete(step, StepDone(ended, result, result_bytes))
        return self._release(step, now)

    def finished_items(
        self,
        step: str,
        attempt: int,
        results: Iterable[tuple[int, Any, int | None]],
        now: float,
        *,
        execution: Execution = UNSAID,
    ) -> list[Effect]:
        """Record results of items of a map, each with its size, and gather them all.

        attempt: of each of these items.
        """
        fan = self._fans.get(step)
        if fan is None:
            return []
        for item, result, result_bytes in results:
            if self._table.under_way(step, item, attempt) is not None:
                self._table.drop(step, item)
                fan.finished(item, result, result_bytes, execution)
        whole = replace(self._table.whole(step), items_done=fan.done)
        if fan.is_done:
            return self._gather(step, whole.ended(now, fan.execution), now)
        self._table.change_whole(step, whole)
        return []

    def failed(
        self,
        step: str,
        attempt: int,
        failure: Any,
        now: float,
        *,
        types: Iterable[str] = (),
        retryable: bool = False,
        execution: Execution = UNSAID,
        part: Part = "call",
    ) -> list[Effect]:
        """Record that an attempt failed: retry, fall back, or fail the step.

        types: the names of the exception's classes, its own first, each as
            `graph.type_name` gives it; one of them in the step's `retry_on`
            spends one of its retries.
        retryable: the node or its worker was lost, which is no fault of the
            function: spends a retry whatever `retry_on` is.
        """
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None:
            return []
        ended = under_way.ended(now, execution)
        spent = self._lost.spent(step, part, attempt)
        if spent <= self._steps[step].more(part, types, retryable=retryable):
            self._table.set(step, part, StepBackoff(ended, failure))
            rest_s = self._steps[step].rest_s(attempt, self._rng.random())
            self._timers.add(now, rest_s, step, attempt, rested=True, part=part)
            return []
        return self._fail(step, part, ended, failure, now)

    def lost(
        self,
        step: str,
        attempt: int,
        failure: Any,
        now: float,
        *,
        results: Mapping[str, Collection[int]],
        part: Part = "call",
    ) -> list[Effect] | None:
        """Record that an attempt could not begin, for it lacks results that are lost.

        results: of which steps they were, and of which items of a map. `step` itself:
            the items of this map that are to be sent. None: they were made again
            meanwhile.

        Returns None where they cannot be made again: the attempt has failed, then.
        """
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None:
            return []
        if part in ("fallback", "undo") or not all(
            self._can_remake(each, own=each == step) for each in results
        ):
            return None
        if not self._lost.spare(step, part):
            return None
        if not results:
            return [self._send(step, attempt + 1, now, part)]
        ended = under_way.ended(now, UNSAID)
        self._table.set(step, part, StepBackoff(ended, failure))
        lacks: frozenset[tuple[str, Lacking]] = frozenset(
            (each, "items" if each == step else "result") for each in results
        )
        self._lost.rest(step, part, Resting(ended, failure, lacks))
        return [
            self._divide_anew(each, now)
            if each == step
            else self._remake(each, items, now)
            for each, items in results.items()
            if not self._goes_on(each, own=each == step)
        ]

    def _goes_on(self, step: str, *, own: bool) -> bool:
        """Whether what is lost is being made again already."""
        return not self._lost.is_split(step) if own else step in self._lost.remaking

    def _can_remake(self, step: str, *, own: bool) -> bool:
        if self._goes_on(step, own=own):
            return True
        if not self._lost.may_remake(step):
            return False
        if own:
            return True
        plan = self._steps[step]
        # An undo would have to know of both times that the step was done.
        is_done = type(self._table[step]) is StepDone
        return is_done and plan.idempotent and plan.undo is None

    def _divide_anew(self, step: str, now: float) -> Effect:
        """Take the items of a map apart again, for those that are still open."""
        self._lost.count(step)
        return self._send(step, self._lost.next_split(step), now, "split")

    def _remake(self, step: str, items: Collection[int], now: float) -> Effect:
        """Send a step again whose result is lost."""
        before = self._table[step]
        if not isinstance(before, StepDone):
            raise AssertionError(f"step {step} has no result that could be lost")
        self._lost.count(step)
        self._lost.remaking[step] = Remaking(before, frozenset(items))
        self._lost.old[step] = before
        number, count = before.attempt.number, before.attempt.items
        again = Attempt(number=number, sent_at_s=now, items=count)
        self._table.reopen(step, Sent(again))
        if self._steps[step].is_map:
            return self._send(step, self._lost.next_split(step), now, "split")
        self._lost.free(step, "call", number)
        return self._send(step, number + 1, now, "call")

    def _send_rested(self, step: str, what: Lacking, now: float) -> list[Effect]:
        """Send the calls that rested for the result of `step`, or for its items."""
        return [
            self._send(name, resting.attempt.number + 1, now, part)
            for name, part, resting in self._lost.made(step, what)
        ]

    def result(self, step: str) -> StepDone | None:
        """Return the end of a step that has a result, or had one that is lost."""
        state = self._table[step]
        return state if isinstance(state, StepDone) else self._lost.old.get(step)

    def _fail(
        self, step: str, part: Part, ended: Attempt, failure: Any, now: float
    ) -> list[Effect]:
        """Do what follows on the last failure of a call of a step."""
        if part != "call":
            self._table.drop(step, part)
        if part == "undo":
            self._undoing.not_undone(step, failure)
            return self._undo_next(now)
        if part == "fallback":
            return self._give_up(step, StepFailed(ended, failure), now)
        if part not in ("call", "condition"):
            return self._stop_map(step, failure, now, ended.execution)
        return self._fall_back(step, ended, failure, now)

    def _stop_map(
        self, step: str, failure: Any, now: float, execution: Execution = UNSAID
    ) -> list[Effect]:
        """Do what follows where a map has failed: its other items are not needed."""
        ended = self._table.whole(step).ended(now, execution)
        effects: list[Effect] = [*self._table.stop(step)]
        return effects + self._fall_back(step, ended, failure, now)

    def cancel(self, now: float) -> list[Effect]:
        """Cancel every step that is still open, then undo what is done.

        Once steps are being undone it is too late to cancel: nothing changes.
        """
        if self.status != "running" or self._undoing.has_begun:
            return []
        effects: list[Effect] = []
        self._fans.clear()
        for step, state in self._table.items():
            self._lost.drop(step)
            self._lost.remaking.pop(step, None)
            match state:
                case Sent(attempt) | StepBackoff(attempt) | FallingBack(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt))
                case StepRunning(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt.ended(now, UNSAID)))
                case StepWaiting():  # its condition may be under way
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(None))
                case StepDone() | StepFailed() | Skipped() | Cancelled():
                    pass
        return effects + self._end(now, "cancelled")

    def tick(self, now: float) -> list[Effect]:
        """Time out expired attempts; send retries whose backoff has ended."""
        effects: list[Effect] = []
        while self.deadline <= now:
            _, _, step, attempt, after_s, rested, part = self._timers.pop()
            if rested:
                effects.append(self._send(step, attempt + 1, now, part))
                continue
            effects.append(CancelStep(step, attempt, part))
            late, types = TimedOut(after_s, part), TIMEOUT_TYPES
            effects += self.failed(step, attempt, late, now, types=types, part=part)
        return effects

    @property
    def deadline(self) -> float:
        """When `tick` must be called next; infinity if only events change the run."""
        return self._timers.deadline

    # --------------------------------------------------------------- decisions

    def _begin(self, step: str, now: float) -> StartStep:
        if self._steps[step].has_condition:
            return self._send(step, 1, now, "condition")
        return self._begin_call(step, now)

    def _begin_call(self, step: str, now: float) -> StartStep:
        if not self._steps[step].is_map:
            return self._send(step, 1, now, "call")
        self._table.change(step, Sent(Attempt(number=1, sent_at_s=now)))
        return self._send(step, 1, now, "split")

    def _send(self, step: str, attempt: int, now: float, part: Part) -> StartStep:
        self._table.set(step, part, Sent(Attempt(number=attempt, sent_at_s=now)))
        if isinstance(part, int):
            whole = self._table.whole(step)
            if attempt > whole.number:
                self._table.change_whole(step, replace(whole, number=attempt))
        elif (timeout_s := self._steps[step].timeout_s) is not None:
            self._timers.add(now, timeout_s, step, attempt, rested=False, part=part)
        return StartStep(step, attempt, part)

    def _gather(self, step: str, ended: Attempt, now: float) -> list[Effect]:
        fan = self._fans.pop(step)
        self._complete(step, StepDone(ended, fan.gathered(), fan.size_bytes))
        return self._release(step, now)

    def _complete(self, step: str, state: StepDone) -> None:
        self._table.close(step, state)
        if self._lost.remaking.pop(step, None) is not None:
            return  # who waited for it has begun before
        self._undoing.done(step, state)
        for dependent in self._dependents[step]:
            self._missing[dependent] -= 1

    def _release(self, step: str, now: float) -> list[Effect]:
        """Start the steps that waited only for `step`, unless they are done."""
        effects: list[Effect] = []
        if self._lost.resting:
            effects += self._send_rested(step, "result", now)
        # Those who waited for a result that was lost since have begun before.
        began = step in self._lost.old
        for dependent in () if began else self._dependents[step]:
            waits = isinstance(self._table[dependent], StepWaiting)
            if waits and self._missing[dependent] == 0:
                effects.append(self._begin(dependent, now))
        return effects if self._table.open else effects + self._end(now)

    def _fall_back(
        self, step: str, ended: Attempt, failure: Any, now: float
    ) -> list[Effect]:
        self._fans.pop(step, None)
        self._lost.drop(step)
        fallback = self._steps[step].fallback
        if fallback is None:
            return self._give_up(step, StepFailed(ended, failure), now)
        if isinstance(fallback, FallbackResult):
            result, result_bytes = fallback.result, fallback.result_bytes
            self._complete(step, FellBack(ended, result, result_bytes, failure))
            return self._release(step, now)
        self._table.change(step, FallingBack(ended, failure))
        return [self._send(step, 1, now, "fallback")]

    def _give_up(self, step: str, state: StepFailed, now: float) -> list[Effect]:
        self._table.close(step, state)
        pending = [step]
        while pending:
            for dependent in self._dependents[pending.pop()]:
                waits = isinstance(self._table[dependent], StepWaiting)
                if waits and self._missing[dependent]:  # else it had its inputs
                    self._table.close(dependent, Skipped(step))
                    pending.append(dependent)
        self._doomed += self._lost.given_up(step)
        if self._is_failing:
            return []  # the loop below goes on: a chain may be long
        effects: list[Effect] = []
        self._is_failing = True
        while self._doomed:
            name, part, resting = self._doomed.pop()
            if self._table.rests(name, part, resting.attempt.number):
                effects += self._fail(name, part, resting.attempt, resting.failure, now)
        self._is_failing = False
        return effects + self._end(now)

    def _skip(self, step: str, now: float) -> list[Effect]:
        """Skip a step whose condition is false, and what cannot run without it."""
        effects: list[Effect] = []
        self._table.close(step, Skipped(""))
        pending = [step]
        while pending:
            skipped = pending.pop()
            cause = "" if skipped == step else step
            for dependent in self._dependents[skipped]:
                if not isinstance(self._table[dependent], StepWaiting):
                    continue
                if skipped in self._steps[dependent].after:
                    self._missing[dependent] -= 1
                    if self._missing[dependent] == 0:
                        effects.append(self._begin(dependent, now))
                elif self._steps[dependent].fallback is None:
                    self._table.close(dependent, Skipped(step))
                    pending.append(dependent)
                else:
                    unsent = Attempt(number=0, sent_at_s=now)
                    failure = InputSkipped(skipped, cause)
                    effects += self._fall_back(dependent, unsent, failure, now)
        return effects + self._end(now)

    def _end(self, now: float, status: RunStatus | None = None) -> list[Effect]:
        if self._table.open or self._undoing.has_begun:
            return []
        self._undoing.begin(status or ("failed" if self.failures() else "done"))
        return self._undo_next(now)

    def _undo_next(self, now: float) -> list[Effect]:
        step = self._undoing.next()
        if step is not None:
            return [self._send(step, 1, now, "undo")]
        self.status = self._undoing.run_status
        return [RunEnded(self.status)]
