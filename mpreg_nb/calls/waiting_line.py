"""Which of the calls that wait for a slot goes next.

The oldest goes first. But when calls wait for half of the time that they have, more
come than can be served. First in, first out would then begin each call when its time is
nearly over, and answer almost none; so the newest goes first until that is over.
Source: B. Maurer, "Fail at Scale", 2015 (adaptive LIFO).

Where slots run calls, calls that others wait for go before all of these: the others
keep slots or processes until they have ended.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What is asked of a call that waits."""

    began: float
    due: float


Q = TypeVar("Q", bound=Queued)


class WaitingLine(Generic[Q]):
    """Calls in the order in which they came. Those that ended are still in it."""

    def __init__(self, is_over: Callable[[Q], bool]) -> None:
        """`is_over` tells of a call that it ended while it waited."""
        self._is_over = is_over
        self._line: deque[Q] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, call: Q) -> None:
        """Put a call at the end."""
        self._line.append(call)

    def put_back(self, calls: list[Q]) -> None:
        """Put calls at the front, in this order."""
        self._line.extendleft(reversed(calls))

    def insert(self, call: Q) -> None:
        """Put a call before those that came after it: it was under way meanwhile."""
        later = (n for n, other in enumerate(self._line) if other.began > call.began)
        self._line.insert(next(later, len(self._line)), call)

    def next(self, now: float) -> Q | None:
        """Return the call that goes next; None where none waits."""
        line, is_over = self._line, self._is_over
        while line:
            oldest = line[0]
            if is_over(oldest):
                line.popleft()
            elif oldest.due == math.inf or now - oldest.began <= oldest.due - now:
                return oldest
            elif is_over(line[-1]):
                line.pop()
            else:
                newest = line[-1]
                return oldest if newest.due == math.inf else newest
        return None

    def take(self, call: Q) -> None:
        """Take out the call that `next` returned."""
        if self._line[0] is call:
            self._line.popleft()
        elif self._line[-1] is call:
            self._line.pop()
        else:  # others were put before it meanwhile
            self._line.remove(call)

    def clear(self) -> list[Q]:
        """Take out all calls, and return those that still wait."""
        waiting = [call for call in self._line if not self._is_over(call)]
        self._line.clear()
        return waiting


class Nested(Queued, Protocol):
    """What is asked of a call that others may wait for."""

    @property
    def depth(self) -> int:
        """How many calls, one of the other, wait for it."""


N = TypeVar("N", bound=Nested)


class DeepestFirst(Generic[N]):
    """Waiting lines by depth; the deepest goes first."""

    def __init__(self, is_over: Callable[[N], bool]) -> None:
        self._is_over = is_over
        self._lines: dict[int, WaitingLine[N]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, call: N) -> None:
        """Put a call at the end of those that are as deep."""
        self._line(call.depth).add(call)

    def put_back(self, calls: list[N]) -> None:
        """Put calls at the front of those that are as deep, in this order."""
        for depth in {call.depth for call in calls}:
            self._line(depth).put_back([c for c in calls if c.depth == depth])

    def next(self, now: float) -> N | None:
        """Return the call that goes next; None where none waits."""
        for depth in sorted(self._lines, reverse=True):
            call = self._lines[depth].next(now)
            if call is not None:
                return call
            del self._lines[depth]
        return None

    def take(self, call: N) -> None:
        """Take out the call that `next` returned."""
        line = self._lines[call.depth]
        line.take(call)
        if not line:
            del self._lines[call.depth]

    def clear(self, least: int = 0) -> list[N]:
        """Take out all calls that are at least so deep; return those that wait."""
        depths = sorted(depth for depth in self._lines if depth >= least)
        return [call for depth in depths for call in self._lines.pop(depth).clear()]

    def _line(self, depth: int) -> WaitingLine[N]:
        line = self._lines.get(depth)
        if line is None:
            line = self._lines[depth] = WaitingLine(self._is_over)
        return line
