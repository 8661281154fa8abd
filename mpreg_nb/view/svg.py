"""A diagram as SVG: one self-contained string, without script, style or link.

All boxes bring their own light ground, and lines are of a grey that shows on white
and on black, so that the drawing suits light and dark pages. A status is told by
a mark and a word; its colours (after Okabe and Ito, "Color Universal Design",
2008) only repeat it.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from mpreg_nb.view.layout import Layout, Point, Size, arrange
from mpreg_nb.view.text import clipped, printable, sentence
from mpreg_nb.workflow.diagram import Box, Diagram

MOST_BOXES = 400
"""A drawing of more could not be read, and would bloat the notebook."""

WIDEST_PX = 960
"""Room in a notebook; what is wider goes from top to bottom, if that helps."""

MARGIN = 8.0
PADDING = 10.0
NARROWEST, WIDEST = 104.0, 232.0  # of a box, in pixels
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LINE = "#7d8590"
INK, SOFT_INK = "#1f2328", "#57606a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a status is drawn. `mark` is a path in a square of 12 by 12."""

    mark: str
    ink: str
    ground: str
    dash: str = ""
    filled: bool = False


PLAIN = Look(mark="", ink="#57606a", ground="#f6f8fa")
LOOKS = {
    "waiting": Look(
        mark="M6 1.5a4.5 4.5 0 1 0 .01 0z", ink="#57606a", ground="#f6f8fa", dash="5 3"
    ),
    "running": Look(
        mark="M2.5 1l8 5l-8 5z", ink="#005f9e", ground="#e3f1fb", filled=True
    ),
    "done": Look(mark="M1.5 6.5l3.2 3.5l6 -8", ink="#00694f", ground="#e2f4ee"),
    "failed": Look(mark="M2 2l8 8M10 2l-8 8", ink="#b23c00", ground="#fdebe0"),
    "skipped": Look(
        mark="M1.5 1.5l4.5 4.5l-4.5 4.5M6.5 1.5l4.5 4.5l-4.5 4.5",
        ink="#75507b",
        ground="#f5eff7",
        dash="2 3",
    ),
    "cancelled": Look(
        mark="M2 2h8v8h-8z", ink="#7a5c00", ground="#fbf3da", filled=True
    ),
}


def draw(
    diagram: Diagram,
    states: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
) -> str:
    """Return `diagram` as an SVG document.

    states: the status of each step, a word such as "running"; shown on its box.
    details: more about the status, such as "on gpu-1, 1.2 s".
    """
    if len(diagram.boxes) > MOST_BOXES:
        text = (
            f"{len(diagram.boxes):,} steps are too many to draw. "
            "flow.plan() and run.frame() list them"
        )
        return _document(diagram, [_text(0.0, 16.0, text, ink=LINE)], 520.0, 24.0)
    states, details = states or {}, details or {}
    figures = [_Figure(box, states, details) for box in diagram.boxes]
    width = max((figure.width for figure in figures), default=NARROWEST)
    for figure in figures:
        figure.fit(width)
    layout, sideways = _layout(diagram, figures, width)

    dashed = {(a.source, a.target) for a in diagram.arrows if a.order_only}
    parts = [
        _arrow(points, sideways=sideways, dashed=edge in dashed)
        for edge, points in layout.edges.items()
    ]
    for figure in figures:
        x, y = _place(layout.boxes[figure.box.name], sideways=sideways)
        parts.append(figure.draw(x - width / 2, y - figure.height / 2))
    along, across = layout.size.along, layout.size.across
    size = (along, across) if sideways else (across, along)
    return _document(diagram, parts, *size)


