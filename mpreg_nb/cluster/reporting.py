"""Gathers what the page about a run tells: results, errors, prints, nodes."""

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.report import Failure, Output, Report
from mpreg_nb.view.text import clipped
from mpreg_nb.view.units import size
from mpreg_nb.wire.pictures import Snapshot
from mpreg_nb.wire.runs import StepState

if TYPE_CHECKING:
    from mpreg_nb.cluster.run import Run

MOST_OUTPUT_BYTES = 1_000_000
"""Larger results stay where they are: a page is not the place to read them."""

MOST_CHARACTERS = 4_000
"""Of the text of one output."""

MOST_LOG_LINES = 400
"""Of what one step printed; the last ones."""


def report_of(run: "Run", snapshot: Snapshot | None) -> Report:
    """Return all that the page about `run` tells, fetching small outputs.

    snapshot: the newest picture of the cluster, None if there is none.
    """
    diagram = run.diagram()
    used = {arrow.source for arrow in diagram.arrows}
    finished = [step for step in run.steps if step.status in ("done", "fallback")]
    logs = {step.name: _last_lines(run.log(step.name)) for step in run.steps}
    nodes = () if snapshot is None else snapshot.nodes
    return Report(
        workflow=run.name,
        run=run.id,
        status=run.status,
        started_at=run.started_at,
        duration_ms=run.duration_ms,
        steps=run.steps,
        diagram=diagram,
        failures={
            step.name: _failure(run, step.name)
            for step in run.steps
            if step.status == "failed"
        },
        outputs={s.name: _output(run, s) for s in finished if s.name not in used},
        logs={name: log for name, log in logs.items() if log},
        nodes=tuple(picture.record for picture in nodes),
        made_by=f"mpreg_nb {version('mpreg_nb')} on Python {platform.python_version()}",
    )


def _failure(run: "Run", step: str) -> Failure:
    try:
        run[step]
    except Exception as error:  # noqa: BLE001 - it is the step's own outcome
        return Failure(
            type_name=_type_name(error),
            message=_text(error, str),
            traceback=getattr(error, "remote_traceback", ""),
        )
    return Failure(type_name="", message="it failed and gave a value after all")


def _type_name(error: Exception) -> str:
    name: str = getattr(error, "type_name", "") or type(error).__name__
    return name.removeprefix("builtins.")


def _output(run: "Run", step: StepState) -> Output:
    if (step.result_bytes or 0) > MOST_OUTPUT_BYTES:
        large = size(step.result_bytes or 0)
        return Output(omitted=f"{large}, kept on {step.node or 'its node'}")
    try:
        value = run[step.name]
    except Exception as error:  # noqa: BLE001 - loading runs code of the value's class
        return Output(omitted=f"not available: {_text(error, str)}")
    return Output(type_name=type(value).__name__, text=_text(value, repr))


def _text(value: Any, to_text: Any) -> str:
    try:
        return clipped(str(to_text(value)), MOST_CHARACTERS)
    except Exception as error:  # noqa: BLE001 - code of the value's class
        return f"<{type(value).__name__} whose repr failed: {error!r}>"


def _last_lines(log: str) -> str:
    lines = log.splitlines()
    more = len(lines) - MOST_LOG_LINES
    head = [f"… {more:,} lines before"] if more > 0 else []
    return "\n".join([*head, *lines[-MOST_LOG_LINES:]])
