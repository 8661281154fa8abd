"""A workflow diagram as SVG: positions in pixels and colours, for still and live.

Positions depend on the steps and not on their states, so that a drawing does not jump
while its steps run. A style element gives it colours for dark pages; where that has no
effect it is readable too, as all boxes have their own ground and lines are grey. A
status is told by a mark and a word; its colours only repeat it.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.view import diagram_text, palette
from mpreg_nb.view.diagram_text import function_of, printable, sentence
from mpreg_nb.view.format import BOLD, counts, cut, details, states, text_width
from mpreg_nb.view.graph_layout import Layout, Point, Size, arrange
from mpreg_nb.view.images import FOLLOWS, document_image
from mpreg_nb.view.marks import STEP_LOOKS, Look
from mpreg_nb.view.markup import Element, element, svg_markup
from mpreg_nb.view.palette import dark_style
from mpreg_nb.workflows.graph import Box, Diagram

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

SMALLEST, TALLEST_PX = 0.8, 540.0
"""A live drawing shrinks to its place, but not to less than this share of its size,
where it could not be read, and to so many pixels of height."""

NOTHING = "\N{EN DASH}"

Kind: TypeAlias = Literal["data", "order", "undo"]
Position: TypeAlias = tuple[float, float]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One box in its place. `x` and `y` are of its left upper corner, in pixels."""

    box: Box
    chips: tuple[tuple[str, ...], ...]  # resources, in rows
    x: float
    y: float
    w: float
    h: float


class UndoBox(msgspec.Struct, frozen=True, kw_only=True):
    """The small box of what takes back a step, in its place."""

    step: str
    function: str
    x: float
    y: float
    w: float
    h: float


class ArrowPath(msgspec.Struct, frozen=True, kw_only=True):
    """An arrow from border to border. Between two points it may swing across."""

    source: str
    target: str
    kind: Kind
    points: tuple[Position, ...]


class Arranged(msgspec.Struct, frozen=True, kw_only=True):
    """A whole drawing, in pixels from its left upper corner."""

    figures: tuple[Figure, ...]
    undos: tuple[UndoBox, ...]
    ways: tuple[ArrowPath, ...]
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
            MARK + text_width(" · ".join((states[name], details.get(name, ""))), STATUS)
            for name in told
        ),
        default=0.0,
    )
    more = max(0, math.ceil((needed - STATUS_ROOM) / STATUS_STEP))
    return _arranged(diagram, told, STATUS_ROOM + STATUS_STEP * more if told else 0.0)


def undo_name(step: str) -> str:
    """Return the name of the box that undoes `step`; no step has such a name."""
    return f"undo: {step}"


def neck(points: Sequence[Position], *, sideways: bool) -> Position:
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
        box.name: min(width, text_width(f"undo {box.undo}", UNDO_SIZE) + 2 * PADDING)
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
            ArrowPath(source=edge[0], target=edge[1], kind=kind, points=tuple(points))
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
            undo, way = _place_undo(figure, undos[box.name], sideways=sideways)
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
    chips = [text_width(name, CHIP) + CHIP_PADDING for name in box.resources[:2]]
    slant = 2 * SLANT if box.kind == "input" else 0.0
    return slant + max(
        text_width(box.name, NAME) * BOLD,
        text_width(function_of(box, 1_000), FUNCTION),
        text_width(" · ".join(box.notes), NOTE),
        sum(chips) + CHIP_GAP,  # two side by side, where that fits
        text_width(f"undo {box.undo}", UNDO_SIZE) if box.undo else 0.0,
        status_room,
    )


def _chip_rows(box: Box, width: float) -> tuple[tuple[str, ...], ...]:
    """Break the resources into rows for a box of `width`."""
    inner = width - 2 * PADDING
    rows: list[list[str]] = []
    free = 0.0
    for name in box.resources:
        taken = min(text_width(name, CHIP) + CHIP_PADDING, inner)
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


def _place_undo(
    figure: Figure, width: float, *, sideways: bool
) -> tuple[UndoBox, ArrowPath]:
    """Position what undoes a step below it or, if arrows go down, to its right."""
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
    undo = UndoBox(
        step=name,
        function=figure.box.undo,
        x=corner[0],
        y=corner[1],
        w=width,
        h=UNDO_HEIGHT,
    )
    way = ArrowPath(
        source=name, target=undo_name(name), kind="undo", points=(start, end)
    )
    return undo, way


