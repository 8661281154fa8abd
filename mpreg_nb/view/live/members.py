"""Who is there and how busy: a row a node, with curves of CPU and memory."""

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot
from mpreg_nb.view.frames import NODES, served
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import STATES, WIDE
from mpreg_nb.view.live.sparks import spark
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Image, Marked, Table

if TYPE_CHECKING:
    import pandas as pd


EVERY_S = 2.0
"""Between two readings; nodes tell of their loads no more often."""

EARLY_S = 0.2
"""A reading may come so much too early, to go with the news of the loads."""

KEPT = 60
"""Readings of each node that are kept: two minutes."""

MOST_ROWS = 40
"""Of a still table, first those that are not well; the frame has all."""


class Readings:
    """CPU and memory of each node over the last minutes, at about even steps.

    Holds at most `KEPT` readings of the nodes of the newest reading.
    """

    def __init__(self) -> None:
        self._of: dict[str, tuple[deque[float], deque[int]]] = {}
        self._due = -math.inf

    def take(self, nodes: Iterable[NodeSnapshot], now: float) -> bool:
        """Read the loads if it is time; `now` is of any monotonic clock."""
        if now < self._due:
            return False
        self._due = now + EVERY_S - EARLY_S
        before, self._of = self._of, {}
        for node in nodes:
            load = node.load
            if load is None or node.record.state is MemberState.LEFT:
                continue
            name = node.record.name
            cpu, memory = before.get(name) or (deque(maxlen=KEPT), deque(maxlen=KEPT))
            if node.record.state is not MemberState.DEAD:
                cpu.append(round(load.cpu_percent, 1))
                memory.append(load.memory_mb)
            self._of[name] = (cpu, memory)
        return True

    def of(self, node: str) -> tuple[list[float], list[int]]:
        """Return CPU in percent and memory in MB of a node, the newest last."""
        cpu, memory = self._of.get(node, ((), ()))
        return list(cpu), list(memory)


def picture(
    snapshot: Snapshot, readings: Readings, own: Collection[str]
) -> dict[str, Any]:
    """Return one row a node, sorted by name; slots are those of all its workers.

    own: nodes that this process started.
    """
    serving = Counter(n for _, nodes in served(snapshot).values() for n in nodes)
    own = frozenset(own)
    rows = [
        _row(node, serving[node.record.name], readings, node.record.name in own)
        for node in snapshot.nodes
    ]
    return {"rows": rows, "every_s": EVERY_S}


def _row(
    node: NodeSnapshot, functions: int, readings: Readings, own: bool
) -> dict[str, Any]:
    record, load = node.record, node.load
    cpu, memory = readings.of(record.name)
    return {
        "node": record.name,
        "state": record.state.name.lower(),
        "resources": sorted(record.resources),
        "functions": functions,
        "workers": record.workers,
        "slots": record.workers * record.slots,
        "rtt_ms": None if node.rtt_ms is None else round(node.rtt_ms, 3),
        **_load(load),
        "cpu": cpu,
        "memory": memory,
        "host": record.host,
        "python": record.python,
        "own": own,
    }


def _load(load: Load | None) -> dict[str, Any]:
    if load is None:
        known = ("busy", "queued", "cpu_percent", "memory_mb", "uptime_s")
        return dict.fromkeys(known)
    return {
        "busy": load.running,
        "queued": load.queued,
        "cpu_percent": round(load.cpu_percent, 1),
        "memory_mb": load.memory_mb,
        "uptime_s": load.uptime_s,
    }


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the rows of `cluster.nodes()`, of this moment."""
    rows = []
    for row in picture["rows"]:
        of_worker = row["slots"] // max(1, row["workers"])
        row = {**row, "resources": ", ".join(row["resources"]), "slots": of_worker}
        rows.append(tuple(row[column] for column in NODES))
    return table_frame(NODES, rows)


def text(picture: dict[str, Any]) -> str:
    """Return the rows as a table of text."""
    return str(_table(picture, curves=False))


def html(picture: dict[str, Any]) -> str:
    """Return the rows as a table, with curves as images."""
    return f'<div style="{WIDE}">{_table(picture, curves=True).html}</div>'


def _table(picture: dict[str, Any], *, curves: bool) -> Table:
    hidden = plain()
    head = ["node", "state", "resources", "functions"]
    numbers = ["functions", "busy", "queued", "RTT, ms", "CPU, %", "memory, MB"]
    if not hidden:
        head += numbers[1:]
        head += ["CPU", "memory"] if curves else []
    well = [row["state"] == "alive" for row in picture["rows"]]
    places = sorted(range(len(well)), key=well.__getitem__)[:MOST_ROWS]
    rows = []
    for row in (picture["rows"][place] for place in sorted(places)):
        mark, ink = STATES[row["state"]]
        cells: list[Cell] = [
            row["node"],
            Marked(mark, row["state"], ink),
            ", ".join(row["resources"]),
            str(row["functions"]),
        ]
        rows.append(cells if hidden else cells + _figures(row, curves=curves))
    more = len(picture["rows"]) - MOST_ROWS
    return Table(
        head=head,
        rows=rows,
        numbers=numbers,
        more=f"… and {more:,} more: cluster.nodes()" if more > 0 else "",
    )


def _figures(row: dict[str, Any], *, curves: bool) -> list[Cell]:
    if row["state"] in ("dead", "left"):  # what it last told is of no use any more
        return [""] * (7 if curves else 5)
    busy = "" if row["busy"] is None else f"{row['busy']} of {row['slots']}"
    figures: list[Cell] = [
        busy,
        _number(row["queued"]),
        _number(row["rtt_ms"], 2),
        _number(row["cpu_percent"], 1),
        _number(row["memory_mb"]),
    ]
    if curves:
        cpu, memory = row["cpu"], row["memory"]
        figures.append(Image(spark(cpu, "CPU in the last minutes", most=10.0)))
        top_mb = 1.3 * max(memory, default=0)
        figures.append(Image(spark(memory, "memory in the last minutes", most=top_mb)))
    return figures


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
