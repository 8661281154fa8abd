"""The gateway to a Dask cluster: one node for each of its workers, in this process.

The gateway's own node has no workers: clients connect to it, and it stays while Dask
workers come and go. The node of a Dask worker has that worker's name, its resources and
one worker process for each of its threads.

What Dask has at the moment is compared with the nodes that there are whenever Dask
reports a change, and every few seconds: so nothing depends on each report arriving, and
a scheduler that was restarted is served like one that lost all of its workers.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import distributed

from mpreg_nb.engines.dask_messages import PluginState, read_state
from mpreg_nb.engines.dask_pool import DaskWorkerPool, GatewayChannel, ResultsOnDask
from mpreg_nb.engines.dask_scheduler import GatewayLease, end_lease
from mpreg_nb.engines.dask_worker import WorkerPools, plugin_state
from mpreg_nb.engines.options import (
    GatewayOptions,
    add_gateway_arguments,
    gateway_options,
)
from mpreg_nb.errors import MpregError
from mpreg_nb.names import check_name
from mpreg_nb.node.__main__ import run
from mpreg_nb.node.node import Node
from mpreg_nb.node.worker_pool import WorkerHost
from mpreg_nb.protocol.messages import installed, minor_of
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import Token

CONNECT_S = 10.0
"""How long the scheduler may take to answer."""

REACH_S = 2.0
"""How long a Dask worker may take to answer by itself; else large values pass the
scheduler."""

COMPARE_S = 5.0
"""Between two comparisons of workers and nodes when Dask reports nothing."""

LEAVE_S = 3.0
"""How long the Dask cluster may take to let go of the gateway."""

_LOG = logging.getLogger("mpreg_nb.node")

# The package ships types for some of its methods only.
_CLIENT: Any = distributed.Client
_SECURITY: Any = distributed.Security


def node_name(name: object, address: str) -> str:
    """Return the name of the node of a Dask worker.

    Dask numbers the workers of a local cluster, and names others by their address.

    >>> node_name(0, "tcp://127.0.0.1:4001"), node_name("big-1", "tcp://10.0.0.5:4001")
    ('dask-0', 'big-1')
    >>> node_name("tcp://10.0.0.5:4001", "tcp://10.0.0.5:4001")
    'dask-10.0.0.5-4001'
    """
    text = str(name)
    if text == address or text.isdecimal():
        text = f"dask-{text.rpartition('://')[2]}"
    return check_name("node", text.replace(":", "-").replace("/", "-"))


class DaskNodes:
    """The nodes of the workers of one Dask cluster."""

    def __init__(self, entry: Node, token: Token, address: str, security: Any) -> None:
        """entry: the gateway's own node, which all others join."""
        self._entry = entry
        self._token = token
        self._address = address
        self._security = security
        self._gateway = f"mpreg-{secrets.token_hex(6)}"
        self._channel: GatewayChannel | None = None
        self._scheduler_id = ""
        self._nodes: dict[str, Node] = {}  # by the address of the Dask worker
        self._pools: dict[str, list[DaskWorkerPool]] = {}
        self._unfit: set[str] = set()  # Dask workers that cannot have a node
        self._changed = asyncio.Event()
        self._is_missing = False  # a plugin, where it was
        self._comparing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the scheduler and start a node for each of its workers.

        Raises:
            MpregError: nobody answers, or workers cannot run our functions.
        """
        channel = await self._connect()
        await self._check(channel.client)
        await self._match_nodes_to_workers()
        self._comparing = asyncio.ensure_future(self._keep_comparing())

    async def stop(self) -> None:
        """End the nodes, and leave the Dask cluster as it was."""
        if self._comparing is not None:
            self._comparing.cancel()
        await asyncio.gather(*(node.stop(0.0) for node in self._nodes.values()))
        if self._channel is not None:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._leave(self._channel.client)
            except Exception as error:  # noqa: BLE001 - of Dask: all is gone with it
                _LOG.warning("the Dask cluster did not confirm the end: %s", error)

    async def _leave(self, client: Any) -> None:
        if client.status == "running" and self._scheduler_id:
            # Else the scheduler would report our own end to a closed link.
            client.unsubscribe_topic(self._gateway)
            await client.unregister_worker_plugin(self._gateway)
            with contextlib.suppress(ValueError):  # it runs no functions of clients
                await client.run_on_scheduler(end_lease, self._gateway)
        await client.close()

    # ---------------------------------------------------------------- connection

    async def _connect(self) -> GatewayChannel:
        """Return the connection to Dask; a new one if the old one was given up."""
        channel = self._channel
        if channel is not None and channel.client.status != "closed":
            return channel
        try:
            client = await _CLIENT(
                self._address,
                asynchronous=True,
                security=self._security,
                set_as_default=False,
                timeout=CONNECT_S,
                name="mpreg-gateway",
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise MpregError(
                f"no Dask scheduler can be reached at {self._address}: {error}. In "
                "Dask, its address is client.scheduler.address"
            ) from error
        if channel is None:
            channel = self._channel = GatewayChannel(client, self._gateway)
            channel.on_ready = lambda address: self._changed.set()
            channel.on_gone = self._gone
            channel.on_missing = self._missing
            self._results = ResultsOnDask(channel)
        channel.client = client
        return channel

    async def _register(self, channel: GatewayChannel) -> None:
        """Put our plugins where a scheduler does not have them yet."""
        client = channel.client
        try:
            await client.register_plugin(GatewayLease(self._gateway, client.id))
        except Exception as error:  # noqa: BLE001 - of Dask: forbidden there, maybe
            _LOG.warning(
                "the Dask scheduler takes no plugin (%s). Calls run at most once all "
                "the same. But should this process be killed, its worker processes "
                "stay on the Dask workers until these end",
                error,
            )
        channel.subscribe()
        await client.register_plugin(WorkerPools(self._gateway))

    def _gone(self, address: str) -> None:
        """End what ran on a Dask worker that the scheduler has no longer."""
        for pool in self._pools.get(address, ()):
            pool.lost("its Dask worker has ended")
        self._changed.set()

    def _missing(self) -> None:
        """Look which Dask workers have no plugin any more, and give it to them."""
        self._is_missing = True
        self._changed.set()

    async def _check(self, client: Any) -> None:
        """Refuse a cluster whose workers cannot run our functions."""
        found = await client.get_versions(packages=["mpreg_nb"])
        here = installed()
        for address, versions in found["workers"].items():
            problem = unfit(address, versions["packages"], here)
            if problem:
                raise MpregError(problem)

    # ---------------------------------------------------------------- comparison

    async def _keep_comparing(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COMPARE_S):
                    await self._changed.wait()
            try:
                await self._match_nodes_to_workers()
            except Exception as error:  # noqa: BLE001 - of Dask: the next time, maybe
                _LOG.warning("the Dask cluster cannot be asked: %s", error)
                await asyncio.sleep(0.5)

    async def _match_nodes_to_workers(self) -> None:
        self._changed.clear()
        try:
            channel = await self._connect()
            found = await self._identity(channel.client)
            if found is None:
                _LOG.warning("the Dask scheduler has not answered for %g s", CONNECT_S)
                return
            if self._is_missing:
                await self._end(await self._without_plugin(channel), "its link broke")
            if found["id"] != self._scheduler_id or self._is_missing:
                await self._register(channel)
                self._scheduler_id, self._is_missing = found["id"], False
        except Exception:
            await self._end(list(self._nodes), "the Dask scheduler does not answer")
            raise
        workers: Mapping[str, Any] = found["workers"]
        self._unfit &= workers.keys()
        gone = [address for address in self._nodes if address not in workers]
        await self._end(gone, "its Dask worker has ended")
        await asyncio.gather(
            *(
                self._start(channel, address, workers[address])
                for address in workers
                if address not in self._nodes and address not in self._unfit
            )
        )

    async def _without_plugin(self, channel: GatewayChannel) -> list[str]:
        """Return the Dask workers that have no plugin of ours any more.

        The scheduler takes it from all when the link of this process broke, though that
        comes again by itself.
        """
        found = {
            address: await channel.run(plugin_state, address) for address in self._nodes
        }
        return [address for address, state in found.items() if not state]

    async def _identity(self, client: Any) -> Mapping[str, Any] | None:
        """Return what the scheduler knows of its workers; None if it is busy.

        It may be for long, such as when it imports what a graph needs. Its link ends
        if it is gone.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                found: Mapping[str, Any] = await client.scheduler.identity(n_workers=-1)
        except TimeoutError:
            if client.status == "running" and self._scheduler_id:
                return None
            raise
        return found

    async def _start(
        self, channel: GatewayChannel, address: str, worker: Mapping[str, Any]
    ) -> None:
        """Start the node of a Dask worker, if that is ready for it."""
        try:
            raw = await channel.run(plugin_state, address)
            if not raw:
                return  # it will report that it is ready
            name, state = node_name(worker["name"], address), read_state(raw)
            direct = channel.direct = await self._reaches(channel.client, address)
            node = self._node(channel, address, state, name, worker, direct)
            await node.start()
        except Exception as error:  # noqa: BLE001 - of Dask, or its worker lacks us
            self._unfit.add(address)
            _LOG.warning("the Dask worker at %s has no node: %s", address, error)
            return
        self._nodes[address] = node
        _LOG.info("%s: the node of the Dask worker at %s", name, address)

    def _node(
        self,
        channel: GatewayChannel,
        address: str,
        state: PluginState,
        name: str,
        worker: Mapping[str, Any],
        direct: bool,
    ) -> Node:
        pools = self._pools[address] = []

        def make_pool(*args: Any, **options: Any) -> DaskWorkerPool:
            pool = DaskWorkerPool(channel, address, state, direct, *args, **options)
            pools.append(pool)
            return pool

        settings = NodeSettings(
            name=name,
            resources=_resources(worker["resources"]),
            join=(self._entry.url,),
            cluster_id=self._entry.cluster_id,
            workers=worker["nthreads"],
            limits=self._entry.settings.limits,
            store_bytes=self._entry.settings.store_bytes,
            engine=self._entry.settings.engine,
        )
        where = WorkerHost(
            make_pool=make_pool,
            host=state.host,
            versions=state.versions,
            results=self._results,
        )
        return Node(settings, self._token, worker_host=where)

    async def _reaches(self, client: Any, address: str) -> bool:
        """Return whether this process can connect to a Dask worker itself."""
        try:
            async with asyncio.timeout(REACH_S):
                await client.rpc(address).identity()
        except (OSError, TimeoutError):
            return False
        return True

    async def _end(self, addresses: Sequence[str], reason: str) -> None:
        for address in addresses:
            for pool in self._pools.pop(address, ()):
                pool.lost(reason)
        nodes = [self._nodes.pop(address) for address in addresses]
        for node in nodes:
            self._results.leave(node.name)
            _LOG.info("%s leaves: %s", node.name, reason)
        await asyncio.gather(*(node.stop(0.0) for node in nodes))


