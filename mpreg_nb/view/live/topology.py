"""Nodes, the links between them, and the traffic of each link."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot, Traffic
from mpreg_nb.units import count, size
from mpreg_nb.view.format import cut
from mpreg_nb.view.frames import MEASURE, TEXT
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import STATES, WIDE
from mpreg_nb.view.images import image
from mpreg_nb.view.live.charts import Tip, empty, key_of, natural, per_second, said, tip
from mpreg_nb.view.marks import NODE_LOOKS, badge
from mpreg_nb.view.markup import Element, element, number, svg_markup
from mpreg_nb.view.palette import BUSY, INK, LINE, PAGE, SOFT
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Marked, Table

if TYPE_CHECKING:
    import pandas as pd


WINDOW_S = 10
"""Rates are of so many last seconds."""

OWN = "/client"
"""Stands for the own client in links; no node has a slash in its name."""

SHORTEST_S = 1.0
"""A shorter time of observation counts as this long."""

HERE = "this notebook"
"""How the own client is called. Should a node be called so, a space is added, with
which no name ends."""

MOST_ROWS = 20
"""Of a still table: the links with the most traffic; the frame has all."""

MOST_LINKS = 500
"""In a picture: those with the most traffic. Among 100 nodes there may be 4,950."""

COLUMNS = {
    "node": TEXT,
    "peer": TEXT,
    "bytes_per_s": MEASURE,
    "messages_per_s": MEASURE,
}

Pair = tuple[str, str]


class _Total(NamedTuple):
    """The traffic between two ends, in both directions, as one of them counted it."""

    bytes: int
    messages: int


class Rates:
    """The traffic of each link in the last `WINDOW_S` seconds of observation.

    Holds what was counted in that time, of the links that are still there.
    """

    def __init__(self, client: str) -> None:
        """`client` is the name of our own client on its links."""
        self._client = client
        self._totals: dict[tuple[str, Pair], _Total] = {}  # by who counted
        self._grown: dict[Pair, deque[tuple[float, _Total]]] = {}
        self._began = math.nan
        self._now = math.nan

    def take(self, told: Iterable[Traffic], now: float) -> None:
        """Add the reports of nodes; `now` is of any monotonic clock."""
        if now - self._now > WINDOW_S:  # not observed for a while
            self._grown, self._totals, self._began = {}, {}, math.nan
        before, self._totals = self._totals, {}
        grown: dict[Pair, _Total] = {}
        for traffic in told:
            for link in traffic.links:
                peer = OWN if link.peer == self._client else link.peer
                if link.role == "client" and peer != OWN:
                    continue  # of another notebook, or of a worker's calls
                pair = (min(traffic.node, peer), max(traffic.node, peer))
                total = _Total(
                    link.sent_bytes + link.received_bytes,
                    link.sent_messages + link.received_messages,
                )
                counted = (traffic.node, pair)
                self._totals[counted] = total
                more = _growth(before.get(counted), total)
                # Both ends may have told; they counted at different moments.
                known = grown.get(pair, more)
                grown[pair] = _Total(*map(max, known, more))
        self._began = now if math.isnan(self._began) else self._began
        self._now = now
        kept = self._grown
        self._grown = {pair: kept.get(pair, deque()) for pair in grown}
        for pair, more in grown.items():
            self._grown[pair].append((now, more))
            while self._grown[pair][0][0] <= now - WINDOW_S:
                self._grown[pair].popleft()

    def rates(self) -> dict[Pair, tuple[float, float]]:
        """Return (one end, other end) -> bytes and messages a second."""
        watched_s = min(WINDOW_S, max(SHORTEST_S, self._now - self._began))
        return {
            pair: (
                round(sum(more.bytes for _, more in noted) / watched_s, 1),
                round(sum(more.messages for _, more in noted) / watched_s, 2),
            )
            for pair, noted in sorted(self._grown.items())
        }


def _growth(before: _Total | None, now: _Total) -> _Total:
    """Return the increase; a smaller total than before means a restarted counter."""
    if before is None:
        return _Total(0, 0)
    if now.bytes < before.bytes or now.messages < before.messages:
        return now
    return _Total(now.bytes - before.bytes, now.messages - before.messages)


def picture(
    snapshot: Snapshot, entry: str, rates: Mapping[Pair, tuple[float, float]]
) -> dict[str, Any]:
    """Return the nodes and the own client, and the links that are known.

    entry: the node that the own client entered by.
    """
    gone = {
        node.record.name
        for node in snapshot.nodes
        if node.record.state in (MemberState.DEAD, MemberState.LEFT)
    }
    names = {node.record.name for node in snapshot.nodes}
    here = HERE if HERE not in names else f"{HERE} "
    ends = {name: name for name in names - gone} | {OWN: here}
    links = {pair: rate for pair, rate in rates.items() if ends.keys() >= set(pair)}
    if entry in ends:
        links.setdefault((OWN, entry), (0.0, 0.0))
    busiest = sorted(links, key=lambda pair: (OWN not in pair, -links[pair][0], pair))
    client = {
        "node": here,
        "kind": "client",
        "state": "alive",
        "entry": False,
        "busy": 0,
        "slots": 0,
        "resources": [],
    }
    return {
        "nodes": [client, *(_node(node, entry) for node in snapshot.nodes)],
        "links": [
            {
                "a": ends[pair[0]],
                "b": ends[pair[1]],
                "bytes_per_s": links[pair][0],
                "messages_per_s": links[pair][1],
            }
            for pair in busiest[:MOST_LINKS]
        ],
        "window_s": WINDOW_S,
    }


def _node(node: NodeSnapshot, entry: str) -> dict[str, Any]:
    record, load = node.record, node.load
    return {
        "node": record.name,
        "kind": "node",
        "state": record.state.name.lower(),
        "entry": record.name == entry,
        "busy": 0 if load is None else load.running,
        "slots": record.workers * record.slots,
        "resources": sorted(record.resources),
    }


# -------------------------------------------------------------------- drawing

MOST_LINES = 240
"""Links that are drawn, the busiest; more of them would hide each other."""

MOVING_LINES, LEAST_MOVING = 12, 2_000
"""So many links move at most, since each costs the browser a repaint per frame, and
only those with so many bytes a second: gossip alone does not."""

WIDEST_BYTES_PER_S = 1e6
"""A link with so much traffic is as wide as any."""

ROOM_PX = 46.0
"""Along a ring, for one node of full size."""

UPRIGHT_LABELS = 18
"""So many names fit around one ring without turning."""

WIDE_LABEL, TURNED_LABEL = 130.0, 84.0
LEAST_RADIUS, RING_GAP = 135.0, 110.0
NODE_RADIUS = 13.0
SCREEN = "M1 2h10v7h-10zM0 11h12"


class Spot(NamedTuple):
    """Where a node stands: in pixels from the middle, and in radians on its ring."""

    x: float
    y: float
    angle: float
    radius: float
    size: float
    turned: bool


End: TypeAlias = tuple[str, float, float]
"""The other end of a link of a node, and its bytes and messages a second."""


def spots_of(
    nodes: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Spot], float, float]:
    """Return the places of nodes, and half the width and height that they take.

    The client is in the middle. Rings take nodes in proportion to their length.
    """
    around = [node["node"] for node in nodes if node["kind"] != "client"]
    turned = len(around) > UPRIGHT_LABELS
    size = 0.62 if len(around) > 60 else 0.8 if turned else 1.0
    radii = _radii(len(around), ROOM_PX * size, turned=turned)
    spots = {
        node["node"]: Spot(0.0, 0.0, 0.0, 0.0, 1.15, False)
        for node in nodes
        if node["kind"] == "client"
    }
    taken = 0
    for ring, radius in enumerate(radii):
        share = round(len(around) * radius / sum(radii))
        last = ring == len(radii) - 1
        here = around[taken:] if last else around[taken : taken + share]
        taken += len(here)
        for place, name in enumerate(here):
            angle = (place + ring % 2 / 2) / len(here) * 2 * math.pi - math.pi / 2
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            spots[name] = Spot(x, y, angle, radius, size, turned)
    widest = radii[-1] if radii else 40.0
    across, along = (TURNED_LABEL, TURNED_LABEL) if turned else (WIDE_LABEL, 34.0)
    return spots, widest + across, widest + along


def _radii(nodes: int, room: float, *, turned: bool) -> list[float]:
    if not nodes:
        return []
    single = max(LEAST_RADIUS, nodes * room / (2 * math.pi))
    if not turned or single <= 230:
        return [single]
    radii: list[float] = []
    held, radius = 0, LEAST_RADIUS
    while held < nodes:
        radii.append(radius)
        held += int(2 * math.pi * radius / room)
        radius += RING_GAP
    return radii


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return nodes on rings around this notebook, links as wide as their traffic."""
    if not picture["nodes"]:
        return empty("No node is known yet.")
    drawn, width, height = _drawn(picture)
    svg = element(
        "svg",
        *drawn,
        viewBox=f"{-width / 2:.0f} {-height / 2:.0f} {width:.0f} {height:.0f}",
        style=f"max-height:{max(300.0, min(620.0, height)):.0f}px",
        class_="mpreg-topology",
        role="group",
        aria_label="Topology of the cluster",
        data_many=len(picture["nodes"]) > 41,
    )
    return [
        element("div", svg, class_="mpreg-figure"),
        element("p", _caption(picture), class_="mpreg-caption"),
        element("p", *_legend(), class_="mpreg-legend", aria_hidden="true"),
    ]


