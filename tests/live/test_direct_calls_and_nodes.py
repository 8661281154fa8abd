"""Calls that go straight to a worker, where clients and nodes come and go."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.client.future import when_over
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import NodeLost, WorkerCrashed
from tests.support.direct_calls import MANY, become_direct, messages_of
from tests.support.files import until_exists, wait_for_file
from tests.support.settings import default_settings

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    with default_settings():
        yield


@pytest.fixture
def own() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as cluster:
        yield cluster


def double(number: int) -> int:
    return 2 * number


def test_a_client_without_direct_links_goes_through_its_node(
    own: mp.Cluster,
) -> None:
    with mp.connect(own.urls[0], direct=False) as client:
        client.call(double, 1)

        def calls() -> None:
            for number in range(MANY):
                assert client.call(double, number) == 2 * number

        assert messages_of(client, calls) >= MANY


def outcome(future: mp.Future[int]) -> int | str:
    """Return the result of a call, or what is said of it where its worker died."""
    try:
        return future.result(30)
    except WorkerCrashed as error:
        return error.executed


def test_after_a_worker_dies_the_running_call_is_known_and_the_rest_runs_once(
    own: mp.Cluster, tmp_path: Path
) -> None:
    def exit_or_note(path: str, number: int) -> int:

        if number == 5:
            os._exit(7)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{number}\n".encode())
        os.close(file)
        return number

    become_direct(own, exit_or_note, str(tmp_path / "before"), 1)
    notes = tmp_path / "notes"

    futures = [own.submit(exit_or_note, str(notes), n) for n in range(30)]
    with pytest.raises(WorkerCrashed) as caught:
        futures[5].result(30)

    assert caught.value.executed == "yes"
    assert "exit code 7" in str(caught.value)
    others = [n for n in range(30) if n != 5]
    assert {outcome(futures[n]) for n in others} <= {*others, "yes"}
    assert Counter(map(int, notes.read_text().split())) == Counter(others)


class LeavesWhenOpened:
    """An argument that ends the process that unpacks it."""

    def __reduce__(self) -> Any:
        return os._exit, (4,)


def test_arguments_that_end_their_worker_leave_open_whether_the_call_ran(
    own: mp.Cluster,
) -> None:
    def same(value: object) -> object:
        return value

    become_direct(own, same, 1)

    with pytest.raises(WorkerCrashed, match="exit code 4") as caught:
        own.call(same, LeavesWhenOpened())

    assert caught.value.executed == "unknown"


def test_a_function_that_calls_the_cluster_waits_for_nobody(
    own: mp.Cluster,
) -> None:
    def ask(number: int) -> int:
        import mpreg_nb as mp

        answer: int = mp.current().call("asked", number)
        return answer + 1

    own.register(double, name="asked")
    asking = own.register(ask)

    assert [asking.call(n) for n in range(8)] == [2 * n + 1 for n in range(8)]


def test_what_runs_for_a_client_that_leaves_is_ended(
    own: mp.Cluster, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    go.touch()
    with mp.connect(own.urls[0]) as leaving:
        become_direct(leaving, wait_for_file, str(tmp_path / "before"), str(go))
        leaving.submit(wait_for_file, str(begun), str(tmp_path / "never"))
        until_exists(begun)

    assert own.on(timeout=60).call(double, 4) == 8


@pytest.fixture
def pair() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True) as cluster:
        yield cluster


def test_a_node_that_leaves_ends_its_direct_calls_in_order(
    pair: mp.Cluster, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    (tmp_path / "before").touch()
    ready = str(tmp_path / "before")
    on_n1 = pair.on(node="n1")
    for _ in range(8):
        on_n1.call(wait_for_file, str(tmp_path / "begun before"), ready)
    future = on_n1.submit(wait_for_file, str(begun), str(go))
    until_exists(begun)

    leaving = threading.Thread(target=pair.remove, args=("n1",))
    leaving.start()
    short = [pair.submit(double, n) for n in range(MANY)]
    assert [one.result(60) for one in short] == [2 * n for n in range(MANY)]
    go.touch()

    assert future.result(60) == "done"
    leaving.join()


def test_a_node_that_is_killed_leaves_no_call_without_an_outcome(
    pair: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "before").touch()
    ready = str(tmp_path / "before")
    on_n1 = pair.on(node="n1")
    for _ in range(8):
        on_n1.call(wait_for_file, str(tmp_path / "begun before"), ready)
    future = on_n1.submit(wait_for_file, str(begun), str(tmp_path / "never"))
    until_exists(begun)

    pair.kill("n1")

    with pytest.raises(NodeLost) as caught:
        future.result(60)
    assert caught.value.executed == "unknown"


def cut_links(cluster: mp.Cluster) -> None:
    """Have the client lose its links to nodes, as if the cable were cut."""
    links = parts_of(cluster).client.links

    def cut(_: object) -> None:
        for node in tuple(links.open_links):
            link = links.get(node)
            if link is not None:
                link.give_up("the cable was cut")

    # A node answers this itself; what comes then is on the client's own thread.
    when_over(cluster.submit("echo", 1), cut)


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_direct_call_whose_client_loses_the_node_is_run_again_or_left_open(
    own: mp.Cluster, tmp_path: Path, idempotent: bool
) -> None:
    """The node ends what ran for a client that it has lost, so nothing runs on."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    go.touch()
    waiting = own.register(wait_for_file, idempotent=idempotent)
    become_direct(own, wait_for_file, str(begun), str(go))
    go.unlink()
    begun.unlink()
    future = waiting.submit(str(begun), str(go))
    until_exists(begun)
    begun.unlink()

    cut_links(own)

    if idempotent:
        until_exists(begun)  # it runs again, and once at a time: there is one slot
        go.touch()
        assert future.result(60) == "done"
    else:
        with pytest.raises(NodeLost) as caught:
            future.result(60)
        assert caught.value.executed == "unknown"
        assert own.on(timeout=60).call(double, 4) == 8
        assert not begun.exists()
