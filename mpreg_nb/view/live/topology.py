"""Who is linked to whom, and what went over each link in the last seconds."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot, Traffic
from mpreg_nb.units import count, size
from mpreg_nb.view.frames import MEASURE, TEXT
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import STATES, WIDE
from mpreg_nb.view.live.circle import circle
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Marked, Table

if TYPE_CHECKING:
    import pandas as pd


WINDOW_S = 10
"""Rates are of so many last seconds."""

OWN = "/client"
"""Stands for the own client in links; no node has a slash in its name."""

SHORTEST_S = 1.0
"""What came in less time is taken for what came in so much."""

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
    """What went over the links of two ends, both ways, as one of them counted."""

    bytes: int
    messages: int


class Rates:
    """What went over each link in the last `WINDOW_S` seconds that were looked at.

    Holds what was counted in that time, of the links that are still there.
    """

    def __init__(self, client: str) -> None:
        """`client` is the name that the own client has on its links."""
        self._client = client
        self._totals: dict[tuple[str, Pair], _Total] = {}  # by who counted
        self._grown: dict[Pair, deque[tuple[float, _Total]]] = {}
        self._began = math.nan
        self._now = math.nan

    def take(self, told: Iterable[Traffic], now: float) -> None:
        """Take in what nodes told; `now` is of any monotonic clock."""
        if now - self._now > WINDOW_S:  # nobody looked for a while
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
    """Return what came since; a smaller total than before began anew."""
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
    drawn = circle(
        picture["nodes"], [] if plain() else picture["links"], _said(picture)
    )
    return f'<div style="{WIDE}">{drawn}{inner}</div>'


def _said(picture: dict[str, Any]) -> str:
    nodes = [node for node in picture["nodes"] if node["kind"] == "node"]
    entry = [node["node"] for node in nodes if node["entry"]]
    said = count(len(nodes), "node")
    if plain():  # where it entered, and who is linked, differs from run to run
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
