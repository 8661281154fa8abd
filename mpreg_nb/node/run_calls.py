"""What is sent for one run: calls under way, calls held back, and their results.

A small result travels with the calls that refer to it; a large one stays where it
was made, and calls say where that is. Nothing is unpickled here.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpreg_nb.node.calls import Calls
from mpreg_nb.node.run_step import StepSource, deal, failed_of
from mpreg_nb.node.store import Store
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.failures import pack_error
from mpreg_nb.wire.ids import Ids
from mpreg_nb.wire.items import gather, read_head
from mpreg_nb.wire.messages import Call, Gathered, Kept, Reply, Result
from mpreg_nb.wire.runs import Given, RunStart, SideCall, StepPlan
from mpreg_nb.workflow.effects import CancelStep, StartStep
from mpreg_nb.workflow.run_steps import FallbackResult
from mpreg_nb.workflow.states import Done, FallingBack, Items, Part, StepState

if TYPE_CHECKING:
    from mpreg_nb.node.choices import HandOver
    from mpreg_nb.node.run import ActiveRun

MOST_UNDER_WAY = 512
"""Calls of one run at once, half of what a node takes; others are held back here."""

AGAIN_S = 0.05
"""Before the next call, when nodes had no room and nothing else is under way."""

LONGEST_FULL_S = 30.0
"""After so long without an outcome, a call that nodes have no room for fails."""

NOTED_ITEMS = 8
"""Items of a map of which it is noted why they went where they went."""

Key = tuple[str, Part]


class RunCalls:
    """The calls of one run, by step and part."""

    def __init__(
        self,
        run: "ActiveRun",
        request: RunStart,
        parts: tuple[Buffer, ...],
        *,
        me: str,
        calls: Calls,
        store: Store,
        hand_over: "HandOver",
        ids: Ids,
    ) -> None:
        self._run = run
        self._me = me
        self._calls = calls
        self._store = store
        self._give = hand_over
        self._ids = ids
        self._quiet = request.quiet
        self._folder = request.folder
        self._plans: Mapping[str, StepPlan] = {s.name: s for s in request.steps}
        self._under_way: dict[Key, StepSource] = {}
        self._held: dict[Key, int] = {}  # -> attempt, in the order to send them
        self._ending: set[bytes] = set()  # ids of cancelled calls, until they end
        self._room = MOST_UNDER_WAY  # less while nodes are full
        self._full_since = math.inf
        self._pause: asyncio.TimerHandle | None = None
        self._items: dict[str, list[bytes | Kept]] = {}  # of the maps under way
        self._gathered: dict[str, Result] = {}
        self._own: list[Kept] = []  # what is held only for this run
        self._loop = asyncio.get_running_loop()
        self._parts, given = deal(request, parts)
        self._given = {name: self._hold(*value) for name, value in given.items()}
        self.fallbacks = {
            plan.name: self._fallback(plan.name, plan.fallback)
            for plan in request.steps
            if isinstance(plan.fallback, Given)
        }
        """The results of steps for which a value was given, should they fail."""

    # ------------------------------------------------------------------- calls

    def start(self, effect: StartStep) -> None:
        """Put a call in line; `flush` sends it."""
        self._held[effect.step, effect.part] = effect.attempt

    def cancel(self, effect: CancelStep) -> None:
        """End a call, or do not begin it."""
        key = (effect.step, effect.part)
        self._held.pop(key, None)
        source = self._under_way.pop(key, None)
        if source is not None and source.given:
            self._ending.add(source.call_id)
            self._calls.cancel(source.call_id)

    def flush(self) -> None:
        """Send what is in line, as far as there is room.

        What was done is undone only when nothing of the run runs any more.
        """
        while self._held and len(self._under_way) < self._room and not self._pause:
            key = next(iter(self._held))
            if key[1] == "undo" and self._ending:
                return
            self._send(key, self._held.pop(key))

    def over(self, source: StepSource, *, refused: bool = False) -> bool:
        """Note that a call has ended, wanted or not; False: it is to be sent again.

        refused: no node had room for it. Then fewer calls are under way at once,
            until there is room again. JSON clients hear of it instead.
        """
        self._ending.discard(source.call_id)
        key = (source.step, source.part)
        wanted = self._under_way.get(key) is source
        if wanted:
            del self._under_way[key]
        if not refused or self._plans[source.step].json:
            self._room = min(self._room + 1, MOST_UNDER_WAY)
            self._full_since = math.inf
            return True
        now = self._loop.time()
        self._full_since = min(self._full_since, now)
        if not wanted or now - self._full_since > LONGEST_FULL_S:
            return True
        self._room = max(1, len(self._under_way))
        self._held[key] = source.attempt
        if not self._under_way and self._pause is None:
            self._pause = self._loop.call_later(AGAIN_S, self._go_on)
        return False

    def stop(self) -> None:
        """Send nothing any more."""
        if self._pause is not None:
            self._pause.cancel()

    def _go_on(self) -> None:
        self._pause = None
        self.flush()

    def _send(self, key: Key, attempt: int) -> None:
        step, part = key
        call = self._call(step, part, attempt)
        source = StepSource(self._run, step, attempt, part, call.id)
        self._under_way[key] = source
        # In a turn of its own: the call may end at once, and the machine must be
        # done with the event that led here before it hears of the next.
        self._loop.call_soon(self._hand_over, key, source, call)

    def _hand_over(self, key: Key, source: StepSource, call: Call) -> None:
        if self._under_way.get(key) is not source:
            return  # it was cancelled
        source.given = True
        source.function, source.sent_s = call.function, time.monotonic()
        step, part = key
        parts = self._parts.get((step, "call" if isinstance(part, int) else part), ())
        if isinstance(part, int) and part >= NOTED_ITEMS:
            self._calls.receive(source, call, parts)
        else:
            self._give(self._run, source, call, parts)

    def _call(self, step: str, part: Part, attempt: int) -> Call:
        plan = self._plans[step]
        made: StepPlan | SideCall = plan
        resources, node = plan.resources, plan.node
        if part == "call":
            inputs = tuple(map(self.result, plan.inputs))
        elif isinstance(part, int):
            inputs = (self._items[step][part], *map(self.result, plan.inputs))
        else:
            made = _side_call(plan, part)
            if part == "fallback":
                resources, node = frozenset(), None
                inputs = (self._error(step),)
            else:
                inputs = tuple(map(self.result, made.inputs))
        return Call(
            id=self._ids.next(),
            function=made.function,
            payload=made.payload,
            version=made.version,
            resources=resources,
            node=node,
            attempt=min(attempt, 255),
            inputs=inputs,
            keep=True,
            json=plan.json,
            quiet=self._quiet,
            split=part == "split",
            folder=self._folder,
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
        state = self._run.machine.state(name)
        if not isinstance(state, Done):
            raise AssertionError(f"the result of {name} is not there yet")
        if not isinstance(state.result, Items):
            result: Result = state.result
            return result
        if name not in self._gathered:
            self._gathered[name] = self._gather(state.result.results)
        return self._gathered[name]

    def deal_out(self, step: str, reply: Reply, parts: tuple[Buffer, ...]) -> int:
        """Take in the items of a map and return how many there are."""
        items: list[bytes | Kept] = []
        first = 0
        for entry in read_head(parts[0] if parts else reply.payload):
            if isinstance(entry, bytes):
                items.append(entry)
            elif reply.kept is not None:
                where = reply.kept
                items.append(Kept(where.owner, where.id, 0, first, entry))
                first += entry
        if reply.kept is not None:
            self._own.append(reply.kept)
        self._items[step] = items
        return len(items)

    def gone(self, step: str) -> None:
        """Forget the items of a map that has ended."""
        self._items.pop(step, None)

    def kept(self, states: Mapping[str, StepState]) -> list[Kept]:
        """Return all that nodes hold for this run."""
        held: list[object] = [*self._own]
        for state in states.values():
            if isinstance(state, Done):
                result = state.result
                held += result.results if isinstance(result, Items) else (result,)
        found = {result.id: result for result in held if isinstance(result, Kept)}
        return list(found.values())

    def _gather(self, results: tuple[bytes | Kept, ...]) -> Result:
        small = [result for result in results if isinstance(result, bytes)]
        if sum(map(len, small)) > INLINE_BYTES:
            key = self._ids.next()
            blob = Kept(self._me, key, self._store.put(key, tuple(small)))
            self._own.append(blob)
            places = iter(range(len(small)))
            return Gathered(
                tuple(
                    Kept(self._me, key, len(result), next(places), 1)
                    if isinstance(result, bytes)
                    else result
                    for result in results
                )
            )
        if len(small) < len(results):
            return Gathered(results)
        return self._hold(b"", gather([(result,) for result in small]))

    def _hold(self, payload: bytes, parts: tuple[Buffer, ...]) -> bytes | Kept:
        result = self._store.hold(self._me, self._ids.next(), payload, parts)
        if isinstance(result, Kept):
            self._own.append(result)
        return result

    def _fallback(self, step: str, given: Given) -> FallbackResult:
        result = self._hold(given.payload, self._parts.get((step, "fallback"), ()))
        return FallbackResult(result=result, result_bytes=size_bytes(result))


def size_bytes(result: bytes | Kept) -> int:
    """Return how large a result is, wherever it is."""
    return result.size_bytes if isinstance(result, Kept) else len(result)


def _side_call(plan: StepPlan, part: Part) -> SideCall:
    sides = {"split": plan.split, "fallback": plan.fallback, "undo": plan.undo}
    side = sides[str(part)]
    if not isinstance(side, SideCall):
        raise AssertionError(f"step {plan.name} has no call to {part}")
    return side