def _drawn(picture: dict[str, Any]) -> tuple[list[Element], float, float]:
    """Return links and nodes, around (0, 0), and the size of the drawing."""
    nodes = sorted(
        picture["nodes"],
        key=lambda node: (node["kind"] != "client", natural(node["node"])),
    )
    spots, half_width, half_height = spots_of(nodes)
    links = [ln for ln in picture["links"] if ln["a"] in spots and ln["b"] in spots]
    links.sort(key=lambda link: -link["bytes_per_s"])
    of_node: dict[str, list[End]] = {name: [] for name in spots}
    for link in links:
        rates = link["bytes_per_s"], link["messages_per_s"]
        of_node[link["a"]].append((link["b"], *rates))
        of_node[link["b"]].append((link["a"], *rates))
    # Many links are drawn thinner and fainter, so that they do not become one disc.
    density = min(1.0, math.sqrt(30 / max(1, min(MOST_LINES, len(links)))))
    lines = [
        _line(
            *link.values(),
            spots[link["a"]],
            spots[link["b"]],
            density,
            moving=place < MOVING_LINES,
        )
        for place, link in enumerate(links[:MOST_LINES])
    ]
    marks = [
        _mark(
            node["node"],
            node["kind"],
            node["state"],
            node["entry"],
            (node["busy"], node["slots"]),
            tuple(node["resources"]),
            spots[node["node"]],
            tuple(of_node[node["node"]]),
        )
        for node in nodes
    ]
    return (
        [
            element("g", *lines, class_="mpreg-links"),
            element("g", *marks, data_walk="list"),
        ],
        2 * half_width,
        2 * half_height,
    )


