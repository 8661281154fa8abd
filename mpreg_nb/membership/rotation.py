"""The order in which members are probed, and the dice that it is shuffled with."""

from collections.abc import Container, Sequence
from typing import Protocol, TypeVar

from mpreg_nb.wire.gossip import NodeName

T = TypeVar("T")


class Dice(Protocol):
    """The source of randomness; `random.Random` is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return a whole number in [0, stop)."""
        ...

    def shuffle(self, items: list[NodeName], /) -> None:
        """Put `items` in a random order."""
        ...

    def sample(self, items: Sequence[T], k: int, /) -> list[T]:
        """Return `k` different ones of `items`."""
        ...


class Rotation:
    """A shuffled round robin: every member comes once before any comes twice.

    So a crash is noticed after at most two rounds. A newcomer goes to a random
    place, lest all that join together be probed together.
    Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.3.
    """

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._order: list[NodeName] = []
        self._next = 0

    def add(self, name: NodeName) -> None:
        """Add `name`, unless it is in already."""
        if name not in self._order:
            place = self._dice.randrange(len(self._order) + 1)
            self._order.insert(place, name)
            if place < self._next:
                self._next += 1

    def take(self, fit: Container[NodeName]) -> NodeName | None:
        """Return whose turn it is among those in `fit`; None if there is none."""
        for _ in range(2):
            while self._next < len(self._order):
                name = self._order[self._next]
                self._next += 1
                if name in fit:
                    return name
            # A round is over: those that are gone fall out, a new order is drawn.
            self._order = [name for name in self._order if name in fit]
            self._dice.shuffle(self._order)
            self._next = 0
        return None
