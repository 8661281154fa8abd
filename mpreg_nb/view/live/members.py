"""The members of the cluster: a row for each node, with curves of CPU and memory."""

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot
from mpreg_nb.units import count, duration
from mpreg_nb.view.frames import NODES, served
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import STATES, WIDE
from mpreg_nb.view.live import charts
from mpreg_nb.view.live.charts import (
    NOTHING,
    Column,
    Tip,
    empty,
    figure_cell,
    megabytes,
    name_cell,
    seconds,
    spark,
    spark_image,
    tip,
    whole,
)
from mpreg_nb.view.marks import NODE_LOOKS, badge
from mpreg_nb.view.markup import Element, Node, element
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Image, Marked, Table

if TYPE_CHECKING:
    import pandas as pd


EVERY_S = 2.0
"""Between two readings; nodes publish their loads no more often."""

EARLY_S = 0.2
"""A reading may be early by this much, to coincide with new loads."""

KEPT = 60
"""Readings of each node that are kept: two minutes."""

MOST_ROWS = 40
"""Of a still table, first those that are not well; the frame has all."""


CPU_LEAST, MEMORY_LEAST_MB = 5.0, 4.0
"""The smallest ranges that the height of a curve stands for."""

STATES_IN_ORDER = ("dead", "suspect", "left", "alive")
SHOWN_RESOURCES = 2


class Readings:
    """CPU and memory of each node over the last minutes, at even intervals.

    Holds at most `KEPT` readings of the nodes of the newest reading.
    """

    def __init__(self) -> None:
        self._of: dict[str, tuple[deque[float], deque[int]]] = {}
        self._due = -math.inf

    def take(self, nodes: Iterable[NodeSnapshot], now: float) -> bool:
        """Record the loads if a reading is due; `now` is of any monotonic clock."""
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


# -------------------------------------------------------------------- drawing

COLUMNS = (
    Column("node", "Node", "Sort by name"),
    Column("state", "State", "Sort by state, failed nodes first"),
    Column("busy", "Busy", "Running calls, of all slots"),
    Column("queued", "Queue", "Calls that wait for a slot", number=True),
    Column("rtt", "RTT", "Round-trip time from the entry node", number=True),
    Column(
        "cpu", "CPU", "Percent of one core, of the node and its workers", number=True
    ),
    Column(
        "memory", "Memory", "Resident memory of the node and its workers", number=True
    ),
    Column("functions", "Functions", "Functions that the node serves", number=True),
    Column("resources", "Resources", "Resources that the node holds", sorts=False),
    Column("uptime", "Uptime", "Time since the node started", number=True),
    Column(
        "drill", "Test failure", "For nodes that this notebook started", sorts=False
    ),
)


COLUMNS_OF_HOSTS = (
    COLUMNS[0],
    Column("host", "Host", "Sort by the machine of the node"),
    *COLUMNS[1:],
)
"""For nodes on several machines."""


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return the nodes as a table that can be sorted, with a button to kill them.

    Nodes of one machine stand together.
    """
    rows = _by_host(picture["rows"])
    if not rows:
        return empty("No node is known yet.")
    several = _several_hosts(rows)
    drawn = [_live_row(_Row(row, picture["every_s"]), several) for row in rows]
    drills = any(row["own"] for row in rows)
    label = "Members of the cluster"
    columns = COLUMNS_OF_HOSTS if several else COLUMNS
    return [charts.table(label, columns, drawn, data_drills=drills)]


def _several_hosts(rows: list[dict[str, Any]]) -> bool:
    return len({row["host"] for row in rows}) > 1


def _by_host(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows by machine, and in their order on each."""
    return sorted(rows, key=lambda row: str(row["host"]))


class _Row:
    """A row with its content as its identity, for the cache of drawn rows."""

    __slots__ = ("_content", "every_s", "values")

    def __init__(self, values: dict[str, Any], every_s: float) -> None:
        self.values, self.every_s = values, every_s
        self._content = (
            every_s,
            *(tuple(v) if isinstance(v, list) else v for v in values.values()),
        )

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Row) and self._content == other._content


@lru_cache(maxsize=512)
def _live_row(row: _Row, several: bool) -> Element:
    """Return a row of the table; most rows are the same in the next picture."""
    values = row.values
    cells, sort = _cells(values, row.every_s), _sort_values(values)
    if not several:
        return charts.table_row(COLUMNS, values["node"], cells, sort)
    cells.insert(1, element("span", values["host"] or NOTHING))
    sort["host"] = values["host"]
    return charts.table_row(COLUMNS_OF_HOSTS, values["node"], cells, sort)


def _sort_values(row: dict[str, Any]) -> dict[str, Any]:
    busy = None if row["busy"] is None else row["busy"] / max(1, row["slots"])
    return {
        "node": row["node"],
        "state": STATES_IN_ORDER.index(row["state"]),
        "busy": busy,
        "queued": row["queued"],
        "rtt": row["rtt_ms"],
        "cpu": row["cpu_percent"],
        "memory": row["memory_mb"],
        "functions": row["functions"],
        "uptime": row["uptime_s"],
    }


