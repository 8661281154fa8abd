"""Functions that run here when called, and on the cluster when asked; `cluster.fn`."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar

from mpreg_nb.boundary import public
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.future import Future
from mpreg_nb.client.registrations import Card
from mpreg_nb.cluster.current import CallingCluster, current
from mpreg_nb.names import ANONYMOUS, check_name, check_resources, name_of, nearest
from mpreg_nb.settings import LONGEST_TIME_S

P = ParamSpec("P")
R = TypeVar("R")

ISOLATIONS = ("process", "thread")


@public
class Function(Generic[P, R]):
    """A decorated function: it runs here when called, and on the cluster by its verbs.

    `function(...)` is the plain local call. `call`, `submit` and `map` run the
    current code on a node that holds the function's resources. The decorator or the
    first use registers the function on the cluster.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        resources: str | Iterable[str] = (),
        idempotent: bool = False,
        isolation: str = "process",
        cluster: Callable[[], CallingCluster],
    ) -> None:
        if not callable(function):
            raise TypeError(f"{function!r:.80} is not a function")
        if isolation not in ISOLATIONS:
            raise ValueError(
                f"isolation must be one of {', '.join(map(repr, ISOLATIONS))}, not "
                f"{isolation!r}"
            )
        given = name_of(function) if name is None else name
        if name is None and given == ANONYMOUS:
            raise ValueError(
                "a lambda has no name of its own. Give it one: name='double'"
            )
        _look_like(self, function)  # first: our attributes replace equal ones
        self.name = check_name("function", given)
        """Its name in the catalog."""
        self.resources = check_resources(resources)
        """Only nodes that hold all of these run it."""
        self.idempotent = bool(idempotent)
        """Whether a call is retried if its node is lost."""
        self.isolation = isolation
        """Where it runs: in a "process", or in a "thread" of the node."""
        self.card: Card | None = None
        """The card of the last registration; shown by the repr."""
        self._function = function
        self._cluster = cluster

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, as if it were not decorated."""
        return self._function(*args, **kwargs)

    @property
    def local(self) -> Callable[P, R]:
        """The undecorated function."""
        return self._function

    @property
    def _declared_options(self) -> dict[str, Any]:
        """The options that it is registered with, by name."""
        return {option: getattr(self, option) for option in _UNSET}

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function on the cluster and return its result.

        Raises the errors of `Cluster.call`. Interrupting (Stop) cancels the call.
        """
        return self.on().call(*args, **kwargs)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Send a call to the cluster and return its future at once.

        The future is a `concurrent.futures.Future` that can also be awaited.
        """
        return self.on().submit(*args, **kwargs)

    def map(self, *iterables: Iterable[Any]) -> list[R]:
        """Run the function once for each item and return the results in order.

        Takes several iterables as the builtin `map` does. The first error cancels the
        remaining calls and is raised.
        """
        return self.on().map(*iterables)

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> "BoundFunction[P, R]":
        """Restrict which nodes may run the calls, and for how long.

        Returns a view of the function with `call`, `submit` and `map`.

        resources: only nodes that hold all of these, besides the function's own.
        node: only the node of this name.
        timeout: seconds from now to the result, including time in queues.
        wait: seconds that the call may wait for a node that fits.
        """
        options = call_options(resources, node, timeout, wait)
        return BoundFunction(self._cluster, self, options)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        # A method is the local function: its object is no argument to send.
        bound = getattr(self._function, "__get__", None)
        return self if bound is None else bound(instance, owner)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    def __reduce__(self) -> tuple[Any, ...]:
        # As state, which is read last: a function may refer to itself.
        return (
            _unfilled,
            (),
            {
                "function": self._function,
                "name": self.name,
                "resources": tuple(sorted(self.resources)),
                "idempotent": self.idempotent,
                "isolation": self.isolation,
            },
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore it for the cluster that runs this process.

        So functions on nodes can call it as the notebook does.
        """
        self.__init__(**state, cluster=current)  # type: ignore[misc]

    def __mpreg_parts__(self) -> tuple[Any, ...]:
        """Return the parts that identify it when it is pickled."""
        return (
            self._function,
            self.name,
            self.resources,
            self.idempotent,
            self.isolation,
        )

    def __repr__(self) -> str:
        if self.card is not None:
            return str(self.card)
        return f"<function {self.name}, not registered yet>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import chosen, registration_bundle

        if self.card is None:
            return chosen({"text/plain": repr(self)}, include, exclude)
        return registration_bundle([self.card], include, exclude)


_UNSET: dict[str, Any] = {
    "name": None,
    "resources": frozenset(),
    "idempotent": False,
    "isolation": "process",
}
"""The options of a registration that gives none."""


