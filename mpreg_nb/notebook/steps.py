"""`%%mpreg step`: a cell becomes a step of a workflow, by the names it reads and sets.

What a step cell assigns is its output. A later one that reads such a name, or the
name of a step, gets a reference; other variables of the notebook travel by value.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mpreg_nb.notebook.body import run_step
from mpreg_nb.notebook.line import Options, arguments
from mpreg_nb.notebook.reads import assigned, reads
from mpreg_nb.notebook.session import Session, check_variable
from mpreg_nb.notebook.source import Source, shipped

if TYPE_CHECKING:
    from mpreg_nb.workflow.builder import Flow

NAME = "step cell"
"""Under this name step cells are in drawings and in the tables of functions."""

_outputs: "WeakKeyDictionary[Flow[Any, Any], dict[str, tuple[str, ...]]]" = (
    WeakKeyDictionary()
)
"""Flow -> step that is a cell -> the names that it sets."""


def step(session: Session, options: Options, cell: str) -> Any:
    """Make `cell` a step of a workflow and return the workflow.

    Raises:
        Misuse: an option makes no sense, the variable holds no workflow, or the
            cell is no Python.
    """
    source = Source.of(session, cell, f"step {options.step}")
    flow, is_new = _flow(session, options.flow)
    outputs = assigned(source.text)
    given = _inputs(session, flow, options.step, source)
    with arguments():
        _check(options)
        made = flow.replace(
            options.step,
            shipped(NAME, run_step),
            source.text,
            source.filename,
            outputs,
            **given,
        )
        made.on(*options.on).after(*options.after).retry(options.retry)
        if options.timeout is not None:
            made.timeout(options.timeout)
    _outputs.setdefault(flow, {})[options.step] = outputs
    if is_new:
        session.keep(options.flow, flow)
    return flow


def _check(options: Options) -> None:
    """Refuse what the step would refuse, before the step that is there is gone."""
    from mpreg_nb.workflow.options import Options as StepOptions

    checked = StepOptions().on(options.on, None).waiting_for(options.after)
    checked = checked.retry(options.retry, Exception)
    if options.timeout is not None:
        checked.timeout(options.timeout)


def _flow(session: Session, name: str) -> "tuple[Flow[Any, Any], bool]":
    """Return the workflow that `name` says, and whether it was made for that."""
    if name in session.shell.user_ns or name in session.flow_names():
        return session.flow(name), False
    from mpreg_nb.cluster.shortcuts import workflow

    check_variable(name)
    return workflow(name), True


def _inputs(
    session: Session, flow: "Flow[Any, Any]", step: str, source: Source
) -> dict[str, Any]:
    """Return what the cell reads: references to steps, and values of variables."""
    from mpreg_nb.workflow.builder import ref

    others = [box.name for box in flow.diagram().boxes if box.kind != "input"]
    place = others.index(step) if step in others else len(others)
    made = _outputs.get(flow, {})
    references: dict[str, Any] = {}
    # The last that sets a name counts, of those before this step if there is one.
    for other in (*others[place + 1 :], *others[:place]):
        references[other] = ref(other)
        names = made.get(other, ())
        for name in names:
            references[name] = ref(other)[name] if len(names) > 1 else ref(other)
    known: Mapping[str, Any] = {**session.variables, **references}
    return {name: known[name] for name in reads(source.text, known)}
