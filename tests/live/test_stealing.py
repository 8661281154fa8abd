"""Calls do not wait behind a long one while other nodes have nothing to do."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from tests.support.files import until_exists, wait_for_file

pytestmark = pytest.mark.live

SHORT_CALLS = 30


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(3, fresh=True) as cluster:
        yield cluster


@pytest.fixture
def other(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """Another client, of whose calls the first one knows nothing."""
    with mp.connect(cluster.urls[0]) as other:
        yield other


def note(path: str, number: int) -> int:
    """Leave a line for each time that it runs."""
    import os

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number


def occupy(cluster: mp.Cluster, node: str, folder: Path) -> Callable[[], str]:
    """Run a call on `node` that ends when what is returned is called."""
    begun, go_on = folder / f"begun on {node}", folder / f"end on {node}"
    future = cluster.on(node=node).submit(wait_for_file, str(begun), str(go_on))
    until_exists(begun)

    def end() -> str:
        assert not future.done()
        go_on.touch()
        return str(future.result(60))

    return end


def runs(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split()))


ONCE_EACH = Counter(range(SHORT_CALLS))


def test_short_calls_pass_by_the_long_call_of_another_client(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    end = occupy(other, "n1", tmp_path)

    futures = [cluster.submit(note, str(notes), n) for n in range(SHORT_CALLS)]
    results = [future.result(60) for future in futures]

    assert end() == "done"
    assert results == list(range(SHORT_CALLS))
    assert runs(notes) == ONCE_EACH


def test_calls_through_one_node_pass_by_a_long_call(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    end = occupy(other, "n2", tmp_path)

    with mp.connect(cluster.urls[0], direct=False) as through:
        futures = [through.submit(note, str(notes), n) for n in range(SHORT_CALLS)]
        results = [future.result(60) for future in futures]

    assert end() == "done"
    assert results == list(range(SHORT_CALLS))
    assert runs(notes) == ONCE_EACH


@pytest.mark.parametrize("place", ["the node of the run", "another node"])
def test_steps_pass_by_a_long_call(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path, place: str
) -> None:
    notes = tmp_path / "notes"
    mine = parts_of(cluster).client.entry_node
    theirs = min({"n1", "n2", "n3"} - {mine})
    end = occupy(other, mine if place == "the node of the run" else theirs, tmp_path)
    flow = cluster.workflow("short")
    for number in range(SHORT_CALLS):
        flow.step(f"s{number}", note, str(notes), number)

    run = flow.start().wait(60)

    assert end() == "done"
    assert [run[f"s{n}"] for n in range(SHORT_CALLS)] == list(range(SHORT_CALLS))
    assert runs(notes) == ONCE_EACH


def test_calls_come_back_from_a_queue_when_a_node_is_free_again(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    ends = [occupy(other, node, tmp_path) for node in ("n1", "n2", "n3")]
    futures = [cluster.submit(note, str(notes), n) for n in range(SHORT_CALLS)]
    assert not any(future.done() for future in futures)

    assert ends.pop()() == "done"
    results = [future.result(60) for future in futures]

    assert [end() for end in ends] == ["done", "done"]
    assert results == list(range(SHORT_CALLS))
    assert runs(notes) == ONCE_EACH


def test_call_that_names_its_node_waits_there(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    end = occupy(other, "n1", tmp_path)
    waits = cluster.on(node="n1").submit(note, str(notes), 0)
    free = cluster.submit(note, str(notes), 1)

    assert free.result(60) == 1
    assert not waits.done()

    assert end() == "done"
    assert waits.result(60) == 0
    assert runs(notes) == Counter([0, 1])
