"""`cluster.fn`: the functions of the catalog as attributes."""

import inspect
from typing import TYPE_CHECKING, Any

from mpreg_nb.cluster.functions import BoundFunction
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster


class NamedFunction(BoundFunction[..., Any]):
    """A function of the catalog; its signature and doc are the registered one's."""

    __text_signature__: str | None


@public
class Names:
    """Functions by name, for tab completion. `cluster.fn["any name"]` as well."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster

    def __dir__(self) -> list[str]:
        names = {o.function for _, o in self._cluster.client.mirror.entries()}
        return sorted(name for name in names if name.isidentifier())

    def __getattr__(self, name: str) -> BoundFunction[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._find(name)

    def __getitem__(self, name: str) -> BoundFunction[..., Any]:
        """Return the function of that name.

        Raises AttributeError, with the nearest name, where there is none.
        """
        return self._find(name)

    def _find(self, name: str) -> BoundFunction[..., Any]:
        client = self._cluster.client
        offer = client.offer(name)
        if offer is None:
            self._cluster.refresh()
            offer = client.offer(name)
        if offer is None:
            meant = nearest(name, {o.function for _, o in client.mirror.entries()})
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise AttributeError(f"nobody has registered a function {name!r}.{hint}")
        found = self._cluster.bound(name)
        found.__doc__ = offer.doc or None
        found.__name__ = name  # type: ignore[attr-defined]
        signature = _signature(offer.signature)
        if signature is not None:
            found.__signature__ = signature  # type: ignore[attr-defined]
        return found

    def __repr__(self) -> str:
        return f"<functions: {', '.join(dir(self)) or 'none'}>"


def _signature(text: str) -> inspect.Signature | None:
    """Return a signature with the names in `text`; annotations are not evaluated."""
    import ast

    try:
        tree = ast.parse(f"def f{text}: ...")
    except SyntaxError:
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return None
    given = definition.args
    kinds = inspect.Parameter
    parameters = [
        *(inspect.Parameter(a.arg, kinds.POSITIONAL_ONLY) for a in given.posonlyargs),
        *(inspect.Parameter(a.arg, kinds.POSITIONAL_OR_KEYWORD) for a in given.args),
    ]
    first_default = len(parameters) - len(given.defaults)
    parameters = [
        parameter.replace(default=_Shown(ast.unparse(given.defaults[i])))
        if (i := place - first_default) >= 0
        else parameter
        for place, parameter in enumerate(parameters)
    ]
    if given.vararg is not None:
        parameters.append(inspect.Parameter(given.vararg.arg, kinds.VAR_POSITIONAL))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        shown = (
            inspect.Parameter.empty if default is None else _Shown(ast.unparse(default))
        )
        parameters.append(
            inspect.Parameter(argument.arg, kinds.KEYWORD_ONLY, default=shown)
        )
    if given.kwarg is not None:
        parameters.append(inspect.Parameter(given.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)


class _Shown:
    """A default value that is only known as text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
