"""What the views of a panel have in common: plots, axes, curves, tables, tips."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mpreg_nb.view.format import cut, text_width
from mpreg_nb.view.images import image
from mpreg_nb.view.markup import Element, Node, element, percent, svg_markup
from mpreg_nb.view.palette import BUSY, GRID, INK, SOFT

NOTHING = "\N{EN DASH}"

Tip = list[Any]
"""[title, [[name, value], ...], note]; a value that is a number is a moment, which the
script shows as the time since then."""

TEXT_SIZE = 11.0


def tip(title: str, *rows: tuple[str, str | float] | None, note: str = "") -> Tip:
    """Return what an element shows when it is pointed at; None leaves a row out."""
    return [title, [list(row) for row in rows if row is not None], note]


def said(told: Tip) -> str:
    """Return a tip as one sentence, for screen readers."""
    title, rows, note = told
    figures = ", ".join(f"{name} {value}" for name, value in rows)
    return ". ".join(filter(None, (f"{title}: {figures}" if figures else title, note)))


def empty(sentence: str, code: str = "") -> list[Element]:
    """Return what a view shows as long as it has no data."""
    example = element("code", code) if code else None
    return [element("p", element("span", sentence), example, class_="mpreg-empty")]


def text(x: str | float, y: float, words: str, **more: Any) -> Element:
    """Return a text of an image; small and soft, unless `more` says otherwise."""
    style: dict[str, Any] = {"font_size": TEXT_SIZE, "fill": SOFT.light, **more}
    return element("text", words, x=x, y=y, **style)


# ---------------------------------------------------------------------- plots


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing as wide as its place: x in percent of the plot, y in pixels.

    left, right: room for what stands beside the plot, in pixels.
    """

    left: float
    right: float
    height: float
    content: Sequence[Element]

    def live(self, **attributes: Any) -> Element:
        """Return it for a page."""
        style = (
            f"margin-left:{self.left:.0f}px;overflow:visible;display:block;"
            f"width:calc(100% - {self.left + self.right:.0f}px)"
        )
        return element(
            "svg", *self.content, height=self.height, style=style, **attributes
        )

    def still(self, width: float, *, top: float = 0.0) -> Element:
        """Return it as a part of an image that is `width` pixels wide."""
        inner = width - self.left - self.right
        return element(
            "svg",
            *self.content,
            x=self.left,
            y=top,
            width=inner,
            height=self.height,
            overflow="visible",
        )


def still_image(plots: Sequence[Plot], width: float, title: str) -> str:
    """Return plots below each other as an image."""
    parts, top = [], 0.0
    for plot in plots:
        parts.append(svg_markup(plot.still(width, top=top)))
        top += plot.height
    return image("".join(parts), width, top, title)


def names_beside(names: Sequence[str], most: float = 120.0) -> tuple[list[str], float]:
    """Return names cut for the left of a plot, and how much room they take."""
    shown = [cut(name, 12.0, most) for name in names]
    widths = (text_width(name, 12.0) for name in shown)
    return shown, 12.0 + min(most, max(40.0, *widths))


def name_at(y: float, words: str) -> Element:
    """Return a name to the left of a plot."""
    return text(-8, y, words, font_size=12, fill=INK.light, text_anchor="end")


# ----------------------------------------------------------------------- axes


