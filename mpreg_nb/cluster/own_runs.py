"""The runs that are at hand in this process, and who hears of them."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mpreg_nb.cluster.run import Run

OWN_RUNS = 50
"""How many are kept at hand, the newest."""

OnRun: TypeAlias = Callable[["Run"], None]
"""Hears of a run; called on the client's own thread, so it must be quick."""


class OwnRuns:
    """The last runs that this client began or took up, and who hears of them."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque(maxlen=OWN_RUNS)
        self._listeners: tuple[OnRun, ...] = ()

    @property
    def newest_first(self) -> "tuple[Run, ...]":
        """The runs at hand."""
        return tuple(reversed(self._runs.copy()))

    def listen(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run that begins or changes; returns what ends it.

        A listener may be added and ended on any thread.
        """
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            left = [heard for heard in self._listeners if heard is not listener]
            self._listeners = tuple(left)

        return end

    def add(self, run: "Run") -> None:
        """Take in a run that has just begun."""
        self._runs.append(run)
        self.changed(run)

    def changed(self, run: "Run") -> None:
        """Tell who listens that something happened to `run`."""
        for listener in self._listeners:
            listener(run)
