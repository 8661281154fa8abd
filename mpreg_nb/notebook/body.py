"""Runs the body of a `%%mpreg remote` cell in a worker.

Imported there, so it imports nothing of the notebook; and here when the extension
loads, so that it imports nothing dear either.
"""

import ast
from typing import Any


def run_body(source: str, filename: str, /, **names: Any) -> Any:
    """Run `source` and return the value of its last expression, else None.

    names: variables of the notebook that it reads.
    """
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
        return None
    expression = ast.Expression(last.value)
    return eval(compile(expression, filename, "eval"), namespace)  # noqa: S307
