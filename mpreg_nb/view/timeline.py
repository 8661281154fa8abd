"""The bars of a run as SVG for a page that gives the colours: a Gantt chart.

Lines and text take the page's ink, so that one drawing suits light and dark.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from mpreg_nb.view.bars import LOOKS, Bar, Lane, bars_of, lanes_of, unit_of
from mpreg_nb.view.measure import cut, width_px
from mpreg_nb.view.palette import PAGE, dark_style
from mpreg_nb.view.steps import nodes
from mpreg_nb.view.tables import safe
from mpreg_nb.view.units import duration
from mpreg_nb.wire.runs import StepState

WIDTH = 960.0
LANE = 26.0
BAR = 18.0
NAMES = 120.0  # room for the names of nodes
AXIS = 40.0
LETTER_PX = 7.4  # mean width, rather too wide
SIZE = 12.0
TICKS = 8
"""About so many numbers stand at the axis."""


def timeline(steps: Sequence[StepState], duration_ms: float) -> str:
    """Return a Gantt chart by node; nothing if no step has begun."""
    bars = bars_of(steps, duration_ms)
    if not bars:
        return ""
    most_ms = max([duration_ms, 1e-3, *(bar.end_ms for bar in bars)])
    lanes = lanes_of(bars, until_ms=most_ms, letters=(WIDTH - NAMES) / LETTER_PX)
    # Labels may stand behind the last bar.
    furthest = max(end for row in lanes.values() for lane in row for _, end in lane)
    px_per_ms = (WIDTH - NAMES - 4.0) / max(most_ms, furthest)
    height = LANE * sum(map(len, lanes.values()))
    drawn = "".join(
        (*_axis(most_ms, px_per_ms, height), *_rows(lanes, px_per_ms)),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {WIDTH:.0f} {height + AXIS:.0f}" width="{WIDTH:.0f}" '
        f'height="{height + AXIS:.0f}" font-size="{SIZE:g}">'
        "<title>Which step ran when, by node</title><defs>"
        '<pattern id="waited" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path d="M0,0V5" stroke="currentColor" '
        'stroke-width="1.6" opacity="0.6"/></pattern></defs>'
        f"{dark_style(drawn)}{drawn}</svg>"
    )


def _axis(most_ms: float, px_per_ms: float, height: float) -> Iterator[str]:
    unit_ms, sign = unit_of(most_ms)
    step = _round_step(most_ms / unit_ms / TICKS)
    for number in range(math.floor(most_ms / unit_ms / step) + 1):
        x = NAMES + number * step * unit_ms * px_per_ms
        yield (
            f'<path d="M{x:.1f},0V{height:.1f}" stroke="currentColor" opacity="0.15"/>'
        )
        yield _text(x, height + 15.0, f"{number * step:g}", anchor="middle")
    middle = NAMES + (WIDTH - NAMES) / 2
    yield _text(
        middle, height + 33.0, f"time since the run started, {sign}", anchor="middle"
    )


def _round_step(least: float) -> float:
    """Return the next of 1, 2, 5, 10 … from `least` on."""
    ten = 10.0 ** math.floor(math.log10(least))
    return next(ten * factor for factor in (1, 2, 5, 10) if ten * factor >= least)


def _rows(lanes: Mapping[str, Sequence[Lane]], px_per_ms: float) -> Iterator[str]:
    y = 0.0
    for node, row in lanes.items():
        if y:
            yield (
                f'<path d="M0,{y:.1f}H{WIDTH:.0f}" stroke="currentColor" '
                'opacity="0.35"/>'
            )
        middle = y + LANE * len(row) / 2 + 4.0
        name = cut(node, SIZE, NAMES - 12.0)
        yield _text(NAMES - 10.0, middle, name, anchor="end")
        for lane in row:
            for bar, end_ms in lane:
                yield _bar(bar, y, px_per_ms, inside=end_ms == bar.end_ms)
            y += LANE


def _bar(bar: Bar, y: float, px_per_ms: float, *, inside: bool) -> str:
    ground, ink = LOOKS[bar.status].light, PAGE.light
    sent, begin, end = (
        NAMES + ms * px_per_ms for ms in (bar.sent_ms, bar.begin_ms, bar.end_ms)
    )
    top = y + (LANE - BAR) / 2
    parts = [f"<title>{safe(_said(bar))}</title>"]
    if begin - sent >= 1.0:
        parts.append(
            f'<rect x="{sent:.1f}" y="{top:.1f}" width="{begin - sent:.1f}" '
            f'height="{BAR:g}" fill="url(#waited)" stroke="currentColor" '
            'stroke-opacity="0.6"/>'
        )
    parts.append(
        f'<rect x="{begin:.1f}" y="{top:.1f}" width="{max(end - begin, 1.0):.1f}" '
        f'height="{BAR:g}" fill="{ground}" stroke="{ground}" stroke-width="0.7"/>'
    )
    if bar.label:
        x = begin + 5.0 if inside else end + 5.0
        room = end - begin - 8.0 if inside else width_px(bar.label, SIZE)
        words = cut(bar.label, SIZE, max(room, 14.0))
        parts.append(_text(x, top + 13.5, words, ink=ink if inside else ""))
    return f"<g>{''.join(parts)}</g>"


def _said(bar: Bar) -> str:
    step = bar.step
    said = [f"{step.name}: {step.status}"]
    if step.node:
        said.append(f"on {nodes(step)}")
    said.append(f"waited {duration(bar.begin_ms - bar.sent_ms)}")
    said.append(f"ran {duration(bar.end_ms - bar.begin_ms)}")
    return ", ".join(said)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", ink: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink or "currentColor"}" '
        f'text-anchor="{anchor}">{safe(text)}</text>'
    )
