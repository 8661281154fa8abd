"""Interactive distributed computing for notebooks, without a scheduler.

::

    import mpreg_nb as mp

    cluster = mp.up({"gpu-1": {"gpu"}, "cpu-1": {"cpu"}})

    @mp.function(resources={"gpu"})
    def train(rows): ...

    train.call(rows)

Names are imported when they are first used, so that importing the package, and
starting a node, stays cheap.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpreg_nb import errors as errors
    from mpreg_nb.bench.program import bench as bench
    from mpreg_nb.client.future import Future as Future
    from mpreg_nb.cluster.asynchronous import AsyncCluster as AsyncCluster
    from mpreg_nb.cluster.asynchronous import connect_async as connect_async
    from mpreg_nb.cluster.cluster import Cluster as Cluster
    from mpreg_nb.cluster.config import config as config
    from mpreg_nb.cluster.current import current as current
    from mpreg_nb.cluster.functions import Function as Function
    from mpreg_nb.cluster.run import Run as Run
    from mpreg_nb.cluster.shortcuts import call as call
    from mpreg_nb.cluster.shortcuts import doctor as doctor
    from mpreg_nb.cluster.shortcuts import function as function
    from mpreg_nb.cluster.shortcuts import map as map
    from mpreg_nb.cluster.shortcuts import on as on
    from mpreg_nb.cluster.shortcuts import register as register
    from mpreg_nb.cluster.shortcuts import submit as submit
    from mpreg_nb.cluster.shortcuts import workflow as workflow
    from mpreg_nb.cluster.starting import adopt as adopt
    from mpreg_nb.cluster.starting import connect as connect
    from mpreg_nb.cluster.starting import down as down
    from mpreg_nb.cluster.starting import ps as ps
    from mpreg_nb.cluster.starting import up as up
    from mpreg_nb.notebook.extension import (
        load_ipython_extension as load_ipython_extension,
    )
    from mpreg_nb.notebook.extension import (
        unload_ipython_extension as unload_ipython_extension,
    )
    from mpreg_nb.workflow.builder import ref as ref

_HOMES = {
    "AsyncCluster": "cluster.asynchronous",
    "Cluster": "cluster.cluster",
    "Function": "cluster.functions",
    "Future": "client.future",
    "Run": "cluster.run",
    "adopt": "cluster.starting",
    "bench": "bench.program",
    "call": "cluster.shortcuts",
    "config": "cluster.config",
    "connect": "cluster.starting",
    "connect_async": "cluster.asynchronous",
    "current": "cluster.current",
    "doctor": "cluster.shortcuts",
    "down": "cluster.starting",
    "errors": "errors",
    "function": "cluster.shortcuts",
    "load_ipython_extension": "notebook.extension",
    "map": "cluster.shortcuts",
    "on": "cluster.shortcuts",
    "ps": "cluster.starting",
    "ref": "workflow.builder",
    "register": "cluster.shortcuts",
    "submit": "cluster.shortcuts",
    "unload_ipython_extension": "notebook.extension",
    "up": "cluster.starting",
    "workflow": "cluster.shortcuts",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mpreg_nb")
    home = _HOMES.get(name)
    if home is None:
        try:
            raise AttributeError(f"module 'mpreg_nb' has no attribute {name!r}")
        except AttributeError as error:
            # Here, since importing the package imports nothing else of it.
            from mpreg_nb.wire.boundary import leave

            leave(error)
            raise
    if home.startswith(("bench.", "cluster.")) and "IPython" in sys.modules:
        # Prints of remote code shall reach the cells of this notebook from now on.
        import_module("mpreg_nb.notebook.session").meet()
    module = import_module(f"mpreg_nb.{home}")
    value = module if name == home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """Keeps `workflow` and `bench` the functions; folders of that name exist too.

    The import of a submodule sets an attribute of its package. Here it is not taken.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions that read it travel; of plain modules that is known, not of this.
        return import_module, (self.__name__,)

    @property
    def workflow(self) -> Any:
        return __getattr__("workflow")

    @workflow.setter
    def workflow(self, module: ModuleType) -> None:
        return

    @property
    def bench(self) -> Any:
        return __getattr__("bench")

    @bench.setter
    def bench(self, module: ModuleType) -> None:
        return


sys.modules[__name__].__class__ = _Package
