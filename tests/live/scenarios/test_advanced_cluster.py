"""Unlike nodes, two clusters at once, failures, late joiners, large graphs."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.launcher.process import NodeProcess
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.settings import NodeSettings

pytestmark = [pytest.mark.live, pytest.mark.advanced_cluster]

TOKEN, OTHERS = "2d" * 32, "3e" * 32

FIVE = {
    "gpu-1": {"gpu", "ml-models"},
    "cpu-1": {"cpu", "cpu-intensive"},
    "cpu-2": "cpu",
    "db-1": {"database", "storage"},
    "edge-1": {"edge", "sensors"},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(FIVE, fresh=True, token=TOKEN) as cluster:
        yield cluster


def note(text: str, *inputs: Any) -> str:
    return text


def say(text: str) -> str:
    return text


def add(*numbers: int) -> int:
    return sum(numbers)


def ran_on(run: mp.Run) -> dict[str, str]:
    """Return which node ran each step."""
    frame = run.frame()
    return dict(zip(frame["step"], frame["node"], strict=True))


# -------------------------------------------------------------- unlike nodes


def test_five_unlike_nodes_share_one_workflow(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("five")
    read = flow.step("read", note, "read").on("sensors")
    query = flow.step("query", note, "query").on("database")
    train = flow.step("train", note, "train", read).on("gpu", "ml-models")
    crunch = flow.step("crunch", note, "crunch", read, query).on("cpu-intensive")
    flow.step("store", note, "store", train, crunch).on("storage")

    run = flow.run()

    assert ran_on(run) == {
        "read": "edge-1",
        "query": "db-1",
        "train": "gpu-1",
        "crunch": "cpu-1",
        "store": "db-1",
    }


@pytest.mark.parametrize(
    ("resources", "node"),
    [("gpu", "gpu-1"), ("database", "db-1"), ("edge", "edge-1")],
)
def test_a_function_is_on_the_nodes_that_hold_its_resources_only(
    cluster: mp.Cluster, resources: str, node: str
) -> None:
    name = f"only_{resources}"
    cluster.register(lambda text: text, name=name, resources={resources})

    assert cluster.functions(name)["nodes"].tolist() == [node]
    assert cluster.call(name, "here") == "here"


def test_calls_are_shared_by_the_nodes_that_can_do_them(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def meet(folder: str, name: str, others: int) -> str:
        """End when as many run at once as there are nodes."""
        import pathlib
        import time

        here = pathlib.Path(folder)
        (here / name).touch()
        while len(list(here.iterdir())) < others:
            time.sleep(0.005)
        return name

    view = cluster.on("cpu", timeout=60)
    futures = [view.submit(meet, str(tmp_path), name, 2) for name in ("a", "b")]
    assert [future.result(60) for future in futures] == ["a", "b"]

    nodes = cluster.calls().tail(2)["node"]
    assert set(nodes) == {"cpu-1", "cpu-2"}


def test_a_busy_node_is_spared(cluster: mp.Cluster, tmp_path: Path) -> None:
    def hold(path: str, end: str) -> None:
        import pathlib
        import time

        pathlib.Path(path).touch()
        while not pathlib.Path(end).exists():
            time.sleep(0.005)

    begun, end = tmp_path / "begun", tmp_path / "end"
    held = cluster.on(node="cpu-1").submit(hold, str(begun), str(end))
    while not begun.exists():
        assert not held.done()

    try:
        for _ in range(5):
            cluster.on("cpu").call(say, "quick")
        nodes = set(cluster.calls().query("function == 'say'")["node"])
    finally:
        end.touch()
        held.result(60)

    assert nodes == {"cpu-2"}


# --------------------------------------------------------------- large graphs


def test_a_pyramid_of_a_hundred_steps_gives_what_it_gives_here(
    cluster: mp.Cluster,
) -> None:
    rng = random.Random(7)
    flow = cluster.workflow("pyramid")
    expected: dict[str, int] = {}
    for number in range(100):
        inputs = rng.sample(sorted(expected), min(len(expected), rng.randint(0, 4)))
        step = flow.step(f"s{number}", add, number, *map(mp.ref, inputs))
        if number % 3 == 0:
            step.on(rng.choice(["gpu", "cpu", "database", "edge"]))
        expected[f"s{number}"] = number + sum(expected[name] for name in inputs)

    run = flow.run()

    assert {name: run[name] for name in expected} == expected
    assert len(set(ran_on(run).values())) >= 3


def test_results_travel_between_nodes_at_every_step(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("ping-pong")
    value: Any = 1
    for number in range(12):
        value = flow.step(f"s{number}", add, value, 1).on(("gpu", "edge")[number % 2])

    run = flow.run()

    assert run["s11"] == 13
    assert Counter(ran_on(run).values()) == {"gpu-1": 6, "edge-1": 6}


# --------------------------------------------------------------- two clusters


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a node of somebody else, who has another token."""
    log = tmp_path_factory.mktemp("warehouse") / "far.log"
    settings = NodeSettings(name="far", resources=frozenset({"warehouse"}))
    node = NodeProcess.start(NodeOptions(settings=settings), log=log, token=OTHERS)
    try:
        url = node.wait_ready(20).url
        with mp.connect(url, token=OTHERS) as other:
            other.register(say, name="stock_of", resources={"warehouse"})
        yield url
    finally:
        node.kill()
        node.wait(60)


