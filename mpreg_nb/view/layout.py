"""Where the boxes and arrows of a graph go: a layered layout, pure arithmetic.

Positions are `along` the direction of the arrows and `across` it, so that one
layout serves drawings from left to right and from top to bottom. Cycles are no
error: a flow may be drawn while it is being written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpreg_nb.view.alignment import align
from mpreg_nb.view.layers import Edge, Key, Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much room a box takes."""

    along: float
    across: float
    after: float = 0.0  # kept free beside it, across; arrows do not end there


@dataclass(frozen=True, slots=True)
class Point:
    """A place; boxes are placed by their middles."""

    along: float
    across: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything goes. The smallest coordinate of anything is 0."""

    boxes: dict[str, Point]
    edges: dict[Edge, tuple[Point, ...]]  # from border to border, bends between
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

    The same input gives the same layout. Arrows between unknown boxes, and from a
    box to itself, are left out.
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
        if chain is None:  # not to be drawn
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
    """The strip along the arrows that one layer takes."""

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
    """Return the way of an arrow: straight through bands, free between them."""
    source, target = str(chain[0]), str(chain[-1])
    points = [Point(boxes[source].along + sizes[source].along / 2, across[source])]
    for bend, band in zip(chain[1:-1], bands[1:], strict=False):
        points += [Point(band.start, across[bend]), Point(band.end, across[bend])]
    points.append(Point(boxes[target].along - sizes[target].along / 2, across[target]))
    return tuple(points)
