"""A function that runs here when it is called, and on the cluster when asked to."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from mpreg_nb.client.future import Future
from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.card import Card
from mpreg_nb.names import check_name, check_resources
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.function import name_of

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

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
        cluster: "Callable[[], Cluster]",
    ) -> None:
        if not callable(function):
            raise TypeError(f"{function!r:.80} is not a function")
        if isolation not in ISOLATIONS:
            raise ValueError(
                f"isolation must be one of {', '.join(map(repr, ISOLATIONS))}, not "
                f"{isolation!r}"
            )
        given = name_of(function) if name is None else name
        if given == "<lambda>":
            raise ValueError(
                "a lambda has no name of its own. Give it one: name='double'"
            )
        _look_like(self, function)  # first: what it has of ours counts for nothing
        self.name = check_name("function", given)
        self.resources = check_resources(resources)
        self.idempotent = bool(idempotent)
        self.isolation = isolation
        self.card: Card | None = None
        """What the last registration said; shown by the repr."""
        self._function = function
        self._cluster = cluster

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, as if it were not decorated."""
        return self._function(*args, **kwargs)

    @property
    def local(self) -> Callable[P, R]:
        """The undecorated function."""
        return self._function

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
        # As a method it is the local function: an object is no argument to ship.
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
        """Be as it was, for the cluster that this process is in.

        So functions that run on nodes can use it as the notebook does.
        """
        from mpreg_nb.cluster.current import current

        self.__init__(**state, cluster=current)  # type: ignore[misc]

    def __mpreg_parts__(self) -> tuple[Any, ...]:
        """Return what it is made of when it travels."""
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


def _look_like(made: Function[..., Any], function: Callable[..., Any]) -> None:
    """Take name, documentation and attributes of `function`, as `wraps` does."""
    functools.update_wrapper(made, function, updated=())
    if isinstance(function, types.FunctionType):
        for name, value in vars(function).items():
            if not hasattr(type(made), name):  # it could not be called any more
                vars(made)[name] = value


def _unfilled() -> Function[..., Any]:
    return Function.__new__(Function)


@public
class BoundFunction(Generic[P, R]):
    """A function, or the name of one, with options for its calls."""

    def __init__(
        self,
        cluster: "Callable[[], Cluster]",
        function: "Function[P, R] | str",
        options: CallOptions,
    ) -> None:
        self._cluster = cluster
        self._function = function
        self._options = options

    def in_space(self, space: bytes) -> "BoundFunction[P, R]":
        """Return a view whose calls run in the worker of this space."""
        options = replace(self._options, space=space)
        return type(self)(self._cluster, self._function, options)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function on the cluster and return its result."""
        calling = self._cluster().calling
        result: R = calling.call(self._function, args, kwargs, self._options)
        return result

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Send a call to the cluster and return its future at once."""
        return self._cluster().calling.submit(
            self._function, args, kwargs, self._options
        )

    def map(self, *iterables: Iterable[Any]) -> list[R]:
        """Run the function once for each item and return the results in order."""
        return self._cluster().calling.map(self._function, iterables, self._options)

    __call__ = call

    def __reduce__(self) -> tuple[Any, ...]:
        from mpreg_nb.cluster.current import current

        return type(self), (current, self._function, self._options)

    def __repr__(self) -> str:
        name = (
            self._function if isinstance(self._function, str) else (self._function.name)
        )
        held = ", ".join(sorted(self._options.resources))
        return f"<{name}{f' on {held}' if held else ''}>"


@public
class View:
    """A cluster restricted by `on`: its calls go only to nodes that fit."""

    def __init__(self, cluster: "Cluster", options: CallOptions) -> None:
        self._cluster = cluster
        self._options = options

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` (a function, or the name of one) and return its result."""
        return self._cluster.calling.call(function, args, kwargs, self._options)

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call of `function` and return its future at once."""
        return self._cluster.calling.submit(function, args, kwargs, self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        return View, (self._cluster, self._options)

    def map(self, function: Any, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order."""
        return self._cluster.calling.map(function, iterables, self._options)


def call_options(
    resources: Iterable[str],
    node: str | None,
    timeout: float | None,
    wait: float | None,
) -> CallOptions:
    """Check what narrows a call.

    Raises:
        TypeError, ValueError: a name breaks the rule, or a time is not positive.
    """
    for what, seconds in (("timeout", timeout), ("wait", wait)):
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"{what} must be a number of seconds, not {seconds!r}")
        if not 0 < seconds <= 1e7:
            raise ValueError(
                f"{what} must be a positive number of seconds, not {seconds!r}"
            )
    return CallOptions(
        resources=check_resources(resources),
        node=None if node is None else check_name("node", node),
        timeout_s=timeout,
        wait_s=wait or 0.0,
    )
