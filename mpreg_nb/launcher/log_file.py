"""The log of a node, a file, read from its end or line by line."""

import os
from pathlib import Path

TAIL_BYTES = 64 * 1024
"""Read from the end of a log file at most; bounds what one look costs."""


class LogFile:
    """Lines of one file, control characters escaped. Remembers how far it has read."""

    def __init__(self, path: Path, start_bytes: int = 0) -> None:
        """Begin at `start_bytes`; what is before it was written by others."""
        self._path = path
        self._start_bytes = start_bytes
        self._at = start_bytes
        self._unfinished = b""

    def last(self, lines: int) -> tuple[str, ...]:
        """Return the last lines that are there; `more` goes on after them.

        Raises:
            OSError: the file is gone.
        """
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            self._at = max(self._start_bytes, size - TAIL_BYTES)
            file.seek(self._at)
            found = self._split(file.read(TAIL_BYTES), whole=True)
        return found[-lines:] if lines else ()

    def more(self) -> tuple[str, ...]:
        """Return the lines that were finished since it was read last.

        Raises:
            OSError: the file is gone.
        """
        with self._path.open("rb") as file:
            file.seek(self._at)
            return self._split(file.read(TAIL_BYTES), whole=False)

    def _split(self, piece: bytes, *, whole: bool) -> tuple[str, ...]:
        """Return the lines in `piece`; one that has no end yet waits, or is shown."""
        self._at += len(piece)
        *finished, rest = (self._unfinished + piece).split(b"\n")
        self._unfinished = b"" if whole else rest
        if whole and rest:
            finished.append(rest)
        return tuple(map(_shown, finished))


def _shown(line: bytes) -> str:
    return "".join(
        letter if letter.isprintable() or letter == "\t" else ascii(letter)[1:-1]
        for letter in line.decode(errors="replace").removesuffix("\r")
    )
