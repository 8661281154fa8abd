"""Nodes without worker processes: what they run, and what they refuse at once."""

from collections.abc import Callable, Iterator

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import NoRoute

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, workers=0, fresh=True) as cluster:
        yield cluster


def double(value: int) -> int:
    return 2 * value


def test_function_that_needs_a_worker_is_refused_with_cause_and_cure(
    cluster: mp.Cluster,
) -> None:
    card = str(cluster.register(double).card)

    with pytest.raises(NoRoute) as refused:
        cluster.call(double, 1)

    assert "no node yet" in card
    assert "a worker process" in card
    assert "n1, n2 have none (workers=0)" in str(refused.value)
    assert "isolation='thread'" in str(refused.value)


def test_options_that_a_running_cluster_ignores_are_named_in_a_warning(
    cluster: mp.Cluster, recwarn: pytest.WarningsRecorder
) -> None:
    assert mp.up(2, workers=0, slots=1) is cluster
    assert mp.up(2) is cluster
    silent = [str(warning.message) for warning in recwarn]

    with pytest.warns(UserWarning, match="started with workers=0, keep=False") as told:
        assert mp.up(2, workers=1, keep=True) is cluster

    assert silent == []
    assert "workers=1, keep=True has no effect" in str(told[0].message)
    assert "fresh=True" in str(told[0].message)
    assert told[0].filename == __file__


@pytest.mark.parametrize("verb", ["map", "run", "on"])
def test_every_verb_refuses_it(cluster: mp.Cluster, verb: str) -> None:
    flow = mp.workflow("doubled")
    flow.step("twice", double, 1)
    asks: dict[str, Callable[[], object]] = {
        "map": lambda: list(cluster.map(double, [1, 2])),
        "run": flow.run,
        "on": lambda: cluster.on(node="n2").call(double, 1),
    }

    with pytest.raises(NoRoute, match=r"none \(workers=0\)"):
        asks[verb]()


def test_function_that_runs_in_a_thread_is_served(cluster: mp.Cluster) -> None:
    cluster.register(double, name="twice", isolation="thread")

    assert cluster.call("twice", 4) == 8
    assert cluster.call("echo", "here") == "here"


def test_frame_shows_neither_workers_nor_slots(cluster: mp.Cluster) -> None:
    cluster.register(double)

    nodes, functions = cluster.nodes(), cluster.functions("double")

    assert nodes["workers"].tolist() == [0, 0]
    assert nodes["slots"].tolist() == [0, 0]
    assert functions["nodes"].tolist() == [""]
