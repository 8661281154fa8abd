"""Text for drawings and views: estimated widths, states of steps.

In plain mode no times are said, unless they are asked for.
"""

import unicodedata
from collections.abc import Iterable

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.units import count, duration
from mpreg_nb.view.diagram_text import clipped, printable
from mpreg_nb.view.plain_mode import plain

BOLD = 1.08
"""How much wider bold text is."""


def text_width(text: str, size: float) -> float:
    """Return about how many pixels `text` takes at a font size; rather too many."""
    return size * sum(map(_share, printable(text)))


def cut(text: str, size: float, room: float) -> str:
    """Return `text`, its middle left out where it is wider than `room` pixels."""
    text = printable(text)
    most = len(text)
    while most > 3 and text_width(clipped(text, most), size) > room + 0.5:
        most -= 1
    return clipped(text, most)


def _share(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in "iljtfrI.,:;'!|()[]{} -·/":
        return 0.4
    if character in "mwMW@%—…" or character.isupper():
        return 0.8 if character.isupper() and character not in "MW" else 0.98
    return 0.62


_WITH_RESULT = ("done", "fallback")


def states(steps: Iterable[StepSnapshot]) -> dict[str, str]:
    """Return the status of each step, by its name."""
    return {step.name: step.status for step in steps}


def details(
    steps: Iterable[StepSnapshot], *, timed: bool | None = None
) -> dict[str, str]:
    """Return details of each step next to its status: "on gpu-1, 1.20 s".

    timed: whether to tell times; by default where it is not plain mode.
    """
    timed = not plain() if timed is None else timed
    return {step.name: _detail(step, timed=timed) for step in steps}


def counts(steps: Iterable[StepSnapshot]) -> dict[str, int]:
    """Return how many items the maps among the steps have, where that is known."""
    return {step.name: step.items for step in steps if step.items}


def status(step: StepSnapshot) -> str:
    """Return the status of a step in a few words: "running, 7 of 12 done"."""
    undone = "NOT undone" if step.undo_error else ""
    return ", ".join(filter(None, (step.status, items(step), undone)))


def explained(step: StepSnapshot) -> str:
    """Return the status with its reason: "failed: ValueError: no".

    >>> explained(StepSnapshot(name="fit", status="fallback", error="ValueError: no"))
    'fallback after ValueError: no'
    """
    if step.error:
        return (
            status(step) + (": " if step.status == "failed" else " after ") + step.error
        )
    if step.status == "skipped":
        return f"{status(step)} ({_skipped(step)})"
    return status(step)


def items(step: StepSnapshot) -> str:
    """Return how far a map is: "7 of 12 done"; nothing for other steps.

    >>> items(StepSnapshot(name="fits", status="done", items=12, items_done=12))
    '12 items'
    """
    if not step.items:
        return ""
    if step.items_done == step.items:
        return count(step.items, "item")
    return f"{step.items_done:,} of {step.items:,} done"


def nodes(step: StepSnapshot, most: int = 2) -> str:
    """Return where a step ran: a node, or how many where a map took more than `most`.

    >>> nodes(StepSnapshot(name="fits", status="done", node="n1, n2, n3"))
    '3 nodes'
    """
    taking = step.node.count(", ") + 1
    return step.node if taking <= most else f"{taking} nodes"


def _skipped(step: StepSnapshot) -> str:
    return f"because of {step.cause}" if step.cause else "its condition is false"


def _detail(step: StepSnapshot, *, timed: bool) -> str:
    if step.status == "skipped":
        return _skipped(step)
    if step.cause and step.status not in _WITH_RESULT:
        return f"because of {step.cause}"
    if step.undo_error:
        return "NOT undone"
    parts = [items(step)] if step.items_done < step.items else []
    if step.error:  # first, since a box cuts what is too long for it
        parts.append(step.error if step.status == "failed" else f"after {step.error}")
    if step.node:
        parts.append(f"on {nodes(step)}")
    if timed and step.run_ms is not None:
        parts.append(duration(step.run_ms))
    return ", ".join(parts)
