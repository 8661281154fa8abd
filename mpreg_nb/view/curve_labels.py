"""Labels at the ends of curves, placed so that none covers another or a curve.

All lengths are in pixels, y upward; a curve is a list of points from left to right.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec

Point: TypeAlias = tuple[float, float]

BESIDE = 7.0
"""From the end of a curve to its label."""

FURTHEST = 12
"""Lines of text that a label moves up or down at most."""

EVERY = 3.0
"""A curve is looked at in steps of so many pixels."""


class Label(msgspec.Struct, frozen=True):
    """A label whose left edge is at `x` and whose middle line is at `y`."""

    x: float
    y: float
    wide: float
    high: float

    def holds(self, point: Point) -> bool:
        """Return whether `point` is in the label."""
        x, y = point
        return self.x <= x <= self.x + self.wide and abs(y - self.y) <= self.high / 2

    def touches(self, other: "Label") -> bool:
        """Return whether both labels overlap."""
        return (
            abs(self.y - other.y) < (self.high + other.high) / 2
            and self.x < other.x + other.wide
            and other.x < self.x + self.wide
        )


def placed(
    curves: Sequence[Sequence[Point]],
    widths: Sequence[float],
    *,
    high: float,
    top: float,
) -> list[Label]:
    """Return a label for each curve, right of its end, moved up or down as needed.

    high: of a label; top: of the room, which begins at 0.
    """
    found: dict[int, Label] = {}
    drawn = [list(_dense(curve)) for curve in curves]
    # From the right: the labels there have the least choice.
    for place in sorted(range(len(curves)), key=lambda at: -curves[at][-1][0]):
        x, y = curves[place][-1]
        others = [points for at, points in enumerate(drawn) if at != place]
        best: tuple[int, Label] | None = None
        for moved in _moves(high):
            label = Label(x + BESIDE, y + moved, widths[place], high)
            if label.y < high / 2 or label.y > top - high / 2:
                continue
            if any(label.touches(other) for other in found.values()):
                continue
            hidden = sum(label.holds(p) for points in others for p in points)
            if best is None or hidden < best[0]:
                best = hidden, label
            if not hidden:
                break
        found[place] = Label(x + BESIDE, y, widths[place], high)
        if best is not None:
            found[place] = best[1]
    return [found[place] for place in range(len(curves))]


def _moves(high: float) -> Iterator[float]:
    """Yield how far to move: not at all, then ever further up and down."""
    yield 0.0
    for step in range(1, 2 * FURTHEST + 1):
        yield step * high / 2
        yield -step * high / 2


def _dense(curve: Sequence[Point]) -> Iterator[Point]:
    yield curve[-1]
    for (left, low), (right, high) in pairwise(curve):
        steps = max(1, int(max(abs(right - left), abs(high - low)) / EVERY))
        for step in range(steps):
            share = step / steps
            yield left + share * (right - left), low + share * (high - low)
