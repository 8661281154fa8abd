"""A diagram as SVG: one self-contained string, without script or link.

It has a style element for dark pages. Where that has no effect it suits them too: all
boxes bring their own ground, and lines are of a grey that shows on white and on black.
A status is told by a mark and a word; its colours only repeat it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from mpreg_nb.view import palette
from mpreg_nb.view.measure import BOLD, cut, width_px
from mpreg_nb.view.palette import STATUSES, Tone, dark_style
from mpreg_nb.view.places import (
    CARD,
    CHIP,
    CHIP_GAP,
    CHIP_PADDING,
    CHIP_ROW,
    FUNCTION,
    MARGIN,
    MARK,
    MOST_BOXES,
    NAME,
    NOTE,
    PADDING,
    SLANT,
    STATUS,
    UNDO_SIZE,
    Arranged,
    Figure,
    Place,
    Undo,
    Way,
    arrange_diagram,
    cards,
    neck,
)
from mpreg_nb.view.text import function_of, printable, sentence
from mpreg_nb.workflow.diagram import Diagram

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LINE, INK, SOFT_INK = palette.LINE.light, palette.INK.light, palette.SOFT.light
GROUND = palette.CARD.light
ORDER_DASH, UNDO_DASH, MISSING_DASH = "5 4", "3 3", "4 3"
LEGEND = "only the order, no result"
LEGEND_WIDTH, LEGEND_HEIGHT = 190.0, 26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a status is drawn. `mark` is a path in a square of 12 by 12."""

    mark: str
    tone: Tone
    dash: str = ""
    filled: bool = False

    @property
    def ink(self) -> str:
        """Colour of border, mark and word."""
        return self.tone.ink.light

    @property
    def ground(self) -> str:
        """Colour inside."""
        return self.tone.ground.light


PLAIN = Look(mark="", tone=palette.IDLE)
LOOKS = {
    status: Look(mark=mark, tone=STATUSES[status], dash=dash, filled=filled)
    for status, mark, dash, filled in (
        ("waiting", "M6 1.5a4.5 4.5 0 1 0 .01 0z", "5 3", False),
        ("running", "M2.5 1l8 5l-8 5z", "", True),
        ("done", "M1.5 6.5l3.2 3.5l6 -8", "", False),
        ("failed", "M2 2l8 8M10 2l-8 8", "", False),
        (
            "skipped",
            "M1.5 1.5l4.5 4.5l-4.5 4.5M6.5 1.5l4.5 4.5l-4.5 4.5",
            "2 3",
            False,
        ),
        ("cancelled", "M2 2h8v8h-8z", "", True),
        ("fallback", "M2.5 1v6.5h7.5M7 4.5l3 3l-3 3", "", False),
        ("undone", "M4.5 1.5l-3 3l3 3M1.5 4.5h5.5a3 3 0 0 1 0 6h-3", "2 3", False),
    )
}


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
    states, details, counts = states or {}, details or {}, counts or {}
    drawn = arrange_diagram(diagram, states, details)
    parts = [_arrow(way, sideways=drawn.sideways) for way in drawn.ways]
    parts += map(_undo, drawn.undos)
    for figure in drawn.figures:
        name = figure.box.name
        said = states.get(name, ""), details.get(name, "")
        parts.append(_box(figure, *said, counts.get(name, 0)))
    if any(way.kind == "order" for way in drawn.ways):
        parts.append(_legend(drawn))
        wide = max(drawn.width, LEGEND_WIDTH + 2 * MARGIN)
        return _document(diagram, parts, wide, drawn.height + LEGEND_HEIGHT)
    return _document(diagram, parts, drawn.width, drawn.height)


# --------------------------------------------------------------------- arrows


def _arrow(way: Way, *, sideways: bool) -> str:
    """A line that leaves and enters along the layers' direction, with a head."""
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
    return _line("".join(ways), dash) + _head(before_tip, tip)


def _line(way: str, dash: str) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{way}" fill="none" stroke="{LINE}" stroke-width="1.5"{dashed}/>'


def _head(before: Place, tip: Place) -> str:
    half = 3.5
    across = (0.0, half) if before[1] == tip[1] else (half, 0.0)
    corners = (
        tip,
        (before[0] - across[0], before[1] - across[1]),
        (before[0] + across[0], before[1] + across[1]),
    )
    return f'<path d="M{" ".join(map(_pair, corners))}z" fill="{LINE}"/>'


def _pair(place: Place) -> str:
    return f"{place[0]:.1f},{place[1]:.1f}"