@lru_cache(maxsize=1_024)  # most links and nodes are the same in the next picture
def _line(
    a: str,
    b: str,
    rate: float,
    messages: float,
    start: Spot,
    end: Spot,
    density: float,
    *,
    moving: bool,
) -> Element:
    # Chords bend towards the middle, so that two of one line are told apart.
    bend = 1.0 if 0.0 in (start.radius, end.radius) else 0.55
    middle = (start.x + end.x) / 2 * bend, (start.y + end.y) / 2 * bend
    way = (
        f"M{number(start.x)} {number(start.y)}Q{number(middle[0])} {number(middle[1])} "
        f"{number(end.x)} {number(end.y)}"
    )
    busy = min(1.0, math.log10(1 + rate) / math.log10(1 + WIDEST_BYTES_PER_S))
    shape = {"d": way, "fill": "none", "stroke-linecap": "round"}
    # There may be hundreds of links: their elements are written out, which is faster.
    line = {
        **shape,
        "stroke": BUSY.ink.light if rate else SOFT.light,
        "stroke-width": f"{1 + 5 * busy * busy * density:.2f}",
        "stroke-opacity": f"{(0.18 + 0.5 * busy) * density:.2f}",
        "class": "mpreg-link",
    }
    if not rate:
        line["stroke-dasharray"] = "2 4"
    parts: list[Element] = [["path", line]]
    if moving and rate > LEAST_MOVING:
        flow = {
            "stroke": PAGE.light,
            "stroke-width": f"{1 + 2.5 * busy:.2f}",
            "stroke-opacity": "0.7",
            "stroke-dasharray": "1 17",
            "class": "mpreg-flow",
            "key": "flow",
        }
        parts.append(["path", shape | flow])
    told = tip(
        f"{a} \N{LEFT RIGHT ARROW} {b}",
        ("traffic", _traffic(rate)),
        ("messages", f"{per_second(messages)}/s"),
    )
    area = {"stroke": "transparent", "stroke-width": "10", "class": "mpreg-link-area"}
    parts.append(["path", {**shape, **area, "tip": told, "key": "area"}])
    return ["g", {"key": f"{a}|{b}", "ends": [a, b]}, *parts]