def _place(point: Point, *, sideways: bool) -> Position:
    x, y = (point.along, point.across) if sideways else (point.across, point.along)
    return x + MARGIN, y + MARGIN


FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LINE, INK, SOFT_INK = palette.LINE.light, palette.INK.light, palette.SOFT.light
GROUND = palette.CARD.light
ORDER_DASH, UNDO_DASH, MISSING_DASH = "5 4", "3 3", "4 3"
LEGEND = "only the order, no result"
LEGEND_WIDTH, LEGEND_HEIGHT = 190.0, 26.0


PLAIN = Look(mark="", tone=palette.IDLE)


def draw(
    diagram: Diagram,
    states: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> str:
    """Return `diagram` as an SVG document.

    states: the status of each step, a word such as "running"; shown on its box.
    details: more about the status, such as "on gpu-1, 1.2 s".
    counts: of a map, how many items it has.
    """
    if len(diagram.boxes) > MOST_BOXES:
        text = (
            f"{len(diagram.boxes):,} steps are too many to draw. "
            "flow.plan() and run.frame() list them"
        )
        return _document(diagram, [_text(MARGIN, 24.0, text, ink=LINE)], 536.0, 40.0)
    parts, width, height = elements(diagram, states or {}, details or {}, counts or {})
    return _document(diagram, parts, width, height)


def elements(
    diagram: Diagram,
    states: Mapping[str, str],
    details: Mapping[str, str],
    counts: Mapping[str, int],
) -> tuple[list[Element], float, float]:
    """Return `diagram` as elements of SVG, with their width and height."""
    drawn = arrange_diagram(diagram, states, details)
    passed = {name for name, status in states.items() if status == "done"}
    parts = [
        _arrow(way, sideways=drawn.sideways, passed=way.source in passed)
        for way in drawn.ways
    ]
    parts += map(_draw_undo, drawn.undos)
    for figure in drawn.figures:
        name = figure.box.name
        said = states.get(name, ""), details.get(name, "")
        parts.append(_box(figure, *said, counts.get(name, 0)))
    if any(way.kind == "order" for way in drawn.ways):
        wide = max(drawn.width, LEGEND_WIDTH + 2 * MARGIN)
        return [*parts, _legend(drawn)], wide, drawn.height + LEGEND_HEIGHT
    return parts, drawn.width, drawn.height


# --------------------------------------------------------------------- arrows


def _arrow(way: ArrowPath, *, sideways: bool, passed: bool) -> Element:
    """Return a line along the layers' direction, with a head.

    passed: whether the result that it carries is there.
    """
    if way.kind == "undo":
        sideways = not sideways
    start, tip = way.points[0], way.points[-1]
    before_tip = neck(way.points, sideways=sideways)
    ways = [f"M{_pair(start)}"]
    for left, right in pairwise((*way.points[:-1], before_tip)):
        if left[0] == right[0] or left[1] == right[1]:
            ways.append(f"L{_pair(right)}")
            continue
        if sideways:
            middle = (left[0] + right[0]) / 2
            first, second = (middle, left[1]), (middle, right[1])
        else:
            middle = (left[1] + right[1]) / 2
            first, second = (left[0], middle), (right[0], middle)
        ways.append("C" + " ".join(map(_pair, (first, second, right))))
    dash = {"order": ORDER_DASH, "undo": UNDO_DASH, "data": ""}[way.kind]
    ink = palette.GOOD.ink.light if passed and way.kind == "data" else LINE
    key = f"{way.source}|{way.target}|{way.kind}"
    line, head = _line("".join(ways), dash, ink), _head(before_tip, tip, ink)
    return element("g", line, head, aria_hidden="true", key=key)


def _line(way: str, dash: str, ink: str) -> Element:
    style = {"fill": "none", "stroke": ink, "stroke_width": "1.5"}
    return element("path", d=way, **style, stroke_dasharray=dash or None)


def _head(before: Position, tip: Position, ink: str) -> Element:
    half = 3.5
    across = (0.0, half) if before[1] == tip[1] else (half, 0.0)
    corners = (
        tip,
        (before[0] - across[0], before[1] - across[1]),
        (before[0] + across[0], before[1] + across[1]),
    )
    return element("path", d=f"M{' '.join(map(_pair, corners))}z", fill=ink)


def _pair(place: Position) -> str:
    return f"{place[0]:.1f},{place[1]:.1f}"


# ---------------------------------------------------------------------- boxes


def _box(figure: Figure, status: str, detail: str, count: int) -> Element:
    look = STEP_LOOKS.get(status, PLAIN)
    box = figure.box
    slant = SLANT if box.kind == "input" else 0.0
    left, line = figure.x + PADDING + slant, figure.y + PADDING + 12.0
    inner = figure.w - 2 * (PADDING + slant)
    stroke = 2.0 if status else 1.2
    dash = MISSING_DASH if box.missing else look.dash
    parts = [*_shape(figure, look, stroke, dash)]
    name = cut(box.name, NAME * BOLD, inner)
    parts.append(_text(left, line, name, NAME, bold=True))
    function = function_of(box, count)
    if function:
        line += 16.0
        text = cut(function, FUNCTION, inner)
        parts.append(_text(left, line, text, FUNCTION, ink=SOFT_INK))
    for row in figure.chips:
        line += CHIP_ROW
        parts += _chips(row, left, line, inner)
    if box.notes:
        line += 15.0 + (3.0 if figure.chips else 0.0)
        text = cut(" · ".join(box.notes), NOTE, inner)
        parts.append(_text(left, line, text, NOTE, ink=SOFT_INK))
    if status:
        line = figure.y + figure.h - PADDING - 1.0
        parts += _status(look, status, detail, left, line, inner)
    said = ", ".join(filter(None, (box.name, status, detail)))
    return element(
        "g",
        *parts,
        title_text=printable(said),
        class_="mpreg-box",
        role="img",
        data_status=status or "none",
        data_item=box.name,
        aria_label=", ".join(filter(None, (box.name, function, status, detail))),
        tip=[
            box.name,
            [
                ["function", function or NOTHING],
                ["status", status or NOTHING],
                *([["so far", detail]] if detail else []),
                *([["undone by", box.undo]] if box.undo else []),
            ],
            "",
        ],
        key=box.name,
    )


def _shape(figure: Figure, look: Look, stroke: float, dash: str) -> Iterable[Element]:
    """Yield the outline: an input leans, a map is a stack of cards."""
    paint = {"fill": look.ground, "stroke": look.ink, "class_": "mpreg-box-ground"}
    front = {**paint, "stroke_width": f"{stroke:g}", "stroke_dasharray": dash or None}
    if figure.box.kind == "input":
        x, y, right, bottom = figure.x, figure.y, figure.x + figure.w, figure.h
        way = f"M{x + SLANT:.1f},{y:.1f}H{right:.1f}l{-SLANT:.1f},{bottom:.1f}H{x:.1f}z"
        yield element("path", d=way, stroke_linejoin="round", **front)
        return
    behind = cards(figure.box)
    while behind >= 0.0:
        place = {"x": figure.x + behind, "y": figure.y + behind}
        size = {"width": figure.w, "height": figure.h, "rx": 6}
        style = {**paint, "stroke_width": "1.2"} if behind else front
        yield element("rect", **place, **size, **style)
        behind -= CARD


def _draw_undo(undo: UndoBox) -> Element:
    said = cut(f"undo {undo.function}", UNDO_SIZE, undo.w - 2 * PADDING)
    words = _text(
        undo.x + undo.w / 2,
        undo.y + undo.h / 2 + 3.7,
        said,
        UNDO_SIZE,
        ink=SOFT_INK,
        anchor="middle",
    )
    place = {"x": undo.x, "y": undo.y, "width": undo.w, "height": undo.h, "rx": 4}
    style = {"fill": GROUND, "stroke": SOFT_INK, "stroke_dasharray": UNDO_DASH}
    return element(
        "g",
        element("rect", **place, **style, class_="mpreg-box-ground"),
        words,
        title_text=printable(f"{undo.step} is undone by {undo.function}"),
        class_="mpreg-box",
        role="img",
        data_item=undo_name(undo.step),
        aria_label=f"{undo.function}, undoes {undo.step}",
        tip=[undo.function, [], f"Undoes {undo.step} if a later step fails."],
        key=undo_name(undo.step),
    )


def _chips(
    row: Sequence[str], x: float, line: float, inner: float
) -> Iterable[Element]:
    for name in row:
        width = min(text_width(name, CHIP) + CHIP_PADDING, inner)
        place = {"x": x, "y": line - 12.0, "width": width, "height": 16, "rx": 8}
        yield element("rect", **place, fill=palette.PAGE.light, stroke=LINE)
        text = cut(name, CHIP, width - CHIP_PADDING)
        yield _text(x + width / 2, line - 0.3, text, CHIP, anchor="middle")
        x += width + CHIP_GAP


def _status(
    look: Look, status: str, detail: str, x: float, line: float, inner: float
) -> Iterable[Element]:
    indent = MARK if look.mark else 0.0
    if look.mark:
        yield look.drawn(transform=f"translate({x:.1f},{line - 10:.1f})")
    said = " · ".join(filter(None, (status, detail)))
    yield _text(
        x + indent, line, cut(said, STATUS, inner - indent), STATUS, ink=look.ink
    )


# ------------------------------------------------------------------- document


def _legend(drawn: Arranged) -> Element:
    """Return the legend of dashed arrows, on its own ground."""
    x, y = MARGIN, drawn.height
    middle = y + 9.0
    end = x + 38.0
    return element(
        "g",
        element("rect", x=x, y=y, width=LEGEND_WIDTH, height=18, rx=4, fill=GROUND),
        _line(f"M{x + 6:.1f},{middle:.1f}H{end - 8:.1f}", ORDER_DASH, LINE),
        _head((end - 8.0, middle), (end, middle), LINE),
        _text(end + 8.0, middle + 3.7, LEGEND, NOTE, ink=SOFT_INK),
    )


def _document(
    diagram: Diagram, parts: Iterable[Element], width: float, height: float
) -> str:
    drawn = "".join(map(svg_markup, parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{FONT}">'
        f"<title>Workflow {_safe(diagram.name)}</title>"
        f"<desc>{_safe(sentence(diagram))}</desc>"
        f"{dark_style(drawn)}{drawn}</svg>"
    )


def _text(
    x: float,
    y: float,
    text: str,
    size: float = 12.0,
    *,
    ink: str = INK,
    bold: bool = False,
    anchor: str = "start",
) -> Element:
    return element(
        "text",
        printable(text),
        x=x,
        y=y,
        font_size=f"{size:g}",
        fill=ink,
        font_weight="600" if bold else None,
        text_anchor=None if anchor == "start" else anchor,
    )


def _safe(text: str) -> str:
    return escape(printable(text))


class Drawing(msgspec.Struct, frozen=True):
    """A diagram, and what is known of its steps at one moment.

    states: the status of each step, a word such as "running"; may be empty.
    details: more about a status, such as "on gpu-1, 1.2 s".
    counts: of a map, how many items it has, where that is known.
    """

    diagram: Diagram
    states: Mapping[str, str] = {}
    details: Mapping[str, str] = {}
    counts: Mapping[str, int] = {}

    @classmethod
    def of_run(cls, diagram: Diagram, steps: Iterable[StepSnapshot]) -> "Drawing":
        """Return the drawing of a run whose steps are as `steps` say."""
        steps = tuple(steps)
        return cls(diagram, states(steps), details(steps), counts(steps))

    @property
    def svg(self) -> str:
        """The picture, a self-contained SVG document."""
        return draw(self.diagram, self.states, self.details, self.counts)

    def live(self) -> Element | None:
        """Return it for a page, not larger than its place; None if it is too large."""
        if not 0 < len(self.diagram.boxes) <= MOST_BOXES:
            return None
        drawn, width, height = elements(
            self.diagram, self.states, self.details, self.counts
        )
        least = SMALLEST * width
        most = max(least, min(width, TALLEST_PX * width / height))
        return element(
            "svg",
            *drawn,
            viewBox=f"0 0 {width:.0f} {height:.0f}",
            style=f"width:100%;min-width:{least:.0f}px;max-width:{most:.0f}px",
            class_="mpreg-scene",
            role="group",
            aria_label="Steps of the workflow",
            data_walk="list",
        )

    def __str__(self) -> str:
        return diagram_text.draw(self.diagram, self.states, self.details, self.counts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = f"Workflow {diagram_text.sentence(self.diagram)}"
        drawn = document_image(self.svg, said)
        return f'{FOLLOWS}<div style="overflow-x:auto">{drawn}</div>'

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        bundle = {"text/plain": str(self), "text/html": self._repr_html_()}
        return {
            mime: content
            for mime, content in bundle.items()
            if (not include or mime in include) and not (exclude and mime in exclude)
        }
