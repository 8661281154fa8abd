"""Why a step ran on its node, and where the steps of a workflow would run.

The plan is a frame like any other to compute with; a cell shows which nodes fit, the
one that would be chosen first, and what the others lack.
"""

from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mpreg_nb.protocol.messages import NodeChance, StepChoice, StepSnapshot
from mpreg_nb.routing.router import FEW
from mpreg_nb.units import count, duration
from mpreg_nb.view.data_frame import frame_class
from mpreg_nb.view.frames import COUNT, MAYBE, MEASURE, PLAN, TEXT, frame
from mpreg_nb.view.html import BLUE, RED, WIDE, Bundle, chosen
from mpreg_nb.view.palette import BAD, BUSY, IDLE
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Marked, Table, safe
from mpreg_nb.view.terminal import shown

if TYPE_CHECKING:
    import pandas as pd


WHY = {
    "attempt": COUNT,
    "part": TEXT,
    "node": TEXT,
    "fits": "bool",
    "reason": TEXT,
    "running": MAYBE,
    "queued": MAYBE,
    "slots": MAYBE,
    "in_flight": COUNT,
    "score": MEASURE,
    "chosen": "bool",
}

MOST_ATTEMPTS = 8
"""What is shown, the last; the frame has all."""

TAKEN, FITS, NOT = ("▶", BUSY.mark), ("○", IDLE.mark), ("✗", BAD.mark)


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """The node that one step would run on now, and why the others were rejected."""

    step: str
    function: str
    version: str
    resources: tuple[str, ...]
    candidates: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # node, reason
    chosen: str
    loads: tuple[tuple[str, str], ...] = ()  # candidate -> how busy it is, in words


class Why:
    """Which nodes could run a step, their load, and the choice, for each attempt."""

    def __init__(
        self,
        step: StepSnapshot,
        choices: Sequence[StepChoice],
        *,
        driver: str,
        waits_for: Sequence[str] = (),
    ) -> None:
        """`driver` is the node that drives the run and chose.

        `waits_for` are the steps whose ends this one needs.
        """
        self.step = step
        self.choices = tuple(choices)
        self._driver = driver
        self._waits_for = tuple(waits_for)

    def frame(self) -> "pd.DataFrame":
        """Return one row per attempt and node, nodes that fit first.

        Columns: attempt, part (an item of a map, a fallback, an undo), node, fits,
        reason (what the node lacks), running, queued, slots (as the node last
        reported), in_flight (calls that the choosing node had sent there), score
        (expected wait in arbitrary units, lower is better), chosen.
        """
        return frame(
            WHY,
            [
                (
                    choice.attempt,
                    choice.part,
                    node.node,
                    not node.reason,
                    node.reason,
                    node.running,
                    node.queued,
                    node.slots,
                    node.in_flight,
                    node.score,
                    node.node == choice.chosen,
                )
                for choice in self.choices
                for node in choice.nodes
            ],
        )

    def __str__(self) -> str:
        parts = [self._title]
        for choice in self._shown:
            parts += [self._heading(choice), str(_table(choice))]
        return "\n".join([*parts, *self._rest])

    def __repr__(self) -> str:
        return shown(self)

    def _repr_html_(self) -> str:
        parts = "".join(
            f'<div style="margin-top:6px">{safe(self._heading(choice))}</div>'
            f"{_table(choice).html}"
            for choice in self._shown
        )
        rest = "".join(f"<div>{safe(line)}</div>" for line in self._rest)
        title = f"<div><b>{safe(self._title)}</b></div>"
        return f'<div style="{WIDE}">{title}{parts}{rest}</div>'

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Bundle:
        bundle = {"text/plain": shown(self), "text/html": self._repr_html_()}
        return chosen(bundle, include, exclude)

    @property
    def _shown(self) -> tuple[StepChoice, ...]:
        return self.choices[-MOST_ATTEMPTS:]

    @property
    def _title(self) -> str:
        step = self.step
        if not self.choices or step.status == "skipped":
            return f"step {step.name} {self._unsent()}"
        where = f" on {step.node}" if step.node else ""
        return f"step {step.name}: {step.status}{where}"

    def _unsent(self) -> str:
        step = self.step
        if step.status == "skipped" and not step.cause:
            return "was not sent: its condition was false"
        if step.status == "skipped":
            return f"was not sent: it was skipped because {step.cause} has no result"
        if step.status == "cancelled" and not step.attempts:
            return "was not sent: the run was cancelled first"
        if step.status == "done" and not step.attempts:
            return "was not sent: this run uses the result of an earlier run"
        if step.status == "waiting":
            names = ", ".join(self._waits_for)
            return f"was not sent yet: it waits for {names or 'a free slot'}"
        return f"is {step.status}; its candidates are no longer recorded"

    @property
    def _rest(self) -> list[str]:
        lines = []
        if self.choices and not plain():
            lines.append("score: expected wait, lower is better")
        whole = [choice for choice in self.choices if not choice.part]
        last = whole[-1] if whole else None
        ran_on = self.step.node
        if last is not None and last.chosen and ran_on not in ("", last.chosen):
            lines.append(f"It ran on {ran_on}: {last.chosen} could not start it.")
        hidden = len(self.choices) - len(self._shown)
        if hidden:
            lines.append(f"… and {count(hidden, 'earlier choice')}: why.frame()")
        return lines

    def _heading(self, choice: StepChoice) -> str:
        what = f"{choice.part}, " if choice.part else ""
        said = [f"{what}attempt {choice.attempt} → {choice.chosen or 'nowhere'}"]
        if not plain():
            said.append(f"{duration(choice.sent_ms)} after the start")
        needs = ", ".join(sorted(choice.resources))
        said.append(f"needs {needs}" if needs else "needs no resource")
        said.append(self._because(choice))
        return " · ".join(said)

    def _because(self, choice: StepChoice) -> str:
        fitting = [node.node for node in choice.nodes if not node.reason]
        if choice.behind:
            return f"the worker of step {choice.behind!r} went on with it"
        if not choice.chosen:
            return "no node that fits" if not fitting else "refused"
        if len(fitting) == 1:
            return "the only one that fits"
        own = next((n for n in choice.nodes if n.node == self._driver), None)
        if choice.chosen == self._driver and own is not None and _has_room(own):
            return "it coordinates the run and had a free slot"
        number = len(fitting) + choice.more_nodes
        if number == 2:
            return "the better of the two that fit"
        if number <= FEW:
            return f"the best of the {number} that fit"
        return "the better of two that were drawn at random"