def _traffic(bytes_per_s: float) -> str:
    return f"{size(round(bytes_per_s))}/s"


@lru_cache(maxsize=512)
def _mark(
    name: str,
    kind: str,
    state: str,
    entry: bool,
    load: tuple[int, int],
    resources: tuple[str, ...],
    spot: Spot,
    links: tuple[End, ...],
) -> Element:
    """Return a node: its state, its busy slots as an arc, its name.

    load: busy slots, and all slots.
    """
    radius = NODE_RADIUS * spot.size
    gone = state in ("dead", "left")
    client = kind == "client"
    around = 2 * math.pi * radius
    busy, slots = load
    share = min(1.0, busy / slots) if slots else 0.0
    place = f"scale({spot.size:g}) translate(-6 -6)"
    if client:
        shape = {"d": SCREEN, "fill": "none", "stroke": BUSY.ink.light}
        sign = element("path", **shape, stroke_width="1.9", transform=place)
    else:
        sign = NODE_LOOKS[state].drawn(transform=place)
    dash = "4 3" if gone else None
    arc = {"stroke": BUSY.ink.light, "stroke_width": "3", "transform": "rotate(-90)"}
    work = [
        ("state", state),
        ("busy", f"{busy} of {count(slots, 'slot')}"),
        ("resources", ", ".join(resources) or "none"),
    ]
    told = _told(name, [] if client else work, links, entry=entry)
    return element(
        "g",
        element("circle", r=20 * spot.size, fill="transparent"),
        element(
            "circle",
            r=17 * spot.size,
            fill="none",
            stroke=LINE.light,
            stroke_dasharray="3 3",
            key="entry",
        )
        if entry
        else None,
        element(
            "circle",
            r=radius,
            fill=PAGE.light,
            stroke=LINE.light,
            stroke_width="2",
            stroke_dasharray=dash,
            class_="mpreg-node-ground",
            key="ground",
        ),
        element(
            "circle",
            r=radius,
            fill="none",
            stroke_dasharray=f"{around * share:.1f} {around:.1f}",
            key="load",
            **arc,
        ),
        sign,
        _label(name, spot, gone=gone, bold=client),
        transform=f"translate({spot.x:.1f} {spot.y:.1f})",
        class_="mpreg-node",
        role="img",
        data_item=name,
        data_state=state,
        aria_label=said(told),
        tip=told,
        key=name,
    )


def _label(name: str, spot: Spot, *, gone: bool, bold: bool) -> Element:
    """Return a name outside of its ring, turned where there is little room."""
    away = 20 * spot.size + 3
    dx, dy = math.cos(spot.angle), math.sin(spot.angle)
    if spot.radius == 0:
        place, anchor = f"translate(0 {away + 10:.1f})", "middle"
    elif spot.turned:
        degrees = math.degrees(spot.angle) + (180 if dx < 0 else 0)
        shift = -away if dx < 0 else away
        place = f"rotate({degrees:.1f}) translate({shift:.1f} 3.5)"
        anchor = "end" if dx < 0 else "start"
    else:
        anchor = "middle" if abs(dx) < 0.25 else "end" if dx < 0 else "start"
        drop = (0 if dy < 0 else 9) if anchor == "middle" else 4
        place = f"translate({dx * away:.1f} {dy * away + drop:.1f})"
    letters = 10.5 if spot.turned else 12.0
    return element(
        "text",
        cut(name, letters, 74.0 if spot.turned else 118.0),
        transform=place,
        text_anchor=anchor,
        font_size=letters,
        font_weight="600" if bold else None,
        fill=SOFT.light if gone else INK.light,
        text_decoration="line-through" if gone else None,
        # The name stands on a border of the page's colour, over the lines.
        paint_order="stroke",
        stroke=None if gone else PAGE.light,  # it would hide the line through it
        stroke_width="3",
        stroke_linejoin="round",
        key="label",
    )


