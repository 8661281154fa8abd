"""Places within layers that make long arrows and chains straight.

Source: Brandes, Köpf, "Fast and Simple Horizontal Coordinate Assignment", Graph
Drawing 2001. Each box is aligned with the middle one of its neighbours in the
layer before (or after), from the left (or the right): four drawings, of which
each box takes the mean of its two middle places. Aligned boxes form a block, and
blocks are packed by longest paths.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from mpreg_nb.view.layers import Key, Layers

Gap = Callable[[Key, Key], float]
"""The least distance between the middles of two neighbours in a layer."""

Near = Mapping[Key, Sequence[Key]]
Row = Sequence[Key]
Places = dict[Key, float]


def align(graph: Layers, gap: Gap) -> Places:
    """Return the middle of every box and bend across the layers."""
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
    """Find arrows that cross a long one: they may not be aligned in its stead."""
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
    """Align what can be aligned; return the first of its block for each key."""
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
    """Put blocks as far to the left as their gaps allow, then close to the right."""
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
    """Lay the drawings over the narrowest one, and take the middle of each place.

    Every second one was packed from the right, and so is laid at the right side.
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
