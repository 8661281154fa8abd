"""A worker that dies while it runs a chunk of a map, or steps one after the other."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.errors import WorkerCrashed, WorkflowFailed

pytestmark = pytest.mark.live

ITEMS = 600


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    yield
    CONFIG.reset()


def noted_and_deadly(number: int, path: str, deadly: int) -> int:
    import os

    seen = Path(path).read_text() if Path(path).exists() else ""
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    if number == deadly and f"{deadly}\n" not in seen:
        os._exit(1)
    return number


def noted_and_deadly_too(number: int, path: str, deadly: int) -> int:
    return noted_and_deadly(number, path, deadly)


def runs(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split()))


def test_worker_that_dies_costs_an_idempotent_map_nothing_and_others_run_no_item_twice(
    tmp_path: Path,
) -> None:
    path, others_path = tmp_path / "runs", tmp_path / "runs of another map"

    with mp.up(2, fresh=True) as cluster:
        again = cluster.register(noted_and_deadly, name="again", idempotent=True)
        results = cluster.map(again, range(ITEMS), [str(path)] * ITEMS, [300] * ITEMS)
        with pytest.raises(WorkerCrashed) as caught:
            cluster.map(
                noted_and_deadly_too,
                range(ITEMS),
                [str(others_path)] * ITEMS,
                [300] * ITEMS,
            )

    assert results == list(range(ITEMS))
    assert runs(path)[300] == 2
    assert caught.value.executed == "yes"
    assert set(runs(others_path).values()) == {1}


def test_a_step_that_ends_its_worker_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs"

    def noted(number: int, path: str) -> int:
        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\n" % number)
        return number + 1

    def deadly(number: int) -> int:
        import os

        if number > 2:
            os._exit(3)
        return number

    mp.config("chain_ms", 1000)  # also on a machine that is slow now
    with mp.up(1, fresh=True) as cluster:
        flow = cluster.workflow("chain")
        start = flow.input("start")
        a = flow.step("a", noted, start, str(path))
        b = flow.step("b", noted, a, str(path))
        flow.step("d", noted, flow.step("c", deadly, b), str(path))
        for _ in range(3):  # then it is known how short they are
            flow.run(start=0)
        path.write_text("")
        with pytest.raises(WorkflowFailed) as caught:
            flow.run(start=1)
        run = caught.value.run

        statuses = [row.status for row in run.steps]
        assert statuses == ["done", "done", "failed", "skipped"]
        assert all("went on with it" in str(run.why(step)) for step in "bc")
        with pytest.raises(WorkerCrashed) as crashed:
            run["c"]
        assert crashed.value.executed == "yes"
        assert path.read_text() == "1\n2\n"
