"""Calls whose entry node is lost at a moment when others do not know of it yet."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def entered_by(cluster: mp.Cluster, node: str) -> Iterator[mp.Cluster]:
    """Yield a client that sends all its calls through `node`."""
    (url,) = (
        one.record.urls[0]
        for one in parts_of(cluster).client.state.nodes
        if one.record.name == node
    )
    with mp.connect(url, direct=False) as client:
        yield client


def process_of(cluster: mp.Cluster, node: str) -> int:
    return int(cluster.on(node=node).call(os.getppid))


def test_outcome_that_its_entry_has_not_passed_on_before_it_is_killed_is_not_lost(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    entry = process_of(cluster, "n1")
    with entered_by(cluster, "n1") as client:
        future = client.on(node="n2").submit(wait_for_file, str(begun), str(go_on))
        until_exists(begun)

        os.kill(entry, signal.SIGSTOP)
        go_on.touch()
        # It has one slot: this call runs when the other one has ended.
        assert cluster.on(node="n2").call(len, "after") == 5
        os.kill(entry, signal.SIGKILL)

        assert future.result(60) == "done"


def test_call_on_a_node_that_leaves_goes_on_when_its_entry_is_killed(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    entry, runner = process_of(cluster, "n1"), process_of(cluster, "n3")
    with entered_by(cluster, "n1") as client:
        future = client.on(node="n3").submit(wait_for_file, str(begun), str(go_on))
        until_exists(begun)
        os.kill(runner, signal.SIGTERM)
        cluster.wait_for("n3", state="left", timeout=60)

        os.kill(entry, signal.SIGKILL)
        links = parts_of(client).client.links
        while links.entry is None or links.entry.peer.name != "n2":
            os.sched_yield()
        go_on.touch()

        assert future.result(60) == "done"


def test_client_that_enters_by_a_node_that_leaves_goes_on_to_another(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    leaving = process_of(cluster, "n3")
    future = cluster.on(node="n3").submit(wait_for_file, str(begun), str(go_on))
    until_exists(begun)
    os.kill(leaving, signal.SIGTERM)
    cluster.wait_for("n3", state="left", timeout=60)

    with entered_by(cluster, "n3") as client:
        while parts_of(client).client.entry_node == "n3":
            os.sched_yield()

        assert parts_of(client).client.entry_node in ("n1", "n2")
    go_on.touch()
    assert future.result(60) == "done"
