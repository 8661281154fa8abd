"""The pool on a Dask worker does what every pool must do."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import distributed
import pytest

from mpreg_nb.engines.dask_messages import read_state
from mpreg_nb.engines.dask_pool import DaskWorkerPool, GatewayChannel
from mpreg_nb.engines.dask_worker import WorkerPools, plugin_state
from tests.support.dask_cluster import dask_cluster
from tests.support.worker_pool_contract import (
    MakePool,
    OnEvent,
    OnOutput,
    WorkerPoolContract,
    here,
)

__all__ = ["here"]

pytestmark = pytest.mark.live

PLUGIN = "mpreg-contract"


class _PoolWithClient(DaskWorkerPool):
    """A pool that closes its client when it stops, as a gateway does for all."""

    async def stop(self, timeout_s: float = 2.0, **options: Any) -> None:
        await super().stop(timeout_s, **options)
        await self._channel.client.close()


async def _make(address: str, on_output: OnOutput, on_event: OnEvent) -> DaskWorkerPool:
    client_of: Any = distributed.Client
    client = await client_of(address, asynchronous=True, set_as_default=False)
    channel = GatewayChannel(client, PLUGIN)
    channel.subscribe()
    await client.register_plugin(WorkerPools(PLUGIN))
    ((worker, state),) = (await client.run(plugin_state, PLUGIN)).items()
    return _PoolWithClient(
        channel,
        worker,
        read_state(state),
        True,
        2,
        2,
        Path(),
        on_output,
        on_event,
    )


@pytest.fixture(scope="module")
def make_pool() -> Iterator[MakePool]:
    # Dask runs as many tasks at once as its worker has threads.
    with dask_cluster({"four": []}, threads=4) as dask:
        yield partial(_make, dask.address)


class TestDaskWorkerPool(WorkerPoolContract):
    """Worker processes on a Dask worker."""