# ---------------------------------------------------------------------- boxes


def _box(figure: Figure, status: str, detail: str, count: int) -> str:
    look = LOOKS.get(status, PLAIN)
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
    return f"<g><title>{_safe(said)}</title>{''.join(parts)}</g>"


def _shape(figure: Figure, look: Look, stroke: float, dash: str) -> Iterable[str]:
    """Yield the outline: an input leans, a map is a stack of cards."""
    plain = f'fill="{look.ground}" stroke="{look.ink}" stroke-width='
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    paint = f'{plain}"{stroke:g}"{dashed}'
    if figure.box.kind == "input":
        x, y, right, bottom = figure.x, figure.y, figure.x + figure.w, figure.h
        yield (
            f'<path d="M{x + SLANT:.1f},{y:.1f}H{right:.1f}l{-SLANT:.1f},{bottom:.1f}'
            f'H{x:.1f}z" stroke-linejoin="round" {paint}/>'
        )
        return
    behind = cards(figure.box)
    while behind >= 0.0:
        paint_here = f'{plain}"1.2"' if behind else paint
        yield (
            f'<rect x="{figure.x + behind:.1f}" y="{figure.y + behind:.1f}" '
            f'width="{figure.w:.1f}" height="{figure.h:.1f}" rx="6" {paint_here}/>'
        )
        behind -= CARD


def _undo(undo: Undo) -> str:
    said = cut(f"undo {undo.function}", UNDO_SIZE, undo.w - 2 * PADDING)
    words = _text(
        undo.x + undo.w / 2,
        undo.y + undo.h / 2 + 3.7,
        said,
        UNDO_SIZE,
        ink=SOFT_INK,
        anchor="middle",
    )
    return (
        f"<g><title>{_safe(f'{undo.step} is undone by {undo.function}')}</title>"
        f'<rect x="{undo.x:.1f}" y="{undo.y:.1f}" width="{undo.w:.1f}" '
        f'height="{undo.h:.1f}" rx="4" fill="{GROUND}" stroke="{SOFT_INK}" '
        f'stroke-dasharray="{UNDO_DASH}"/>{words}</g>'
    )


def _chips(row: Sequence[str], x: float, line: float, inner: float) -> Iterable[str]:
    for name in row:
        width = min(width_px(name, CHIP) + CHIP_PADDING, inner)
        yield (
            f'<rect x="{x:.1f}" y="{line - 12.0:.1f}" width="{width:.1f}" '
            f'height="16" rx="8" fill="{palette.PAGE.light}" stroke="{LINE}"/>'
        )
        text = cut(name, CHIP, width - CHIP_PADDING)
        yield _text(x + width / 2, line - 0.3, text, CHIP, anchor="middle")
        x += width + CHIP_GAP


def _status(
    look: Look, status: str, detail: str, x: float, line: float, inner: float
) -> Iterable[str]:
    indent = MARK if look.mark else 0.0
    if look.mark:
        yield (
            f'<path d="{look.mark}" transform="translate({x:.1f},{line - 10:.1f})" '
            f'fill="{look.ink if look.filled else "none"}" stroke="{look.ink}" '
            'stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>'
        )
    said = " · ".join(filter(None, (status, detail)))
    yield _text(
        x + indent, line, cut(said, STATUS, inner - indent), STATUS, ink=look.ink
    )


# ------------------------------------------------------------------- document


def _legend(drawn: Arranged) -> str:
    """Say what a dashed arrow means, on a ground of its own."""
    x, y = MARGIN, drawn.height
    middle = y + 9.0
    end = x + 38.0
    return (
        f'<g><rect x="{x:.1f}" y="{y:.1f}" width="{LEGEND_WIDTH:.1f}" height="18" '
        f'rx="4" fill="{GROUND}"/>'
        + _line(f"M{x + 6:.1f},{middle:.1f}H{end - 8:.1f}", ORDER_DASH)
        + _head((end - 8.0, middle), (end, middle))
        + _text(end + 8.0, middle + 3.7, LEGEND, NOTE, ink=SOFT_INK)
        + "</g>"
    )


def _document(
    diagram: Diagram, parts: Iterable[str], width: float, height: float
) -> str:
    drawn = "".join(parts)
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
) -> str:
    weight = ' font-weight="600"' if bold else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{ink}"{weight}'
        f"{side}>{_safe(text)}</text>"
    )


def _safe(text: str) -> str:
    return escape(printable(text))
