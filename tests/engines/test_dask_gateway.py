"""A gateway from its start to its end, and what it leaves in the Dask cluster."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask.base
import distributed
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.engine_cluster import dask_client
from mpreg_nb.engines.engine import DASK_GAPS
from mpreg_nb.engines.gateway import unfit
from mpreg_nb.launcher.pid import await_end, stamp
from tests.support.dask_cluster import DaskCluster, dask_cluster
from tests.support.files import until_exists
from tests.support.until import until

pytestmark = pytest.mark.live

SOON_S = 60.0

client_of: Any = distributed.Client
security_of: Any = distributed.Security
annotate: Any = dask.base.annotate


@pytest.fixture
def client(dask: DaskCluster) -> Iterator[Any]:
    with client_of(dask.address, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def cluster(dask: DaskCluster) -> Iterator[mp.Cluster]:
    with mp.connect(dask.url) as cluster:
        cluster.wait_for("gpu-1", "cpu-1")
        yield cluster


def left_in(client: Any) -> dict[str, Any]:
    """Return what a gateway could leave in the Dask cluster."""

    def on_scheduler(dask_scheduler: Any) -> Any:
        return (
            [name for name in dask_scheduler.plugins if name.startswith("mpreg")],
            [name for name in dask_scheduler.worker_plugins if name != "shuffle"],
            [n for n in dask_scheduler._broker._topics if n.startswith("mpreg")],
            [str(key) for key in dask_scheduler.tasks],
        )

    def on_worker(dask_worker: Any) -> Any:
        import os

        import psutil

        return (
            [name for name in dask_worker.plugins if name.startswith("mpreg")],
            [str(key) for key in dask_worker.data],
            len(psutil.Process().children()),
            [n for n in os.listdir(dask_worker.local_directory) if "mpreg" in n],
        )

    return {
        "scheduler": client.run_on_scheduler(on_scheduler),
        **client.run(on_worker),
    }


def add(a: int, b: int = 1) -> int:
    return a + b


def test_the_dask_cluster_is_as_it_was_when_the_gateway_has_left(
    dask: DaskCluster, client: Any
) -> None:
    before = left_in(client)
    with mp.connect(dask.url) as cluster:
        cluster.wait_for("gpu-1", "cpu-1")
        assert cluster.map(add, range(10)) == list(range(1, 11))
        assert left_in(client) != before

    assert left_in(client) == before


def test_a_gateway_that_is_killed_leaves_nothing_either(
    dask: DaskCluster, client: Any
) -> None:
    before = left_in(client)
    with mp.connect(dask.url) as cluster:
        (row,) = [row for _, row in mp.ps().iterrows() if row.cluster == cluster.name]
        assert cluster.call(add, 1) == 2
        flow = cluster.workflow("large")
        flow.step("stays", bytes, 1_000_000)
        assert len(flow.run()["stays"]) == 1_000_000

        os.kill(int(row.pid), signal.SIGKILL)

        until(lambda: left_in(client) == before)


def test_a_gateway_ends_with_the_process_that_started_it(
    dask: DaskCluster, client: Any
) -> None:
    before = left_in(client)
    program = (
        "import sys, mpreg_nb as mp\n"
        "cluster = mp.connect(sys.argv[1])\n"
        "print(int(mp.ps().pid.iloc[-1]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, dask.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        gateway = stamp(int(starter.stdout.readline()))
        starter.kill()

    assert await_end([gateway], timeout=60)
    until(lambda: left_in(client) == before)


def test_a_kept_gateway_is_adopted_and_ended_by_its_name(
    dask: DaskCluster, client: Any
) -> None:
    before = left_in(client)
    mp.connect(dask.url, keep=True, name="kept-dask").disconnect()

    with mp.adopt("kept-dask") as cluster:
        assert cluster.call(add, 1) == 2
        with pytest.raises(mp.errors.MpregError, match="Dask has no remove"):
            cluster.remove("gpu-1")
    until(lambda: left_in(client) == before)

    assert "kept-dask" not in set(mp.ps().cluster)


def test_connecting_again_returns_the_same_cluster(
    dask: DaskCluster, cluster: mp.Cluster
) -> None:
    assert mp.connect(dask.url) is cluster
    assert mp.current() is cluster


def test_a_cluster_of_our_own_starts_beside_it(cluster: mp.Cluster) -> None:
    with mp.up(1) as own:
        assert own is not cluster
        assert own.call(add, 1) == 2


def test_a_client_of_dask_stands_for_its_scheduler_and_computes_arguments(
    client: Any, cluster: mp.Cluster
) -> None:
    assert mp.on_dask(client) is cluster
    assert cluster.call(add, vars(dask)["delayed"](add)(1)) == 3


def test_who_connects_to_the_url_of_a_gateway_has_the_same(
    client: Any, cluster: mp.Cluster
) -> None:
    other = mp.connect(*cluster.urls)
    try:
        with pytest.raises(mp.errors.MpregError, match="Dask has no kill"):
            other.kill("gpu-1")
        assert other.call(add, client.submit(add, 1)) == 3
    finally:
        other.disconnect()


def test_a_coroutine_passes_values_of_dask_too(
    client: Any, cluster: mp.Cluster
) -> None:
    async def scenario() -> tuple[int, int]:
        async with mp.connect_async(*cluster.urls) as other:
            flow = other.workflow("values")
            flow.step("add", add, client.submit(add, 2))
            run = await flow.run()
            return await other.call(add, client.submit(add, 1)), await run.result("add")

    assert asyncio.run(scenario()) == (3, 4)


def test_a_client_without_certificates_hands_on_no_security(client: Any) -> None:
    # Else Dask would take its ciphers for a wish to be encrypted.
    url, security = dask_client(client)

    assert url.startswith("dask://")
    assert security is None


def test_what_is_no_client_or_cannot_be_reached_is_refused() -> None:
    with pytest.raises(TypeError, match=r"distributed\.Client"):
        mp.on_dask("tcp://127.0.0.1:1")
    scheduler = SimpleNamespace(address="inproc://10.0.0.5/1/1")
    with pytest.raises(ValueError, match="processes=True"):
        mp.on_dask(SimpleNamespace(scheduler=scheduler))


def test_a_scheduler_that_is_not_there_is_named() -> None:
    with pytest.raises(mp.errors.StartFailed, match="no Dask scheduler can be reached"):
        mp.connect("dask://127.0.0.1:9")


@pytest.mark.parametrize("url", ["dask://", "dask://host", "dask+tls://:1", "dask:x"])
def test_what_is_no_url_of_a_scheduler_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="dask://HOST:PORT"):
        mp.connect(url)


def test_workers_that_do_not_fit_are_named_with_the_cure() -> None:
    here = {"python": "3.11.7", "mpreg_nb": "1.0"}
    fits = {"python": "3.11.2.final.0", "mpreg_nb": "1.0"}

    assert unfit("tcp://w:1", fits, here) == ""
    assert "Python 3.12" in unfit("tcp://w:1", {**fits, "python": "3.12.1"}, here)
    assert "PipInstall" in unfit("tcp://w:1", {**fits, "mpreg_nb": None}, here)
    assert "has mpreg_nb 0.9" in unfit("tcp://w:1", {**fits, "mpreg_nb": "0.9"}, here)


GAPS: dict[str, Callable[[mp.Cluster], object]] = {
    "add": lambda cluster: cluster.add("n9"),
    "remove": lambda cluster: cluster.remove("gpu-1"),
    "kill": lambda cluster: cluster.kill("gpu-1"),
    "pause": lambda cluster: cluster.pause("gpu-1", 1),
    "partition": lambda cluster: cluster.partition("gpu-1", "cpu-1", 1),
    "logs": lambda cluster: cluster.logs("gpu-1"),
}


@pytest.mark.parametrize("verb", GAPS)
def test_a_verb_that_dask_does_not_have_says_why(
    cluster: mp.Cluster, verb: str
) -> None:
    with pytest.raises(mp.errors.MpregError) as caught:
        GAPS[verb](cluster)

    assert str(caught.value) == f"Dask has no {verb}: {DASK_GAPS[verb]}"


def test_the_doctor_lists_what_dask_does_not_have(cluster: mp.Cluster) -> None:
    told = str(mp.doctor())

    assert all(verb in told for verb in DASK_GAPS)


def call_on_tape(cluster: mp.Cluster) -> object:
    return cluster.on("tape").call(add, 1)


def step_on_tape(cluster: mp.Cluster) -> object:
    flow = cluster.workflow("tape")
    flow.step("add", add, 1).on("tape")
    return flow.run()


@pytest.mark.parametrize("run", [call_on_tape, step_on_tape])
def test_the_cure_for_a_resource_that_no_worker_has_is_one_of_dask(
    dask: DaskCluster, cluster: mp.Cluster, run: Callable[[mp.Cluster], object]
) -> None:
    with pytest.raises(mp.errors.NoRoute) as caught:
        run(cluster)

    place = dask.address.removeprefix("tcp://")
    assert f"dask worker {place} --name n" in str(caught.value)
    assert str(caught.value).endswith("--resources 'tape=1'")


def test_annotations_of_the_notebook_do_not_reach_the_tasks(
    cluster: mp.Cluster,
) -> None:
    with annotate(resources={"nowhere": 1}):
        assert cluster.on(timeout=SOON_S).call(add, 1) == 2


def test_a_call_runs_at_most_once_when_its_worker_is_lost(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def note_and_kill_the_dask_worker() -> None:
        import os
        import signal

        with runs.open("a") as file:
            file.write("ran\n")
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    with dask_cluster({"one": []}) as dask, mp.connect(dask.url) as cluster:
        cluster.wait_for("one")

        with pytest.raises(mp.errors.NodeLost) as caught:
            cluster.call(note_and_kill_the_dask_worker)
        # Its nanny starts the worker again, and its node comes back.
        assert cluster.on(wait=SOON_S).call(add, 1) == 2

    assert caught.value.executed == "unknown"
    assert runs.read_text() == "ran\n"


def test_workers_that_come_get_a_node_and_the_functions(
    dask: DaskCluster, cluster: mp.Cluster
) -> None:
    cluster.register(add, "late", resources={"late"})
    command = [sys.executable, "-m", "distributed.cli.dask_worker", dask.address]
    options = ["--name", "late-1", "--resources", "late=1", "--nthreads", "1"]
    quiet = ["--no-dashboard", "--no-nanny"]
    with subprocess.Popen(
        [*command, *options, *quiet], stderr=subprocess.DEVNULL
    ) as worker:
        try:
            found = cluster.on(wait=SOON_S).call("late", 1)
        finally:
            worker.terminate()
    cluster.wait_for("late-1", state="left", timeout=SOON_S)

    assert found == 2


def test_a_scheduler_that_is_started_again_is_served_again(tmp_path: Path) -> None:
    with dask_cluster({"one": []}) as first:
        port = int(first.address.rpartition(":")[2])
        with mp.connect(first.url) as cluster:
            cluster.wait_for("one")
            future = cluster.submit(_touch_and_wait, tmp_path / "begun")
            until_exists(tmp_path / "begun")

            first.kill()

            with pytest.raises(mp.errors.NodeLost):
                future.result(SOON_S)
            with dask_cluster({"two": []}, port=port):
                assert cluster.on(node="two", wait=SOON_S).call(add, 1) == 2


def _touch_and_wait(path: Path) -> None:
    path.touch()
    time.sleep(600)


def test_a_dask_cluster_with_certificates_is_served() -> None:
    with dask_cluster({"one": []}, secure=True) as dask:
        security = security_of(**dask.security)
        with (
            client_of(dask.address, security=security, set_as_default=False) as client,
            mp.on_dask(client) as cluster,
        ):
            assert cluster.on(wait=SOON_S).call(add, 1) == 2