def linear_ticks(most: float, wanted: int) -> list[float]:
    """Return round steps from 0 to at least `most`, about `wanted` of them.

    >>> linear_ticks(87.0, 4)
    [0.0, 50.0, 100.0]
    """
    rough = (most if most > 0 else 1.0) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    top = math.ceil(most / step - 1e-9) or 1
    return [float(f"{place * step:.12g}") for place in range(top + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from below `least` to above `most`.

    Over more than two decades only the powers between.

    >>> log_ticks(3.0, 80.0)
    [2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    """
    low = _round(least, down=True)
    high = max(_round(most, down=False), low * 2)
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{size * 10.0**p:.6g}") for p in powers for size in (1, 2, 5)]
    wide = high / low > 200
    kept = [
        tick
        for tick in ticks
        if low <= tick <= high
        and (tick in (low, high) or not wide or f"{tick:e}".startswith("1.0000"))
    ]
    return kept if kept[-1] == high else [*kept, high]


def _round(value: float, *, down: bool) -> float:
    """Return the nearest of 1, 2, 5 times a power of ten, below `value` or above it."""
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    factor = value / power
    if down:
        size = max(size for size in (1, 2, 5, 10) if size <= factor + 1e-9)
    else:
        size = min(size for size in (1, 2, 5, 10) if size >= factor - 1e-9)
    return float(f"{size * power:.6g}")


def shares(ticks: Sequence[float], value: float, *, logarithmic: bool) -> float:
    """Return where a value is between the first tick, 0, and the last one, 1."""
    low, high = ticks[0], ticks[-1]
    if logarithmic:
        low, high, value = map(math.log10, (low, high, max(value, low)))
    return max(0.0, min(1.0, (value - low) / (high - low)))


def spread(
    wanted: Sequence[float], gap: float, top: float, bottom: float
) -> list[float]:
    """Return heights of labels, moved apart so that none covers another.

    >>> spread([50.0, 52.0, 20.0], 13.0, 0.0, 100.0)
    [50.0, 63.0, 20.0]
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    heights = list(wanted)
    least = top
    for place in order:
        heights[place] = max(heights[place], least)
        least = heights[place] + gap
    most = bottom
    for place in reversed(order):
        heights[place] = min(heights[place], most)
        most = heights[place] - gap
    return heights


def times_below(
    top: float, seconds: Sequence[float], window_s: float, *, last: str = "end"
) -> list[Element]:
    """Return ticks of seconds before now, below a plot of the last `window_s`."""
    drawn = []
    for before in seconds:
        x = percent(1 - before / window_s)
        words = f"\N{MINUS SIGN}{before:g} s" if before else "now"
        drawn += [
            element("line", x1=x, x2=x, y1=top, y2=top + 5, stroke=GRID.light),
            text(x, top + 18, words, text_anchor="middle" if before else last),
        ]
    return drawn


# --------------------------------------------------------------------- curves

SPARK_WIDTH, SPARK_HEIGHT = 54, 18
FINE = 10
"""Parts of a pixel that the points of a curve are rounded to: short whole numbers."""


def spark(numbers: Sequence[float], *, least: float, zero: bool = False) -> Element:
    """Return the course of one number, newest last, as a small curve.

    least: the smallest range that the height stands for.
    zero: whether the lower border is 0, else the smallest number.
    """
    box = {"viewBox": f"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}", "aria_hidden": "true"}
    if len(numbers) < 2:
        return element("svg", class_="mpreg-spark", **box)
    way, start, end = _curve(numbers, least=least, zero=zero)
    ink, scale = BUSY.ink.light, f"scale({1 / FINE:g})"
    floor = f"V{SPARK_HEIGHT * FINE}H{start}z"
    line = {"fill": "none", "stroke": ink, "stroke_width": f"{1.4 * FINE:g}"}
    dot = element("circle", cx=end[0] / FINE, cy=end[1] / FINE, r="1.8", fill=ink)
    return element(
        "svg",
        element("path", d=way + floor, fill=ink, opacity="0.14", transform=scale),
        element("path", d=way, transform=scale, stroke_linejoin="round", **line),
        dot,
        class_="mpreg-spark",
        **box,
    )


def _curve(
    numbers: Sequence[float], *, least: float, zero: bool
) -> tuple[str, int, tuple[int, int]]:
    """Return a path in parts of a pixel, where it starts, and its last point."""
    low, high = (0.0 if zero else min(numbers)), max(numbers)
    if high - low < least:
        middle = least / 2 if zero else (high + low) / 2
        low, high = middle - least / 2, middle + least / 2
    step = FINE * (SPARK_WIDTH - 4) / max(11, len(numbers) - 1)
    first = FINE * (SPARK_WIDTH - 2) - step * (len(numbers) - 1)
    bottom, scale = FINE * (SPARK_HEIGHT - 2), FINE * (SPARK_HEIGHT - 4) / (high - low)
    xs = [round(first + step * place) for place in range(len(numbers))]
    ys = [round(bottom - (value - low) * scale) for value in numbers]
    moves = [
        f"{x - before_x} {y - before_y}"
        for x, y, before_x, before_y in zip(xs[1:], ys[1:], xs, ys, strict=False)
    ]
    return f"M{xs[0]} {ys[0]}l{' '.join(moves)}", xs[0], (xs[-1], ys[-1])


def spark_image(
    numbers: Sequence[float], title: str, *, least: float, zero: bool = False
) -> str:
    """Return the curve of `spark` as an image; "" for fewer than two numbers."""
    if len(numbers) < 2:
        return ""
    _, line, dot = spark(numbers, least=least, zero=zero)[2:]
    drawn = svg_markup(line) + svg_markup(dot)
    return image(drawn, SPARK_WIDTH, SPARK_HEIGHT, title)


def bar(part: float, whole: float, words: str) -> Element:
    """Return how much of a whole is taken, as a bar with its text."""
    share = min(1.0, part / whole) if whole > 0 else 0.0
    fill = element("span", class_="mpreg-bar-fill", style=f"width:{100 * share:.0f}%")
    return element(
        "span",
        element("span", fill, class_="mpreg-bar", aria_hidden="true"),
        element("span", words, class_="mpreg-number"),
        class_="mpreg-bar-line",
    )


# --------------------------------------------------------------------- tables


class Column(msgspec.Struct, frozen=True):
    """A column of a table that the reader can sort by, unless `sorts` is False."""

    key: str
    word: str
    hint: str
    number: bool = False
    sorts: bool = True

    def head(self) -> Element:
        """Return the cell at its head."""
        if self.sorts:
            inner = element(
                "button",
                element("span", self.word),
                element("span", class_="mpreg-arrow", aria_hidden="true"),
                type="button",
                title=self.hint,
                data_first="down" if self.number else "up",
            )
        else:
            inner = element("span", self.word, title=self.hint)
        side = "mpreg-right" if self.number else None
        return element("th", inner, scope="col", class_=side, data_column=self.key)


def table_row(
    columns: Sequence[Column],
    key: str,
    cells: Sequence[Node],
    sort: Mapping[str, Any],
) -> Element:
    """Return a row of a table; its first cell is the header of the row.

    sort: of each column that sorts, the value of the row.
    """
    drawn = [
        element(
            "td" if place else "th",
            cell,
            scope=None if place else "row",
            class_="mpreg-right" if column.number else None,
            data_column=column.key,
        )
        for place, (cell, column) in enumerate(zip(cells, columns, strict=True))
    ]
    return element("tr", *drawn, key=key, sort=dict(sort))


def table(
    label: str, columns: Sequence[Column], rows: Sequence[Element], **attributes: Any
) -> Element:
    """Return a table of rows that `table_row` made."""
    inner = element(
        "table",
        element("caption", label, class_="mpreg-hidden"),
        element("thead", element("tr", *(column.head() for column in columns))),
        element("tbody", *rows),
        class_="mpreg-table",
    )
    return scrolled(inner, label, **attributes)


def scrolled(inner: Element, label: str, **attributes: Any) -> Element:
    """Return what scrolls where it is larger than its place."""
    return element(
        "div",
        inner,
        class_="mpreg-scroll mpreg-figure",
        role="group",
        aria_label=label,
        **attributes,
    )


def figure_cell(words: str) -> Element:
    """Return a cell with a number."""
    return element("span", words, class_="mpreg-number")


def name_cell(words: str, **attributes: Any) -> Element:
    """Return a cell with a name, which a narrow page cuts."""
    return element("span", words, class_="mpreg-name", **attributes)


def choice(label: str, name: str, values: Mapping[str, str]) -> Element:
    """Return buttons of which one is pressed; the view gets it as `data-<name>`."""
    return element(
        "div",
        element("span", label, class_="mpreg-soft"),
        *(
            element("button", word, type="button", data_choose=f"{name}={value}")
            for value, word in values.items()
        ),
        class_="mpreg-choice",
        role="group",
        aria_label=label,
    )


def key_of(
    word: str, *drawn: Element, title: str | None = None, width: int = 12
) -> Element:
    """Return an entry of a legend."""
    return element(
        "span",
        element(
            "svg",
            *drawn,
            viewBox=f"0 0 {width} 12",
            aria_hidden="true",
            style=f"width:{width}px",
        ),
        element("span", word, class_="mpreg-name"),
        class_="mpreg-badge",
        title=title,
    )


def whole(number: float | None) -> str:
    """Return a number without digits after the point."""
    return NOTHING if number is None else f"{number:,.0f}"


def seconds(s: float | None) -> str:
    """Return a time of seconds to days.

    >>> seconds(42), seconds(75), seconds(7300), seconds(200_000)
    ('42 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if s is None:
        return NOTHING
    minutes, rest = divmod(round(s), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def megabytes(mb: float | None) -> str:
    """Return a size of memory, with three digits at most."""
    if mb is None:
        return NOTHING
    return f"{mb:,.0f} MB" if mb < 999.5 else f"{mb / 1000:.1f} GB"


def per_second(rate: float) -> str:
    """Return a rate with about three digits.

    >>> per_second(0), per_second(0.42), per_second(12.4), per_second(1234)
    ('0', '0.42', '12', '1,234')
    """
    if rate >= 9.95:
        return f"{rate:,.0f}"
    return f"{rate:.1f}" if rate >= 0.995 else f"{rate:.2g}"


def natural(name: str) -> tuple[tuple[bool, Any], ...]:
    """Return what sorts names as people count: n2 before n10.

    >>> sorted(["n10", "n2", "a"], key=natural)
    ['a', 'n2', 'n10']
    """
    parts = re.split(r"(\d+)", name.lower())
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else part) for part in parts
    )
