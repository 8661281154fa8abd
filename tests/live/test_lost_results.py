"""Results of steps that are lost with the node that holds them, during their run."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from tests.support.files import until_exists

pytestmark = pytest.mark.live

LARGE = 100_000
"""Bytes of a result that stays where it was made."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    """Enter by a node that runs no step whose node is killed; each test kills one."""
    nodes = {"n1": {"desk"}, **{f"n{number}": {"gpu"} for number in range(2, 6)}}
    with mp.up(nodes, fresh=True) as whole:
        entry = mp.connect(whole.urls[0], direct=False)
        yield entry
        entry.disconnect()


def make(number: int, folder: str) -> bytes:
    """Note who makes a large result, and make it."""
    import os
    import pathlib

    noted = pathlib.Path(folder, f"{number}-{os.getppid()}-{os.urandom(4).hex()}")
    noted.touch()
    return bytes([number]) * 100_000


def measure(results: object, gate: object) -> int:
    """Return the size of what was made."""
    made = results if isinstance(results, list) else [results]
    return sum(map(len, made))


def wait(begun: str, go_on: str) -> str:
    """Say that all before is done, and wait."""
    import pathlib
    import time

    pathlib.Path(begun).touch()
    while not pathlib.Path(go_on).exists():
        time.sleep(0.01)
    return "done"


def nodes(folder: Path) -> Counter[int]:
    """Return how often each node process made something."""
    return Counter(int(one.name.split("-")[1]) for one in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    return made


def test_step_whose_result_is_lost_is_made_again(
    cluster: mp.Cluster, tmp_path: Path, folder: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    function = cluster.register(make, idempotent=True, resources={"gpu"})
    flow = cluster.workflow("lost")
    made = flow.step("made", function, 1, str(folder))
    gate = flow.step("gate", wait, str(begun), str(go_on)).on("desk").after(made)
    flow.step("measured", measure, made, gate)
    run = flow.start()
    until_exists(begun)
    (holder,) = nodes(folder)

    os.kill(holder, signal.SIGKILL)
    go_on.touch()

    assert run.wait(30)["measured"] == LARGE
    assert len(nodes(folder)) == 2
    assert [one.attempts for one in run.steps if one.name == "made"] == [2]


def test_step_that_may_not_run_twice_is_not_made_again_and_the_error_says_why(
    cluster: mp.Cluster, tmp_path: Path, folder: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    function = cluster.register(make, name="make-once", resources={"gpu"})
    flow = cluster.workflow("lost")
    made = flow.step("made", function, 1, str(folder))
    gate = flow.step("gate", wait, str(begun), str(go_on)).on("desk").after(made)
    flow.step("measured", measure, made, gate)
    run = flow.start()
    until_exists(begun)
    (holder,) = nodes(folder)

    os.kill(holder, signal.SIGKILL)
    go_on.touch()

    with pytest.raises(mp.errors.WorkflowFailed, match="idempotent=True") as caught:
        run.wait(30)
    (lost,) = caught.value.exceptions
    assert isinstance(lost, mp.errors.NodeLost)
    assert "the result of 'made' is lost" in str(lost)
    assert lost.executed == "no"
    assert len(list(folder.iterdir())) == 1


def test_only_those_items_of_a_map_are_made_again_that_are_lost(
    cluster: mp.Cluster, tmp_path: Path, folder: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    function = cluster.register(make, idempotent=True, resources={"gpu"})
    flow = cluster.workflow("lost")
    made = flow.map("made", function, over=list(range(8)), folder=str(folder))
    gate = flow.step("gate", wait, str(begun), str(go_on)).on("desk").after(made)
    flow.step("measured", measure, made, gate)
    run = flow.start()
    until_exists(begun)
    before = nodes(folder)
    victim = next(iter(before))

    os.kill(victim, signal.SIGKILL)
    go_on.touch()

    assert run.wait(30)["measured"] == 8 * LARGE
    assert sum(before.values()) == 8
    assert sum(nodes(folder).values()) == 8 + before[victim]
