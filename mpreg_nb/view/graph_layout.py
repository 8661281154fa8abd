"""The layered layout of a graph: layers, order and positions, by arithmetic alone.

Sources: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical
System Structures", IEEE SMC 11(2), 1981; Gansner, Koutsofios, North, Vo, "A
Technique for Drawing Directed Graphs", IEEE TSE 19(3), 1993.

Source: Brandes, Köpf, "Fast and Simple Horizontal Coordinate Assignment", Graph
Drawing 2001. Each box is aligned with the middle one of its neighbours in the
layer before (or after), from the left (or the right): four drawings, of which
each box takes the mean of its two middle places. Aligned boxes form a block, and
blocks are packed by longest paths.

Positions are `along` the direction of the arrows and `across` it, so that one
layout serves drawings from left to right and from top to bottom. Cycles are no
error: a flow may be drawn while it is being written.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

MOST_BENDS = 4_000
"""Arrows over several layers bend around the boxes between. In a graph that would need
more bends than these, arrows go straight: it would be unreadable either way."""

ROUNDS = 8
"""Sweeps over all layers, forward and backward. More make no visible difference."""

Edge = tuple[str, str]
Key = str | int
"""The name of a box, or the number of a bend (where an arrow passes a layer)."""


class Layers:
    """A layered graph: bends split each arrow into parts from one layer to the next.

    Cycles are allowed: one arrow of each cycle is reversed.
    """

    def __init__(self, names: Sequence[str], edges: Sequence[Edge]) -> None:
        forward = without_cycles(names, edges)
        self.layer_of = layer_of = _layers(names, forward)
        self.rows: list[list[Key]] = [
            [] for _ in range(1 + max(layer_of.values(), default=-1))
        ]
        for name, layer in layer_of.items():
            self.rows[layer].append(name)
        self.chains: dict[Edge, list[Key]] = {}
        self.before: dict[Key, list[Key]] = {name: [] for name in layer_of}
        self.after: dict[Key, list[Key]] = {name: [] for name in layer_of}
        spans = {edge: layer_of[edge[1]] - layer_of[edge[0]] for edge in forward}
        bent = sum(spans.values()) - len(spans) <= MOST_BENDS
        bend = 0
        for (source, target), span in spans.items():
            chain: list[Key] = [source]
            for layer in range(1, span if bent else 1):
                self.rows[layer_of[source] + layer].append(bend)
                self.before[bend], self.after[bend] = [], []
                chain.append(bend)
                bend += 1
            chain.append(target)
            self.chains[source, target] = chain
            if bent or span == 1:
                for left, right in pairwise(chain):
                    self.after[left].append(right)
                    self.before[right].append(left)

    def order(self) -> None:
        """Reorder each row by the mean place of its neighbours; keep the best order."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for turn in range(ROUNDS):
            if fewest == 0:
                break
            down = turn % 2 == 0
            neighbours = self.before if down else self.after
            rows = self.rows if down else self.rows[::-1]
            for fixed, row in pairwise(rows):
                place = {key: index for index, key in enumerate(fixed)}
                self._sort(row, place, neighbours)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    @staticmethod
    def _sort(
        row: list[Key], place: Mapping[Key, int], neighbours: Mapping[Key, list[Key]]
    ) -> None:
        middles: dict[Key, float] = {}
        for index, key in enumerate(row):
            near = [place[other] for other in neighbours[key] if other in place]
            middles[key] = sum(near) / len(near) if near else float(index)
        row.sort(key=middles.__getitem__)

    def _crossings(self) -> int:
        """Return the number of pairs of arrows that cross, over all layers.

        Source: Barth, Jünger, Mutzel, "Simple and Efficient Bilayer Cross
        Counting", 2002: insertions into a tree of counts.
        """
        crossings = 0
        for upper, lower in pairwise(self.rows):
            place = {key: index for index, key in enumerate(lower)}
            tree = [0] * (len(lower) + 1)
            seen = 0
            for key in upper:
                ends = sorted(place[other] for other in self.after[key])
                for end in ends:
                    index, not_right = end + 1, 0
                    while index:
                        not_right += tree[index]
                        index &= index - 1
                    crossings += seen - not_right
                for end in ends:
                    index = end + 1
                    while index < len(tree):
                        tree[index] += 1
                        index += index & -index
                seen += len(ends)
        return crossings


