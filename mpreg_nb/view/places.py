"""Where the boxes and arrows of a diagram are drawn, in pixels.

This depends on what the steps are and not on how far they have come, so that a
drawing does not jump while its steps run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from mpreg_nb.view.layout import Layout, Point, Size, arrange
from mpreg_nb.view.measure import BOLD, width_px
from mpreg_nb.view.text import function_of
from mpreg_nb.workflow.diagram import Box, Diagram

MOST_BOXES = 400
"""A drawing of more could not be read, and would bloat the notebook."""

WIDEST_PX = 960
"""Room in a notebook; what is wider goes from top to bottom, if that helps."""

MARGIN = 8.0
PADDING = 10.0
NARROWEST, WIDEST = 104.0, 232.0  # of a box, in pixels
NAME, FUNCTION, CHIP, NOTE, STATUS = 13.0, 11.5, 10.5, 10.5, 11.0  # font sizes
CHIP_PADDING, CHIP_GAP, CHIP_ROW = 12.0, 4.0, 20.0
MARK = 17.0  # room of a status' mark
CARD = 4.0  # how far the cards of a map stand out, each
SLANT = 10.0  # of the sides of an input
UNDO_GAP, UNDO_HEIGHT, UNDO_SIZE = 20.0, 22.0, 10.5
HEAD = 8.0  # length of an arrow's head

STATUS_ROOM = 160.0
"""Kept free for a status, so that boxes keep their width while steps run."""

STATUS_STEP = 24.0
"""What needs more room gets so much more at once."""

Kind: TypeAlias = Literal["data", "order", "undo"]
Place: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One box in its place. `x` and `y` are of its left upper corner, in pixels."""

    box: Box
    chips: tuple[tuple[str, ...], ...]  # resources, in rows
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """The small box of what takes back a step, in its place."""

    step: str
    function: str
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An arrow from border to border. Between two points it may swing across."""

    source: str
    target: str
    kind: Kind
    points: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """A whole drawing, in pixels from its left upper corner."""

    figures: tuple[Figure, ...]
    undos: tuple[Undo, ...]
    ways: tuple[Way, ...]
    sideways: bool  # arrows go from left to right, else from top to bottom
    width: float
    height: float


def arrange_diagram(
    diagram: Diagram, states: Mapping[str, str], details: Mapping[str, str]
) -> Arranged:
    """Place all that is in `diagram`, with room for the states that are given."""
    told = frozenset(name for name, status in states.items() if status)
    needed = max(
        (
            MARK + width_px(" · ".join((states[name], details.get(name, ""))), STATUS)
            for name in told
        ),
        default=0.0,
    )
    more = max(0, math.ceil((needed - STATUS_ROOM) / STATUS_STEP))
    return _arranged(diagram, told, STATUS_ROOM + STATUS_STEP * more if told else 0.0)


def undo_name(step: str) -> str:
    """Return the name of the box that undoes `step`; no step has such a name."""
    return f"undo: {step}"


def neck(points: Sequence[Place], *, sideways: bool) -> Place:
    """Return where the head of an arrow begins, straight before its tip."""
    (x, y), (before_x, before_y) = points[-1], points[-2]
    if sideways:
        return (x - HEAD if x >= before_x else x + HEAD), y
    return x, (y - HEAD if y >= before_y else y + HEAD)


# ---------------------------------------------------------------- arrangement


@lru_cache(maxsize=64)
def _arranged(diagram: Diagram, told: frozenset[str], status_room: float) -> Arranged:
    width = max((_needed(box, status_room) for box in diagram.boxes), default=0.0)
    width = min(WIDEST, max(NARROWEST, width + 2 * PADDING))
    chips = {box.name: _chip_rows(box, width) for box in diagram.boxes}
    heights = {
        box.name: _height(box, len(chips[box.name]), told=box.name in told)
        for box in diagram.boxes
    }
    undos = {
        box.name: min(width, width_px(f"undo {box.undo}", UNDO_SIZE) + 2 * PADDING)
        for box in diagram.boxes
        if box.undo
    }
    layout, sideways = _layout(diagram, width, heights, undos)

    order_only = {(a.source, a.target) for a in diagram.arrows if a.order_only}
    inputs = {box.name for box in diagram.boxes if box.kind == "input"}
    ways = []
    for edge, path in layout.edges.items():
        points = [_place(point, sideways=sideways) for point in path]
        if sideways and edge[0] in inputs:  # its side leans inwards
            points[0] = points[0][0] - SLANT / 2, points[0][1]
        kind: Kind = "order" if edge in order_only else "data"
        ways.append(
            Way(source=edge[0], target=edge[1], kind=kind, points=tuple(points))
        )
    figures, small = [], []
    for box in diagram.boxes:
        middle_x, middle_y = _place(layout.boxes[box.name], sideways=sideways)
        figure = Figure(
            box=box,
            chips=chips[box.name],
            x=middle_x - width / 2,
            y=middle_y - heights[box.name] / 2,
            w=width,
            h=heights[box.name],
        )
        figures.append(figure)
        if box.undo:
            undo, way = _undo(figure, undos[box.name], sideways=sideways)
            small.append(undo)
            ways.append(way)
    rights = [f.x + f.w + cards(f.box) for f in figures] + [u.x + u.w for u in small]
    bottoms = [f.y + f.h + cards(f.box) for f in figures] + [u.y + u.h for u in small]
    bends = [point for way in ways for point in way.points]
    return Arranged(
        figures=tuple(figures),
        undos=tuple(small),
        ways=tuple(ways),
        sideways=sideways,
        width=max([MARGIN, *rights, *(x for x, _ in bends)]) + MARGIN,
        height=max([MARGIN, *bottoms, *(y for _, y in bends)]) + MARGIN,
    )


def cards(box: Box) -> float:
    """Return how far the cards behind a box stand out, to the right and below."""
    return 2 * CARD if box.kind == "map" else 0.0


def _needed(box: Box, status_room: float) -> float:
    """Return how many pixels the longest line of a box takes."""
    chips = [width_px(name, CHIP) + CHIP_PADDING for name in box.resources[:2]]
    slant = 2 * SLANT if box.kind == "input" else 0.0
    return slant + max(
        width_px(box.name, NAME) * BOLD,
        width_px(function_of(box, 1_000), FUNCTION),
        width_px(" · ".join(box.notes), NOTE),
        sum(chips) + CHIP_GAP,  # two side by side, where that fits
        width_px(f"undo {box.undo}", UNDO_SIZE) if box.undo else 0.0,
        status_room,
    )


def _chip_rows(box: Box, width: float) -> tuple[tuple[str, ...], ...]:
    """Break the resources into rows for a box of `width`."""
    inner = width - 2 * PADDING
    rows: list[list[str]] = []
    free = 0.0
    for name in box.resources:
        taken = min(width_px(name, CHIP) + CHIP_PADDING, inner)
        if taken > free:
            rows.append([])
            free = inner
        rows[-1].append(name)
        free -= taken + CHIP_GAP
    return tuple(map(tuple, rows))


def _height(box: Box, rows: int, *, told: bool) -> float:
    return (
        2 * PADDING
        + 15.0
        + (16.0 if function_of(box) else 0.0)
        + CHIP_ROW * rows
        + (15.0 if box.notes else 0.0)
        + (19.0 if told else 0.0)
    )


def _layout(
    diagram: Diagram,
    width: float,
    heights: Mapping[str, float],
    undos: Mapping[str, float],
) -> tuple[Layout, bool]:
    """Arrange from left to right, or from top to bottom if only that is narrow.

    What undoes a step stands beside it, across the way of the arrows.
    """
    edges = [(arrow.source, arrow.target) for arrow in diagram.arrows]
    outside = {box.name: cards(box) for box in diagram.boxes}
    flat = {
        name: Size(
            along=width,
            across=height,
            after=UNDO_GAP + UNDO_HEIGHT if name in undos else outside[name],
        )
        for name, height in heights.items()
    }
    sideways = arrange(flat, edges, layer_gap=44.0, box_gap=14.0)
    if sideways.size.along <= WIDEST_PX:
        return sideways, True
    tall = {
        name: Size(
            along=height,
            across=width,
            after=UNDO_GAP + undos[name] if name in undos else outside[name],
        )
        for name, height in heights.items()
    }
    downwards = arrange(tall, edges, layer_gap=34.0, box_gap=18.0)
    if sideways.size.along <= downwards.size.across:
        return sideways, True
    return downwards, False


def _undo(figure: Figure, width: float, *, sideways: bool) -> tuple[Undo, Way]:
    """Place what undoes a step below it or, if arrows go down, to its right."""
    outside = cards(figure.box)
    if sideways:
        middle = figure.x + figure.w / 2
        start = middle, figure.y + figure.h + outside
        end = middle, figure.y + figure.h + UNDO_GAP
        corner = middle - width / 2, end[1]
    else:
        middle = figure.y + figure.h / 2
        start = figure.x + figure.w + outside, middle
        end = figure.x + figure.w + UNDO_GAP, middle
        corner = end[0], middle - UNDO_HEIGHT / 2
    name = figure.box.name
    undo = Undo(
        step=name,
        function=figure.box.undo,
        x=corner[0],
        y=corner[1],
        w=width,
        h=UNDO_HEIGHT,
    )
    way = Way(source=name, target=undo_name(name), kind="undo", points=(start, end))
    return undo, way


def _place(point: Point, *, sideways: bool) -> Place:
    x, y = (point.along, point.across) if sideways else (point.across, point.along)
    return x + MARGIN, y + MARGIN