def _told(
    name: str, work: list[tuple[str, str]], links: Sequence[End], *, entry: bool
) -> Tip:
    busiest = [
        (f"\N{LEFT RIGHT ARROW} {peer}", _traffic(rate)) for peer, rate, _ in links[:4]
    ]
    messages = per_second(sum(messages for _, _, messages in links))
    return tip(
        name,
        *work,
        ("traffic", _traffic(sum(rate for _, rate, _ in links))),
        ("messages", f"{messages}/s"),
        *busiest,
        note="This notebook is connected through this node." if entry else "",
    )


def _caption(picture: dict[str, Any]) -> str:
    nodes = sum(node["kind"] != "client" for node in picture["nodes"])
    links = len(picture["links"])
    cut_off = f"the {MOST_LINES} busiest of " if links > MOST_LINES else ""
    return (
        f"{count(nodes, 'node')}, {cut_off}{count(links, 'link')} \N{MIDDLE DOT} "
        f"traffic of the last {picture['window_s']} s"
    )


def _legend() -> list[Element]:
    arc = element(
        "circle",
        cx=6,
        cy=6,
        r=4.6,
        fill="none",
        stroke=BUSY.ink.light,
        stroke_width="3",
        stroke_dasharray="18 29",
    )
    wider = element("span", "wider link: more bytes per second", class_="mpreg-badge")
    return [
        *(badge(look, state) for state, look in NODE_LOOKS.items()),
        key_of("busy slots", arc),
        wider,
    ]


def _image(picture: dict[str, Any]) -> str:
    drawn, width, height = _drawn(picture)
    middle = f"translate({width / 2:.1f} {height / 2:.1f})"
    inner = svg_markup(element("g", *drawn, transform=middle))
    return image(inner, width, height, _said(picture))


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return one row a link: node, peer, bytes_per_s, messages_per_s."""
    return table_frame(COLUMNS, [tuple(link.values()) for link in picture["links"]])


def text(picture: dict[str, Any]) -> str:
    """Return the links as a table of text."""
    table = _table(picture)
    return _said(picture) if table is None else f"{_said(picture)}\n{table}"


def html(picture: dict[str, Any]) -> str:
    """Return nodes and links as an image, and the busiest links as a table."""
    table = _table(picture)
    inner = "" if table is None else table.html
    drawn = _image({**picture, "links": [] if plain() else picture["links"]})
    return f'<div style="{WIDE}">{drawn}{inner}</div>'


def _said(picture: dict[str, Any]) -> str:
    nodes = [node for node in picture["nodes"] if node["kind"] == "node"]
    entry = [node["node"] for node in nodes if node["entry"]]
    said = count(len(nodes), "node")
    if plain():  # entry node and links differ between runs
        return said
    through = f", connected through {entry[0]}" if entry else ""
    return f"{said}, {count(len(picture['links']), 'link')} known{through}"


def _table(picture: dict[str, Any]) -> Table | None:
    if plain() or not picture["links"]:
        return None
    nodes = [node for node in picture["nodes"] if node["kind"] == "node"]
    states = {node["node"]: node["state"] for node in nodes}
    links = sorted(picture["links"], key=lambda link: -link["bytes_per_s"])
    more = len(links) - MOST_ROWS
    return Table(
        head=["from", "to", "traffic", "messages/s"],
        rows=[
            [
                _end(link["a"], states),
                _end(link["b"], states),
                f"{size(round(link['bytes_per_s']))}/s",
                f"{link['messages_per_s']:.1f}",
            ]
            for link in links[:MOST_ROWS]
        ],
        numbers=["traffic", "messages/s"],
        more=f"… and {more:,} with less traffic: view.to_frame('topology')"
        if more > 0
        else "",
    )


def _end(name: str, states: Mapping[str, str]) -> Cell:
    if name not in states:
        return Marked("□", name, STATES["alive"][1])
    mark, ink = STATES[states[name]]
    return Marked(mark, name, ink)
