"""Marks of states: each state has a shape of its own; its colour only repeats it."""

import msgspec

from mpreg_nb.view.markup import Element, element
from mpreg_nb.view.palette import IDLE, NODES, STATUSES, Tone


class Look(msgspec.Struct, frozen=True):
    """How a state is drawn. `mark` is a path in a square of 12 by 12."""

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

    def drawn(self, **place: str) -> Element:
        """Return the mark as an element; `place` is its transform, if it has one."""
        return element(
            "path",
            d=self.mark,
            **place,
            fill=self.ink if self.filled else "none",
            stroke=self.ink,
            stroke_width="0.6" if self.filled else "1.8",
            stroke_linejoin="round",
            stroke_linecap="round",
        )


UNKNOWN = Look("M3 6h6", IDLE)

NODE_LOOKS = {
    state: Look(mark, NODES[state], filled=filled)
    for state, mark, filled in (
        ("alive", "M6 1.2a4.8 4.8 0 1 1-.01 0z", True),
        ("suspect", "M6 1.2L11.2 10.6H.8zM6 4.6v3M6 8.9v.3", False),
        ("dead", "M1.8 1.8l8.4 8.4M10.2 1.8l-8.4 8.4", False),
        ("left", "M1.8 1.8h8.4v8.4h-8.4zM4 6h4", False),
    )
}

STEP_LOOKS = {
    status: Look(mark, STATUSES[status], dash, filled)
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

RUN_LOOKS = STEP_LOOKS | {"lost": STEP_LOOKS["failed"]}
"""A run can be lost, with the node that coordinated it; a step cannot."""


def badge(look: Look, word: str, *, title: str | None = None) -> Element:
    """Return a mark with its word, for a line of text."""
    return element(
        "span",
        element("svg", look.drawn(), viewBox="0 0 12 12", aria_hidden="true"),
        element("span", word, class_="mpreg-word"),
        class_="mpreg-badge",
        data_state=word,
        title=title,
    )