def _has_room(node: NodeChance) -> bool:
    return node.in_flight < (node.slots or 1)


def _table(choice: StepChoice) -> Table:
    hidden = plain()
    loads = ["running", "queued", "slots", "in flight", "score"]
    rows = []
    for node in sorted(choice.nodes, key=lambda node: node.node != choice.chosen):
        row: list[Cell] = [node.node, _verdict(node, choice)]
        rows.append(row if hidden else row + _load(node))
    more = choice.more_nodes
    return Table(
        head=["node", "choice", *([] if hidden else loads)],
        rows=rows,
        numbers=loads,
        more=f"… and {more:,} more nodes" if more else "",
    )


def _verdict(node: NodeChance, choice: StepChoice) -> Cell:
    if node.node == choice.chosen:
        return Marked(TAKEN[0], "chosen", TAKEN[1])
    if node.reason:
        return Marked(NOT[0], node.reason, NOT[1])
    return Marked(FITS[0], "fits", FITS[1])


def _load(node: NodeChance) -> list[Cell]:
    counts = (node.running, node.queued, node.slots, node.in_flight)
    score = "" if node.reason else f"{node.score:.2g}"  # it was not compared
    return [*("" if n is None else str(n) for n in counts), score]


MOST_STEPS = 60
MOST_NODES = 6
"""What is shown; the frame has all."""

CHOSEN, NOWHERE = ("▶", BLUE), ("✗", RED)


def plan_frame(rows: "Iterable[PlanRow]") -> "pd.DataFrame":
    """Return one row a step, in the order in which they were written.

    Columns: step, function, version, resources, candidates, rejected, chosen.
    `rejected` says of each node that does not fit why not: "cpu-1: lacks gpu".
    """
    rows = tuple(rows)
    plan: Any = _plan_class()(
        frame(
            PLAN,
            [
                (
                    row.step,
                    row.function,
                    row.version[:6],
                    ", ".join(sorted(row.resources)),
                    ", ".join(sorted(row.candidates)),
                    "; ".join(f"{node}: {reason}" for node, reason in row.rejected),
                    row.chosen,
                )
                for row in rows
            ],
        )
    )
    plan._shown = _plan_table(rows)
    shown: pd.DataFrame = plan
    return shown


@cache
def _plan_class() -> "Any":
    class Plan(frame_class()):  # type: ignore[misc]
        """A frame that shows itself as a table of choices; parts of it do not."""

        _metadata: ClassVar = ["_shown"]
        _shown: Table

        def __repr__(self) -> str:
            return shown(self._shown)

        def _repr_html_(self) -> str:
            return f'<div style="overflow-x:auto">{self._shown.html}</div>'

    return Plan


def _plan_table(rows: Sequence[PlanRow]) -> Table:
    more = len(rows) - MOST_STEPS
    loads = not plain() and any(row.loads for row in rows)
    return Table(
        head=["step", "function", "needs", "runs on", "or on", "not on"],
        rows=[_cells(row, loads=loads) for row in rows[:MOST_STEPS]],
        more=f"… and {more:,} more steps: list(flow.plan()['step'])"
        if more > 0
        else "",
    )


def _cells(row: PlanRow, *, loads: bool) -> list[Cell]:
    others = [node for node in row.candidates if node != row.chosen]
    load = dict(row.loads) if loads else {}
    where: Cell = Marked(NOWHERE[0], "nowhere", NOWHERE[1])
    if row.chosen:
        where = Marked(CHOSEN[0], _with(row.chosen, load), CHOSEN[1])
    return [
        row.step,
        f"{row.function} {row.version[:6]}",
        ", ".join(row.resources),
        where,
        _listed([_with(node, load) for node in others]),
        _reasons(row.rejected),
    ]


def _with(node: str, loads: dict[str, str]) -> str:
    return f"{node} ({loads[node]})" if loads.get(node) else node


def _reasons(rejected: Sequence[tuple[str, str]]) -> str:
    """Return each reason once, with the nodes it applies to."""
    by_reason: dict[str, list[str]] = {}
    for node, reason in rejected:
        by_reason.setdefault(reason, []).append(node)
    return "; ".join(
        f"{_listed(nodes)} {reason}"
        if len(nodes) == 1 or not reason.startswith("lacks ")
        else f"{_listed(nodes)} lack {reason.removeprefix('lacks ')}"
        for reason, nodes in by_reason.items()
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NODES
    shown = ", ".join(names[:MOST_NODES])
    return f"{shown} and {more:,} more" if more > 0 else shown
