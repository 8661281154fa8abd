"""Relative paths mean in a call what they mean where it is made."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True) as cluster:
        yield cluster


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def where(*_: object) -> str:
    return os.getcwd()


async def where_async() -> str:
    return os.getcwd()


def test_a_call_reads_and_writes_where_the_notebook_is(
    cluster: mp.Cluster, here: Path
) -> None:
    (here / "data.csv").write_text("a,b")

    assert cluster.call(lambda: Path("data.csv").read_text()) == "a,b"
    assert cluster.call(where_async) == str(here)
    assert cluster.map(where, range(3)) == [str(here)] * 3


def test_steps_and_items_of_maps_run_there_too(cluster: mp.Cluster, here: Path) -> None:
    flow = cluster.workflow("folders")
    one = flow.step("one", where)
    flow.map("each", where, over=flow.step("two", lambda _: [1, 2], one))

    run = flow.run()

    assert run["one"] == str(here)
    assert run["each"] == [str(here)] * 2


def test_the_folder_is_set_for_each_call(
    cluster: mp.Cluster, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = cluster.on(node="n1")
    view.call(os.chdir, "/")
    moved_back = view.call(where)
    other = here / "other"
    other.mkdir()
    monkeypatch.chdir(other)

    followed = view.call(where)
    other.rmdir()
    gone = view.call(where)
    monkeypatch.chdir(here)

    assert moved_back == str(here)
    assert followed == str(other)
    assert gone not in (str(here), str(other))
    assert view.call(where) == str(here)


def test_a_folder_that_is_made_again_is_found_again(
    cluster: mp.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    monkeypatch.chdir(folder)
    cluster.on(node="n1").call(where)
    folder.rmdir()
    folder.mkdir()
    monkeypatch.chdir(folder)

    cluster.on(node="n1").call(lambda: Path("made").touch())

    assert (folder / "made").exists()


def test_nested_calls_run_there_too(cluster: mp.Cluster, here: Path) -> None:
    def outer() -> str:
        import mpreg_nb

        return str(mpreg_nb.current().on(node="n2").call(where))

    # On n1 too it would need a second worker, which stays for some seconds.
    assert cluster.on(node="n1").call(outer) == str(here)


def test_scratch_makes_it_a_folder_of_the_node(cluster: mp.Cluster, here: Path) -> None:
    mp.config("cwd", "scratch")
    try:
        first = cluster.on(node="n1").call(where)
        second = cluster.on(node="n2").call(where)
    finally:
        mp.config("cwd", "caller")

    assert len({first, second, str(here)}) == 3


def test_calls_in_threads_of_one_worker_each_have_their_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(name: str) -> str:
        """Return the folder after both calls have begun."""
        import os
        import threading

        barrier = vars(threading).setdefault("_both", threading.Barrier(2, timeout=20))
        barrier.wait()
        os.makedirs(name)
        os.chdir(name)
        barrier.wait()
        return os.getcwd()

    with mp.up(1, slots=2, fresh=True) as cluster, ThreadPoolExecutor(2) as pool:
        monkeypatch.chdir(tmp_path)
        calls = [pool.submit(cluster.call, meet, name) for name in "ab"]
        made = {call.result() for call in calls}
        after = cluster.call(where)

    assert made == {str(tmp_path / "a"), str(tmp_path / "b")}
    assert after == str(tmp_path)
