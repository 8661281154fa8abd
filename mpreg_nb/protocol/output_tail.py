"""The last that a run printed, on the node that drives it and at its callers."""

from collections import deque

import msgspec

from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.displays import CLEARS, UPDATES, text_of
from mpreg_nb.protocol.messages import Line

MOST_CHARACTERS = 64 * 1024
"""What is kept of one run, the newest."""


class OutputTail:
    """What was printed, oldest first; when it is too much, the oldest goes.

    One thread writes; any may read.
    """

    def __init__(self, lines: tuple[Line, ...] = ()) -> None:
        self._lines: deque[Line] = deque()
        self._characters = 0
        for line in lines:
            self.add(line)

    @property
    def all(self) -> tuple[Line, ...]:
        """What is kept."""
        return tuple(self._lines.copy())

    def add(self, line: Line, parts: Parts = ()) -> None:
        """Take in one more; the newest always stays.

        Of a display its text is kept, and nothing of what clears or updates one.
        """
        if line.stream == "display":
            if line.text.startswith((CLEARS, UPDATES)) or not (line.text or parts):
                return
            size = sum(map(len, parts))
            text = f"<a display of {size / 1e6:.1f} MB>\n" if parts else _text(line)
            line = msgspec.structs.replace(line, stream="stdout", text=text)
        self._lines.append(line)
        self._characters += len(line.text)
        while self._characters > MOST_CHARACTERS and len(self._lines) > 1:
            self._characters -= len(self._lines.popleft().text)


def _text(line: Line) -> str:
    return text_of(msgspec.json.decode(line.text))
