"""Registers functions: those of variables, and those that a cell defines."""

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.session import Session
from mpreg_nb.notebook.source import check_syntax

if TYPE_CHECKING:
    from mpreg_nb.cluster.functions import Function


class Registered(tuple["Function[Any, Any]", ...]):
    """Functions that were registered together; shows their cards."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import registration_bundle

        cards = [function.card for function in self if function.card is not None]
        return registration_bundle(cards, include, exclude)


def register_names(session: Session, options: Options) -> Any:
    """Register the functions that are in the variables `options.names`."""
    found = {name: session.variable(name) for name in options.names}
    for name, value in found.items():
        if not callable(value):
            raise Misuse(
                f"{name!r} is not a function but of type {type(value).__name__}"
            )
    return _register(session, found, options)


def register_cell(session: Session, options: Options, cell: str) -> Any:
    """Run `cell` here, then register the functions that it defined."""
    _ = session.cluster  # where there is none, nothing shall run
    source, filename = _cached(session, cell)
    check_syntax(source, filename)
    names = [name for name in _defined(ast.parse(source)) if not name.startswith("_")]
    if not names:
        raise Misuse(
            "the cell defines no function to register. Write a `def` at the left "
            "edge, with a name that does not begin with _"
        )
    variables = session.shell.user_ns
    exec(compile(source, filename, "exec"), variables)  # noqa: S102 - the user's cell
    return _register(session, {name: variables[name] for name in names}, options)


def _register(
    session: Session, found: dict[str, Callable[..., Any]], options: Options
) -> Any:
    with arguments():
        made = {name: _function(value, options) for name, value in found.items()}
    registered = Registered(map(session.cluster.register, made.values()))
    # All are registered as they were defined; only then do they get their verbs.
    session.shell.user_ns.update(
        {name: function for name, function in made.items() if name.isidentifier()}
    )
    return registered[0] if len(registered) == 1 else registered


def _function(value: Any, options: Options) -> "Function[Any, Any]":
    from mpreg_nb.cluster.current import current
    from mpreg_nb.cluster.functions import Function

    known = {
        "resources": options.resources,
        "idempotent": options.idempotent,
        "isolation": options.isolation or "process",
    }
    if not isinstance(value, Function):
        return Function(value, **known, cluster=current)
    if not options.resources and not options.idempotent and options.isolation is None:
        return value  # decorated, and nothing else is asked for
    return Function(value.local, name=value.name, **known, cluster=current)


def _cached(session: Session, cell: str) -> tuple[str, str]:
    """Return the Python of `cell`, and the file name that tracebacks know it by."""
    shell: Any = session.shell
    source = shell.transform_cell(cell)
    return source, shell.compile.cache(source, shell.execution_count, raw_code=cell)


def _defined(tree: ast.Module) -> Iterable[str]:
    def names() -> Iterator[str]:
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                yield statement.name

    return dict.fromkeys(names())