def without_cycles(names: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges without duplicates; those that close a cycle are reversed.

    A depth-first search finds them. Edges from a name to itself, and edges of
    unknown names, are dropped.
    """
    known = set(names)
    edges = [
        (source, target)
        for source, target in edges
        if source != target and source in known and target in known
    ]
    targets: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        targets[source].append(target)
    on_trail: set[str] = set()
    done: set[str] = set()
    turned: set[Edge] = set()
    for root in names:
        if root in done:
            continue
        trail = [(root, iter(targets[root]))]
        on_trail.add(root)
        while trail:
            name, rest = trail[-1]
            for target in rest:
                if target in on_trail:
                    turned.add((name, target))
                elif target not in done:
                    on_trail.add(target)
                    trail.append((target, iter(targets[target])))
                    break
            else:
                trail.pop()
                on_trail.discard(name)
                done.add(name)
    return list(
        dict.fromkeys((edge[1], edge[0]) if edge in turned else edge for edge in edges)
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Return the layer of each box: as early as possible, but with short arrows.

    A box with more outgoing than incoming arrows moves to the layer just before its
    first target.
    """
    sources: dict[str, list[str]] = {name: [] for name in names}
    targets: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        targets[source].append(target)
        sources[target].append(source)
    missing = {name: len(sources[name]) for name in names}
    order = [name for name in names if missing[name] == 0]
    for name in order:  # grows while it is read
        for target in targets[name]:
            missing[target] -= 1
            if missing[target] == 0:
                order.append(target)
    layer: dict[str, int] = {}
    for name in order:
        layer[name] = 1 + max((layer[source] for source in sources[name]), default=-1)
    for name in reversed(order):
        if len(targets[name]) > len(sources[name]):
            layer[name] = min(layer[target] for target in targets[name]) - 1
    return layer


Gap = Callable[[Key, Key], float]
"""Returns the least distance between the centres of two neighbours in a layer."""

Near = Mapping[Key, Sequence[Key]]
Row = Sequence[Key]
Places = dict[Key, float]


def align(graph: Layers, gap: Gap) -> Places:
    """Return the centre of every box and bend, across the direction of the arrows."""
    crossed = _crossed(graph)
    drawings: list[Places] = []
    for near, rows in ((graph.before, graph.rows), (graph.after, graph.rows[::-1])):
        drawings.append(_packed(rows, _blocks(rows, near, crossed), gap))
        turned = [row[::-1] for row in rows]
        mirrored = _packed(turned, _blocks(turned, near, crossed), _turned(gap))
        drawings.append({key: -place for key, place in mirrored.items()})
    return _balanced(drawings)


def _turned(gap: Gap) -> Gap:
    return lambda left, right: gap(right, left)


def _crossed(graph: Layers) -> set[frozenset[Key]]:
    """Return the arrows that cross a long one: the long one is aligned instead."""
    crossed: set[frozenset[Key]] = set()
    for upper, lower in pairwise(graph.rows):
        place = {key: index for index, key in enumerate(upper)}
        first, begin = 0, 0
        for index, key in enumerate(lower):
            long = [b for b in graph.before[key] if _is_inner(b, key)]
            if not long and index < len(lower) - 1:
                continue
            last = place[long[0]] if long else len(upper) - 1
            for other in lower[begin : index + 1]:
                crossed.update(
                    frozenset((source, other))
                    for source in graph.before[other]
                    if not first <= place[source] <= last
                    and not _is_inner(source, other)
                )
            first, begin = last, index + 1
    return crossed


def _is_inner(source: Key, target: Key) -> bool:
    return isinstance(source, int) and isinstance(target, int)


def _blocks(
    rows: Sequence[Row], near: Near, crossed: set[frozenset[Key]]
) -> dict[Key, Key]:
    """Align keys with their middle neighbours; return the first key of each block."""
    root: dict[Key, Key] = {key: key for row in rows for key in row}
    place: dict[Key, int] = {}
    for row in rows:
        rightmost = -1
        for key in row:
            others = sorted(near[key], key=place.__getitem__)
            half = (len(others) - 1) // 2
            for other in others[half : len(others) - half]:
                if place[other] <= rightmost or frozenset((other, key)) in crossed:
                    continue
                root[key] = root[other]
                rightmost = place[other]
                break
        place = {key: index for index, key in enumerate(row)}
    return root


def _packed(rows: Sequence[Row], root: Mapping[Key, Key], gap: Gap) -> Places:
    """Place blocks as far left as their gaps allow, then close gaps to the right."""
    after: dict[Key, dict[Key, float]] = {block: {} for block in root.values()}
    missing = dict.fromkeys(after, 0)
    for row in rows:
        for left, right in pairwise(row):
            gaps = after[root[left]]
            if root[right] not in gaps:
                missing[root[right]] += 1
            gaps[root[right]] = max(gaps.get(root[right], 0.0), gap(left, right))
    order = [block for block, count in missing.items() if count == 0]
    place = dict.fromkeys(after, 0.0)
    for block in order:  # grows while it is read
        for other, least in after[block].items():
            place[other] = max(place[other], place[block] + least)
            missing[other] -= 1
            if missing[other] == 0:
                order.append(other)
    for block in reversed(order):
        rooms = [place[other] - least for other, least in after[block].items()]
        place[block] = max(place[block], min(rooms, default=-math.inf))
    return {key: place[block] for key, block in root.items()}


def _balanced(drawings: Sequence[Places]) -> Places:
    """Align the four drawings with the narrowest one; return their mean places.

    Every second drawing was packed from the right, and is aligned at the right side.
    """
    if not drawings[0]:
        return {}
    spans = [(min(places.values()), max(places.values())) for places in drawings]
    left, right = min(spans, key=lambda span: span[1] - span[0])
    shifts = [
        right - span[1] if index % 2 else left - span[0]
        for index, span in enumerate(spans)
    ]
    balanced: Places = {}
    for key in drawings[0]:
        places = sorted(
            drawing[key] + shift
            for drawing, shift in zip(drawings, shifts, strict=True)
        )
        balanced[key] = (places[1] + places[2]) / 2
    return balanced


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The space that a box takes."""

    along: float
    across: float
    after: float = 0.0  # empty space next to it, across; no arrow ends there


class Point(msgspec.Struct, frozen=True):
    """A position; that of a box is its centre."""

    along: float
    across: float


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The positions of boxes and arrows. The smallest coordinate is 0."""

    boxes: dict[str, Point]
    edges: dict[Edge, tuple[Point, ...]]  # start, bends, end
    size: Size


def arrange(
    sizes: Mapping[str, Size],
    edges: Sequence[Edge],
    *,
    layer_gap: float = 40.0,
    box_gap: float = 16.0,
    bend_gap: float = 12.0,
) -> Layout:
    """Place boxes of `sizes` so that arrows go forward and few of them cross.

    The same input gives the same layout. Arrows of unknown boxes, and from a box to
    itself, are left out.
    """
    graph = Layers(list(sizes), edges)
    graph.order()
    half: dict[Key, float] = {name: size.across / 2 for name, size in sizes.items()}
    after: dict[Key, float] = {name: size.after for name, size in sizes.items()}

    def gap(left: Key, right: Key) -> float:
        boxes = isinstance(left, str) and isinstance(right, str)
        rooms = half.get(left, 0.0) + after.get(left, 0.0) + half.get(right, 0.0)
        return rooms + (box_gap if boxes else bend_gap)

    across = align(graph, gap)
    starts = [across[key] - room for key, room in half.items()]
    lowest = min([*starts, *across.values()], default=0.0)
    across = {key: middle - lowest for key, middle in across.items()}

    bands = _bands(graph.rows, sizes, layer_gap)
    boxes = {
        name: Point((bands[layer].start + bands[layer].end) / 2, across[name])
        for name, layer in graph.layer_of.items()
    }
    paths: dict[Edge, tuple[Point, ...]] = {}
    for edge in dict.fromkeys(edges):
        turned = edge not in graph.chains
        chain = graph.chains.get((edge[1], edge[0]) if turned else edge)
        if chain is None:  # left out, see above
            continue
        points = _path(
            chain, bands[graph.layer_of[str(chain[0])] :], boxes, sizes, across
        )
        paths[edge] = points[::-1] if turned else points
    ends = [across[key] + room + after[key] for key, room in half.items()]
    return Layout(
        boxes=boxes,
        edges=paths,
        size=Size(
            along=bands[-1].end if bands else 0.0,
            across=max([*ends, *across.values()], default=0.0),
        ),
    )


class _Band(NamedTuple):
    """The range that one layer covers, along the arrows."""

    start: float
    end: float


def _bands(
    rows: Sequence[Sequence[Key]], sizes: Mapping[str, Size], gap: float
) -> list[_Band]:
    bands: list[_Band] = []
    start = 0.0
    for row in rows:
        thick = max(sizes[key].along for key in row if isinstance(key, str))
        bands.append(_Band(start, start + thick))
        start += thick + gap
    return bands


def _path(
    chain: Sequence[Key],
    bands: Sequence[_Band],
    boxes: Mapping[str, Point],
    sizes: Mapping[str, Size],
    across: Mapping[Key, float],
) -> tuple[Point, ...]:
    """Return the points of an arrow; it is straight inside of each band."""
    source, target = str(chain[0]), str(chain[-1])
    points = [Point(boxes[source].along + sizes[source].along / 2, across[source])]
    for bend, band in zip(chain[1:-1], bands[1:], strict=False):
        points += [Point(band.start, across[bend]), Point(band.end, across[bend])]
    points.append(Point(boxes[target].along - sizes[target].along / 2, across[target]))
    return tuple(points)
