"""Small tables for display, as text and as HTML.

The HTML has inline styles only and inherits its colours from the page, so that it
reads the same in a trusted notebook and in a mail, on light ground and on dark.
Every text is escaped; what does not print is written out.
"""

from collections.abc import Collection, Sequence
from html import escape
from typing import TypeAlias

import msgspec

from mpreg_nb.view.diagram_text import clipped, columns, printable
from mpreg_nb.view.palette import IDLE
from mpreg_nb.view.terminal import here

LINE = IDLE.mark
"""Shows on white and on black."""

LEAST_WIDTH = 12
"""Columns of a terminal; texts that are clipped further say nothing."""

# Some pages let tables inherit nothing by themselves.
_TABLE = "border-collapse:collapse;margin:4px 0;color:inherit;font-size:inherit"
_HEAD = f"border:none;border-bottom:1px solid {LINE};font-weight:600"
_CELL = "border:none"
_PADDING = "padding:2px 14px 2px 0"

LONGEST_LINE = 14
"""Letters of a text that is kept on one line where others are wrapped."""


class Marked(msgspec.Struct, frozen=True):
    """A word with a mark before it: status is told by shape and word.

    The colour only repeats it; it must show on white and on black.
    """

    mark: str
    word: str
    ink: str  # of six hexadecimal digits
    is_chip: bool = False  # on a ground of its own


class Long(msgspec.Struct, frozen=True):
    """A text of which at most `most` letters are shown; a front end shows all of it
    when the pointer rests there."""

    text: str
    most: int


class Image(msgspec.Struct, frozen=True):
    """One of our image tags, with its data; left out of tables of text."""

    tag: str


class Shaded(msgspec.Struct, frozen=True):
    """A text on a coloured ground; the colour is deeper for a larger `share`."""

    text: str
    ink: str  # of six hexadecimal digits
    share: float


Cell: TypeAlias = str | Marked | Image | Shaded | Long


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of cells under a head. Columns in `numbers` are aligned to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: Collection[str] = ()
    more: str = ""  # what to say of rows that were left out
    names_cells: bool = False  # in HTML each cell says of which column it is

    def __str__(self) -> str:
        terminal = here()
        head = [printable(name) for name in self.head]
        rows = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(columns, column)) for column in zip(head, *rows, strict=True)]
        left_out: Sequence[str] = ()
        if terminal is not None:
            numbers = [name in self.numbers for name in self.head]
            widths = _fitted(widths, numbers, terminal.width)
            left_out = head[len(widths) :]
        lines = [self._line(head, head, widths)]
        lines += [
            self._line(row, cells, widths)
            for row, cells in zip(rows, self.rows, strict=True)
        ]
        if terminal is not None:
            lines[0] = terminal.bold(lines[0])
            if left_out:
                lines.append(f"(not shown here: {', '.join(left_out)})")
        return "\n".join([*lines, self.more] if self.more else lines)

    def _line(
        self, texts: Sequence[str], cells: Sequence[Cell], widths: Sequence[int]
    ) -> str:
        """Return a line of as many texts as there are widths; the rest is left out."""
        terminal = here()
        parts = []
        for text, cell, width, name in zip(
            texts, cells, widths, self.head, strict=False
        ):
            fitting = clipped(text, width) if columns(text) > width else text
            space = " " * (width - columns(fitting))
            if terminal is not None and isinstance(cell, Marked):
                mark = printable(cell.mark)
                fitting = terminal.inked(mark, cell.ink) + fitting.removeprefix(mark)
            parts.append(space + fitting if name in self.numbers else fitting + space)
        return "  ".join(parts).rstrip()

    @property
    def html(self) -> str:
        """The table as HTML, each row on one line."""
        return self._as_html(wraps=False)

    @property
    def wrapped_html(self) -> str:
        """The table as HTML for a page of any width: long texts take several lines."""
        return self._as_html(wraps=True)

    def _as_html(self, *, wraps: bool) -> str:
        sides = ["right" if name in self.numbers else "left" for name in self.head]
        head = _row("th", _HEAD, sides, self.head, wraps=False)
        names = [
            f' data-column="{safe(name)}"' if self.names_cells else ""
            for name in self.head
        ]
        body = "".join(
            _row("td", _CELL, sides, row, wraps=wraps, names=names) for row in self.rows
        )
        more = f"<div>{safe(self.more)}</div>" if self.more else ""
        return (
            f'<table style="{_TABLE}"><thead>{head}</thead>'
            f"<tbody>{body}</tbody></table>{more}"
        )


