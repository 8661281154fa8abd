"""Takes back what was done, the last first: a saga.

Source: Garcia-Molina, Salem, "Sagas", SIGMOD 1987: compensating transactions run
in the reverse order of the transactions that they undo.
"""

from collections.abc import Mapping
from typing import Any

from mpreg_nb.workflow.run_steps import Undo
from mpreg_nb.workflow.states import (
    Done,
    FellBack,
    LacksResult,
    NotUndone,
    RunStatus,
    Undone,
)
from mpreg_nb.workflow.table import StepTable


class Undoing:
    """Which steps are to be undone once nothing else of the run is open.

    A step that fell back is not: what it was to do, it did not do.
    """

    def __init__(self, table: StepTable, undos: Mapping[str, Undo | None]) -> None:
        self._table = table
        self._undos = {step: undo for step, undo in undos.items() if undo is not None}
        self._todo: list[str] = []  # the step that was done last comes last
        self.has_begun = False
        self.run_status: RunStatus = "done"
        """How the run ends when all is undone that can be."""

    def done(self, step: str, state: Done) -> None:
        """Note that there may be something to undo."""
        if step in self._undos and not isinstance(state, FellBack):
            self._todo.append(step)

    def begin(self, status: RunStatus) -> None:
        """Note that all steps have ended and how; if all went well, forget them."""
        self.has_begun = True
        self.run_status = status
        if status == "done":
            self._todo.clear()

    def next(self) -> str | None:
        """Return the step to undo now; None when there is none any more.

        Those that refer to a result that there is not are passed over.
        """
        while self._todo:
            step = self._todo.pop()
            lacking = [
                needed
                for needed in sorted(self._undos[step].inputs)
                if not isinstance(self._table[needed], Done)
            ]
            if not lacking:
                return step
            self.not_undone(step, LacksResult(lacking[0]))
        return None

    def undone(self, step: str) -> None:
        """Note that what `step` did was taken back."""
        done = self._done(step)
        state = Undone(done.attempt, done.result, done.result_bytes)
        self._table.change(step, state)

    def not_undone(self, step: str, failure: Any) -> None:
        """Note that what `step` did stays, and why."""
        done = self._done(step)
        state = NotUndone(done.attempt, done.result, done.result_bytes, failure)
        self._table.change(step, state)

    def _done(self, step: str) -> Done:
        state = self._table[step]
        if not isinstance(state, Done):
            raise AssertionError(f"step {step} was not done and cannot be undone")
        return state
