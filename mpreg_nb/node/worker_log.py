"""What goes past Python to the file descriptors of a worker."""

import asyncio
import codecs
import os
from collections.abc import Callable

KEPT_LENGTH = 8 * 1024
"""How much of it is kept, for the report of a death."""

LAST_LINES = 15
"""Lines of it in such a report."""

BYTES_PER_S = 1 << 20
"""More is dropped."""


class WorkerLog:
    """Reads the pipe that is the worker's standard output and error."""

    def __init__(self, pipe: int, on_text: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._on_text = on_text
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept = ""
        self._second = 0.0  # when the present second of counting began
        self._bytes_left = 0
        self._loop.add_reader(pipe, self.read)

    def read(self) -> None:
        """Pass on what is there."""
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        if self._is_within_limit(len(data)):
            text = self._decode(data)
            self._kept = (self._kept + text)[-KEPT_LENGTH:]
            self._on_text(text)

    def _is_within_limit(self, count: int) -> bool:
        now = self._loop.time()
        if now > self._second + 1.0:
            self._second, self._bytes_left = now, BYTES_PER_S
        self._bytes_left -= count
        return self._bytes_left > 0

    def add(self, line: str) -> None:
        """Add a line of the node's own."""
        self._kept += f"{line}\n"

    def drain(self) -> None:
        """Take what a worker had written before it ended."""
        for _ in range(16):  # a pipe holds 64 KiB, unless others write to it too
            self.read()

    def last_lines(self) -> list[str]:
        """Return the last lines that tell something."""
        return _telling(self._kept.splitlines())[-LAST_LINES:]

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._pipe)


def _telling(log: list[str]) -> list[str]:
    """Return the lines that tell something: of faulthandler's dump, few.

    It shows all threads. The one that failed is told last and ends at a blank line.
    """
    fatal = [n for n, line in enumerate(log) if line.startswith("Fatal Python error")]
    if fatal:
        log = log[fatal[-1] :]
        current = [n for n, line in enumerate(log) if line.startswith("Current thread")]
        start = current[0] + 1 if current else 1
        ours = f"{os.sep}mpreg_nb{os.sep}worker{os.sep}"
        own = [n for n in range(start, len(log)) if ours in log[n]]
        log = [log[0], *log[start : own[0] if own else start + LAST_LINES]]
    return [line for line in log if line.strip()]
