"""The runs of a cluster: those begun here, and those that its nodes remember."""

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.output import current_writer
from mpreg_nb.cluster.run import Run
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.runs import RunStart
from mpreg_nb.workflow.diagram import Diagram

OWN_RUNS = 50
"""How many of the runs that were begun here are kept at hand, the newest."""

OnRun: TypeAlias = Callable[[Run], None]
"""Hears of a run; called on the client's own thread, so it must be quick."""


class OwnRuns:
    """The last runs that this client began or took up, and who hears of them."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque(maxlen=OWN_RUNS)
        self._listeners: tuple[OnRun, ...] = ()

    @property
    def newest_first(self) -> tuple[Run, ...]:
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

    def add(self, run: Run) -> None:
        """Take in a run that has just begun."""
        self._runs.append(run)
        self.changed(run)

    def changed(self, run: Run) -> None:
        """Tell who listens that something happened to `run`."""
        for listener in self._listeners:
            listener(run)


class History:
    """What a cluster knows of runs, of this client and of others."""

    client: Client
    _thread: LoopThread
    _runs: OwnRuns

    @property
    def own_runs(self) -> tuple[Run, ...]:
        """The last 50 runs that were begun or taken up here, newest first."""
        return self._runs.newest_first

    def on_run(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run of `own_runs` that begins or changes.

        It is called on a thread of its own and must not block. Returns what ends it.
        """
        return self._runs.listen(listener)

    def launch(self, diagram: Diagram, request: RunStart, parts: Parts) -> Run:
        """Hand a run to the node of the link and return it at once."""
        run = Run(self.client, self._thread, diagram, self._runs.changed)
        writer = current_writer()

        async def begin() -> None:
            run.started(
                self.client.runs.start(
                    request, parts, writer=writer, on_change=run.changed
                )
            )
            self._runs.add(run)

        self._thread.run(begin())
        return run
