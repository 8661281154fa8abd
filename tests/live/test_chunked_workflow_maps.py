"""Maps of short items in workflows: what travels in chunks is told item by item."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.config import CONFIG
from tests.support.settings import default_settings

pytestmark = pytest.mark.live

ITEMS = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with default_settings(), mp.up(2, fresh=True) as cluster:
        yield cluster


@pytest.fixture(params=[5.0, 0.0], ids=["chunks", "one by one"], autouse=True)
def chunk_ms(request: pytest.FixtureRequest) -> Iterator[float]:
    mp.config("map_chunk_ms", request.param)
    yield request.param
    CONFIG.reset()


def noted(number: int, path: str) -> str:
    """Note the item, and return the id of the call that it travelled in."""
    from mpreg_nb.call_context import running_call

    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    call = running_call.get()
    return "" if call is None else call.id.hex()


def noted_and_wrong_once(number: int, path: str, wrong: int) -> int:
    with open(path, "a+b", buffering=0) as file:
        file.write(b"%d\n" % number)
        file.seek(0)
        tries = file.read().split().count(b"%d" % wrong)
    if number == wrong and tries == 1:
        raise OSError("not yet")
    return number


def rows(cluster: mp.Cluster, step: str) -> pd.DataFrame:
    calls = cluster.calls()
    return calls[calls["step"] == step]


def runs(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split()))


def test_each_item_runs_once_and_has_its_row(
    cluster: mp.Cluster, tmp_path: Path, chunk_ms: float
) -> None:
    flow = cluster.workflow("noted")
    path = flow.input("path")
    flow.map("noted", noted, over=range(ITEMS), path=path)
    most = 1
    for attempt in range(10):  # on a busy machine the first calls may take long
        before = len(rows(cluster, "noted"))

        run = flow.run(path=str(tmp_path / str(attempt)))

        state, found = run.steps[0], rows(cluster, "noted")
        assert runs(tmp_path / str(attempt)) == Counter(range(ITEMS))
        assert (state.status, state.items, state.items_done) == ("done", ITEMS, ITEMS)
        assert state.attempts == 1
        assert len(found) - before == ITEMS
        assert found["call_id"].is_unique
        assert set(found["status"]) == {"done"}
        most = max(Counter(run["noted"]).values())
        if most > 1 or not chunk_ms:
            break
    assert (most > 1) == (chunk_ms > 0)


def test_an_item_that_failed_is_tried_again_alone(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path, wrong = tmp_path / "runs", ITEMS - 30
    flow = cluster.workflow("again")
    given = {"path": str(path), "wrong": wrong}
    flow.map("again", noted_and_wrong_once, over=range(ITEMS), **given).on(
        node="n1"
    ).retry(1, on=OSError)

    run = flow.run()

    assert run["again"] == list(range(ITEMS))
    assert runs(path) == Counter(range(ITEMS)) + Counter([wrong])
    assert run.steps[0].attempts == 2


def test_a_failure_names_its_item_and_none_ran_twice(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path, wrong = tmp_path / "runs", ITEMS - 30
    flow = cluster.workflow("wrong")
    given = {"path": str(path), "wrong": wrong}
    failing = flow.map("wrong", noted_and_wrong_once, over=range(ITEMS), **given)
    failing.on(node="n1")

    with pytest.raises(mp.errors.WorkflowFailed, match=rf"item \[{wrong}\], OSError"):
        flow.run()

    assert set(runs(path).values()) == {1}


def test_the_interrupt_that_an_item_raises_itself_is_its_failure(
    cluster: mp.Cluster,
) -> None:
    def interrupts(number: int) -> int:
        if number == ITEMS - 30:
            raise KeyboardInterrupt
        return number

    flow = cluster.workflow("interrupts")
    flow.map("interrupts", interrupts, over=range(ITEMS)).on(node="n1")

    with pytest.raises(
        mp.errors.WorkflowFailed, match=rf"item \[{ITEMS - 30}\].*KeyboardInterrupt"
    ):
        flow.run()


def test_prints_results_of_all_sizes_and_references_are_as_of_single_calls(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def sized(number: int, factor: int) -> bytes:
        import sys

        sys.stdout.write(f"item {number}\n")
        return bytes(40_000 if number % 50 == 49 else factor)

    flow = cluster.workflow("sized")
    factor = flow.step("factor", len, "abc")
    made = flow.map("made", sized, over=range(ITEMS), factor=factor)
    flow.map("sizes", len, over=made)

    run = flow.run()

    lines = [line for line in capsys.readouterr().out.splitlines() if "item " in line]
    assert run["sizes"] == [40_000 if n % 50 == 49 else 3 for n in range(ITEMS)]
    assert sorted(int(line.split()[-1]) for line in lines) == list(range(ITEMS))


def test_items_are_changed_by_no_other_item(cluster: mp.Cluster) -> None:
    def grown(item: list[int], shared: list[int]) -> tuple[int, int]:
        item.append(0)
        shared.append(0)
        return len(item), len(shared)

    flow = cluster.workflow("grown")
    flow.map("grown", grown, over=[[]] * ITEMS, shared=[])

    assert flow.run()["grown"] == [(1, 1)] * ITEMS


def test_a_map_whose_items_become_long_is_shared_by_all_and_can_be_cancelled(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "long"

    def becomes_long(number: int, path: str) -> int:
        import os
        import time

        if number >= ITEMS - 20:
            with open(path, "ab", buffering=0) as file:
                file.write(b"%d\n" % os.getpid())
            time.sleep(60)
        return number

    flow = cluster.workflow("long")
    flow.map("long", becomes_long, over=range(ITEMS), path=str(path))
    run = flow.start()
    deadline = time.monotonic() + 60
    while len(set(path.read_text().split()) if path.exists() else ()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    run.cancel()

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(20)
    assert cluster.on(timeout=30).call(abs, -2) == 2
    assert run.steps[0].status == "cancelled"


def test_a_run_that_is_resumed_runs_the_items_of_its_failed_map(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path, wrong = tmp_path / "runs", ITEMS - 30
    flow = cluster.workflow("resumed")
    given = {"path": str(path), "wrong": wrong}
    failing = flow.map("items", noted_and_wrong_once, over=range(ITEMS), **given)
    flow.step("sum", sum, failing)
    run = flow.start()
    with pytest.raises(mp.errors.WorkflowFailed):
        run.wait(60)

    resumed = run.resume()

    assert resumed.wait(60)["sum"] == sum(range(ITEMS))
