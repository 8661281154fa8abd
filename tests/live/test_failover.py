"""Nodes and workers that die while they are needed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from tests.support.files import until_exists, wait_for_file

pytestmark = pytest.mark.live


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(3, fresh=True) as cluster:
        yield cluster


def test_call_on_a_killed_node_is_lost_and_the_next_one_works(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    future = cluster.on(node="n2").submit(wait_for_file, str(begun), str(go_on))
    until_exists(begun)

    cluster.kill("n2")

    with pytest.raises(mp.errors.NodeLost) as caught:
        future.result(60)
    assert caught.value.executed == "unknown"
    assert caught.value.node == "n2"
    go_on.touch()
    assert cluster.on(timeout=60).call(wait_for_file, str(begun), str(go_on)) == "done"


def test_idempotent_call_on_a_killed_node_is_run_again_elsewhere(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def where(folder: str) -> str:
        import os
        import pathlib
        import time

        mine = pathlib.Path(folder, str(os.getppid()))
        mine.touch()
        while len(list(pathlib.Path(folder).iterdir())) < 2:
            time.sleep(0.01)
        return str(os.getppid())

    folder = tmp_path / "seen"
    folder.mkdir()
    function = cluster.register(where, idempotent=True)
    future = function.submit(str(folder))
    while not list(folder.iterdir()):
        os.sched_yield()
    (first,) = folder.iterdir()

    os.kill(int(first.name), signal.SIGKILL)

    assert future.result(60) != first.name


def test_workflow_goes_on_around_a_killed_node(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def step(folder: str, number: int, *inputs: int) -> int:
        import os
        import pathlib
        import time

        pathlib.Path(folder, str(os.getppid())).touch()
        while not pathlib.Path(folder, "go").exists():
            time.sleep(0.01)
        return number + sum(inputs)

    flow = cluster.workflow("around")
    heads = [flow.step(f"head-{n}", step, str(tmp_path), n).retry(2) for n in range(3)]
    flow.step("sum", step, str(tmp_path), 0, *heads).retry(2)
    victims = {"n1", "n2", "n3"} - {parts_of(cluster).client.entry_node}
    run = flow.start()
    while len(list(tmp_path.iterdir())) < 3:
        os.sched_yield()

    cluster.kill(sorted(victims)[0])
    (tmp_path / "go").touch()

    assert run.wait(30)["sum"] == 3
    assert cluster.on(timeout=60).call(step, str(tmp_path), 4) == 4


def test_workflow_step_without_retry_fails_with_what_happened(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    victim = sorted({"n1", "n2", "n3"} - {parts_of(cluster).client.entry_node})[0]
    flow = cluster.workflow("lost")
    first = flow.step("first", wait_for_file, str(begun), str(go_on)).on(node=victim)
    flow.step("second", wait_for_file, first, str(go_on))
    run = flow.start()
    until_exists(begun)

    cluster.kill(victim)

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        run.wait(60)
    assert isinstance(caught.value.exceptions[0], mp.errors.NodeLost)
    assert caught.value.skipped == ("second",)


@pytest.mark.parametrize(
    ("ending", "cause"),
    [("import os; os._exit(3)", "exit code 3"), ("import os; os.abort()", "SIGABRT")],
    ids=["os._exit", "abort"],
)
def test_worker_that_dies_costs_one_call(
    cluster: mp.Cluster, ending: str, cause: str
) -> None:
    def die(code: str) -> None:
        print("about to die")  # noqa: T201
        exec(code)  # noqa: S102

    with pytest.raises(mp.errors.WorkerCrashed, match=cause) as caught:
        cluster.on(node="n1").call(die, ending)

    assert caught.value.node == "n1"
    assert caught.value.executed == "yes"
    assert cluster.on(node="n1", timeout=60).call("echo", 5) == 5
    assert cluster.on(node="n1", timeout=60).call(len, [1, 2]) == 2


def test_killed_node_is_seen_dead_and_comes_back_when_asked(
    cluster: mp.Cluster,
) -> None:
    cluster.kill("n3")
    cluster.wait_for("n3", state="dead", timeout=60)

    cluster.grow(3)

    states = cluster.nodes().set_index("node")["state"]
    assert states.to_dict() == {"n1": "alive", "n2": "alive", "n3": "alive"}
    assert cluster.on(node="n3", timeout=60).call(len, "abc") == 3


@pytest.mark.parametrize("how", ["is killed", "leaves before they end"])
def test_calls_go_on_when_the_node_that_passed_them_on(
    cluster: mp.Cluster, tmp_path: Path, how: str
) -> None:
    def note_and_wait(folder: str, name: str) -> str:
        import pathlib
        import time

        with pathlib.Path(folder, "starts").open("a") as starts:
            starts.write(f"{name}\n")
        while not pathlib.Path(folder, "go").exists():
            time.sleep(0.01)
        return name

    url = next(
        one.record.urls[0]
        for one in parts_of(cluster).client.state.nodes
        if one.record.name == "n1"
    )
    names = ["n2", "n3", "n2 waits", "n3 waits"]
    with mp.connect(url, direct=False) as via_n1:
        function = via_n1.register(note_and_wait)
        futures = [
            function.on(node=name[:2]).submit(str(tmp_path), name) for name in names
        ]
        until_two_run_and_two_wait(via_n1, tmp_path / "starts")

        if how == "is killed":
            cluster.kill("n1")
        else:
            end_in_a_hurry(cluster, "n1")
        after = function.on(node="n2", timeout=30).submit(str(tmp_path), "after")
        until_entry(via_n1)
        (tmp_path / "go").touch()

        assert [future.result(60) for future in futures] == names
        assert after.result(60) == "after"
    starts = (tmp_path / "starts").read_text().split("\n")
    assert sorted(starts) == sorted(["", *names, "after"])


def until_two_run_and_two_wait(cluster: mp.Cluster, starts: Path) -> None:
    def waiting() -> int:
        return sum(call.waiting for call in parts_of(cluster).client.calls.active)

    while not starts.exists() or len(starts.read_text().splitlines()) < 2:
        os.sched_yield()
    while waiting() < 2:
        os.sched_yield()


def end_in_a_hurry(cluster: mp.Cluster, node: str) -> None:
    """Let a node leave, and end the time that it gives its calls."""
    process = cluster.on(node=node).call(os.getppid)
    os.kill(process, signal.SIGTERM)
    cluster.wait_for(node, state="left", timeout=60)
    os.kill(process, signal.SIGTERM)


def until_entry(cluster: mp.Cluster) -> None:
    """Wait until the client has another entry than the node that ends."""
    client = parts_of(cluster).client
    while client.links.entry is None or client.entry_node == "n1":
        os.sched_yield()
