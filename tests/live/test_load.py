"""What is believed of how busy nodes are is right when it is asked for."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.protocol.messages import Snapshot

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", params=[1], ids=["1 slot"])
def cluster(request: pytest.FixtureRequest) -> Iterator[mp.Cluster]:
    with mp.up(2, slots=request.param, fresh=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def other(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """A client that looks through another node than the first one."""
    entry = parts_of(cluster).client.entry_node
    away = next(
        picture.record.urls[0]
        for picture in parts_of(cluster).client.state.nodes
        if picture.record.name != entry
    )
    with mp.connect(away) as other:
        yield other


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def double(value: int) -> int:
    return 2 * value


def busy(cluster: mp.Cluster) -> dict[str, list[int]]:
    """Return what the frame says is running and queued on each node."""
    rows = cluster.nodes()[["node", "busy", "queued"]].values.tolist()
    return {node: counts for node, *counts in rows}


IDLE = {"n1": [0, 0], "n2": [0, 0]}


@pytest.mark.parametrize("seconds", [0.0, 0.15], ids=["at once", "told meanwhile"])
def test_caller_that_has_its_results_sees_idle_nodes_at_once(
    cluster: mp.Cluster, seconds: float
) -> None:
    list(cluster.map(nap, [seconds] * 4))

    assert busy(cluster) == IDLE


def test_caller_whose_run_has_ended_sees_idle_nodes_at_once(
    cluster: mp.Cluster,
) -> None:
    flow = mp.workflow("naps")
    for number in range(2):
        flow.step(f"nap {number}", nap, 0.15)
    flow.run()

    assert busy(cluster) == IDLE


def test_others_see_soon_that_nodes_are_busy_and_idle_again(
    cluster: mp.Cluster, other: mp.Cluster
) -> None:
    both, idle = threading.Event(), threading.Event()

    def look(snapshot: Snapshot) -> None:
        loads = [p.load for p in snapshot.nodes if p.load is not None]
        works = [load.running + load.queued > 0 for load in loads]
        if len(works) == 2 and all(works):
            both.set()
        if both.is_set() and not any(works):
            idle.set()

    stop = parts_of(other).client.on_snapshot(look)
    calls = [cluster.on(node=node).submit(nap, 1.0) for node in ("n1", "n2")]

    assert both.wait(60)
    for call in calls:
        call.result()
    assert idle.wait(60)
    stop()


@pytest.mark.parametrize("cluster", [1, 2], indirect=True, ids=["1 slot", "2 slots"])
def test_parallel_steps_are_shared_by_idle_nodes(cluster: mp.Cluster) -> None:
    flow = mp.workflow("parallel naps")
    steps = [f"nap {number}" for number in range(4)]
    for step in steps:
        flow.step(step, nap, 0.2)

    shared = 0
    for _ in range(30):
        list(cluster.map(double, range(300)))
        run = flow.run()
        choices = [run.why(step).frame() for step in steps]
        first = choices[0]
        known_busy = first[["running", "queued", "in_flight"]].to_numpy().any()
        # A node that is overloaded, or answered very late, gets less.
        spared = first["score"].max() > 1.1 * first["score"].min()
        if known_busy or spared:
            continue
        chosen = Counter(node for c in choices for node in c["node"][c["chosen"]])

        assert chosen == {"n1": 2, "n2": 2}
        shared += 1
        if shared == 3:
            break

    assert shared
