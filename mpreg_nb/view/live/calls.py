"""The calls that each slot of each node ran in the last minute.

Only calls of this kernel and steps of its runs: nodes do not report the calls of
other clients.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.units import count, duration
from mpreg_nb.view.format import cut, text_width
from mpreg_nb.view.frames import COUNT, MEASURE, TEXT, TIME
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import WIDE
from mpreg_nb.view.live import charts
from mpreg_nb.view.live.charts import (
    Plot,
    empty,
    key_of,
    name_at,
    names_beside,
    scrolled,
    still_image,
    times_below,
    tip,
)
from mpreg_nb.view.live.lanes import WINDOW_S, LaneBar, Lanes
from mpreg_nb.view.markup import Element, element, number, percent
from mpreg_nb.view.palette import BAD, CARD, FUNCTIONS, HUES, PAGE, SOFT
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

ROWS_PX, ROW_PX = 330.0, (15.0, 27.0)
"""Room for all slots; how high the row of one is, at least and at most."""

GAP_PX, TOP_PX, AXIS_PX = 7.0, 4.0, 24.0
STILL_WIDTH, STILL_ROWS = 760.0, 64
MOST_KEYS = 16
EPOCH_S = 600.0
"""Bars are placed from the last multiple of this on, so that they need not move."""

CROSS = "M-3 -3l6 6M3 -3l-6 6"

MORE = "view.to_frame('calls')"
NOTHING = "no calls in the last minute"
NOT_PLAIN = "calls of the last minute are not shown in plain mode: cluster.calls()"


def slots_of(snapshot: Snapshot) -> dict[str, int]:
    """Return node -> slots of all its workers, for nodes that are alive or suspect."""
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


# -------------------------------------------------------------------- drawing


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return a row for each slot and a bar for each call, coloured by function."""
    if not picture["functions"]:
        return empty("No calls in the last minute. Make one:", "train.call(rows)")
    rows, axis = _plots(picture)
    return [
        element("div", *_legend(picture), class_="mpreg-legend mpreg-toolbar"),
        scrolled(
            rows.live(
                class_="mpreg-calls",
                tabindex="0",
                role="slider",
                aria_label="Calls by slot: a call",
                aria_orientation="horizontal",
                data_now=f"{picture['now_s']:.1f}",
            ),
            "Calls by slot",
        ),
        axis.live(class_="mpreg-calls", aria_hidden="true"),
    ]


def _plots(picture: dict[str, Any], most: int | None = None) -> tuple[Plot, Plot]:
    """Return the rows, of at most `most` slots, and the axis below them."""
    nodes, left_over = [], most
    for node in picture["nodes"]:
        slots = node["slots"][:left_over]
        if left_over is not None:
            left_over -= len(slots)
        nodes += [(node["node"], slots)] if slots else []
    names, left = names_beside([name for name, _ in nodes])
    slots_in_all = sum(len(slots) for _, slots in nodes)
    fitting = (ROWS_PX - len(nodes) * GAP_PX) / max(1, slots_in_all)
    row_px = max(ROW_PX[0], min(ROW_PX[1], float(int(fitting))))
    functions = picture["functions"]
    now, window_s = picture["now_s"], picture["window_s"]
    epoch = now - now % EPOCH_S
    fixed: list[Element] = []
    rows: list[Element] = []
    y = TOP_PX
    for shown, (name, slots) in zip(names, nodes, strict=True):
        fixed.append(name_at(y + len(slots) * row_px / 2 + 3, shown))
        for place, bars in enumerate(slots, 1):
            ground = {"width": "100%", "height": row_px - 2, "fill": CARD.light}
            fixed.append(element("rect", x="0", y=y, **ground))
            drawn: list[Element] = []
            for bar in bars:
                begin, end = (
                    (now - epoch + bar[edge] / 1e3) / window_s
                    for edge in ("start_ms", "end_ms")
                )
                told = _told(bar, functions[bar["function"]], name, place, now)
                hue = HUES[functions[bar["function"]]["hue"]].light
                drawn += _bar_of(bar, begin, end, y + 0.5, row_px - 3, hue, told)
            rows.append(element("g", *drawn, key=f"{name}/{place}", data_row=True))
            y += row_px
        y += GAP_PX
    moved = element(
        "svg",
        *rows,
        x=percent(1 - (now - epoch) / window_s),
        width="100%",
        height=y,
        overflow="visible",
    )
    # Bars that began before the window end at its border.
    window = element("svg", moved, width="100%", height=y, overflow="hidden")
    beside = {"left": left, "right": 12.0}
    ticks = times_below(0.0, range(0, int(window_s) + 1, 10), window_s)
    return (
        Plot(height=y, content=[*fixed, window], **beside),
        Plot(height=AXIS_PX, content=ticks, **beside),
    )


