"""Request ids: unique in the world without asking anybody."""

import itertools
import os

SHOWN = 8
"""Characters of a run's id that tables show; `get_run` takes them."""


def run_id() -> bytes:
    """Return an id for a run: all random, so that its beginning tells it apart."""
    return os.urandom(16)


class Ids:
    """Ids of one session: its 8 random bytes, then a counter."""

    def __init__(self) -> None:
        self.session = os.urandom(8)
        self._next = itertools.count(1).__next__

    def next(self) -> bytes:
        """Return an id that no other call of this method returns, anywhere."""
        return self.session + self._next().to_bytes(8, "big")