def _layout(
    diagram: Diagram, figures: Sequence["_Figure"], width: float
) -> tuple[Layout, bool]:
    """Arrange from left to right, or from top to bottom if only that is narrow."""
    edges = [(arrow.source, arrow.target) for arrow in diagram.arrows]
    flat = {f.box.name: Size(along=width, across=f.height) for f in figures}
    sideways = arrange(flat, edges, layer_gap=44.0, box_gap=14.0)
    if sideways.size.along <= WIDEST_PX:
        return sideways, True
    tall = {f.box.name: Size(along=f.height, across=width) for f in figures}
    downwards = arrange(tall, edges, layer_gap=34.0, box_gap=18.0)
    if sideways.size.along <= downwards.size.across:
        return sideways, True
    return downwards, False


def _place(point: Point, *, sideways: bool) -> tuple[float, float]:
    return (point.along, point.across) if sideways else (point.across, point.along)


def _arrow(points: Sequence[Point], *, sideways: bool, dashed: bool) -> str:
    """A line that leaves and enters along the layers' direction, with a head."""
    head_length, head_half = 8.0, 3.5
    end, before = points[-1], points[-2]
    step = -head_length if end.along >= before.along else head_length
    neck = Point(end.along + step, end.across)
    ways = [f"M{_pair(points[0], sideways)}"]
    for left, right in pairwise((*points[:-1], neck)):
        if left.across == right.across:
            ways.append(f"L{_pair(right, sideways)}")
            continue
        middle = (left.along + right.along) / 2
        first, second = Point(middle, left.across), Point(middle, right.across)
        bend = " ".join(_pair(point, sideways) for point in (first, second, right))
        ways.append(f"C{bend}")
    corners = (
        end,
        Point(neck.along, end.across - head_half),
        Point(neck.along, end.across + head_half),
    )
    head = " ".join(_pair(corner, sideways) for corner in corners)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="{"".join(ways)}" fill="none" stroke="{LINE}" '
        f'stroke-width="1.5"{dash}/>'
        f'<path d="M{head}z" fill="{LINE}"/>'
    )


def _pair(point: Point, sideways: bool) -> str:
    x, y = _place(point, sideways=sideways)
    return f"{x:.1f},{y:.1f}"


