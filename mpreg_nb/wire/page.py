"""A page of memory that a worker and its node share: what outlives the worker.

It holds the number of the last job that began, that of the last one that ended
with all before it, how many ids of calls to drop the worker has heard, and the
end of what functions printed. Jobs are numbered as they were handed over and begin
in that order, so after a death the node knows which of them never ran; and a job
that has been heard to be dropped, and has not begun then, never will.
"""

import mmap

_BEGUN, _ENDED, _HEARD, _WRITTEN = range(4)

_NUMBERS_BYTES = 4 * 8
TEXT_BYTES = 8 * 1024 - _NUMBERS_BYTES
PAGE_BYTES = _NUMBERS_BYTES + TEXT_BYTES
"""Four numbers in this host's order, then a ring of text."""


class Page:
    """Both sides' view of the page. Only the worker writes."""

    def __init__(self, shared: int) -> None:
        self._memory = mmap.mmap(shared, PAGE_BYTES)
        self._numbers = memoryview(self._memory)[:_NUMBERS_BYTES].cast("Q")

    @property
    def begun(self) -> int:
        """Number of the last job that may have had an effect."""
        return self._numbers[_BEGUN]

    @property
    def ended(self) -> int:
        """Number of the last job that ended with all before it, answered or not."""
        return self._numbers[_ENDED]

    def begin(self, number: int) -> None:
        """Say that this job may have effects from now on."""
        self._numbers[_BEGUN] = number

    def end(self, number: int) -> None:
        """Say that all jobs up to this one have ended; answers may still be held."""
        self._numbers[_ENDED] = number

    @property
    def heard(self) -> int:
        """How many ids of calls to drop or interrupt the worker has taken in."""
        return self._numbers[_HEARD]

    def hear(self, count: int) -> None:
        """Say that so many more ids have been taken in."""
        self._numbers[_HEARD] += count

    def note(self, text: str) -> None:
        """Keep `text`, or its end, as what was printed last."""
        data = text[-TEXT_BYTES:].encode(errors="backslashreplace")[-TEXT_BYTES:]
        at = self._numbers[_WRITTEN] % TEXT_BYTES
        first = data[: TEXT_BYTES - at]
        rest = data[len(first) :]
        start = _NUMBERS_BYTES
        self._memory[start + at : start + at + len(first)] = first
        self._memory[start : start + len(rest)] = rest
        self._numbers[_WRITTEN] += len(data)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that were printed; the first may lack its begin."""
        written = self._numbers[_WRITTEN]
        ring = self._memory[_NUMBERS_BYTES:]
        if written > TEXT_BYTES:
            at = written % TEXT_BYTES
            data = ring[at:] + ring[:at]
        else:
            data = ring[:written]
        return data.decode(errors="replace").splitlines()[-count:]

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()