def _bar_of(
    bar: Mapping[str, Any],
    begin: float,
    end: float,
    y: float,
    height: float,
    hue: str,
    told: list[Any],
) -> list[Element]:
    """Return the bar of a call, and a cross on it if the call failed.

    begin, end: in windows since the epoch.
    """
    width = max(0.0025, end - begin)
    key = f"{begin:.5f}"
    attributes = {
        "x": percent(begin),
        "y": number(y),
        "width": percent(width),
        "height": number(height),
        "fill": hue,
        "class": "mpreg-call",
        "data-status": bar["status"],
        "key": key,
        "tip": told,
    }
    if width > 0.01:
        attributes["rx"] = "2"
    if bar["status"] in ("running", "cancelled"):
        dash = "4 2" if bar["status"] == "running" else "1.5 1.5"
        attributes |= {"fill-opacity": "0.3", "stroke": hue, "stroke-width": "1.2"}
        attributes["stroke-dasharray"] = dash
    elif bar["calls"] > 1:
        # Several short calls: the paler, the longer the slot was idle between them.
        busy = bar["busy_ms"] / max(bar["end_ms"] - bar["start_ms"], 0.001)
        if busy < 1:
            attributes["fill-opacity"] = f"{0.35 + 0.65 * busy:.2f}"
    drawn: list[Element] = [["rect", attributes]]
    if bar["failed"]:
        cross = element(
            "svg",
            element("circle", r=5.5, fill=PAGE.light),
            _cross(),
            x=percent(begin + width / 2),
            y=y + height / 2,
            overflow="visible",
            class_="mpreg-call-failed",
            key=f"x{key}",
        )
        drawn.append(cross)
    return drawn


def _cross(**place: str) -> Element:
    ink = {"fill": "none", "stroke": BAD.ink.light, "stroke_width": "2"}
    return element("path", d=CROSS, stroke_linecap="round", **ink, **place)


def _told(
    bar: Mapping[str, Any],
    function: Mapping[str, Any],
    node: str,
    slot: int,
    now: float,
) -> list[Any]:
    others = f", and {count(bar['others'], 'other')}" if bar["others"] else ""
    short = bar["calls"] > 1
    return tip(
        f"{function['function']}{others}",
        ("step", bar["step"]) if bar["step"] else None,
        ("node", node),
        ("slot", str(slot)),
        ("status", bar["status"]),
        ("calls", f"{bar['calls']:,}") if short else None,
        ("failed", f"{bar['failed']:,}") if short and bar["failed"] else None,
        ("runs for" if bar["status"] == "running" else "ran", duration(bar["busy_ms"])),
        ("began", round(now + bar["start_ms"] / 1e3, 1)),
        note="Short calls that followed each other." if short else "",
    )


def _legend(picture: dict[str, Any]) -> list[Element]:
    statuses = {
        bar["status"]
        for node in picture["nodes"]
        for slot in node["slots"]
        for bar in slot
    }
    keys = []
    for function in picture["functions"][:MOST_KEYS]:
        name, busy = function["function"], duration(function["busy_ms"])
        square = _square(HUES[function["hue"]].light)
        title = f"{name}: {count(function['calls'], 'call')}, {busy} in all"
        keys.append(key_of(name, square, title=title))
    more = len(picture["functions"]) - MOST_KEYS
    if more > 0:
        keys.append(element("span", f"+{more:,}", class_="mpreg-soft"))
    if statuses & {"failed", "lost"}:
        keys.append(key_of("failed", _cross(transform="translate(6 6)")))
    for status, dash in (("running", "4 2"), ("cancelled", "1.5 1.5")):
        if status in statuses:
            keys.append(key_of(status, _square(SOFT.light, dash)))
    return keys


def _square(ink: str, dash: str = "") -> Element:
    if not dash:
        return element("rect", width=12, height=12, rx=2, fill=ink)
    place = {"x": 0.75, "y": 0.75, "width": 10.5, "height": 10.5}
    edge = {"stroke": ink, "stroke_width": "1.2", "stroke_dasharray": dash}
    return element("rect", **place, fill=ink, fill_opacity="0.3", **edge)


def _image(picture: dict[str, Any]) -> str:
    """Return the drawing as an image, with its functions below."""
    rows, axis = _plots(picture, STILL_ROWS)
    title = "calls of each slot in the last minute, by function"
    keys, x, y = [], rows.left, 12.0
    for function in picture["functions"]:
        words = cut(function["function"], 11.0, 180.0)
        if x > rows.left and x + 28.0 + text_width(words, 11.0) > STILL_WIDTH:
            x, y = rows.left, y + 20.0
        square = _square(HUES[function["hue"]].light)
        keys += [
            element("g", square, transform=f"translate({x:.1f} {y - 10:.1f})"),
            charts.text(x + 16.0, y, words),
        ]
        x += 32.0 + text_width(words, 11.0)
    legend = Plot(left=0.0, right=0.0, height=y + 8.0, content=keys)
    return still_image([rows, axis, legend], STILL_WIDTH, title)


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
    """Return the calls of each slot as a table of text."""
    if plain():
        return NOT_PLAIN
    return str(_table(picture)) if picture["functions"] else NOTHING


def html(picture: dict[str, Any]) -> str:
    """Return the calls of each slot as an image and as a table."""
    if plain():
        return f"<div>{NOT_PLAIN}</div>"
    if not picture["functions"]:
        return f"<div>{NOTHING}</div>"
    return f'<div style="{WIDE}">{_image(picture)}{_table(picture).html}</div>'


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
