"""Short steps that follow each other, which one worker runs without a word between."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import CallCancelled, WorkflowFailed
from tests.support.files import until_exists

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    set_chains(True)
    yield
    CONFIG.reset()


def set_chains(chained: bool) -> None:
    """Have steps go together, also on a machine that is slow now, or never."""
    mp.config("chain_ms", 1000 if chained else 0)


def add_one(number: int) -> int:
    return number + 1


def noted(number: int, path: str) -> int:
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    return number + 1


def known_as_short(
    cluster: mp.Cluster, node: str, *calls: tuple[Callable[..., Any], *tuple[Any, ...]]
) -> None:
    """Have a node know how long functions take."""
    flow = cluster.workflow("known")
    for number, (function, *args) in enumerate(calls):
        flow.step(f"s{number}", function, *args).on(node=node)
    for _ in range(3):
        flow.run()


def chain(
    cluster: mp.Cluster, node: str, *steps: tuple[Callable[..., Any], *tuple[Any, ...]]
) -> Any:
    """Return a flow of steps s0, s1, … that each take the result of the one before."""
    flow = cluster.workflow("chain")
    before: Any = 0
    for number, (function, *args) in enumerate(steps):
        before = flow.step(f"s{number}", function, before, *args).on(node=node)
    return flow


def went_on(run: mp.Run, *steps: str) -> list[bool]:
    """Return of each step whether a worker went on with it."""
    return ["went on with it" in str(run.why(step)) for step in steps]


@pytest.mark.parametrize("chained", [True, False])
def test_each_step_has_its_row_and_its_call(cluster: mp.Cluster, chained: bool) -> None:
    set_chains(chained)
    node = parts_of(cluster).client.entry_node
    known_as_short(cluster, node, (add_one, 1))

    run = chain(cluster, node, *[(add_one,)] * 5).run()

    calls = cluster.calls()
    own = calls[calls["run"] == run.id[:8]]
    assert run["s4"] == 5
    assert went_on(run, "s0", "s1", "s4") == [False, chained, chained]
    assert [row.status for row in run.steps] == ["done"] * 5
    assert [row.attempts for row in run.steps] == [1] * 5
    assert set(run.frame()["node"]) == {node}
    assert list(own["step"]) == [f"s{number}" for number in range(5)]
    assert own["call_id"].nunique() == 5


@pytest.mark.parametrize("chained", [True, False])
def test_a_failure_is_that_of_its_step_and_its_retry_goes_on(
    cluster: mp.Cluster, tmp_path: Path, chained: bool
) -> None:
    set_chains(chained)
    path, flag = str(tmp_path / "runs"), tmp_path / "flag"

    def fails_once(number: int, flag: str) -> int:
        import pathlib

        if number and not pathlib.Path(flag).exists():
            pathlib.Path(flag).touch()
            raise LookupError("not yet")
        return number + 1

    node = parts_of(cluster).client.entry_node
    known = (add_one, 1), (fails_once, 0, str(flag)), (noted, 0, "/dev/null")
    known_as_short(cluster, node, *known)
    flow = cluster.workflow("retried")
    a = flow.step("a", noted, 1, path).on(node=node)
    b = flow.step("b", fails_once, a, str(flag)).on(node=node).retry(1)
    flow.step("c", noted, b, path).on(node=node)

    run = flow.run()

    assert run["c"] == 4
    assert [row.attempts for row in run.steps] == [1, 2, 1]
    assert Path(path).read_text() == "1\n3\n"
    assert went_on(run, "b", "c") == [chained, chained]


@pytest.mark.parametrize("chained", [True, False])
def test_a_step_that_fails_skips_those_behind_it(
    cluster: mp.Cluster, tmp_path: Path, chained: bool
) -> None:
    set_chains(chained)
    path = tmp_path / "runs"
    path.touch()

    def picky(number: int) -> int:
        if number == 1:
            raise LookupError(f"no {number}")
        return number

    node = parts_of(cluster).client.entry_node
    known_as_short(cluster, node, (add_one, 1), (picky, 0), (noted, 0, "/dev/null"))
    flow = chain(cluster, node, (add_one,), (picky,), (noted, str(path)))

    with pytest.raises(WorkflowFailed) as caught:
        flow.run()

    run = caught.value.run
    assert [row.status for row in run.steps] == ["done", "failed", "skipped"]
    with pytest.raises(LookupError, match="no 1"):
        run["s1"]
    assert run["s0"] == 1
    assert path.read_text() == ""


@pytest.mark.parametrize("chained", [True, False])
def test_prints_are_those_of_their_step(
    cluster: mp.Cluster, chained: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    set_chains(chained)

    def told(number: int) -> int:
        import sys

        sys.stdout.write(f"has {number}\n")
        return number + 1

    node = parts_of(cluster).client.entry_node
    known_as_short(cluster, node, (told, 7))

    run = chain(cluster, node, (told,), (told,), (told,)).run()

    logs = [run.log(f"s{number}") for number in range(3)]
    assert logs == [f"[{node}] has {number}\n" for number in range(3)]
    assert went_on(run, "s2") == [chained]


@pytest.mark.parametrize("chained", [True, False])
def test_a_cancel_ends_the_step_that_runs_and_none_begins(
    cluster: mp.Cluster, tmp_path: Path, chained: bool
) -> None:
    set_chains(chained)
    begun, path = tmp_path / "begun", tmp_path / "runs"
    path.touch()

    def waits(number: int, path: str) -> int:
        import pathlib
        import time

        if number:
            pathlib.Path(path).touch()
            time.sleep(60)
        return number

    node = parts_of(cluster).client.entry_node
    known_as_short(cluster, node, (add_one, 1), (noted, 0, "/dev/null"))
    known_as_short(cluster, node, (waits, 0, str(begun)))
    flow = chain(cluster, node, (add_one,), (waits, str(begun)), (noted, str(path)))
    run = flow.start()
    until_exists(begun)

    run.cancel()

    with pytest.raises(CallCancelled):
        run.wait(60)
    assert [row.status for row in run.steps] == ["done", "cancelled", "cancelled"]
    assert cluster.on(node=node).call(add_one, 1) == 2
    assert path.read_text() == ""


def test_steps_for_other_nodes_and_with_more_inputs_are_sent_by_themselves(
    cluster: mp.Cluster,
) -> None:
    node = parts_of(cluster).client.entry_node
    other = ({"n1", "n2"} - {node}).pop()
    known_as_short(cluster, node, (add_one, 1), (max, 1, 2))
    known_as_short(cluster, other, (add_one, 1))
    flow = cluster.workflow("mixed")
    a = flow.step("a", add_one, 1).on(node=node)
    b = flow.step("b", add_one, a).on(node=other)
    c = flow.step("c", add_one, b).on(node=node)
    d = flow.step("d", max, c, a).on(node=node)
    e = flow.step("e", add_one, d).on(node=node).timeout(60)
    flow.step("f", add_one, e).on(node=node)

    run = flow.run()

    assert run["f"] == 6
    assert went_on(run, *"abcdef") == [False, False, False, False, True, False]


def test_a_step_may_be_called_by_name_and_take_inputs_of_the_flow(
    cluster: mp.Cluster,
) -> None:
    cluster.register(pow, name="power")
    node = parts_of(cluster).client.entry_node
    known_as_short(cluster, node, ("power", 2, 3))  # type: ignore[arg-type]
    flow = cluster.workflow("named")
    a = flow.step("a", "power", 2, 3).on(node=node)
    b = flow.step("b", "power", a, flow.input("exponent")).on(node=node)

    run = flow.run(exponent=2)

    assert run[b.name] == 64
    assert went_on(run, "b") == [True]
    assert run.steps[1].version == run.steps[0].version != ""
