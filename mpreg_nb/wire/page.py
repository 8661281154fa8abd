"""A page of memory that a worker and its node share: what outlives the worker.

It holds the number of the last job that began, that of the last one that ended
with all before it, and the end of what functions printed. Jobs are numbered as
they were handed over and begin in that order, so after a death the node knows
which of them never ran.
"""

import mmap

TEXT_BYTES = 8 * 1024 - 24
PAGE_BYTES = 24 + TEXT_BYTES
"""Three numbers of 8 bytes in this host's order, then a ring of text."""

_BEGUN, _ENDED, _WRITTEN = range(3)


class Page:
    """Both sides' view of the page. Only the worker writes."""

    def __init__(self, shared: int) -> None:
        self._memory = mmap.mmap(shared, PAGE_BYTES)
        self._numbers = memoryview(self._memory)[:24].cast("Q")

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

    def note(self, text: str) -> None:
        """Keep `text`, or its end, as what was printed last."""
        data = text[-TEXT_BYTES:].encode(errors="backslashreplace")[-TEXT_BYTES:]
        at = self._numbers[_WRITTEN] % TEXT_BYTES
        first = data[: TEXT_BYTES - at]
        self._memory[24 + at : 24 + at + len(first)] = first
        rest = data[len(first) :]
        self._memory[24 : 24 + len(rest)] = rest
        self._numbers[_WRITTEN] += len(data)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that were printed; the first may lack its begin."""
        written = self._numbers[_WRITTEN]
        ring = self._memory[24:]
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
