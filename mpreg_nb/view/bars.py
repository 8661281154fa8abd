"""The bars of a run: which step was when, and which bars fit beside each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mpreg_nb.view.palette import STATUSES
from mpreg_nb.view.steps import status
from mpreg_nb.view.text import MARKS, clipped, printable
from mpreg_nb.wire.runs import StepState

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


@dataclass(frozen=True, slots=True)
class Bar:
    """One step that began, in milliseconds after the start of the run."""

    step: StepState
    sent_ms: float  # from here on it waited on its node
    begin_ms: float
    end_ms: float
    label: str

    @property
    def status(self) -> str:
        """The status that its look says."""
        return self.step.status if self.step.status in LOOKS else "running"


Lane = list[tuple[Bar, float]]
"""Bars that follow each other, each with where it ends, its label included."""


def bars_of(steps: Iterable[StepState], duration_ms: float) -> list[Bar]:
    """Return a bar for each step that began; those under way end at `duration_ms`."""
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


def not_begun(steps: Iterable[StepState]) -> str:
    """Name the steps that have no bar; nothing if all have one."""
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
    """Return where an axis ends that has room for the label of `bar`."""
    needed = len(bar.label) + 1
    if needed * letter_ms <= bar.end_ms - bar.begin_ms:
        return bar.end_ms
    return bar.end_ms / (1 - min(needed / letters, 0.5))


def _place(bar: Bar) -> tuple[bool, str, float]:
    """Return by what bars are sorted: nodes, then what ran on several; time."""
    node = bar.step.node
    if not node or "," in node:  # no name of a node has a comma
        return True, SEVERAL, bar.sent_ms
    return False, node, bar.sent_ms


def _bar(step: StepState, duration_ms: float) -> Bar:
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
