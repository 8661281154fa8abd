"""What each slot of each node ran in the last minute: a stream of calls.

Of the calls of this kernel, steps of its runs included: nodes do not tell what they
run for others.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.units import count, duration
from mpreg_nb.view.frames import COUNT, MEASURE, TEXT, TIME
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import WIDE
from mpreg_nb.view.live.lanes import WINDOW_S, LaneBar, Lanes
from mpreg_nb.view.live.stream import stream
from mpreg_nb.view.palette import FUNCTIONS
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Table

if TYPE_CHECKING:
    import pandas as pd


MOST_SLOTS = 96
"""With more slots in all, only those are shown that ran something."""

MOST_ROWS = 40
"""Slots of a still table, first those that ran something; the frame has all."""

COLUMNS = {
    "node": TEXT,
    "slot": COUNT,
    "function": TEXT,
    "run": TEXT,
    "step": TEXT,
    "status": TEXT,
    "calls": COUNT,
    "failed": COUNT,
    "started_at": TIME,
    "run_ms": MEASURE,
}

MORE = "view.to_frame('calls')"
NOTHING = "no calls in the last minute"
NOT_PLAIN = "calls of the last minute are not shown in plain mode: cluster.calls()"


def slots_of(snapshot: Snapshot) -> dict[str, int]:
    """Return node -> slots of all its workers, of the nodes that are there."""
    return {
        node.record.name: node.record.workers * node.record.slots
        for node in snapshot.nodes
        if node.record.state in (MemberState.ALIVE, MemberState.SUSPECT)
    }


def picture(lanes: Lanes, snapshot: Snapshot, now: float) -> dict[str, Any]:
    """Return the bars of each slot of each node, in milliseconds before `now`."""
    slots = slots_of(snapshot)
    names = sorted({*slots, *lanes.nodes})
    states = {node.record.name: node.record for node in snapshot.nodes}
    functions = lanes.functions()
    places = {name: place for place, name in enumerate(functions)}
    all_shown = sum(slots.values()) <= MOST_SLOTS
    nodes = []
    for name in names:
        bars = [
            [_bar(bar, places, now) for bar in lane if bar.end > now - WINDOW_S]
            for lane in lanes.of(name)
        ]
        if all_shown:
            bars += [[] for _ in range(slots.get(name, 0) - len(bars))]
        record = states.get(name)
        state = "left" if record is None else record.state.name.lower()
        if bars:
            nodes.append({"node": name, "state": state, "slots": bars})
    return {
        "window_s": WINDOW_S,
        "now_s": now,
        "functions": [
            {
                "function": name,
                "hue": FUNCTIONS.place(name),
                "calls": calls,
                "failed": failed,
                "busy_ms": round(busy_s * 1e3, 1),
            }
            for name, (calls, failed, busy_s) in functions.items()
        ],
        "nodes": nodes,
    }


def _bar(bar: LaneBar, places: Mapping[str, int], now: float) -> dict[str, Any]:
    return {
        "function": places[bar.main],
        "others": max(0, len(bar.of) - 1),
        "status": "failed" if bar.failed and bar.calls > 1 else bar.status,
        "start_ms": round((bar.begin - now) * 1e3, 1),
        "end_ms": round((bar.end - now) * 1e3, 1),
        "busy_ms": round(bar.busy_s * 1e3, 2),
        "calls": bar.calls,
        "failed": bar.failed,
        "run": bar.run,
        "step": bar.step if bar.calls == 1 else "",
    }


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return one row a bar: a call, or several short ones that followed each other."""
    names = [function["function"] for function in picture["functions"]]
    rows = [
        (
            node["node"],
            slot,
            names[bar["function"]],
            bar["run"],
            bar["step"],
            bar["status"],
            bar["calls"],
            bar["failed"],
            datetime.fromtimestamp(picture["now_s"] + bar["start_ms"] / 1e3, UTC),
            bar["busy_ms"],
        )
        for node in picture["nodes"]
        for slot, bars in enumerate(node["slots"], 1)
        for bar in bars
    ]
    return table_frame(COLUMNS, rows)


def text(picture: dict[str, Any]) -> str:
    """Return what each slot ran as a table of text."""
    if plain():
        return NOT_PLAIN
    return str(_table(picture)) if picture["functions"] else NOTHING


def html(picture: dict[str, Any]) -> str:
    """Return the stream as an image, and what each slot ran as a table."""
    if plain():
        return f"<div>{NOT_PLAIN}</div>"
    if not picture["functions"]:
        return f"<div>{NOTHING}</div>"
    return f'<div style="{WIDE}">{stream(picture)}{_table(picture).html}</div>'


def _table(picture: dict[str, Any]) -> Table:
    names = [function["function"] for function in picture["functions"]]
    slots = [
        (node["node"], slot, bars)
        for node in picture["nodes"]
        for slot, bars in enumerate(node["slots"], 1)
    ]
    used = [bool(bars) for _, _, bars in slots]
    shown = sorted(sorted(range(len(slots)), key=lambda at: not used[at])[:MOST_ROWS])
    rows = []
    for node, slot, bars in (slots[at] for at in shown):
        busy_ms = sum(map(_busy_ms, bars))
        taken: dict[str, float] = {}
        for bar in bars:
            name = names[bar["function"]]
            taken[name] = taken.get(name, 0.0) + bar["busy_ms"]
        most = sorted(taken, key=lambda name: -taken[name])
        more = f" and {len(most) - 3:,} more" if len(most) > 3 else ""
        failed = sum(bar["failed"] for bar in bars)
        rows.append(
            [
                node,
                str(slot),
                f"{sum(bar['calls'] for bar in bars):,}",
                f"{failed:,}",
                f"{min(1.0, busy_ms / (picture['window_s'] * 1e3)):.0%}",
                ", ".join(most[:3]) + more,
                "".join(
                    f"{names[bar['function']]}, {duration(-bar['start_ms'])}"
                    for bar in bars
                    if bar["status"] == "running"
                ),
            ]
        )
    left = len(slots) - len(shown)
    return Table(
        head=["node", "slot", "calls", "failed", "busy", "ran most", "runs now"],
        rows=rows,
        numbers=["slot", "calls", "failed", "busy"],
        more=f"… and {count(left, 'slot')} more: {MORE}" if left else "",
    )


def _busy_ms(bar: dict[str, Any]) -> float:
    """Return how long a bar was busy within the window."""
    if bar["start_ms"] >= -WINDOW_S * 1e3:
        return float(bar["busy_ms"])
    return float(min(bar["busy_ms"], bar["end_ms"] + WINDOW_S * 1e3))