def _resources(given: Mapping[str, float]) -> frozenset[str]:
    """Return those resources of a Dask worker that can be names here."""
    fit = set()
    for name in given:
        try:
            fit.add(check_name("resource", name))
        except ValueError as error:
            _LOG.warning("a resource of Dask has no name here: %s", error)
    return frozenset(fit)


def unfit(
    address: str, packages: Mapping[str, str | None], here: Mapping[str, str]
) -> str:
    """Return why a Dask worker cannot run our functions; "" if it can."""
    python, own = minor_of(packages["python"] or ""), minor_of(here["python"])
    if python != own:
        return (
            f"the Dask worker at {address} has Python {python}, and this is Python "
            f"{own}: compiled functions do not travel between them. Start this "
            f"notebook with Python {python}, or the Dask workers with Python {own}"
        )
    found, wanted = packages.get("mpreg_nb"), here.get("mpreg_nb", "")
    if found == wanted or (found and not wanted):
        return ""
    lack = f"has mpreg_nb {found}, not {wanted}" if found else "cannot import mpreg_nb"
    return (
        f"the Dask worker at {address} {lack}. Install it on all workers: "
        "from distributed import PipInstall; client.register_plugin("
        f"PipInstall(['mpreg_nb=={wanted}'], restart_workers=True))"
    )


