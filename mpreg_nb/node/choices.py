"""Why steps went where they went: what the router knew when they were sent."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from mpreg_nb.node.calls import Calls
from mpreg_nb.node.run_step import StepSource
from mpreg_nb.routing.router import Verdict, Wanted
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.history import NodeChance, StepChoice
from mpreg_nb.wire.messages import Call
from mpreg_nb.workflow.states import Part

if TYPE_CHECKING:
    from mpreg_nb.node.run import ActiveRun

MOST_NODES = 20
"""Nodes that are noted of one choice, those that fit first."""

MOST_CHANCES = 20_000
"""Nodes that are noted in all, some 3 MB; the oldest choices go first."""

MOMENT_S = 0.005
"""Steps that are sent within it share what was known, where nodes are many."""

HandOver: TypeAlias = Callable[
    ["ActiveRun", StepSource, Call, tuple[Buffer, ...]], None
]
"""How a run gives the call of a step to the node."""


class Choices:
    """The last choices for the steps of all runs of this node."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._choices: OrderedDict[tuple[bytes, str], list[StepChoice]] = OrderedDict()
        self._chances = 0
        self._last: tuple[Wanted, float, tuple[Verdict, ...]] | None = None

    def hand_over(
        self,
        run: "ActiveRun",
        source: StepSource,
        call: Call,
        parts: tuple[Buffer, ...],
    ) -> None:
        """Give the call of a step to the node, and note where it goes and why."""
        now = time.monotonic()
        wanted = Wanted(call.function, call.version, call.resources, call.node)
        # Before the call is taken in: it would count itself.
        verdicts = self._verdicts(wanted, now)
        resources = self._calls.router.needed(wanted)
        node = self._calls.receive(source, call, parts)
        choice = StepChoice(
            attempt=source.attempt,
            sent_ms=(now - run.began_s) * 1e3,
            function=call.function,
            chosen=node,
            nodes=_chances(verdicts, node),
            version=call.version or "",
            resources=resources,
            more_nodes=max(0, len(verdicts) - MOST_NODES),
            part=_said(source.part),
        )
        self._note((run.id, source.step), choice)

    def of(self, run_id: bytes, step: str) -> tuple[StepChoice, ...]:
        """Return what is remembered of a step, in the order of being sent."""
        return tuple(self._choices.get((run_id, step), ()))

    def _verdicts(self, wanted: Wanted, now: float) -> tuple[Verdict, ...]:
        """Return what the router knows; of many nodes, as it was a moment ago."""
        if self._last is not None:
            asked, at, verdicts = self._last
            if asked == wanted and now - at < MOMENT_S and len(verdicts) > MOST_NODES:
                return verdicts
        self._calls.look_at_own_load(now)
        verdicts = self._calls.router.explain(wanted, now)
        self._last = (wanted, now, verdicts)
        return verdicts

    def _note(self, key: tuple[bytes, str], choice: StepChoice) -> None:
        self._choices.setdefault(key, []).append(choice)
        self._chances += len(choice.nodes)
        while self._chances > MOST_CHANCES:
            oldest, choices = next(iter(self._choices.items()))
            self._chances -= len(choices.pop(0).nodes)
            if not choices:
                del self._choices[oldest]


def _said(part: Part) -> str:
    if isinstance(part, int):
        return f"item [{part}]"
    return {"call": "", "split": "taking apart"}.get(part, f"the {part}")


def _chances(verdicts: tuple[Verdict, ...], chosen: str) -> tuple[NodeChance, ...]:
    shown = verdicts[:MOST_NODES]
    if len(verdicts) > MOST_NODES:
        left_out = [v for v in verdicts[MOST_NODES:] if v.node == chosen]
        shown = (*shown[: MOST_NODES - len(left_out)], *left_out)
    return tuple(map(_chance, shown))


def _chance(verdict: Verdict) -> NodeChance:
    report = verdict.reported
    return NodeChance(
        node=verdict.node,
        reason=verdict.reason,
        in_flight=verdict.in_flight,
        score=verdict.score,
        running=None if report is None else report.running,
        queued=None if report is None else report.queued,
        slots=None if report is None else report.slots,
    )