def _cells(row: dict[str, Any], every_s: float) -> list[Node]:
    busy = NOTHING if row["busy"] is None else f"{row['busy']}/{row['slots']}"
    cpu = row["cpu_percent"]
    return [
        name_cell(row["node"], tabindex="-1", tip=_told(row)),
        badge(NODE_LOOKS[row["state"]], row["state"]),
        charts.bar(row["busy"] or 0, row["slots"], busy),
        figure_cell(whole(row["queued"])),
        figure_cell(NOTHING if row["rtt_ms"] is None else duration(row["rtt_ms"])),
        _course(
            f"CPU of {row['node']}",
            spark(row["cpu"], least=CPU_LEAST, zero=True),
            NOTHING if cpu is None else _percent(cpu),
            [_percent(edge) for edge in _edges(row["cpu"])],
            len(row["cpu"]) * every_s,
        ),
        _course(
            f"Memory of {row['node']}",
            spark(row["memory"], least=MEMORY_LEAST_MB),
            megabytes(row["memory_mb"]),
            [megabytes(edge) for edge in _edges(row["memory"])],
            len(row["memory"]) * every_s,
        ),
        figure_cell(whole(row["functions"])),
        _chips(row["resources"]),
        figure_cell(seconds(row["uptime_s"])),
        element("span", _kill(row)),
    ]


def _edges(numbers: list[float]) -> tuple[float, ...]:
    return (min(numbers), max(numbers)) if numbers else ()


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def _told(row: dict[str, Any]) -> Tip:
    slots = count(row["slots"] // (row["workers"] or 1), "slot")
    return tip(
        row["node"],
        ("host", row["host"] or NOTHING),
        ("python", row["python"] or NOTHING),
        ("workers", f"{row['workers']} \N{MULTIPLICATION SIGN} {slots}"),
        ("uptime", seconds(row["uptime_s"])),
        ("resources", ", ".join(row["resources"]) or "none"),
        note=f"{'Started' if row['own'] else 'Not started'} by this notebook.",
    )


def _course(
    title: str, drawn: Element, now: str, edges: list[str], shown_s: float
) -> Element:
    """Return a number with its course over the last minutes."""
    past = zip(("lowest", "highest"), edges, strict=False)
    shown = ("shown", seconds(shown_s)) if edges else None
    told = tip(title, ("now", now), *past, shown)
    return element("span", drawn, figure_cell(now), class_="mpreg-course", tip=told)


def _chips(names: list[str]) -> Element:
    rest = len(names) - SHOWN_RESOURCES
    return element(
        "span",
        *(
            element("span", name, class_="mpreg-chip", title=name, key=name)
            for name in names[:SHOWN_RESOURCES]
        ),
        element("span", f"+{rest}", class_="mpreg-soft") if rest > 0 else None,
        class_="mpreg-chips",
        title=", ".join(names) if rest > 0 else None,
    )


def _kill(row: dict[str, Any]) -> Element | None:
    if not row["own"] or row["state"] not in ("alive", "suspect"):
        return None
    ask = {
        "word": "Kill",
        "question": "Really?",
        "label": f"Kill node {row['node']}",
        "send": {"do": "kill", "node": row["node"]},
    }
    return element("span", class_="mpreg-act", key="kill", ask=ask)


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
    all_rows = _by_host(picture["rows"])
    several = _several_hosts(all_rows)
    head = ["node", *(["host"] if several else []), "state", "resources", "functions"]
    numbers = ["functions", "busy", "queued", "RTT, ms", "CPU, %", "memory, MB"]
    if not hidden:
        head += numbers[1:]
        head += ["CPU", "memory"] if curves else []
    well = [row["state"] == "alive" for row in all_rows]
    places = sorted(range(len(well)), key=well.__getitem__)[:MOST_ROWS]
    rows = []
    for row in (all_rows[place] for place in sorted(places)):
        mark, ink = STATES[row["state"]]
        cells: list[Cell] = [
            row["node"],
            *([row["host"]] if several else []),
            Marked(mark, row["state"], ink),
            ", ".join(row["resources"]),
            str(row["functions"]),
        ]
        rows.append(cells if hidden else cells + _figures(row, curves=curves))
    more = len(all_rows) - MOST_ROWS
    return Table(
        head=head,
        rows=rows,
        numbers=numbers,
        more=f"… and {more:,} more: cluster.nodes()" if more > 0 else "",
    )


def _figures(row: dict[str, Any], *, curves: bool) -> list[Cell]:
    if row["state"] in ("dead", "left"):  # its last load is outdated
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
        titles = "CPU in the last minutes", "memory in the last minutes"
        drawn = (
            spark_image(cpu, titles[0], least=CPU_LEAST, zero=True),
            spark_image(memory, titles[1], least=MEMORY_LEAST_MB),
        )
        figures += map(Image, drawn)
    return figures


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