def _read_security(file: str) -> Any:
    if not file:
        return None
    path = Path(file)
    fields = json.loads(path.read_bytes())
    path.unlink()  # it may hold a private key
    return _SECURITY(**fields)


@asynccontextmanager
async def _dask_nodes(
    address: str, security: Any, entry: Node, token: Token
) -> AsyncIterator[None]:
    """Have the nodes of a Dask cluster beside the gateway's own."""
    nodes = DaskNodes(entry, token, address, security)
    try:
        await nodes.start()
        yield
    finally:
        await nodes.stop()


def run_gateway(
    options: GatewayOptions,
    *,
    first_cluster_id: str = "",
    on_ready: Callable[[str, int], object] | None = None,
) -> int:
    """Run a gateway until SIGTERM; return the exit code.

    The other arguments are those of `run` of a node.
    """
    try:
        security = _read_security(options.security_file)
    except (OSError, ValueError, TypeError) as error:
        sys.stderr.write(f"mpreg-nb gateway: --dask-security: {error}\n")
        return 2
    beside = partial(_dask_nodes, options.address, security)
    return run(
        options.node,
        first_cluster_id=first_cluster_id,
        on_ready=on_ready,
        beside=beside,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a gateway as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="mpreg-nb gateway", allow_abbrev=False)
    add_gateway_arguments(parser)
    return run_gateway(gateway_options(parser, parser.parse_args(arguments)))
