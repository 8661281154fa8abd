"""The last that a run printed, on the node that drives it and at its callers."""

from collections import deque

from mpreg_nb.wire.history import Line

MOST_CHARACTERS = 64 * 1024
"""What is kept of one run, the newest."""


class LastLines:
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

    def add(self, line: Line) -> None:
        """Take in one more; the newest always stays."""
        self._lines.append(line)
        self._characters += len(line.text)
        while self._characters > MOST_CHARACTERS and len(self._lines) > 1:
            self._characters -= len(self._lines.popleft().text)
