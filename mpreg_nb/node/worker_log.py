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
"""More is counted instead of passed on."""

PAUSE_S = 0.02
"""Between looks at a flood: who writes faster than a pipe can be read so, waits."""

FLOOD_READS = 8
"""Of a pipe's length each, at one look at a flood."""

HELD_S = 1.0
"""How long after a fatal error its process may still live."""

FATAL = "Fatal Python error"
_LENGTH = 1 << 16


class WorkerLog:
    """Reads the pipe that is the worker's standard output and error.

    `on_text` gets the text, and how many lines and bytes were left out before it.
    """

    def __init__(self, pipe: int, on_text: Callable[[str, int, int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._on_text = on_text
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept = ""
        self._second = 0.0  # when the present second of counting began
        self._bytes_left = 0
        self._lines_cut = self._bytes_cut = 0
        self._held = ""  # from the first word of a death on
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(pipe, self._look)

    def _look(self) -> None:
        self._read_once()
        if self._bytes_cut and self._pause is None:
            self._loop.remove_reader(self._pipe)
            self._pause = self._loop.call_later(PAUSE_S, self._look_again)

    def _look_again(self) -> None:
        self._pause = None
        reads = FLOOD_READS
        while reads and self._read_once():
            reads -= 1
        if self._pipe < 0:
            return
        if reads:  # the flood is over, at least for now
            self._loop.add_reader(self._pipe, self._look)
        else:
            self._pause = self._loop.call_later(PAUSE_S, self._look_again)

    def read(self) -> None:
        """Pass on what is there, and say what was left out so far."""
        self._read_once()
        self._release()
        if self._bytes_cut:
            self._pass_on("")

    def _read_once(self) -> bool:
        if self._pipe < 0:
            return False
        try:
            data = os.read(self._pipe, _LENGTH)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        if self._is_within_limit(len(data)):
            text = self._decode(data)
            self._kept = (self._kept + text)[-KEPT_LENGTH:]
            self._hold_or_pass_on(text)
        else:
            self._lines_cut += data.count(b"\n")
            self._bytes_cut += len(data)
        return True

    def _hold_or_pass_on(self, text: str) -> None:
        """Hold back what a dying process says; the report of its death has it."""
        if not self._held:
            start = text.find(FATAL)
            if start >= 0:
                text, self._held = text[:start], text[start:]
                self._loop.call_later(HELD_S, self._release)
            if text:
                self._pass_on(text)
        else:
            self._held += text

    def _release(self) -> None:
        held, self._held = self._held, ""
        if held and self._pipe >= 0:  # it was another process that died
            self._pass_on(held)

    def _pass_on(self, text: str) -> None:
        lines, size = self._lines_cut, self._bytes_cut
        self._lines_cut = self._bytes_cut = 0
        self._on_text(text, lines, size)

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
        reads = 16  # a pipe holds 64 KiB, unless others write to it too
        while reads and self._read_once():
            reads -= 1

    def last_lines(self) -> list[str]:
        """Return the last lines that tell something."""
        return _telling(self._kept.splitlines())[-LAST_LINES:]

    def close(self) -> None:
        """Read no more."""
        if self._pause is not None:
            self._pause.cancel()
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            self._pipe = -1


def _telling(log: list[str]) -> list[str]:
    """Return the lines that tell something: of faulthandler's dump, few.

    It shows all threads. The one that failed is told last and ends at a blank line.
    """
    fatal = [n for n, line in enumerate(log) if line.startswith(FATAL)]
    if fatal:
        log = log[fatal[-1] :]
        current = [n for n, line in enumerate(log) if line.startswith("Current thread")]
        start = current[0] + 1 if current else 1
        ours = f"{os.sep}mpreg_nb{os.sep}worker{os.sep}"
        own = [n for n in range(start, len(log)) if ours in log[n]]
        log = [log[0], *log[start : own[0] if own else start + LAST_LINES]]
    return [line for line in log if line.strip()]
