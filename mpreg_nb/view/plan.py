"""Where the steps of a workflow would run: a frame that reads at a glance.

To compute with it is a frame like any other; a cell shows who fits, with the one
that would be chosen first, and what the others lack, said once for all of them.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from mpreg_nb.view.columns import PLAN, frame
from mpreg_nb.view.data_frame import frame_class
from mpreg_nb.view.html import BLUE, RED
from mpreg_nb.view.plain import plain
from mpreg_nb.view.tables import Cell, Marked, Table
from mpreg_nb.view.terminal import shown

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.cluster.workflows import PlanRow

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
    plan._shown = _table(rows)
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


def _table(rows: "Sequence[PlanRow]") -> Table:
    more = len(rows) - MOST_STEPS
    loads = not plain() and any(row.loads for row in rows)
    return Table(
        head=["step", "function", "needs", "runs on", "or on", "not on"],
        rows=[_cells(row, loads=loads) for row in rows[:MOST_STEPS]],
        more=f"… and {more:,} more steps: list(flow.plan()['step'])"
        if more > 0
        else "",
    )


def _cells(row: "PlanRow", *, loads: bool) -> list[Cell]:
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
    """Say each reason once, with the nodes that it holds for."""
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
