"""A worker that dies while it runs a chunk of a map."""

from collections import Counter
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import WorkerCrashed

pytestmark = pytest.mark.live

ITEMS = 600


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
