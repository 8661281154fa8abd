"""Maps over results, on a real cluster."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}, "n3": {"gpu"}}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


def rows(count: int) -> dict[str, Any]:
    return {"rows": list(range(count)), "factor": 3}


def times(item: int, factor: int) -> int:
    return item * factor


def blocks(count: int) -> list[Any]:
    import numpy

    return [numpy.full(50_000, number, dtype="float64") for number in range(count)]


def test_a_map_runs_for_each_item_and_gathers_in_order(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("map")
    source = flow.step("source", rows, 40)
    scaled = flow.map("scaled", times, over=source["rows"], factor=source["factor"])
    flow.step("sum", sum, scaled)
    run = flow.run()

    state = run.steps[1]
    assert run["scaled"] == [3 * number for number in range(40)]
    assert run["sum"] == 3 * sum(range(40))
    assert (state.items, state.items_done, state.status) == (40, 40, "done")


def test_items_run_on_nodes_that_fit_and_on_no_other(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("spread")
    flow.map("narrow", times, over=range(30), factor=1).on("gpu")
    flow.map("pinned", times, over=range(30), factor=1).on(node="n1")

    run = flow.run()

    assert set(run.steps[0].node.split(", ")) <= {"n2", "n3"}
    assert run.steps[1].node == "n1"


def test_large_items_and_results_go_from_node_to_node(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("arrays")
    made = flow.step("made", blocks, 5).on(node="n1")
    doubled = flow.map("doubled", lambda block: block * 2, over=made).on("gpu")
    flow.step("sums", lambda many: [float(one.sum()) for one in many], doubled)
    flow.map("again", lambda block: float(block.mean()), over=doubled).on("cpu")
    run = flow.run()

    assert run["sums"] == [number * 100_000.0 for number in range(5)]
    assert run["again"] == [number * 2.0 for number in range(5)]
    assert run.steps[1].result_bytes is not None
    assert run.steps[1].result_bytes > 5 * 400_000
    np.testing.assert_array_equal(run["doubled"][3], np.full(50_000, 6.0))


def test_large_arguments_are_shared_by_all_items(cluster: mp.Cluster) -> None:
    def score(item: int, weights: Any, more: Any, scale: int) -> float:
        return float(item * weights[0] + more[0]) * scale

    flow = cluster.workflow("shared")
    weights = flow.step("weights", np.ones, 20_000).on(node="n1")
    more = np.full(20_000, 2.0)
    flow.map("score", score, over=range(30), weights=weights, more=more, scale=2)

    run = flow.run()

    assert run["score"] == [(item + 2.0) * 2 for item in range(30)]


def test_many_small_results_are_gathered_too(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("many")
    texts = flow.map("texts", lambda number: str(number) * 200, over=range(1_500))
    flow.step("sizes", lambda many: sum(map(len, many)), texts)

    run = flow.run()

    assert run["sizes"] == sum(200 * len(str(number)) for number in range(1_500))
    assert run["texts"][7] == "7" * 200


def test_a_map_over_nothing_gives_nothing(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("empty")
    empty = flow.map("empty", times, over=flow.input("items"), factor=2)
    flow.step("next", len, empty)
    run = flow.run(items=[])

    assert run["empty"] == []
    assert run["next"] == 0


def test_an_item_that_fails_fails_the_map_and_is_named(cluster: mp.Cluster) -> None:
    def inverse(number: int) -> float:
        return 1 / (number - 3)

    flow = cluster.workflow("inverse")
    flow.map("inverse", inverse, over=range(6))

    with pytest.raises(
        mp.errors.WorkflowFailed, match=r"inverse \(item \[3\], ZeroDivisionError"
    ) as caught:
        flow.run()

    [error] = caught.value.exceptions
    assert isinstance(error, ZeroDivisionError)
    assert error.__notes__[-1] == "In item [3]."


def test_each_item_is_tried_again_and_timed_by_itself(cluster: mp.Cluster) -> None:
    def flaky(number: int) -> int:
        import sys
        import types

        state: Any = sys.modules.setdefault("flaky_items", types.ModuleType("items"))
        calls = vars(state).setdefault("calls", set())
        if number % 2 and number not in calls:
            calls.add(number)
            raise OSError("not yet")
        return number

    def sleeps(number: int) -> int:
        import time

        time.sleep(0.2)
        return number

    flow = cluster.workflow("patient")
    flow.map("flaky", flaky, over=range(6)).on(node="n1").retry(1, on=OSError)
    # Together they take longer than the time that each of them has.
    flow.map("timed", sleeps, over=range(8)).on(node="n3").timeout(1)
    run = flow.run()

    assert run["flaky"] == list(range(6))
    assert run["timed"] == list(range(8))
    assert run.steps[0].attempts == 2


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (5, "a value of type int"),
        (range(10_001), "10,001 items, and the limit is 10,000"),
    ],
)
def test_what_cannot_be_gone_over_is_refused(
    cluster: mp.Cluster, over: Any, message: str
) -> None:
    flow = cluster.workflow("wrong")
    flow.map("wrong", times, over=over, factor=1)

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()

    assert message in str(caught.value.exceptions[0])


def test_a_map_falls_back_as_a_whole_and_is_undone_as_a_whole(
    cluster: mp.Cluster,
) -> None:
    def fails(_: object) -> None:
        raise ValueError("no")

    flow = cluster.workflow("saga")
    good = flow.map("good", times, over=[1, 2], factor=2).undo(sum, mp.ref("good"))
    flow.map("bad", fails, over=good).fallback([0])
    flow.step("last", fails, mp.ref("bad"))

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()

    assert caught.value.undone == ("good",)
    assert caught.value.run["bad"] == [0]


def test_functions_in_threads_and_of_every_node_can_be_mapped(
    cluster: mp.Cluster,
) -> None:
    threaded = cluster.register(times, "in a thread", isolation="thread")

    flow = cluster.workflow("threads")
    first = flow.map("first", threaded, over=[1, 2, 3], factor=2)
    flow.map("second", "echo", over=first)
    run = flow.run()

    assert run["second"] == [2, 4, 6]


def test_maps_that_are_more_than_nodes_take_at_once_wait_for_room(
    cluster: mp.Cluster,
) -> None:
    runs = []
    for number in range(3):
        flow = cluster.workflow(f"wide {number}")
        flow.map("wide", times, over=range(1_200), factor=number)
        runs.append(flow.start())

    totals = [sum(run.wait(60)["wide"]) for run in runs]

    assert totals == [number * sum(range(1_200)) for number in range(3)]


def test_a_cancelled_map_ends_at_once(cluster: mp.Cluster) -> None:
    def sleeps(_: int) -> None:
        import time

        time.sleep(60)

    flow = cluster.workflow("cancel")
    flow.map("slow", sleeps, over=range(20))
    run = flow.start()

    run.cancel()

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(60)
    assert cluster.on(timeout=60).call(times, 2, 3) == 6
