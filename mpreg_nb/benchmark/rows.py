"""The rows of the benchmark, and the clusters that they measure."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import Any

import msgspec

from mpreg_nb.benchmark.functions import (
    GATHER,
    MEMORY,
    SAME,
    SAME_THREAD,
    gather,
    memory,
    same,
)
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.output import write_to_streams
from mpreg_nb.cluster import current
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.node_spec import Wanted, read_spec
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.protocol.messages import RunStart, StepPlan
from mpreg_nb.serialize.pickle import pack_call
from mpreg_nb.transport.token import load_token
from mpreg_nb.workflows.graph import Reference


class Testbed(msgspec.Struct, frozen=True):
    """The cluster and clients that rows measure with: blocking and asynchronous."""

    cluster: Cluster
    direct: Client
    through_first: Client
    options: CallOptions  # name the version of `same`
    gather_options: CallOptions
    first: str  # node of the link of `through_first`
    second: str  # the same one, where there is no other

    @property
    def alone(self) -> bool:
        """Whether there is only one node to measure with."""
        return self.first == self.second


TWO: Mapping[str, str] = {"b1": "first", "b2": "second"}


@contextlib.contextmanager
def own_nodes(wanted: Wanted = TWO) -> Iterator[Cluster]:
    """Start nodes, and end them in the end.

    wanted: as in `up`.

    The current cluster stays the current one, and `up` and `down` do not see this.
    """
    secret = load_token()
    nodes = StartedNodes(secret, name="", keep=False, notebook="", workers=1, slots=1)
    specs = read_spec(wanted)
    try:
        nodes.start(specs, CONFIG.start_timeout_s)
        cluster = Cluster(tuple(nodes.urls.values()), secret, nodes=nodes)
    except BaseException:
        nodes.close()
        raise
    current.leave(cluster)
    with cluster:
        cluster.wait_for(*(spec.name for spec in specs))
        yield cluster


def prepare(cluster: Cluster) -> tuple[str, str]:
    """Register the functions; return the names of the nodes to measure with.

    Raises:
        MpregError: no node of the cluster is alive.
    """
    alive = sorted(
        picture.record.name
        for picture in cluster.refresh().nodes
        if picture.record.state.name == "ALIVE" and picture.record.urls
    )
    if not alive:
        raise MpregError("no node is alive to measure with. Start some: mp.up(2)")
    cluster.register(same, name=SAME_THREAD, isolation="thread")
    cluster.register(same, name=SAME)
    cluster.register(gather, name=GATHER)
    cluster.register(memory, name=MEMORY)
    return alive[0], alive[1] if len(alive) > 1 else alive[0]


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, first: str, second: str) -> AsyncIterator[Testbed]:
    """Open clients of the running loop to two nodes that `prepare` named."""
    urls = {
        picture.record.name: picture.record.urls[0]
        for picture in parts_of(cluster).client.state.nodes
        if picture.record.urls
    }
    token = parts_of(cluster).client.links.token
    direct = Client([urls[first]], token)
    through_first = Client([urls[first]], token, direct=False)
    try:
        await direct.open()
        await through_first.open()
        await direct.snapshot()  # tells it of the functions, at once
        yield Testbed(
            cluster=cluster,
            direct=direct,
            through_first=through_first,
            options=version(cluster, SAME),
            gather_options=version(cluster, GATHER),
            first=first,
            second=second,
        )
    finally:
        await direct.close()
        await through_first.close()


def version(cluster: Cluster, function: str) -> CallOptions:
    """Return the options of calls of the newest version of `function`."""
    offer = parts_of(cluster).client.offer(function)
    if offer is None:
        raise AssertionError(f"{function} was registered just now")
    return CallOptions(version=offer.version, holder=offer.origin)


VALUE = {
    "name": "alice",
    "value": 42,
    "tags": ["a", "b", "c"],
    "score": 3.25,
    "ok": True,
    "note": "hello",
}


Once = Callable[[Testbed], Awaitable[Any]]


def narrowed(options: CallOptions, node: str, *, wait_s: float = 0.0) -> CallOptions:
    """Return `options` for one node only, which may take `wait_s` to hold it."""
    return replace(options, node=node, wait_s=wait_s)


async def one_call(lab: Testbed) -> Any:
    """Call a function in a worker process of the node of the link."""
    options = narrowed(lab.options, lab.first)
    return await lab.direct.call(SAME, (VALUE,), None, options)


async def builtin_echo(lab: Testbed) -> Any:
    """Call the builtin `echo` of the node of the link."""
    options = CallOptions(node=lab.first)
    return await lab.through_first.call("echo", (VALUE,), None, options)


async def thread_call(lab: Testbed) -> Any:
    """Call a function that runs in a thread of the node."""
    options = CallOptions(node=lab.first)
    return await lab.through_first.call(SAME_THREAD, (VALUE,), None, options)


async def forwarded(lab: Testbed) -> Any:
    """Call through one node a function in a worker of another."""
    options = narrowed(lab.options, lab.second)
    return await lab.through_first.call(SAME, (VALUE,), None, options)


async def direct_call(lab: Testbed) -> Any:
    """Call a worker of the second node over a link to it."""
    options = narrowed(lab.options, lab.second)
    return await lab.direct.call(SAME, (VALUE,), None, options)


async def chain_one_node(lab: Testbed) -> Any:
    """Run a chain of 8 steps on the node of the link."""
    return await _run(lab, _chain(lab, [lab.first] * 8))


async def chain_alternating(lab: Testbed) -> Any:
    """Run a chain of 8 steps that goes from node to node."""
    return await _run(lab, _chain(lab, [lab.first, lab.second] * 4))


async def fan_in(lab: Testbed) -> Any:
    """Run three independent steps over two nodes and one that takes all."""
    nodes = [lab.first, lab.second, lab.first]
    plans = [
        _plan(f"s{number}", SAME, lab.options, (VALUE,), node)
        for number, node in enumerate(nodes)
    ]
    references = tuple(Reference(plan.name) for plan in plans)
    last = _plan("all", GATHER, lab.gather_options, references, lab.first)
    return await _run(lab, [*plans, last])


WORKER_CALL = "call, worker process"

LATENCY_ROWS: dict[str, tuple[Once, float]] = {
    WORKER_CALL: (one_call, 1.5),
    "builtin echo": (builtin_echo, 0.8),
    "call, thread of the node": (thread_call, 1.4),
    "call, forwarded": (forwarded, 2.5),
    "call, direct link": (direct_call, 1.6),
    "chain of 8, one node": (chain_one_node, 7.0),
    "chain of 8, alternating": (chain_alternating, 10.0),
    "fan-in of 3 and 1": (fan_in, 5.0),
}
"""Name -> what is awaited once, and the goal in bare echoes."""

TWO_NODES = {"call, forwarded", "call, direct link", "chain of 8, alternating"}
"""Rows that mean nothing where there is one node only."""


def blocking_latencies_us(lab: Testbed, count: int) -> list[float]:
    """Return latencies of calls that block a thread, as in cells."""
    view = lab.cluster.on(node=lab.first)
    call, clock, taken = view.call, time.perf_counter, []
    for _ in range(count):
        began = clock()
        call(SAME, VALUE)
        taken.append((clock() - began) * 1e6)
    return taken


async def latencies_us(lab: Testbed, once: Once, count: int) -> list[float]:
    """Return how long each of `count` runs of `once` took, one after the other."""
    clock, taken = time.perf_counter, []
    for _ in range(count):
        began = clock()
        await once(lab)
        taken.append((clock() - began) * 1e6)
    return taken


async def calls_per_s(lab: Testbed, in_flight: int, seconds: float) -> float:
    """Return the rate with `in_flight` coroutines that call without a pause."""
    options = narrowed(lab.options, lab.first)
    call = lab.direct.call
    return await _per_s(lambda: call(SAME, (VALUE,), None, options), in_flight, seconds)


async def _per_s(
    once: Callable[[], Awaitable[Any]], in_flight: int, seconds: float
) -> float:
    finished = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal finished
        while time.perf_counter() < end:
            await once()
            finished += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return finished / (time.perf_counter() - began)


async def requests_per_s(lab: Testbed, in_flight: int, seconds: float) -> float:
    """Return the rate of calls that all go over one connection, to one node."""
    options = narrowed(lab.options, lab.first)
    call = lab.through_first.call
    return await _per_s(lambda: call(SAME, (VALUE,), None, options), in_flight, seconds)


async def workflows_per_s(lab: Testbed, in_flight: int, seconds: float) -> float:
    """Return the rate of workflows whose six steps need each other."""
    return await _per_s(lambda: _run(lab, _diamonds(lab)), in_flight, seconds)


def memory_mb(lab: Testbed) -> list[tuple[float, int]]:
    """Return for each node its memory with its workers, and its processes."""
    return [
        lab.cluster.on(node=node).call(MEMORY)
        for node in sorted({lab.first, lab.second})
    ]


def mapped_per_s(lab: Testbed, items: int) -> float:
    """Return the rate of one `map` of small calls over all nodes."""
    began = time.perf_counter()
    lab.cluster.map(SAME, itertools.repeat(VALUE, items))
    return items / (time.perf_counter() - began)


def array_gb_per_s(lab: Testbed, size_bytes: int) -> float:
    """Return the rate of an array that goes to a function and back."""
    import numpy as np

    array = np.ones(size_bytes // 8)
    view = lab.cluster.on(node=lab.first)
    began = time.perf_counter()
    found = view.call(SAME, array)
    taken_s = time.perf_counter() - began
    if found.nbytes != array.nbytes:
        raise AssertionError("another array came back")
    return 2 * array.nbytes / taken_s / 1e9


def _chain(lab: Testbed, nodes: Sequence[str]) -> list[StepPlan]:
    plans = []
    for number, node in enumerate(nodes):
        value: Any = Reference(f"s{number - 1}") if number else VALUE
        plans.append(_plan(f"s{number}", SAME, lab.options, (value,), node))
    return plans


def _diamonds(lab: Testbed) -> list[StepPlan]:
    """Plan two diamonds that share a corner: what makes a step wait, all of it."""
    same, both = (SAME, lab.options), (GATHER, lab.gather_options)
    needs = {
        "a": (*same, (VALUE,)),
        "b": (*same, (Reference("a"),)),
        "c": (*same, (Reference("a"),)),
        "d": (*both, (Reference("b"), Reference("c"))),
        "e": (*same, (Reference("b"),)),
        "f": (*both, (Reference("d"), Reference("e"))),
    }
    nodes = itertools.cycle((lab.first, lab.second))
    return [
        _plan(name, function, options, args, node)
        for (name, (function, options, args)), node in zip(
            needs.items(), nodes, strict=False
        )
    ]


def _plan(
    name: str, function: str, options: CallOptions, args: tuple[Any, ...], node: str
) -> StepPlan:
    parts, inputs = pack_call(args, {}, ())
    payload = bytes(parts[0])
    return StepPlan(
        name=name,
        function=function,
        payload=payload,
        version=options.version,
        node=node,
        inputs=inputs,
    )


async def _run(lab: Testbed, plans: Sequence[StepPlan]) -> Any:
    client = lab.through_first
    ended = asyncio.Event()
    request = RunStart(
        id=client.requests.new_id(), workflow="bench", steps=tuple(plans)
    )
    record = client.runs.start(
        request,
        (),
        writer=write_to_streams,
        on_change=lambda record: ended.set() if record.ended else None,
    )
    await ended.wait()
    if record.status != "done":
        raise AssertionError(f"the measured workflow ended as {record.status}")
    return (await client.runs.fetch(record, plans[-1].name))()
