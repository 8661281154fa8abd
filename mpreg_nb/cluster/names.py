"""`cluster.fn`: the functions of the catalog as attributes."""

import inspect
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.functions import BoundFunction, call_options
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster


class NamedFunction(BoundFunction[..., Any]):
    """A function of the catalog; its signature and doc are the registered one's."""

    __text_signature__: str | None

    def describe(
        self, name: str, doc: str, signature: inspect.Signature | None
    ) -> None:
        """Look like the function that was registered."""
        self.__doc__ = doc or None
        self.__name__ = self.__qualname__ = name
        if signature is not None:
            self.__signature__ = signature

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> "NamedFunction":
        """Narrow where and for how long it may run; then `call`, `submit`, `map`.

        timeout: seconds from now to the result, queueing included.
        wait: seconds that the call may wait for a node that fits.
        """
        options = call_options(resources, node, timeout, wait)
        narrowed = NamedFunction(self._cluster, self._function, options)
        signature = getattr(self, "__signature__", None)
        narrowed.describe(str(self._function), self.__doc__ or "", signature)
        return narrowed


@public
class Names:
    """Functions by name, for tab completion. `cluster.fn["any name"]` as well."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster

    def __dir__(self) -> list[str]:
        names = {o.function for _, o in self._cluster.client.mirror.entries()}
        return sorted(name for name in names if name.isidentifier())

    def __getattr__(self, name: str) -> NamedFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._find(name)

    def __getitem__(self, name: str) -> NamedFunction:
        """Return the function of that name.

        Raises AttributeError, with the nearest name, where there is none.
        """
        return self._find(name)

    def _find(self, name: str) -> NamedFunction:
        client = self._cluster.client
        offer = client.offer(name)
        if offer is None:
            self._cluster.refresh()
            offer = client.offer(name)
        if offer is None:
            meant = nearest(name, {o.function for _, o in client.mirror.entries()})
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise AttributeError(f"no function is registered as {name!r}.{hint}")
        found = NamedFunction(lambda: self._cluster, name, CallOptions())
        found.describe(name, offer.doc, _signature(offer.signature))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Names, (self._cluster,)

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
