"""The Gantt chart of a run: bars by node, and their SVG.

Lines and text take the page's ink, so that one drawing suits light and dark.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.units import duration
from mpreg_nb.view.diagram_text import MARKS, clipped, printable
from mpreg_nb.view.format import cut, nodes, status, text_width
from mpreg_nb.view.palette import PAGE, STATUSES, dark_style
from mpreg_nb.view.tables import safe

MOST_LABELS = 80
"""With more bars, only those that hold their label have one."""

MOST_NAMED = 6
"""Of the steps that did not begin, so many are named."""

SEVERAL = "several"
"""Where a map ran, instead of the name of a node."""

TOUCHING_MS = 0.01
"""Bars that overlap by less follow each other: times are of several clocks."""

LOOKS = {
    status: STATUSES[status].ink
    for status in ("done", "running", "failed", "cancelled", "fallback", "undone")
}
"""Status -> colour of the bar; what is written in it has the colour of the page."""

UNITS = ((1_500.0, 1.0, "ms"), (90_000.0, 1e3, "s"), (float("inf"), 60e3, "min"))
"""Until how many milliseconds, milliseconds of one, and its sign."""


class Bar(msgspec.Struct, frozen=True):
    """A step that started, in milliseconds after the start of the run."""

    step: StepSnapshot
    sent_ms: float  # from here on it waited on its node
    begin_ms: float
    end_ms: float
    label: str

    @property
    def status(self) -> str:
        """The status that decides the look of the bar."""
        return self.step.status if self.step.status in LOOKS else "running"


Lane = list[tuple[Bar, float]]
"""Bars that follow each other, each with where it ends, its label included."""


def bars_of(steps: Iterable[StepSnapshot], duration_ms: float) -> list[Bar]:
    """Return a bar for each started step; running steps end at `duration_ms`."""
    return [_bar(step, duration_ms) for step in steps if step.started_ms is not None]


def lanes_of(
    bars: Sequence[Bar], *, until_ms: float, letters: float
) -> dict[str, list[Lane]]:
    """Give each node as many lanes as its bars and their labels need.

    A label that its bar cannot hold stands behind it and takes room there. With
    many bars it is cut to the mark of the status instead.

    until_ms: where the last bar ends; letters: how many the axis has room for.
    """
    labelled = len(bars) <= MOST_LABELS
    letter_ms = max(until_ms, 1e-6) / letters
    if labelled:
        # Labels behind the last bars make the axis longer, and so each letter.
        ends_ms = [_end_ms(bar, letter_ms, letters) for bar in bars]
        letter_ms = max([until_ms, *ends_ms, 1e-6]) / letters
    lanes: dict[str, list[Lane]] = {}
    for bar in sorted(bars, key=_place):
        label_ms = letter_ms * (len(bar.label) + 1)
        if label_ms <= bar.end_ms - bar.begin_ms:
            label_ms = 0.0
        elif not labelled:
            mark = "" if bar.step.status == "done" else MARKS[bar.step.status]
            bar, label_ms = replace(bar, label=mark), 0.0
        end_ms = bar.end_ms + label_ms
        row = lanes.setdefault(_place(bar)[1], [])
        for lane in row:
            if lane[-1][1] <= bar.sent_ms + TOUCHING_MS:
                lane.append((bar, end_ms))
                break
        else:
            row.append([(bar, end_ms)])
    return lanes


def not_begun(steps: Iterable[StepSnapshot]) -> str:
    """Return a sentence with the steps that have no bar; "" if all have one."""
    idle = [
        f"{clipped(printable(step.name), 24)} ({step.status})"
        for step in steps
        if step.started_ms is None
    ]
    if not idle:
        return ""
    more = len(idle) - MOST_NAMED
    said = ", ".join(idle[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return f"not started: {said}"


def unit_of(most_ms: float) -> tuple[float, str]:
    """Return milliseconds of the unit for times up to `most_ms`, and its sign.

    >>> unit_of(4_000.0)
    (1000.0, 's')
    """
    return next((unit, sign) for until, unit, sign in UNITS if most_ms < until)


def _end_ms(bar: Bar, letter_ms: float, letters: float) -> float:
    """Return the end of an axis with room for the label of `bar`."""
    needed = len(bar.label) + 1
    if needed * letter_ms <= bar.end_ms - bar.begin_ms:
        return bar.end_ms
    return bar.end_ms / (1 - min(needed / letters, 0.5))


def _place(bar: Bar) -> tuple[bool, str, float]:
    """Return the sort key of a bar: node, bars of several nodes last, then time."""
    node = bar.step.node
    if not node or "," in node:  # no name of a node has a comma
        return True, SEVERAL, bar.sent_ms
    return False, node, bar.sent_ms


def _bar(step: StepSnapshot, duration_ms: float) -> Bar:
    begin_ms = step.started_ms or 0.0
    end_ms = duration_ms if step.run_ms is None else begin_ms + step.run_ms
    label = clipped(printable(step.name), 28)
    if step.status != "done" or step.undo_error:
        label = f"{MARKS[step.status]} {label}: {status(step)}"
    return Bar(
        step=step,
        sent_ms=max(0.0, begin_ms - (step.queued_ms or 0.0)),
        begin_ms=begin_ms,
        end_ms=max(begin_ms, end_ms),
        label=label,
    )


WIDTH = 960.0
LANE = 26.0
BAR = 18.0
NAMES = 120.0  # room for the names of nodes
AXIS = 40.0
LETTER_PX = 7.4  # mean width, rather too wide
SIZE = 12.0
TICKS = 8
"""About so many numbers stand at the axis."""


def timeline(steps: Sequence[StepSnapshot], duration_ms: float) -> str:
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
                yield _draw_bar(bar, y, px_per_ms, inside=end_ms == bar.end_ms)
            y += LANE


def _draw_bar(bar: Bar, y: float, px_per_ms: float, *, inside: bool) -> str:
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
        room = end - begin - 8.0 if inside else text_width(bar.label, SIZE)
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
