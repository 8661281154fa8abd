"""The verbs of the current cluster, as functions of the package."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from mpreg_nb.client.future import Future
from mpreg_nb.cluster.calling import Callee
from mpreg_nb.cluster.current import all_clusters, current
from mpreg_nb.cluster.functions import Function, View
from mpreg_nb.cluster.notice import tell_stale
from mpreg_nb.wire.boundary import public

if TYPE_CHECKING:
    from mpreg_nb.cluster.doctor import Findings
    from mpreg_nb.cluster.run import Run
    from mpreg_nb.workflow.builder import Flow

P = ParamSpec("P")
R = TypeVar("R")


@overload
def function(local: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    *,
    name: str | None = None,
    resources: str | Iterable[str] = (),
    idempotent: bool = False,
    isolation: str = "process",
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


@public
def function(local: Any = None, /, **options: Any) -> Any:
    """Decorate a function so that it can be called here and on the cluster.

    It is registered at once if there is a current cluster; otherwise, and on a
    cluster that is started later, at its first use. See `Cluster.function`.
    """

    @public
    def decorate(plain: Callable[P, R]) -> Function[P, R]:
        made = Function(plain, **options, cluster=current)
        if all_clusters():
            tell_stale(current().register(made))
        return made

    return decorate if local is None else decorate(local)


@public
def register(
    function: Any,
    name: str | None = None,
    resources: str | Iterable[str] = (),
    *,
    idempotent: bool = False,
    isolation: str = "process",
) -> "Function[Any, Any]":
    """Register on the current cluster; see `Cluster.register`."""
    return current().register(
        function, name, resources, idempotent=idempotent, isolation=isolation
    )


@public
def call(function: Callee, /, *args: Any, **kwargs: Any) -> Any:
    """Call on the current cluster; see `Cluster.call`."""
    return current().call(function, *args, **kwargs)


@public
def submit(function: Callee, /, *args: Any, **kwargs: Any) -> Future[Any]:
    """Submit a call on the current cluster; see `Cluster.submit`."""
    return current().submit(function, *args, **kwargs)


@public
def map(function: Callee, /, *iterables: Iterable[Any]) -> list[Any]:
    """Map on the current cluster; see `Cluster.map`."""
    return current().map(function, *iterables)


@public
def on(
    *resources: str,
    node: str | None = None,
    timeout: float | None = None,
    wait: float | None = None,
) -> View:
    """Restrict calls on the current cluster; see `Cluster.on`."""
    return current().on(*resources, node=node, timeout=timeout, wait=wait)


@public
def workflow(name: str) -> "Flow[Run, Any]":
    """Create a workflow on the current cluster; see `Cluster.workflow`."""
    return current().workflow(name)


@public
def doctor() -> "Findings":
    """Check this installation and its clusters, and suggest fixes."""
    from mpreg_nb.cluster.doctor import examine

    return examine()