def test_steps_of_one_cluster_call_another(cluster: mp.Cluster, warehouse: str) -> None:
    def ask(item: str) -> str:
        import mpreg_nb as mp

        with mp.connect(warehouse, token=OTHERS) as other:
            answer: str = other.call("stock_of", f"3 of {item}")
            return answer

    flow = cluster.workflow("across")
    stock = flow.step("stock", ask, "lamp").on("cpu")
    flow.step("kept", note, stock).on("storage")

    run = flow.run()

    assert run["kept"] == "3 of lamp"
    assert ran_on(run)["stock"] in {"cpu-1", "cpu-2"}
    assert "stock_of" not in set(cluster.functions()["function"])


def test_one_notebook_holds_two_clusters(cluster: mp.Cluster, warehouse: str) -> None:
    with mp.connect(warehouse, token=OTHERS) as other:
        near = cluster.on("gpu").submit(say, "near")
        far = other.on("warehouse").submit(say, "far")

        assert (near.result(60), far.result(60)) == ("near", "far")
        assert cluster.calls().iloc[-1]["node"] == "gpu-1"
        assert other.calls().iloc[-1]["node"] == "far"
        assert other.nodes()["node"].tolist() == ["far"]


# ---------------------------------------------- nodes that come, go and fail


@pytest.fixture
def small() -> Iterator[mp.Cluster]:
    """A cluster that a test may change."""
    with mp.up({"n1": "cpu", "n2": "cpu"}, fresh=True) as cluster:
        yield cluster


def test_a_call_waits_for_the_node_that_joins_later(small: mp.Cluster) -> None:
    waiting = small.on("gpu", wait=60).submit(note, "trained")

    small.add("late", "gpu")

    assert waiting.result(60) == "trained"
    assert small.calls().iloc[-1]["node"] == "late"


def test_a_node_that_joins_later_gets_the_functions_that_fit(
    small: mp.Cluster,
) -> None:
    small.register(note, name="anywhere")

    small.add("late", "gpu")

    assert small.on(node="late", wait=60).call("anywhere", "here") == "here"


def test_calls_that_may_run_again_survive_the_death_of_their_node(
    small: mp.Cluster, tmp_path: Path
) -> None:
    def long(folder: str, name: str) -> str:
        import os
        import pathlib
        import time

        pathlib.Path(folder, f"{name} {os.getppid()}").touch()
        while not pathlib.Path(folder, "go").exists():
            time.sleep(0.005)
        return name

    small.register(long, idempotent=True)
    futures = [small.submit("long", str(tmp_path), name) for name in ("a", "b")]
    while len(list(tmp_path.iterdir())) < 2:
        assert not any(future.done() for future in futures)

    small.kill("n2")
    (tmp_path / "go").touch()

    assert [future.result(30) for future in futures] == ["a", "b"]
    small.wait_for("n2", state="dead", timeout=60)


def test_a_node_that_is_removed_ends_its_calls_first(
    small: mp.Cluster, tmp_path: Path
) -> None:
    def long(begun: str, end: str) -> str:
        import pathlib
        import time

        pathlib.Path(begun).touch()
        while not pathlib.Path(end).exists():
            time.sleep(0.005)
        return "whole"

    begun, end = tmp_path / "begun", tmp_path / "end"
    future = small.on(node="n2").submit(long, str(begun), str(end))
    while not begun.exists():
        assert not future.done()
    removing = threading.Thread(target=small.remove, args=("n2",))
    removing.start()
    small.wait_for("n2", state="left", timeout=60)

    end.touch()

    assert future.result(60) == "whole"
    removing.join(60)
    assert not removing.is_alive()


def test_a_workflow_goes_around_a_node_that_died(small: mp.Cluster) -> None:
    small.kill("n2")

    flow = small.workflow("around")
    steps = [flow.step(f"s{n}", add, n, 1).on("cpu").retry(1) for n in range(6)]
    flow.step("total", add, *steps)
    run = flow.run()

    assert run["total"] == 21
    assert set(ran_on(run).values()) == {"n1"}


def test_a_crash_costs_one_call_and_the_node_goes_on(small: mp.Cluster) -> None:
    def serve(request: int) -> int:
        import os

        if request == 13:
            os._exit(1)
        return request

    view = small.on("cpu")
    with pytest.raises(mp.errors.WorkerCrashed):
        view.call(serve, 13)

    assert view.map(serve, range(5)) == [0, 1, 2, 3, 4]


def test_idempotent_at_registration_holds_for_all_callers(
    small: mp.Cluster, tmp_path: Path
) -> None:
    def long(folder: str, name: str) -> str:
        import os
        import pathlib
        import time

        pathlib.Path(folder, f"{name} {os.getppid()}").touch()
        while not pathlib.Path(folder, "go").exists():
            time.sleep(0.005)
        return name

    small.register(long, idempotent=True)
    with mp.connect(*small.urls) as other:
        futures = [other.submit("long", str(tmp_path), name) for name in ("a", "b")]
        while len(list(tmp_path.iterdir())) < 2:
            assert not any(future.done() for future in futures)

        small.kill("n2")
        (tmp_path / "go").touch()

        assert [future.result(30) for future in futures] == ["a", "b"]