def declared(
    function: Any, cluster: Callable[[], CallingCluster], **options: Any
) -> Function[Any, Any]:
    """Return `function` as one with these options of a registration.

    A decorated function keeps its own options where none is given here. With another
    option it becomes another function, over the same code.
    """
    if isinstance(function, Function):
        own, local = function._declared_options, function.local
        options["name"] = options.get("name") or function.name
        changed = Function(local, **options, cluster=cluster)._declared_options
        given = {k: value for k, value in changed.items() if value != _UNSET[k]}
        if given.items() <= own.items():
            return function
        options, function = own | given, local
    return Function(function, **options, cluster=cluster)


def _look_like(made: Function[..., Any], function: Callable[..., Any]) -> None:
    """Take name, documentation and attributes of `function`, as `wraps` does."""
    functools.update_wrapper(made, function, updated=())
    if isinstance(function, types.FunctionType):
        for name, value in vars(function).items():
            if not hasattr(type(made), name):  # else our methods would be hidden
                vars(made)[name] = value


def _unfilled() -> Function[..., Any]:
    return Function.__new__(Function)


@public
class BoundFunction(Generic[P, R]):
    """A function, or the name of one, with options for its calls."""

    def __init__(
        self,
        cluster: Callable[[], CallingCluster],
        function: "Function[P, R] | str",
        options: CallOptions,
    ) -> None:
        self._cluster = cluster
        self._function = function
        self._options = options

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function on the cluster and return its result."""
        calling = self._cluster()._calling
        result: R = calling.call(self._function, args, kwargs, self._options)
        return result

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Send a call to the cluster and return its future at once."""
        future: Future[R] = self._cluster()._calling.submit(
            self._function, args, kwargs, self._options
        )
        return future

    def map(self, *iterables: Iterable[Any]) -> list[R]:
        """Run the function once for each item and return the results in order."""
        calling = self._cluster()._calling
        results: list[R] = calling.map(self._function, iterables, self._options)
        return results

    __call__ = call

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (current, self._function, self._options)

    def __repr__(self) -> str:
        name = (
            self._function if isinstance(self._function, str) else (self._function.name)
        )
        held = ", ".join(sorted(self._options.resources))
        return f"<{name}{f' on {held}' if held else ''}>"


def in_space(view: BoundFunction[..., R], space: bytes) -> BoundFunction[..., R]:
    """Return a view whose calls run in the worker of this space."""
    options = replace(view._options, space=space)
    return type(view)(view._cluster, view._function, options)


@public
class View:
    """A cluster restricted by `on`: its calls go only to nodes that fit."""

    def __init__(self, cluster: CallingCluster, options: CallOptions) -> None:
        self._cluster = cluster
        self._options = options

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` (a function, or the name of one) and return its result."""
        return self._cluster._calling.call(function, args, kwargs, self._options)

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call of `function` and return its future at once."""
        calling = self._cluster._calling
        future: Future[Any] = calling.submit(function, args, kwargs, self._options)
        return future

    def map(self, function: Any, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order."""
        calling = self._cluster._calling
        results: list[Any] = calling.map(function, iterables, self._options)
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        return View, (self._cluster, self._options)


def call_options(
    resources: Iterable[str],
    node: str | None,
    timeout: float | None,
    wait: float | None,
) -> CallOptions:
    """Check the options of a call.

    Raises:
        TypeError, ValueError: a name breaks the rule, or a time is not positive.
    """
    for what, seconds in (("timeout", timeout), ("wait", wait)):
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"{what} must be a number of seconds, not {seconds!r}")
        if not 0 < seconds <= LONGEST_TIME_S:
            raise ValueError(
                f"{what} takes seconds above 0, at most {LONGEST_TIME_S:,.0f}, not "
                f"{seconds!r}"
            )
    return CallOptions(
        resources=check_resources(resources),
        node=None if node is None else check_name("node", node),
        timeout_s=timeout,
        wait_s=wait or 0.0,
    )


class NamedFunction(BoundFunction[..., Any]):
    """A function of the catalog; its signature and doc are the registered one's."""

    __text_signature__: str | None

    def _describe(
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
        narrowed._describe(str(self._function), self.__doc__ or "", signature)
        return narrowed


@public
class FunctionNamespace:
    """Functions by name, for tab completion. `cluster.fn["any name"]` as well."""

    def __init__(self, cluster: CallingCluster) -> None:
        self._cluster = cluster

    def __dir__(self) -> list[str]:
        names = self._cluster._calling.functions
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
        offer = self._cluster._calling.offer(name)
        if offer is None:
            meant = nearest(name, self._cluster._calling.functions)
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise AttributeError(f"no function is registered as {name!r}.{hint}")
        found = NamedFunction(lambda: self._cluster, name, CallOptions())
        found._describe(name, offer.doc, _signature(offer.signature))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionNamespace, (self._cluster,)

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
