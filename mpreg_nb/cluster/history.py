"""The runs of a cluster: those begun here, and those that its nodes remember."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.output import current_writer
from mpreg_nb.client.run_record import RunRecord
from mpreg_nb.cluster.own_runs import OnRun, OwnRuns
from mpreg_nb.cluster.planned import planned_diagram
from mpreg_nb.cluster.run import Run
from mpreg_nb.errors import NoRun
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.runs import RunStart, RunSummary, summary_of
from mpreg_nb.workflow.diagram import Diagram

if TYPE_CHECKING:
    import pandas as pd

LEAST_PREFIX = 4
"""Characters of an id that a run is found by, at least."""

TAKEN_UP = 10
"""Runs that are at hand at once where a cluster is adopted, the newest."""


@public
class History:
    """What a cluster knows of runs, of this client and of others."""

    client: Client
    _thread: LoopThread
    _runs: OwnRuns

    @property
    def own_runs(self) -> tuple[Run, ...]:
        """The last 50 runs started or adopted here, newest first."""
        return self._runs.newest_first

    def on_run(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run of `own_runs` that starts or changes.

        It is called on a separate thread and must not block. Returns a function that
        ends the subscription.
        """
        return self._runs.listen(listener)

    def runs(self) -> "pd.DataFrame":
        """Return one row per run that a node coordinates or remembers, newest first.

        Columns: run, workflow, status, steps, done, failed, started_at, duration_s.
        Includes the runs of all clients. Each node remembers its last 100 ended runs.
        """
        from mpreg_nb.view.runs import runs_frame

        found = self._thread.run(self.client.runs.everywhere())
        return runs_frame(with_own([run for _, run in found], self.own_runs))

    def get_run(self, run: str) -> Run:
        """Return a run by its id, by 4 or more first characters of its id, or by the
        name of its workflow, which returns the newest.

        Other clients may have started it: its states, results, prints and drawing are
        fetched, and it is followed until it ends.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        own = {mine.id: mine for mine in self.own_runs}
        if run in own:
            return own[run]
        found = self._thread.run(self.client.runs.everywhere())
        wanted = chosen_run(run, with_own([each for _, each in found], own.values()))
        if wanted.run.hex() in own:
            return own[wanted.run.hex()]
        node = next(node for node, each in found if each is wanted)
        return self._take_up(node, wanted.run)

    def take_up_newest(self) -> None:
        """Add the newest runs of the cluster to `own_runs`; see `adopt`."""
        writer = current_writer()
        client_runs = self.client.runs

        async def take_up() -> None:
            for node, run in reversed((await client_runs.everywhere())[:TAKEN_UP]):
                try:
                    record = await client_runs.take_up(node, run.run, writer)
                except NoRun:  # it went, or was forgotten, at this moment
                    continue
                self._taken_up(record)

        self._thread.run(take_up())

    def _take_up(self, node: str, run_id: bytes) -> Run:
        writer = current_writer()

        async def take_up() -> Run:
            record = await self.client.runs.take_up(node, run_id, writer)
            return self._taken_up(record)

        return self._thread.run(take_up())

    def _taken_up(self, record: RunRecord) -> Run:
        diagram = planned_diagram(record.workflow, record.plans, self.client.resources)
        run = Run(self.client, self._thread, diagram, self._runs)
        run.started(record)
        return run

    def launch(self, diagram: Diagram, request: RunStart, parts: Parts) -> Run:
        """Send a run to the connected node and return the run at once."""
        run = Run(self.client, self._thread, diagram, self._runs)
        writer = current_writer()
        begun: list[RunRecord] = []

        async def begin() -> None:
            begun.append(self.client.runs.start(request, parts, writer=writer))
            run.started(*begun)

        def give_up() -> None:
            for record in begun:
                self.client.runs.cancel(record)

        try:
            self._thread.run(begin())
        except KeyboardInterrupt:  # it may have begun all the same, and nobody has it
            self._thread.call_soon(give_up)
            raise
        return run


def with_own(found: Sequence[RunSummary], own: Iterable[Run]) -> list[RunSummary]:
    """Return `found` and those of `own` that no node knows any more, newest first."""
    known = {picture.run.hex() for picture in found}
    gone = [summary_of(run.picture) for run in own if run.id not in known]
    return sorted([*found, *gone], key=lambda picture: -picture.started_at_s)


def chosen_run(key: str, runs: Sequence[RunSummary]) -> RunSummary:
    """Return the run of `runs`, newest first, that `key` says.

    Raises:
        NoRun: it says none, or several.
    """
    for run in runs:
        if key in (run.run.hex(), run.workflow):
            return run
    alike = [run for run in runs if run.run.hex().startswith(key.lower())]
    if len(key) >= LEAST_PREFIX and len(alike) == 1:
        return alike[0]
    if len(key) >= LEAST_PREFIX and alike:
        ids = ", ".join(run.run.hex()[: len(key) + 4] for run in alike)
        raise NoRun(
            f"the ids of several runs begin with {key!r}: {ids}. Give more characters "
            "of the id"
        )
    if not runs:
        raise NoRun("the cluster has no runs yet. Start one: flow.run()")
    meant = nearest(key, {run.workflow for run in runs})
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise NoRun(
        f"no run has the id {key!r}, and no workflow of that name was run. {hint}List "
        "the known runs: cluster.runs()"
    )
