"""Values that Dask has: results of steps that stay there, and arguments of users."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array
import dask.bag
import dask.dataframe
import distributed
import numpy as np
import pandas as pd
import pytest
import tornado.iostream

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.engines.dask_messages import PluginReady, encode
from mpreg_nb.engines.dask_values import DaskArguments
from mpreg_nb.engines.gateway import DaskNodes
from mpreg_nb.node.node import Node
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import load_token
from tests.support.dask_cluster import DaskCluster
from tests.support.files import until_exists
from tests.support.until import until

pytestmark = pytest.mark.live

SOON_S = 60.0

client_of: Any = distributed.Client
future_of: Any = distributed.Future
dask_array: Any = dask.array
dask_bag: Any = dask.bag
dask_frame: Any = dask.dataframe
delayed: Any = vars(dask)["delayed"]

LARGE = 500_000  # numbers of an array of 4 MB


@pytest.fixture(scope="module")
def client(dask: DaskCluster) -> Iterator[Any]:
    with client_of(dask.address, set_as_default=False) as client:
        yield client


@contextmanager
def gateway_here(dask: DaskCluster) -> Iterator[str]:
    """Have a gateway in this process, where it can be looked at; its URL."""
    ready, leave = threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        settings = NodeSettings(name="gateway", workers=0, engine=dask.url)
        entry = Node(settings, load_token())
        await entry.start()
        nodes = DaskNodes(entry, load_token(), dask.address, None)
        await nodes.start()
        urls.append(entry.url)
        loops.append(asyncio.get_running_loop())
        ready.set()
        await leave.wait()
        await nodes.stop()
        await entry.stop()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(SOON_S)
        yield urls[0]
    finally:
        loops[0].call_soon_threadsafe(leave.set)
        thread.join()


@pytest.fixture(scope="module")
def cluster(dask: DaskCluster, client: Any) -> Iterator[mp.Cluster]:
    with gateway_here(dask) as url, mp.connect(url) as cluster:
        arguments(cluster).use(client, None)
        cluster.wait_for("gpu-1", "cpu-1")
        yield cluster


def arguments(cluster: mp.Cluster) -> DaskArguments:
    deferred = parts_of(cluster).client.deferred
    assert isinstance(deferred, DaskArguments)
    return deferred


def keys_in(client: Any) -> list[str]:
    """Return the keys of all values that the Dask cluster has."""

    def keys(dask_scheduler: Any) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks]

    found: list[str] = client.run_on_scheduler(keys)
    return found


def results_in(client: Any) -> list[str]:
    return [key for key in keys_in(client) if "-result-" in key]


# ------------------------------------------------------- results that stay on Dask


def make(size: int = LARGE) -> Any:
    return np.arange(size)


def double(values: Any) -> Any:
    return values * 2


def total(values: Any) -> int:
    return int(values.sum())


def chain(cluster: mp.Cluster, name: str) -> Any:
    flow = cluster.workflow(name)
    made = flow.step("make", make).on("gpu")
    doubled = flow.step("double", double, made).on("cpu")
    flow.step("total", total, doubled).on("gpu")
    return flow


class Counted:
    """Bytes that went over the links to Dask of this process."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def dask_bytes_counted() -> Iterator[Counted]:
    counted = Counted()
    stream: Any = tornado.iostream.IOStream
    read, write = stream.read_from_fd, stream.write_to_fd

    def reads(self: Any, *args: Any) -> Any:
        found = read(self, *args)
        counted.bytes += found or 0
        return found

    def writes(self: Any, data: Any) -> Any:
        sent = write(self, data)
        counted.bytes += sent
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "read_from_fd", reads)
        patch.setattr(stream, "write_to_fd", writes)
        yield counted


def test_a_chain_of_large_arrays_passes_neither_gateway_nor_notebook(
    cluster: mp.Cluster,
) -> None:
    chain(cluster, "warm-up").run()  # code goes to the workers once
    with dask_bytes_counted() as counted:
        run = chain(cluster, "chain").run()
        answer, of_chain = run["total"], counted.bytes
        fetched, of_both = run["double"], counted.bytes

    sizes = dict(zip(run.frame().step, run.frame().result_bytes, strict=True))
    assert answer == LARGE * (LARGE - 1)
    assert min(sizes["make"], sizes["double"]) > 8 * LARGE
    assert of_chain < 200_000
    # The same count sees the bytes where they do come, when they are asked for.
    assert fetched[-1] == 2 * (LARGE - 1)
    assert of_both > 8 * LARGE