class _Figure:
    """One box: what is written in it, and how much room that takes."""

    def __init__(
        self, box: Box, states: Mapping[str, str], details: Mapping[str, str]
    ) -> None:
        self.box = box
        self.status = states.get(box.name, "")
        self.detail = details.get(box.name, "")
        self.look = LOOKS.get(self.status, PLAIN)
        self.function = "not there yet" if box.missing else box.function
        self.notes = " · ".join(box.notes)
        self.said = " · ".join(filter(None, (self.status, self.detail)))
        lines = [
            (box.name, 13.0, 1.08),
            (self.function, 11.5, 1.0),
            (self.notes, 10.5, 1.0),
            (self.said, 11.0, 1.04),
        ]
        needed = [_width(text, size) * bold for text, size, bold in lines]
        needed[3] += 16.0 if self.status else 0.0
        chips = [_width(name, 10.5) + 12.0 for name in box.resources[:2]]
        needed.append(sum(chips) + 4.0)  # two side by side, where that fits
        self.width = min(WIDEST, max(NARROWEST, max(needed) + 2 * PADDING))
        self.rows: list[list[str]] = []
        self.height = 0.0

    def fit(self, width: float) -> None:
        """Break the resources into rows for a box of `width`; that gives its height."""
        self.width = width
        self.rows = []
        free = 0.0
        for name in self.box.resources:
            taken = min(_width(name, 10.5) + 12.0, self._inner)
            if taken > free:
                self.rows.append([])
                free = self._inner
            self.rows[-1].append(name)
            free -= taken + 4.0
        self.height = (
            2 * PADDING
            + 15.0
            + (16.0 if self.function else 0.0)
            + 20.0 * len(self.rows)
            + (15.0 if self.notes else 0.0)
            + (19.0 if self.status else 0.0)
        )

    @property
    def _inner(self) -> float:
        return self.width - 2 * PADDING

    def draw(self, x: float, y: float) -> str:
        """Return the box with its left upper corner at `x`, `y`."""
        look = self.look
        dash = "4 3" if self.box.missing else look.dash
        left, line = x + PADDING, y + PADDING + 12.0
        parts = [
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{self.width:.1f}" '
            f'height="{self.height:.1f}" rx="6" fill="{look.ground}" '
            f'stroke="{look.ink}" stroke-width="{2.0 if self.status else 1.2}"'
            + (f' stroke-dasharray="{dash}"/>' if dash else "/>"),
            _text(left, line, self._cut(self.box.name, 13.0, 1.08), 13.0, bold=True),
        ]
        if self.function:
            line += 16.0
            text = self._cut(self.function, 11.5)
            parts.append(_text(left, line, text, 11.5, ink=SOFT_INK))
        for row in self.rows:
            line += 20.0
            parts += self._chips(row, left, line)
        if self.notes:
            line += 15.0 + (3.0 if self.rows else 0.0)
            text = self._cut(self.notes, 10.5)
            parts.append(_text(left, line, text, 10.5, ink=SOFT_INK))
        if self.status:
            line = y + self.height - PADDING - 1.0
            parts += self._status(left, line)
        said = ", ".join(filter(None, (self.box.name, self.status, self.detail)))
        return f"<g><title>{_safe(said)}</title>{''.join(parts)}</g>"

    def _chips(self, row: Iterable[str], x: float, line: float) -> Iterable[str]:
        for name in row:
            width = min(_width(name, 10.5) + 12.0, self._inner)
            yield (
                f'<rect x="{x:.1f}" y="{line - 12.0:.1f}" width="{width:.1f}" '
                f'height="16" rx="8" fill="#ffffff" stroke="#8c959f"/>'
            )
            text = _cut(name, 10.5, width - 12.0)
            yield _text(x + width / 2, line - 0.3, text, 10.5, anchor="middle")
            x += width + 4.0

    def _status(self, x: float, line: float) -> Iterable[str]:
        look = self.look
        indent = 17.0 if look.mark else 0.0
        if look.mark:
            yield (
                f'<path d="{look.mark}" transform="translate({x:.1f},{line - 10:.1f})" '
                f'fill="{look.ink if look.filled else "none"}" stroke="{look.ink}" '
                'stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>'
            )
        said = _cut(self.said, 11.0, self._inner - indent)
        yield _text(x + indent, line, said, 11.0, ink=self.look.ink)

    def _cut(self, text: str, size: float, bold: float = 1.0) -> str:
        return _cut(text, size * bold, self._inner)


def _document(
    diagram: Diagram, parts: Iterable[str], width: float, height: float
) -> str:
    width, height = width + 2 * MARGIN, height + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="{-MARGIN:.0f} {-MARGIN:.0f} {width:.0f} '
        f'{height:.0f}" font-family="{FONT}">'
        f"<title>Workflow {_safe(diagram.name)}</title>"
        f"<desc>{_safe(sentence(diagram))}</desc>{''.join(parts)}</svg>"
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
) -> str:
    weight = ' font-weight="600"' if bold else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{ink}"{weight}'
        f"{side}>{_safe(text)}</text>"
    )


def _safe(text: str) -> str:
    return escape(printable(text))


def _cut(text: str, size: float, room: float) -> str:
    """Leave out the middle of what is wider than `room`."""
    text = printable(text)
    most = len(text)
    while most > 3 and _width(clipped(text, most), size) > room + 0.5:
        most -= 1
    return clipped(text, most)


def _width(text: str, size: float) -> float:
    """Estimate pixels: fonts differ from page to page, so rather too many."""
    return size * sum(map(_share, printable(text)))


def _share(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in "iljtfrI.,:;'!|()[]{} -·/":
        return 0.4
    if character in "mwMW@%—…" or character.isupper():
        return 0.8 if character.isupper() and character not in "MW" else 0.98
    return 0.62
