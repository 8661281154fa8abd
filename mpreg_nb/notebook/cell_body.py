"""The body of a cell as it runs on a node: remote cells, kept cells and step cells.

Imported in workers, so it imports neither IPython nor the event loop.
"""

import ast
import os
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any, TypeAlias

from mpreg_nb.notebook.ipython_lines import LINES, expanded, has_lines

_VALUE = "__mpreg_value__"
"""The variable that holds the value of the last expression while a body runs."""

_Outcome: TypeAlias = Callable[[dict[str, Any], Any], Any]
"""Makes the result of a body, of its variables and the value of its last expression."""

_COROUTINE = 0x80  # as `inspect` has it; importing it costs more than all else here


def run_body(
    source: str, filename: str, is_silent: bool, /, **names: Any
) -> Any | Coroutine[Any, Any, Any]:
    """Run `source` and return the value of its last expression, else None.

    A coroutine that does so, where `source` awaits at its own level.

    is_silent: return None whatever the value is, which need not travel then.
    names: variables of the notebook that it reads.
    """

    def outcome(_: dict[str, Any], value: Any) -> Any:
        return None if is_silent else value

    return _run(source, filename, names, outcome)


def run_step(
    source: str, filename: str, outputs: tuple[str, ...], /, **names: Any
) -> Any | Coroutine[Any, Any, Any]:
    """Run `source` and return its outputs: one value, or a dict of several.

    Without any, the value of its last expression, else None. A coroutine that does
    so, where `source` awaits at its own level.
    """

    def outcome(found: dict[str, Any], value: Any) -> Any:
        if not outputs:
            return value
        if len(outputs) == 1:
            return found.get(outputs[0])
        return {name: found[name] for name in outputs if name in found}

    return _run(source, filename, names, outcome)


_here: dict[str, Any] = {"__name__": "__main__"}
"""The variables of the cells that this process keeps for each other."""

_sent: dict[str, Any] = {}
"""Those of them that the notebook has sent, and no cell has set since."""

_folder: list[str] = []
"""Where the last of these cells was when it ended, if it had gone elsewhere."""


def run_kept(
    source: str, filename: str, is_silent: bool, /, **names: Any
) -> Any | Coroutine[Any, Any, Any]:
    """Run `source` with the variables that earlier cells kept in this process.

    Returns the value of its last expression, or None, and the names that cells have
    set so far. A coroutine that does so, where `source` awaits at its own level.
    """
    _notice_own()
    for name, value in names.items():
        if name not in _here or name in _sent:
            _here[name] = _sent[name] = value
    if _folder:
        os.chdir(_folder[0])
    began_in = os.getcwd()

    def outcome(found: dict[str, Any], value: Any) -> Any:
        if os.getcwd() != began_in:
            _folder[:] = [os.getcwd()]
        _notice_own()
        own = (n for n in found if not n.startswith("__") and n not in _sent)
        return None if is_silent else value, tuple(own)

    return _run(source, filename, _here, outcome, keeps=True)


def _notice_own() -> None:
    """Record which variables the cells set or deleted: these win over the notebook."""
    for name, value in list(_sent.items()):
        if _here.get(name, _sent) is not value:
            del _sent[name]


def parsed(source: str, filename: str = "<cell>") -> ast.Module:
    """Return the tree of a body, with `%` and `!` lines rewritten.

    Raises:
        SyntaxError: it is no Python.
        ipython_lines.Refused: it has a line that makes no sense there.
    """
    tree = ast.parse(source, filename)
    if has_lines(source):
        tree = expanded(tree)
    return tree


def _is_timed(block: ast.With) -> bool:
    """Return whether `%time` made a block, whose last expression is the value."""
    called = block.items[0].context_expr
    return ast.unparse(called) == f"{LINES}.timed()"


def compiled(source: str, filename: str) -> CodeType:
    """Compile a body, so that the value of its last expression is kept.

    Raises:
        SyntaxError: it is no Python; `await` at its own level is.
    """
    tree = parsed(source, filename)
    body = tree.body
    while body and isinstance(body[-1], ast.With) and _is_timed(body[-1]):
        body = body[-1].body
    last = body[-1] if body else None
    if isinstance(last, ast.Expr):
        kept = ast.Assign([ast.Name(_VALUE, ast.Store())], last.value)
        body[-1] = ast.fix_missing_locations(ast.copy_location(kept, last))
    code: CodeType = compile(
        tree, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    return code


def _run(
    source: str,
    filename: str,
    names: dict[str, Any],
    outcome: _Outcome,
    *,
    keeps: bool = False,
) -> Any:
    """Run `source`; return `outcome` of its variables and its value."""
    from mpreg_nb.serialize.tracebacks import learn_sources

    learn_sources({filename: source})
    code = compiled(source, filename)
    # As in the notebook: classes that it makes are pickled by value on the way back.
    namespace = names if keeps else {"__name__": "__main__", **names}
    if has_lines(source):
        return _run_with_lines(code, namespace, outcome, keeps=keeps)
    return _executed(code, namespace, outcome)


def _run_with_lines(
    code: CodeType, namespace: dict[str, Any], outcome: _Outcome, *, keeps: bool
) -> Any:
    from mpreg_nb.notebook.worker_lines import Lines

    namespace[LINES] = lines = Lines(namespace)
    if keeps:  # the environment too
        return _executed(code, namespace, outcome)
    if code.co_flags & _COROUTINE:
        return _ended_after(lines.end, _executed(code, namespace, outcome))
    try:
        return _executed(code, namespace, outcome)
    finally:
        lines.end()


async def _ended_after(
    end: Callable[[], None], running: Coroutine[Any, Any, Any]
) -> Any:
    try:
        return await running
    finally:
        end()


def _executed(code: CodeType, namespace: dict[str, Any], outcome: _Outcome) -> Any:
    running = eval(code, namespace)  # noqa: S307 - what it is for
    if code.co_flags & _COROUTINE:
        return _awaited(running, namespace, outcome)
    return outcome(namespace, namespace.pop(_VALUE, None))


async def _awaited(
    running: Coroutine[Any, Any, None],
    namespace: dict[str, Any],
    outcome: _Outcome,
) -> Any:
    await running
    return outcome(namespace, namespace.pop(_VALUE, None))