def test_items_and_results_of_a_map_stay_where_they_are(
    cluster: mp.Cluster, client: Any
) -> None:
    flow = cluster.workflow("large-items")
    made = flow.step("make", lambda: [np.full(50_000, n) for n in range(4)])
    doubled = flow.map("double", double, over=made)
    flow.step("gathered", lambda values: [int(v[0]) for v in values], doubled)
    flow.step("echo", "echo", doubled)  # runs in the process of the node

    run = flow.run()

    assert run["gathered"] == [0, 2, 4, 6]
    assert [int(values[0]) for values in run["double"]] == [0, 2, 4, 6]
    assert [int(values[0]) for values in run["echo"]] == [0, 2, 4, 6]
    assert len(results_in(client)) >= 8


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_result_that_no_step_has_asked_for_can_be_fetched(
    cluster: mp.Cluster, size: int
) -> None:
    flow = cluster.workflow("alone")
    flow.step("stays", bytes, size)

    assert flow.run()["stays"] == bytes(size)


def test_small_results_do_not_become_values_of_dask(
    cluster: mp.Cluster, client: Any
) -> None:
    before = results_in(client)
    flow = cluster.workflow("small")
    made = flow.step("make", make, 1_000)

    assert flow.run()["make"][-1] == 999
    assert results_in(client) == before
    assert made is not None


def test_results_are_released_when_their_run_is_dropped(
    cluster: mp.Cluster, client: Any
) -> None:
    run = chain(cluster, "released").run()
    assert results_in(client)

    # A node remembers the newest 100 runs.
    tiny = cluster.workflow("tiny")
    tiny.step("one", "echo", 1)
    for each in [tiny.start() for _ in range(100)]:
        each.wait()

    until(lambda: not results_in(client))
    with pytest.raises(mp.errors.NoRun, match="no longer has the result"):
        run["double"]


def test_a_result_that_dask_has_lost_is_made_again(
    cluster: mp.Cluster, client: Any, tmp_path: Path
) -> None:
    def noted() -> Any:
        with (tmp_path / "runs").open("a") as file:
            file.write("ran\n")
        return np.arange(LARGE)

    def wait_for_go() -> None:
        (tmp_path / "waits").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)

    again = cluster.register(noted, "noted", idempotent=True)
    flow = cluster.workflow("lost")
    made = flow.step("made", again).on("gpu")
    gate = flow.step("gate", wait_for_go).on("cpu").after(made)
    flow.step("total", total, made).on("cpu").after(gate)
    run = flow.start()
    until_exists(tmp_path / "waits")

    for key in [key for key in results_in(client) if key.startswith("noted")]:
        client.cancel(future_of(key, client), force=True)
    until(lambda: not any(key.startswith("noted") for key in results_in(client)))
    (tmp_path / "go").touch()

    assert run.wait(SOON_S)["total"] == LARGE * (LARGE - 1) // 2
    assert (tmp_path / "runs").read_text() == "ran\n" * 2


def test_a_result_that_is_lost_fails_its_step_where_nothing_may_run_twice(
    cluster: mp.Cluster, client: Any, tmp_path: Path
) -> None:
    def once() -> Any:
        return np.arange(LARGE)

    def wait_for_go() -> None:
        (tmp_path / "waits").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)

    flow = cluster.workflow("lost-once")
    made = flow.step("made", once).on("gpu")
    gate = flow.step("gate", wait_for_go).on("cpu").after(made)
    flow.step("total", total, made).on("cpu").after(gate)
    run = flow.start()
    until_exists(tmp_path / "waits")

    for key in [key for key in results_in(client) if key.startswith("once")]:
        client.cancel(future_of(key, client), force=True)
    until(lambda: not any(key.startswith("once") for key in results_in(client)))
    (tmp_path / "go").touch()

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        run.wait(SOON_S)
    assert isinstance(caught.value.exceptions[0], mp.errors.NodeLost)


# ------------------------------------------------------ arguments of users of Dask


def listed(count: int) -> list[int]:
    return list(range(count))


def fail() -> None:
    raise ZeroDivisionError("in Dask")


