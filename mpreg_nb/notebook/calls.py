"""`%mpreg call train(rows, lr=0.2)`: Python call syntax, evaluated in the notebook."""

import ast
from typing import Any, NamedTuple

from mpreg_nb.names import nearest
from mpreg_nb.notebook.line import Misuse
from mpreg_nb.notebook.session import Session


class Call(NamedTuple):
    """A call as it was written, its arguments evaluated."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(session: Session, text: str) -> Any:
    """Call a function of the cluster as `text` says, and return what it returns."""
    __tracebackhide__ = True
    from mpreg_nb.cluster.functions import Function

    asked = read_call(session, text, "call", "train(rows, lr=0.2)")
    cluster = session.cluster
    held = session.shell.user_ns.get(asked.name)
    # Decorated before there was a cluster, a function is registered at first use.
    if isinstance(held, Function) and cluster.client.offer(held.name) is None:
        return held.call(*asked.args, **asked.kwargs)
    return cluster.call(asked.name, *asked.args, **asked.kwargs)


def read_call(session: Session, text: str, verb: str, example: str) -> Call:
    """Read `name(arguments)`, also with the name in quotes.

    Raises:
        Misuse: it is no call, or names a variable that there is not.
    """
    usage = f"write a call as in Python: %mpreg {verb} {example}"
    try:
        found = ast.parse(text, "<call>", "eval").body if text else None
    except SyntaxError as error:
        raise Misuse(f"{error.msg}: {text}. W{usage[1:]}") from None
    match found:
        case ast.Call(func=ast.Name(id=name) | ast.Constant(value=str(name))):
            pass
        case ast.Name(id=name):
            raise Misuse(f"arguments are missing: %mpreg {verb} {name}()")
        case _:
            raise Misuse(usage)
    keys = [None if k.arg is None else ast.Constant(k.arg) for k in found.keywords]
    values = [keyword.value for keyword in found.keywords]
    given = ast.Tuple([*found.args], ast.Load()), ast.Dict([*keys], values)
    shell: Any = session.shell
    try:
        args, kwargs = (shell.ev(ast.unparse(part)) for part in given)
    except NameError as error:
        wrong = error.name or ""
        meant = nearest(wrong, session.variables)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise Misuse(f"the notebook has no variable {wrong!r}.{hint}") from None
    return Call(name, args, kwargs)
