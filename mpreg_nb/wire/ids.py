"""Request ids: unique in the world without asking anybody."""

import itertools
import os


class Ids:
    """Ids of one session: its 8 random bytes, then a counter."""

    def __init__(self) -> None:
        self.session = os.urandom(8)
        self._next = itertools.count(1).__next__

    def next(self) -> bytes:
        """Return an id that no other call of this method returns, anywhere."""
        return self.session + self._next().to_bytes(8, "big")
