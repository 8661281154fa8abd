"""A run as it is known here: its state, its tables, its drawing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.output import Page
from mpreg_nb.client.run_record import RunRecord
from mpreg_nb.errors import MpregError, NoStep, WorkflowFailed
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.history import StepChoice
from mpreg_nb.wire.runs import RunPicture, StepState
from mpreg_nb.workflow.diagram import Diagram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mpreg_nb.view.why import Why

ENDED = ("done", "failed", "skipped", "cancelled", "fallback", "undone")
"""What a step is when nothing more will happen to it, but perhaps its undo."""


@public
class ShownRun:
    """What can be said of a run without asking a node."""

    _diagram: Diagram
    _record: RunRecord | None

    # -------------------------------------------------------------------- state

    @property
    def id(self) -> str:
        """The hexadecimal id of the run, for `cluster.get_run`."""
        return self._known.id.hex()

    @property
    def name(self) -> str:
        """The name of its workflow."""
        return self._diagram.name

    @property
    def status(self) -> str:
        """Either running, done, failed or cancelled."""
        record = self._known
        return "failed" if record.lost is not None else record.status

    @property
    def steps(self) -> tuple[StepState, ...]:
        """The state of each step, in the order in which the steps were added."""
        return tuple(self._known.steps.values())

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end, or to the latest known state."""
        return self._known.duration_ms

    @property
    def started_at(self) -> datetime:
        """The time at which the run started, in UTC."""
        return datetime.fromtimestamp(self._known.started_at_s, UTC)

    @property
    def picture(self) -> RunPicture:
        """The run as a row of `cluster.runs()`."""
        return self._known.picture

    @property
    def _known(self) -> RunRecord:
        if self._record is None:
            raise MpregError("the run has not started")
        return self._record

    # -------------------------------------------------------------------- shown

    def frame(self) -> Any:
        """Return one row per step, as a pandas DataFrame.

        Columns: step, function, version, node, status, attempts, queued_ms,
        run_ms, result_bytes, error (class and first line of the error that failed the
        step, that its fallback replaced, or that caused the current retry).
        """
        from mpreg_nb.view.frames import run_frame

        functions = {box.name: box.function for box in self._diagram.boxes}
        return run_frame(self.steps, functions)

    def log(self, step: str | None = None) -> str:
        """Return the prints and logs of a step, each line with the name of its node.

        step: None returns those of all steps, in the order in which they arrived.
        The last 64 KiB per run are kept, also for runs that other clients started.

        Raises:
            KeyError: the run has no such step.
        """
        if step is not None:
            self._check(step)
        texts: list[str] = []
        page = Page(lambda _, text: texts.append(text))
        for line in self._known.lines.all:
            if step in (None, line.step):
                if line.characters_cut:
                    page(
                        line.node,
                        "stdout",
                        f"… {line.lines_cut:,} lines are left out\n",
                    )
                page(line.node, "stdout", line.text)
        return "".join(texts)

    def plot(self) -> "Figure":
        """Return a Gantt chart: when each step waited and ran, by node."""
        from mpreg_nb.view.gantt import gantt_figure

        return gantt_figure(self.name, self.steps, self.duration_ms)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for state in self.steps:
            counts[state.status] = counts.get(state.status, 0) + 1
        said = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"<run of {self.name}: {self.status} ({said})>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import run_bundle

        return run_bundle(repr(self), self.steps, self.diagram(), include, exclude)

    def diagram(self) -> Diagram:
        """Return the workflow as boxes and arrows."""
        return self._diagram

    def _check(self, step: str) -> None:
        if step not in self._known.steps:
            meant = nearest(str(step), self._known.steps)
            known = ", ".join(tuple(self._known.steps)[:10])
            hint = f"Did you mean {meant!r}?" if meant else f"It has: {known}"
            raise NoStep(f"the run has no step {step!r}. {hint}")

    @property
    def _last(self) -> list[str]:
        used = {arrow.source for arrow in self._diagram.arrows}
        return [step for step in self._known.steps if step not in used]

    @property
    def _failed(self) -> list[str]:
        return [state.name for state in self.steps if state.status == "failed"]

    def _failure(self, errors: Mapping[str, Exception]) -> WorkflowFailed:
        by_status: dict[str, list[str]] = {}
        for state in self.steps:
            by_status.setdefault(state.status, []).append(state.name)
        return WorkflowFailed.of(
            self.name,
            errors,
            done=(*by_status.get("done", ()), *by_status.get("fallback", ())),
            skipped=by_status.get("skipped", ()),
            undone=by_status.get("undone", ()),
            not_undone={s.name: s.undo_error for s in self.steps if s.undo_error},
            run=self,
        )

    def _why(self, step: str, choices: Sequence[StepChoice]) -> "Why":
        from mpreg_nb.view.why import Why

        record = self._known
        needed = [a.source for a in self._diagram.arrows if a.target == step]
        states = {name: record.steps[name] for name in needed if name in record.steps}
        return Why(
            record.steps[step],
            choices,
            driver=record.node,
            waits_for=[n for n, state in states.items() if state.status not in ENDED],
        )