def _fitted(widths: Sequence[int], numbers: Sequence[bool], most: int) -> list[int]:
    """Return the widths of the columns that fit into `most` in all.

    Texts are clipped first, the widest most; then columns at the end are left out.

    >>> _fitted([4, 30, 20], [False, False, True], 60)
    [4, 30, 20]
    >>> _fitted([4, 30], [False, False], 20)
    [4, 14]
    >>> _fitted([10, 10, 10], [False, True, True], 25)
    [10, 10]
    """
    fitted = list(widths)

    def excess() -> int:
        return sum(fitted) + 2 * (len(fitted) - 1) - most

    while excess() > 0:
        texts = [at for at in range(len(fitted)) if not numbers[at]]
        widest = max(texts, key=lambda at: fitted[at], default=0)
        if fitted[widest] > LEAST_WIDTH:
            fitted[widest] = max(LEAST_WIDTH, fitted[widest] - excess())
        elif len(fitted) > 1:
            fitted.pop()
        else:
            break
    return fitted


def safe(text: str) -> str:
    """Return `text` for HTML, with what does not print written as an escape."""
    return escape(printable(text))


def _row(
    tag: str,
    style: str,
    sides: Sequence[str],
    cells: Sequence[Cell],
    *,
    wraps: bool,
    names: Sequence[str] | None = None,
) -> str:
    inner = "".join(
        f'<{tag}{name} style="{style};{_place(cell, wraps=wraps)};text-align:{side}">'
        f"{_html(cell)}</{tag}>"
        for cell, side, name in zip(
            cells, sides, names or [""] * len(sides), strict=True
        )
    )
    # A row's ground is the page's: some pages stripe tables, in their own colours.
    return f"<tr>{inner}</tr>"


def _place(cell: Cell, *, wraps: bool) -> str:
    if not wraps:
        return f"{_PADDING};white-space:nowrap"
    if len(_text(cell)) <= LONGEST_LINE:
        return f"{_PADDING};white-space:nowrap;vertical-align:top"
    wide = "white-space:normal;overflow-wrap:anywhere;min-width:6.5em"
    return f"{_PADDING};{wide};vertical-align:top"


def _text(cell: Cell) -> str:
    if isinstance(cell, Image):
        return ""
    if isinstance(cell, Shaded):
        return printable(cell.text)
    if isinstance(cell, Long):
        return clipped(printable(cell.text), cell.most)
    if isinstance(cell, Marked):
        return printable(f"{cell.mark} {cell.word}")
    return printable(cell)


def _html(cell: Cell) -> str:
    if isinstance(cell, Image):
        return cell.tag
    if isinstance(cell, Shaded):
        # At most so deep that the page's own ink is read on it, light or dark.
        alpha = 0.04 + 0.36 * min(1.0, max(0.0, cell.share))
        style = f"{_ground(cell.ink, alpha)};padding:1px 5px;border-radius:3px"
        return f'<span style="{style}">{safe(cell.text)}</span>'
    if isinstance(cell, Long):
        return f'<span title="{safe(cell.text)}">{safe(_text(cell))}</span>'
    if isinstance(cell, Marked):
        mark = f'<span style="color:{cell.ink}">{safe(cell.mark)}</span>'
        if not cell.is_chip:
            return f"{mark} {safe(cell.word)}"
        style = f"{_ground(cell.ink, 0.16)};padding:1px 8px 1px 6px;border-radius:9px"
        return f'<span style="{style}">{mark} {safe(cell.word)}</span>'
    return safe(cell)


def _ground(ink: str, alpha: float) -> str:
    red, green, blue = bytes.fromhex(ink.removeprefix("#"))
    return f"background-color:rgba({red},{green},{blue},{alpha:.2f})"
