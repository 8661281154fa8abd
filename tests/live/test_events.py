"""Events of a cluster name the node that they happened to."""

import os
import signal

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import WorkerCrashed

pytestmark = pytest.mark.live


def train(rows: int) -> int:
    return rows


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_event_names_the_node_that_it_happened_to() -> None:
    with mp.up({"lab": (), "gpu-1": "gpu"}, fresh=True) as cluster:
        cluster.register(train, resources={"gpu"})
        with pytest.raises(WorkerCrashed):
            cluster.on(node="gpu-1").call(crash)
        running = told(cluster)
        cluster.kill("gpu-1")
        cluster.wait_for("gpu-1", state="dead")
        after = told(cluster)

    entry = [event for node, event in running if node == "lab"]
    assert entry[0] == "joined"  # also the one that the notebook entered by
    assert ("gpu-1", "joined") in running
    # The function is on the one node that serves it, `crash` is on both.
    assert running.count(("lab", "function added")) == 1
    assert running.count(("gpu-1", "function added")) == 2
    assert ("gpu-1", "worker died") in running
    assert [event for node, event in after if node == "gpu-1"][-1] == "dead"


def told(cluster: mp.Cluster) -> list[tuple[str, str]]:
    events = cluster.events()
    return list(zip(events["node"], events["event"], strict=True))
