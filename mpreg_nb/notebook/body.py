"""Runs the body of a cell in a worker.

Imported there, so it imports nothing of the notebook; and here when the extension
loads, so that it imports nothing dear either.
"""

import ast
from typing import Any


def run_body(source: str, filename: str, /, **names: Any) -> Any:
    """Run `source` and return the value of its last expression, else None.

    names: variables of the notebook that it reads.
    """
    return _run(source, filename, names)[0]


def run_step(
    source: str, filename: str, outputs: tuple[str, ...], /, **names: Any
) -> Any:
    """Run `source` and return what it set: one of `outputs`, or a dict of them.

    Without any, the value of its last expression, else None.
    """
    value, found = _run(source, filename, names)
    if not outputs:
        return value
    if len(outputs) == 1:
        return found.get(outputs[0])
    return {name: found[name] for name in outputs if name in found}


def _run(
    source: str, filename: str, names: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the value of the last expression, and the variables at the end."""
    from mpreg_nb.wire.tracebacks import learn_sources

    learn_sources({filename: source})
    tree = ast.parse(source, filename)
    # As in the notebook: classes that it makes are pickled by value on the way back.
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    last = tree.body.pop() if tree.body else None
    if last is not None and not isinstance(last, ast.Expr):
        tree.body.append(last)
    exec(compile(tree, filename, "exec"), namespace)  # noqa: S102 - what it is for
    if not isinstance(last, ast.Expr):
        return None, namespace
    expression = ast.Expression(last.value)
    code = compile(expression, filename, "eval")
    return eval(code, namespace), namespace  # noqa: S307
