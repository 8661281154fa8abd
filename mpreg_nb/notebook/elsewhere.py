"""Runs a cell on one node, or on every node that fits."""

from typing import Any

from IPython.display import display

from mpreg_nb.errors import NodesFailed, NoRoute
from mpreg_nb.notebook import kept
from mpreg_nb.notebook.body import run_body
from mpreg_nb.notebook.line import Options, arguments
from mpreg_nb.notebook.session import Session, check_variable
from mpreg_nb.notebook.source import Source, shipped, travelling

NAME = "remote cell"
"""Under this name bodies of cells are in the tables of functions and calls."""


def remote(session: Session, options: Options, cell: str) -> Any:
    """Run `cell` once on a node that fits; return the value of its last expression."""
    __tracebackhide__ = True
    if options.target is not None:
        check_variable(options.target)
    _ = session.cluster
    if options.keep is not None:
        source = Source.of(session, cell, NAME)
        silent = source.is_silent and options.target is None
        return _kept(session, options, kept.run(session, options, source, silent))
    with arguments():
        view = shipped(NAME, run_body).on(
            *options.on, node=options.node, timeout=options.timeout
        )
    source = Source.of(session, cell, NAME)
    names = source.variables(session)
    silent = source.is_silent and options.target is None
    with travelling(names):
        value = view.call(source.text, source.filename, silent, **names)
    return _kept(session, options, value)


def everywhere(session: Session, options: Options, cell: str) -> Any:
    """Run `cell` on every node that fits, at once; return a dict of node -> value.

    Raises:
        NodesFailed: it failed on some; the values of the others are shown, or kept
            as the options say, and are in the error too.
    """
    __tracebackhide__ = True
    if options.target is not None:
        check_variable(options.target)
    with arguments():
        nodes = _fitting(session, options)
        function = shipped(NAME, run_body)
        views = {n: function.on(node=n, timeout=options.timeout) for n in nodes}
    source = Source.of(session, cell, NAME)
    names = source.variables(session)
    silent = source.is_silent and options.target is None
    calls: dict[str, Any] = {}
    values: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    try:
        with travelling(names):
            for node, view in views.items():
                calls[node] = view.submit(source.text, source.filename, silent, **names)
        for node, call in calls.items():
            try:
                values[node] = call.result()
            except Exception as error:  # noqa: BLE001 - the outcome of that node
                errors[node] = error
    except BaseException:  # Stop ends all of them
        for call in calls.values():
            call.cancel()
        raise
    if not errors and silent:
        return None
    if not errors:
        return _kept(session, options, values)
    if options.target is not None:
        session.keep(options.target, values)
    elif values and not silent:
        display(values)  # type: ignore[no-untyped-call]
    raise NodesFailed.of(errors, values)


def _fitting(session: Session, options: Options) -> list[str]:
    from mpreg_nb.names import check_resources

    wanted = check_resources(options.on)
    pictures = session.cluster.refresh().nodes
    held = {
        picture.record.name: picture.record.resources
        for picture in pictures
        if picture.record.state.name == "ALIVE"
    }
    nodes = sorted(node for node, resources in held.items() if wanted <= resources)
    if not nodes:
        raise NoRoute(NAME, wanted, held, held=held)
    return nodes


def _kept(session: Session, options: Options, value: Any) -> Any:
    if options.target is None:
        return value
    session.keep(options.target, value)
    return None
