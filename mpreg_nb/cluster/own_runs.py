"""The runs that are at hand in this process, and who hears of them."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from weakref import ref

if TYPE_CHECKING:
    from mpreg_nb.client.run_record import RunRecord
    from mpreg_nb.cluster.run import Run

OWN_RUNS = 50
"""How many are kept at hand, the newest."""

OnRun: TypeAlias = Callable[["Run"], None]
"""Hears of a run; called on the client's own thread, so it must be quick."""


class OwnRuns:
    """The last runs that this client began or took up, and who hears of them.

    What is known of them is kept, not the values that a `Run` has fetched: these go
    with the `Run`. Of one that nobody holds any more another is made when asked for.
    """

    def __init__(self) -> None:
        self._runs: deque[_Held] = deque(maxlen=OWN_RUNS)
        self._listeners: tuple[OnRun, ...] = ()

    @property
    def newest_first(self) -> "tuple[Run, ...]":
        """The runs at hand."""
        return tuple(held.run for held in reversed(self._runs.copy()))

    def listen(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run that begins or changes; returns what ends it.

        A listener may be added and ended on any thread.
        """
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            left = [heard for heard in self._listeners if heard is not listener]
            self._listeners = tuple(left)

        return end

    def add(self, run: "Run", record: "RunRecord") -> None:
        """Take in a run that has just begun, and follow what its record tells."""
        held = _Held(run, run.revival())
        self._runs.append(held)
        record.listeners.append(lambda _: self._changed(held))
        self._tell(run)

    def _changed(self, held: "_Held") -> None:
        if held.is_used:
            held.run.changed()
        if self._listeners:
            self._tell(held.run)

    def _tell(self, run: "Run") -> None:
        for listener in self._listeners:
            listener(run)


class _Held:
    """A run that is made again from what is known of it, when nobody holds it."""

    def __init__(self, run: "Run", revive: "Callable[[], Run]") -> None:
        self._run = ref(run)
        self._revive = revive

    @property
    def is_used(self) -> bool:
        return self._run() is not None

    @property
    def run(self) -> "Run":
        run = self._run()
        if run is None:
            run = self._revive()
            self._run = ref(run)
        return run
