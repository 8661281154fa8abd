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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpreg_nb import errors as errors
    from mpreg_nb.benchmark.program import bench as bench
    from mpreg_nb.client.future import Future as Future
    from mpreg_nb.cluster.api import adopt as adopt
    from mpreg_nb.cluster.api import call as call
    from mpreg_nb.cluster.api import connect as connect
    from mpreg_nb.cluster.api import current as current
    from mpreg_nb.cluster.api import doctor as doctor
    from mpreg_nb.cluster.api import down as down
    from mpreg_nb.cluster.api import function as function
    from mpreg_nb.cluster.api import map as map
    from mpreg_nb.cluster.api import on as on
    from mpreg_nb.cluster.api import on_dask as on_dask
    from mpreg_nb.cluster.api import ps as ps
    from mpreg_nb.cluster.api import register as register
    from mpreg_nb.cluster.api import submit as submit
    from mpreg_nb.cluster.api import up as up
    from mpreg_nb.cluster.api import workflow as workflow
    from mpreg_nb.cluster.async_cluster import AsyncCluster as AsyncCluster
    from mpreg_nb.cluster.async_cluster import connect_async as connect_async
    from mpreg_nb.cluster.cluster import Cluster as Cluster
    from mpreg_nb.cluster.config import config as config
    from mpreg_nb.cluster.function import Function as Function
    from mpreg_nb.cluster.run import Run as Run
    from mpreg_nb.notebook.magics import (
        load_ipython_extension as load_ipython_extension,
    )
    from mpreg_nb.notebook.magics import (
        unload_ipython_extension as unload_ipython_extension,
    )
    from mpreg_nb.workflows.builder import ref as ref

if sys.platform == "win32":
    raise ImportError(
        "mpreg_nb runs on Linux and macOS: its workers need Unix signals and sockets, "
        "which Windows does not have. Use it inside of WSL 2: run `wsl --install` in a "
        "terminal, then install Python and mpreg_nb there"
    )

_HOMES = {
    "AsyncCluster": "cluster.async_cluster",
    "Cluster": "cluster.cluster",
    "Function": "cluster.function",
    "Future": "client.future",
    "Run": "cluster.run",
    "adopt": "cluster.api",
    "bench": "benchmark.program",
    "call": "cluster.api",
    "config": "cluster.config",
    "connect": "cluster.api",
    "connect_async": "cluster.async_cluster",
    "current": "cluster.api",
    "doctor": "cluster.api",
    "down": "cluster.api",
    "errors": "errors",
    "function": "cluster.api",
    "load_ipython_extension": "notebook.magics",
    "map": "cluster.api",
    "on": "cluster.api",
    "on_dask": "cluster.api",
    "ps": "cluster.api",
    "ref": "workflows.builder",
    "register": "cluster.api",
    "submit": "cluster.api",
    "unload_ipython_extension": "notebook.magics",
    "up": "cluster.api",
    "workflow": "cluster.api",
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
            from mpreg_nb.boundary import leave

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