load = delayed(listed)


def described(value: Any, *others: Any) -> tuple[str, int]:
    return type(value).__name__, len(value)


COLLECTIONS: dict[str, tuple[Callable[[], Any], tuple[str, int]]] = {
    "delayed": (lambda: load(3), ("list", 3)),
    "array": (lambda: dask_array.ones((300, 10), chunks=100), ("ndarray", 300)),
    "bag": (lambda: dask_bag.from_sequence([1, 2, 3]).map(abs), ("list", 3)),
    "frame": (
        lambda: dask_frame.from_pandas(pd.DataFrame({"a": range(5)}), npartitions=2),
        ("DataFrame", 5),
    ),
    "inside a list": (lambda: [load(1), load(2)], ("list", 2)),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_function_gets_the_value_of_a_dask_collection(
    cluster: mp.Cluster, name: str
) -> None:
    make_collection, expected = COLLECTIONS[name]

    assert cluster.call(described, make_collection()) == expected


def test_a_collection_is_computed_at_any_place_in_the_arguments(
    cluster: mp.Cluster,
) -> None:
    def look(first: Any, *, nested: Any) -> Any:
        return first, nested

    nested = {"a": [load(1), (load(2), 7)]}

    assert cluster.call(look, 5, nested=nested) == (5, {"a": [[0], ([0, 1], 7)]})


def test_a_future_of_dask_is_passed_without_being_fetched(
    cluster: mp.Cluster, client: Any
) -> None:
    future = client.submit(np.arange, LARGE)

    assert cluster.call(total, future) == LARGE * (LARGE - 1) // 2
    assert cluster.on("gpu").submit(total, future).result() > 0
    # In the process of a node, which has to bring it there.
    assert cluster.on("gpu").call("echo", future)[-1] == LARGE - 1


def test_each_item_of_a_map_can_be_a_value_of_dask(cluster: mp.Cluster) -> None:
    counts = cluster.map(len, [load(n) for n in range(6)])

    assert counts == [0, 1, 2, 3, 4, 5]


def test_what_dask_raises_for_an_argument_is_raised_by_the_call(
    cluster: mp.Cluster,
) -> None:
    with pytest.raises(ZeroDivisionError, match="in Dask") as caught:
        cluster.call(described, delayed(fail)())

    assert isinstance(caught.value, mp.errors.RemoteError)


def test_steps_take_values_of_dask_wherever_they_take_values(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("dask-arguments")
    made = flow.step("both", lambda a, b: a + b, load(2), b=load(1))
    flow.step("next", lambda a, b: a + b, made, load(1))
    flow.map("items", lambda n, more: n * len(more), over=load(4), more=load(2))
    flow.step("input", len, flow.input("rows"))

    run = flow.run(rows=load(9))

    assert (run["both"], run["next"]) == ([0, 1, 0], [0, 1, 0, 0])
    assert (run["items"], run["input"]) == ([0, 2, 4, 6], 9)


def test_a_value_that_was_an_argument_is_let_go_when_the_call_has_ended(
    cluster: mp.Cluster, client: Any
) -> None:
    def loaded_for_one_call() -> list[int]:
        return [1]

    assert cluster.call(len, delayed(loaded_for_one_call)()) == 1

    until(lambda: not any("loaded_for_one_call" in key for key in keys_in(client)))


def test_a_future_that_was_cancelled_is_refused(
    cluster: mp.Cluster, client: Any
) -> None:
    future = client.submit(abs, -1)
    client.cancel(future, force=True)

    with pytest.raises(mp.errors.BadRequest, match=r"args\[0\].*it is cancelled"):
        cluster.call(abs, future)


def test_a_value_that_the_scheduler_does_not_know_is_refused(
    cluster: mp.Cluster, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg_nb.engines.dask_pool.UNKNOWN_S", 0.1)

    with pytest.raises(mp.errors.BadRequest, match="has no value 'nobody-made-it'"):
        cluster.call(abs, future_of("nobody-made-it", client))


def test_a_future_of_another_dask_cluster_is_refused(cluster: mp.Cluster) -> None:
    local: Any = distributed.LocalCluster
    with (
        local(n_workers=1, processes=False, dashboard_address=":0") as other,
        client_of(other, set_as_default=False) as client,
        pytest.raises(mp.errors.BadRequest, match=r"this cluster runs on that at tcp:"),
    ):
        cluster.call(abs, client.submit(abs, -1))


def test_without_a_client_of_the_program_one_is_made_for_its_collections(
    cluster: mp.Cluster, client: Any
) -> None:
    arguments(cluster).use(None, None)
    try:
        found = cluster.call(len, load(4))
    finally:
        arguments(cluster).use(client, None)

    assert found == 4


def topics_of_gateways(dask_scheduler: Any) -> list[str]:
    return [name for name in dask_scheduler._broker._topics if name.startswith("mpreg")]


def cut_off_gateways(dask_scheduler: Any) -> None:
    """End the links of gateways, as a network does; they connect again."""
    for name, comm in dask_scheduler.client_comms.items():
        if "mpreg-gateway" in name:
            comm.abort()


def test_a_gateway_whose_link_to_the_scheduler_broke_goes_on(
    cluster: mp.Cluster, client: Any
) -> None:
    # A call at that moment may be lost; one that may run twice is sent again.
    length = cluster.register(len, "length", idempotent=True)
    assert client.run_on_scheduler(topics_of_gateways)

    client.run_on_scheduler(cut_off_gateways)
    until(lambda: client.run_on_scheduler(topics_of_gateways) == [])

    assert length.on(wait=SOON_S).call([1, 2]) == 2
    assert length.on(wait=SOON_S).call(load(3)) == 3


def test_what_a_program_scatters_to_all_workers_breaks_nothing(
    cluster: mp.Cluster, client: Any
) -> None:
    # Of this Dask tells on its topic "all" what it cannot send.
    future = client.scatter(np.ones(1000), broadcast=True)

    assert cluster.map(total, [future] * 4) == [1000] * 4


def test_a_scheduler_that_is_busy_loses_neither_nodes_nor_calls(
    cluster: mp.Cluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    def wait_for_go() -> str:
        (tmp_path / "waits").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return "went"

    def block() -> None:  # as an import does that a graph needs
        time.sleep(0.5)

    def has_looked_in_vain() -> bool:
        client.run_on_scheduler(block)
        return "has not answered" in caplog.text

    future = cluster.on("gpu").submit(wait_for_go)
    until_exists(tmp_path / "waits")
    monkeypatch.setattr("mpreg_nb.engines.gateway.CONNECT_S", 0.1)
    monkeypatch.setattr("mpreg_nb.engines.gateway.COMPARE_S", 0.05)

    (topic,) = client.run_on_scheduler(topics_of_gateways)
    client.log_event(topic, encode((PluginReady(address=""),)))  # it looks again
    until(has_looked_in_vain)
    monkeypatch.undo()
    (tmp_path / "go").touch()

    assert future.result(SOON_S) == "went"


# ------------------------------------------------------------ nodes of mpreg_nb


@pytest.fixture(scope="module")
def mesh() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as mesh:
        yield mesh


def as_step(cluster: mp.Cluster, value: Any) -> Any:
    flow = cluster.workflow("refused")
    flow.step("take", len, value)
    return flow.run()


def as_input(cluster: mp.Cluster, value: Any) -> Any:
    flow = cluster.workflow("refused-input")
    flow.step("take", len, flow.input("rows"))
    return flow.run(rows=value)


WAYS: dict[str, Callable[[mp.Cluster, Any], Any]] = {
    "call": lambda cluster, value: cluster.call(len, value),
    "nested": lambda cluster, value: cluster.call(len, [1, {"a": value}]),
    "named": lambda cluster, value: cluster.call(sorted, [1], key=value),
    "map": lambda cluster, value: cluster.map(len, [[1], value]),
    "step": as_step,
    "input": as_input,
}


@pytest.mark.parametrize("way", WAYS)
def test_nodes_of_our_own_refuse_uncomputed_values_and_name_the_cure(
    mesh: mp.Cluster, way: str
) -> None:
    with pytest.raises(mp.errors.NotComputed, match=r"value\.compute\(\).*on_dask"):
        WAYS[way](mesh, load(1))


def test_nodes_of_our_own_refuse_futures_of_dask(mesh: mp.Cluster, client: Any) -> None:
    with pytest.raises(mp.errors.NotComputed, match=r"future\.result\(\)"):
        mesh.call(len, client.submit(list, (1, 2)))
