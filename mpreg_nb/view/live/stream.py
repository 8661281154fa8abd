"""The calls of the last minute as an image: a row a slot, coloured by function."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mpreg_nb.view.format import cut, text_width
from mpreg_nb.view.images import image
from mpreg_nb.view.palette import BAD, CARD, HUES, INK, PAGE, SOFT

WIDTH = 760.0
NAMES = 120.0
ROW, BAR, GAP = 13.0, 11.0, 4.0
AXIS, KEY = 20.0, 20.0
MOST_ROWS = 64
SIZE = 11.0


def stream(picture: Mapping[str, Any]) -> str:
    """Return an image of the bars of a picture of calls."""
    px_per_ms = (WIDTH - NAMES) / (picture["window_s"] * 1e3)
    hues = [HUES[function["hue"]].light for function in picture["functions"]]
    drawn, y, rows = [], GAP, 0
    for node in picture["nodes"]:
        slots: Sequence[Any] = node["slots"][: MOST_ROWS - rows]
        if not slots:
            break
        rows += len(slots)
        name = escape(cut(node["node"], SIZE, NAMES - 12.0))
        middle = y + len(slots) * ROW / 2 + 3.5
        drawn.append(_text(NAMES - 8.0, middle, name, INK.light, anchor="end"))
        for bars in slots:
            drawn.append(
                f'<rect x="{NAMES:.0f}" y="{y:.1f}" width="{WIDTH - NAMES:.0f}" '
                f'height="{BAR:g}" fill="{CARD.light}"/>'
            )
            for bar in bars:
                drawn += _bar(bar, y, px_per_ms, hues[bar["function"]])
            y += ROW
        y += GAP
    drawn.append(_text(NAMES, y + 11.0, "1 min ago", SOFT.light))
    drawn.append(_text(WIDTH, y + 11.0, "now", SOFT.light, anchor="end"))
    y += AXIS
    keys, height = _keys(picture["functions"], hues, y)
    drawn += keys
    title = "what each slot ran in the last minute, by function"
    return image("".join(drawn), WIDTH, height, title)


def _bar(bar: Mapping[str, Any], y: float, px_per_ms: float, hue: str) -> Iterator[str]:
    left = max(NAMES, WIDTH + bar["start_ms"] * px_per_ms)
    width = max(1.0, WIDTH + bar["end_ms"] * px_per_ms - left)
    yield (
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR:g}" '
        f'fill="{hue}"/>'
    )
    if bar["failed"]:
        # Told by a form too: a cross on a gap in the bar.
        middle = left + width / 2
        yield (
            f'<rect x="{middle - 4:.1f}" y="{y:.1f}" width="8" height="{BAR:g}" '
            f'fill="{PAGE.light}"/><path d="M{middle - 3:.1f},{y + 2.5:.1f}l6,6m-6,0'
            f'l6,-6" stroke="{BAD.ink.light}" stroke-width="2"/>'
        )


def _keys(
    functions: Sequence[Mapping[str, Any]], hues: Sequence[str], top: float
) -> tuple[list[str], float]:
    """Return which hue is which function, and where that ends."""
    drawn, x, y = [], NAMES, top
    for function, hue in zip(functions, hues, strict=True):
        words = cut(function["function"], SIZE, 180.0)
        width = 28.0 + text_width(words, SIZE)
        if x > NAMES and x + width > WIDTH:
            x, y = NAMES, y + KEY
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="10" height="10" fill="{hue}"/>'
        )
        drawn.append(_text(x + 14.0, y + 9.0, escape(words), SOFT.light))
        x += width
    return drawn, y + KEY


def _text(x: float, y: float, text: str, ink: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{SIZE:g}" fill="{ink}" '
        f'text-anchor="{anchor}">{text}</text>'
    )
