"""What becomes of calls when their node leaves, dies, or is asked for too much.

The functions write down that they begin, so that the tests know what really ran. One
node runs none of them: clients that have no other link enter there.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster import calling
from mpreg_nb.cluster.current import parts_of
from tests.support.files import until_exists

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes: Any = {"entry": (), "r1": "r", "r2": "r", "r3": "r"}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def through_entry(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """A client with one link, to the node that passes its calls on."""
    record = parts_of(cluster).client.state.record("entry")
    assert record is not None
    with mp.connect(record.urls[0], direct=False) as through:
        yield through


def noted(log: str, number: int, go_on: str = "") -> int:
    """Write down that call `number` begins, and wait to be let go."""
    import os
    import pathlib
    import time

    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    while go_on and not pathlib.Path(go_on).exists():
        time.sleep(0.01)
    return number


def starts(log: Path) -> Counter[str]:
    return Counter(log.read_text().split())


def test_submit_waits_while_very_many_calls_have_no_outcome(
    cluster: mp.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "MOST_OUTSTANDING", 20)
    log, go_on = tmp_path / "log", tmp_path / "go on"
    function: Any = cluster.register(noted, resources="r")
    futures: list[Any] = []
    ended_before: list[int] = []
    full = threading.Event()

    def submit_all() -> None:
        for number in range(25):
            futures.append(function.submit(str(log), number, str(go_on)))
            ended_before.append(sum(future.done() for future in futures))
            if number == 19:
                full.set()

    thread = threading.Thread(target=submit_all)
    thread.start()
    assert full.wait(60)
    until_exists(log)
    go_on.touch()
    thread.join(30)

    assert sorted(future.result(60) for future in futures) == list(range(25))
    assert ended_before[:20] == [0] * 20
    assert all(ended >= 1 for ended in ended_before[20:])


def test_node_that_leaves_loses_no_call_and_repeats_none(
    cluster: mp.Cluster, through_entry: mp.Cluster, tmp_path: Path
) -> None:
    log, go_on = tmp_path / "log", tmp_path / "go on"
    function: Any = through_entry.register(noted, resources="r")
    futures = [function.submit(str(log), n, str(go_on)) for n in range(12)]
    until_exists(log)

    leaving = threading.Thread(target=cluster.remove, args=("r3",))
    leaving.start()
    through_entry.wait_for("r3", state="left", timeout=60)
    go_on.touch()
    results = [future.result(30) for future in futures]
    leaving.join()

    assert results == list(range(12))
    assert starts(log) == Counter(map(str, range(12)))


def test_calls_that_are_sent_to_a_node_after_its_death_run_elsewhere(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    function: Any = cluster.register(noted, resources="r")
    [function.call(str(log), n) for n in range(100, 108)]  # there are links to all

    cluster.kill("r2")
    futures = [function.submit(str(log), n) for n in range(8)]

    assert [future.result(60) for future in futures] == list(range(8))
    assert set(starts(log).values()) == {1}
