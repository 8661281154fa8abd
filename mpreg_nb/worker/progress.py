"""How many jobs were begun and ended, where the node still finds it afterwards."""

import mmap


class Progress:
    """Numbers of jobs in memory that is shared with the node.

    Jobs are numbered as they came and begin in that order.
    """

    __slots__ = ("_numbers",)

    def __init__(self, page: mmap.mmap) -> None:
        self._numbers = memoryview(page).cast("Q")

    def begin(self, number: int) -> None:
        """Say that this job may have effects from now on."""
        self._numbers[0] = number

    def end(self, number: int) -> None:
        """Say that all jobs up to this one have ended; answers may still be held."""
        self._numbers[1] = number
