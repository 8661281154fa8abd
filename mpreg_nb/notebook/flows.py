"""Verbs of workflows and their runs: plan, draw, run, why, cancel."""

import re
from typing import Any

from mpreg_nb.errors import WorkflowFailed
from mpreg_nb.names import nearest
from mpreg_nb.notebook.calls import read_call
from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.session import Session, check_variable

_WITH_INPUTS = re.compile(r"(?P<before>.*?)(?P<call>[^\W\d]\w*\(.*\))(?P<after>[^)]*)")


def inputs_of(session: Session, verb: str, line: str) -> tuple[str, dict[str, Any]]:
    """Take `(sensor="s-7")` after the workflow out of `line`; return both.

    Raises:
        Misuse: the inputs are not given by name.
    """
    found = _WITH_INPUTS.fullmatch(line)
    if found is None or re.search(r"(^|\s)#", found["before"]):
        return line, {}
    asked = read_call(session, found["call"], verb, 'flow(sensor="s-7")')
    if asked.args:
        raise Misuse(f"inputs are given by name: %mpreg {verb} {asked.name}(NAME=…)")
    return f"{found['before']}{asked.name}{found['after']}", asked.kwargs


def plan(session: Session, options: Options) -> Any:
    """Return where each step would run now."""
    flow = session.flow(options.flow)
    with arguments():
        return flow.plan(**options.inputs)


def draw(session: Session, options: Options) -> Any:
    """Return a workflow or a run, which draws itself."""
    return session.flow_or_run(options.flow)


def run(session: Session, options: Options) -> Any:
    """Execute a workflow and return its run; None where it is kept in a variable."""
    __tracebackhide__ = True
    flow = session.flow(options.flow)
    if options.target is not None:
        check_variable(options.target)
    begin = flow.start if options.a else flow.run
    try:
        run = begin(**options.inputs)
    except WorkflowFailed as error:
        if options.target is not None:
            session.keep(options.target, error.run)
        raise
    if options.target is None:
        return run
    session.keep(options.target, run)
    return None


def why(session: Session, options: Options) -> Any:
    """Return why a step ran where it did."""
    run, step = _step(session, options.step)
    return run.why(step)


def cancel(session: Session, options: Options) -> Any:
    """End a run."""
    return session.run(options.run).cancel()


def _step(session: Session, text: str) -> tuple[Any, str]:
    """Read RUN.STEP; both names may have dots in them."""
    places = [place for place, letter in enumerate(text) if letter == "."]
    pairs = [(text[:place], text[place + 1 :]) for place in places]
    pairs = [(run, step) for run, step in pairs if run and step]
    if not pairs:
        raise Misuse(
            f"{text!r} is not a step of a run. Write RUN.STEP: %mpreg why run.a"
        )
    refusals: list[Misuse] = []
    for name, step in pairs:
        try:
            run = session.run(name)
        except Misuse as error:
            refusals.append(error)
            continue
        steps = [state.name for state in run.steps]
        if step in steps:
            return run, step
        meant = nearest(step, steps)
        hint = (
            f"Did you mean {meant!r}?"
            if meant
            else f"The steps are: {', '.join(steps)}"
        )
        refusals.insert(0, Misuse(f"run {name!r} has no step {step!r}. {hint}"))
    raise refusals[0]
