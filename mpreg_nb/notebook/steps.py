"""`%%mpreg step`: a cell becomes a step of a workflow, by the names it reads and sets.

What a step cell assigns is its output. A later one that reads such a name, or the
name of a step, gets a reference, and one that reads an input of the workflow the
place of its value; other variables of the notebook travel by value.
"""

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mpreg_nb.notebook.body import run_step
from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.reads import assigned, reads
from mpreg_nb.notebook.session import Session, check_variable
from mpreg_nb.notebook.source import Source, shipped

if TYPE_CHECKING:
    from mpreg_nb.workflow.builder import Flow

NAME = "step cell"
"""Under this name step cells are in drawings and in the tables of functions."""

_INPUT = object()
"""Stands for an input of the workflow, until it is known that the cell reads it."""

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
    outputs = assigned(source.code)
    with arguments():
        _check(options)
        given = _inputs(session, flow, options, source)
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
    session: Session, flow: "Flow[Any, Any]", options: Options, source: Source
) -> dict[str, Any]:
    """Return what the cell reads: references to steps, and values of variables."""
    from mpreg_nb.workflow.builder import ref

    boxes = flow.diagram().boxes
    others = [box.name for box in boxes if box.kind != "input"]
    place = others.index(options.step) if options.step in others else len(others)
    made = _outputs.get(flow, {})
    known: dict[str, Any] = session.variables
    for name in (*(box.name for box in boxes if box.kind == "input"), *options.input):
        known[name] = _INPUT
    # The last that sets a name counts, of those before this step if there is one.
    for other in (*others[place + 1 :], *others[:place]):
        known[other] = ref(other)
        names = made.get(other, ())
        for name in names:
            known[name] = ref(other)[name] if len(names) > 1 else ref(other)
    given = {name: known[name] for name in reads(source.code, known)}
    unread = [name for name in options.input if given.get(name) is not _INPUT]
    if unread:
        reason = (
            "a step assigns it" if unread[0] in given else "the cell does not read it"
        )
        raise Misuse(f"{unread[0]!r} cannot be an input of the cell: {reason}")
    return {
        name: flow.input(name) if value is _INPUT else value
        for name, value in given.items()
    }
