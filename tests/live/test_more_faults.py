"""Faults that have no other place: see the table in README.md."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until

pytestmark = pytest.mark.live


FOLDERS = ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")


@pytest.fixture(scope="module")
def folders() -> dict[str, str]:
    """Return those of the cluster, for other programs of its user."""
    return {name: os.environ[name] for name in FOLDERS}


@pytest.fixture(scope="module")
def cluster(folders: dict[str, str]) -> Iterator[mp.Cluster]:
    with mp.up({"n1": "a", "n2": "b", "n3": "c"}, slots=2, fresh=True) as cluster:
        yield cluster


@pytest.fixture
def own() -> Iterator[mp.Cluster]:
    """Yield a cluster whose workers may be replaced."""
    with mp.up({"n1": "a", "n2": "b", "n3": "c"}, slots=2, fresh=True) as cluster:
        yield cluster


def is_idle(cluster: mp.Cluster) -> bool:
    nodes = cluster.nodes()
    return int(nodes["busy"].sum() + nodes["queued"].sum()) == 0


def pass_on(folder: str, resources: str, seconds: float) -> str:
    """Note that it runs, wait, and call itself where the next resource is."""
    here, rest = resources[0], resources[1:]
    Path(folder, here).touch()
    time.sleep(seconds)
    if rest:
        mp.current().on(rest[0]).call("pass_on", folder, rest, seconds)
    return here


def test_a_call_whose_time_is_up_on_the_way_does_not_go_on(
    own: mp.Cluster, tmp_path: Path
) -> None:
    """Row 73: nested calls have what is left of the time of their caller."""
    function = own.register(pass_on, name="pass_on")
    function.on("a").call(str(tmp_path), "abc", 0.0)  # each worker knows the cluster
    for name in "abc":
        (tmp_path / name).unlink()

    with pytest.raises(mp.errors.CallTimeout):
        function.on("a", timeout=1.5).call(str(tmp_path), "abc", 1.0)

    until(lambda: is_idle(own))
    assert not (tmp_path / "c").exists()


def ask(begun: str, go: str) -> str:
    answer: str = mp.current().call("wait", begun, go)
    return answer


def test_a_nested_call_ends_with_the_time_of_its_caller(
    own: mp.Cluster, tmp_path: Path
) -> None:
    """Row 74: nothing that it has called runs on when a call is over."""
    own.register(wait_for_file, name="wait")
    begun, go = tmp_path / "begun", tmp_path / "go"
    go.touch()
    asking = own.register(ask)
    asking.call(str(begun), str(go))
    go.unlink()
    begun.unlink()
    future = asking.on(timeout=5).submit(str(begun), str(go))
    until_exists(begun)

    with pytest.raises(mp.errors.CallTimeout):
        future.result(60)

    until(lambda: is_idle(own))


def hold_the_interpreter() -> int:
    """Let no other thread of this process run for a second or so."""
    return sum(range(40_000_000))


def test_a_function_that_holds_the_interpreter_harms_no_other(
    cluster: mp.Cluster,
) -> None:
    """Row 21."""
    holding = cluster.on("a").submit(hold_the_interpreter)

    assert cluster.on("b").map(abs, range(-20, 0)) == [*range(20, 0, -1)]

    assert holding.result(60) == sum(range(40_000_000))
    assert not set(cluster.events()["event"]) & {"suspect", "dead"}


CALLS = 10

STOPPED = f"""
import sys, time
import mpreg_nb as mp

def slowly(number):
    import time
    time.sleep(0.3)
    return number

with mp.connect(sys.argv[1]) as cluster:
    futures = [cluster.submit(slowly, number) for number in range({CALLS})]
    print("sent", flush=True)
    print([future.result(60) for future in futures], flush=True)
"""


def test_a_client_that_is_stopped_and_goes_on_has_lost_nothing(
    cluster: mp.Cluster, folders: dict[str, str]
) -> None:
    """Row 9: its links are held, and what came meanwhile is read."""
    program = [sys.executable, "-c", STOPPED, cluster.urls[0]]
    environment = {**os.environ, **folders}
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, env=environment
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
        os.kill(client.pid, signal.SIGSTOP)
        try:
            until(lambda: is_idle(cluster))
        finally:
            os.kill(client.pid, signal.SIGCONT)

        assert client.stdout.readline() == f"{[*range(CALLS)]}\n"
        assert client.wait(60) == 0


def test_functions_that_only_dead_nodes_had_are_refused_at_once(
    cluster: mp.Cluster,
) -> None:
    """Row 6. The last test here: only n1 lives afterwards."""

    def of_b(number: int) -> int:
        return number

    cluster.register(of_b, name="of-b", resources={"b"})
    assert cluster.call("of-b", 1) == 1

    cluster.kill("n2")
    cluster.kill("n3")

    def is_refused() -> bool:
        try:
            cluster.on(timeout=60).call("of-b", -1)
        except mp.errors.NoRoute:
            return True
        except mp.errors.NodeLost:  # the loss is not noticed yet
            return False
        return False

    until(is_refused)
    began_s = time.monotonic()
    with pytest.raises(mp.errors.NoRoute):
        cluster.call("of-b", -1)
    assert time.monotonic() - began_s < 30
    assert cluster.on("a").call(abs, -2) == 2
