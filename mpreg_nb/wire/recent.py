"""What was used last, up to a limit of bytes.

A node and its workers keep code by this rule, each by itself: after the same uses
both have the same versions, and nothing has to be said about it.
"""

from collections import OrderedDict

CODE_BYTES = 32 << 20
"""Code that a worker keeps, and older versions that a node keeps."""


OVERHEAD_BYTES = 4096
"""What a function takes besides its bytes, about: objects, offers, source lines."""


class Recent:
    """Keys with sizes, the least recently used first.

    >>> recent = Recent(limit_bytes=10_000)
    >>> recent.add("a", 6), recent.add("b", 1000), recent.add("c", 99_000)
    ([], [], ['a', 'b'])
    >>> "c" in recent  # what came last stays, however large it is
    True
    """

    def __init__(self, limit_bytes: int = CODE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def add(self, key: str, size_bytes: int) -> list[str]:
        """Take a key in as the last one used; return those that had to go for it."""
        self.drop(key)
        # No entry is free: thousands of small ones count too.
        self._sizes[key] = size_bytes = size_bytes + OVERHEAD_BYTES
        self._bytes += size_bytes
        gone = []
        while self._bytes > self._limit_bytes and len(self._sizes) > 1:
            oldest, freed = self._sizes.popitem(last=False)
            self._bytes -= freed
            gone.append(oldest)
        return gone

    def use(self, key: str) -> None:
        """Count a key as the last one used."""
        self._sizes.move_to_end(key)

    def drop(self, key: str) -> None:
        """Forget a key, if it is there."""
        self._bytes -= self._sizes.pop(key, 0)
