"""The same program on nodes of mpreg_nb and on a Dask cluster, with the same answers.

Where Dask differs, `Engine.gaps` says so; `test_dask_gateway.py` tests the sentences.
"""

import asyncio
import concurrent.futures
import dataclasses
import functools
import operator
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from tests.support.dask_cluster import DaskCluster
from tests.support.files import until_exists
from tests.support.until import until

pytestmark = pytest.mark.live

NODES = {"gpu-1": {"gpu", "disk"}, "cpu-1": {"cpu"}}

SCALE = 3


@pytest.fixture(scope="module", params=["mesh", "dask"])
def cluster(request: pytest.FixtureRequest) -> Iterator[mp.Cluster]:
    if request.param == "mesh":
        with mp.up(NODES, fresh=True) as mesh:
            yield mesh
    else:
        dask: DaskCluster = request.getfixturevalue("dask")
        with mp.connect(dask.url) as gateway:
            gateway.wait_for(*NODES)
            yield gateway


def node_of_last_call(cluster: mp.Cluster) -> str:
    return str(cluster.calls().node.iloc[-1])


# ------------------------------------------------------------------------- calls


def add(a: int, b: int = 1) -> int:
    return a + b


@dataclasses.dataclass(frozen=True)
class Point:
    x: int

    def shifted(self, by: int) -> "Point":
        return Point(self.x + by)


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (add, (1,), 2),
        (lambda n: n * SCALE, (2,), 6),
        (functools.partial(add, b=10), (1,), 11),
        (sum, ([1, 2],), 3),
        (operator.itemgetter("a"), ({"a": 1},), 1),
        (Point(1).shifted, (2,), Point(3)),
        (Point, (4,), Point(4)),
        ("echo", ("hi",), "hi"),
    ],
    ids=[
        "function",
        "lambda",
        "partial",
        "builtin",
        "getter",
        "method",
        "class",
        "echo",
    ],
)
def test_whatever_can_be_called_runs(
    cluster: mp.Cluster, function: Any, args: tuple[Any, ...], expected: object
) -> None:
    assert cluster.call(function, *args) == expected


def test_keyword_arguments_arrive(cluster: mp.Cluster) -> None:
    assert cluster.call(add, 1, b=5) == 6


def test_what_comes_back_is_of_the_class_that_was_sent(cluster: mp.Cluster) -> None:
    assert type(cluster.call(Point(1).shifted, 1)) is Point


def test_large_arrays_travel_both_ways(cluster: mp.Cluster) -> None:
    array = np.arange(500_000, dtype=float)

    assert np.array_equal(cluster.call(lambda values: values * 2, array), array * 2)


def square(n: int) -> int:
    return n * n


def test_registered_functions_are_called_by_name(cluster: mp.Cluster) -> None:
    cluster.register(square, resources={"gpu"})

    assert cluster.call("square", 2) == 4
    assert cluster.fn.square.call(3) == 9
    assert node_of_last_call(cluster) == "gpu-1"


def test_calls_go_where_the_resources_are(cluster: mp.Cluster) -> None:
    nodes = []
    for resource in ("gpu", "cpu"):
        cluster.on(resource).call(add, 1)
        nodes.append(node_of_last_call(cluster))

    assert nodes == ["gpu-1", "cpu-1"]


def test_calls_go_to_the_node_that_is_named(cluster: mp.Cluster) -> None:
    cluster.on(node="cpu-1").call(add, 1)

    assert node_of_last_call(cluster) == "cpu-1"


def test_a_call_that_nothing_fits_is_refused_at_once(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.NoRoute, match="Nearest is gpu-1, which lacks: tape"):
        cluster.on("gpu", "tape").call(add, 1)


def test_exceptions_are_of_their_own_class_and_ours(cluster: mp.Cluster) -> None:
    def fail() -> None:
        raise KeyError("rows")

    with pytest.raises(KeyError, match="rows") as caught:
        cluster.call(fail)

    assert isinstance(caught.value, mp.errors.RemoteError)


def test_exceptions_of_classes_of_the_notebook_come_back(cluster: mp.Cluster) -> None:
    class Refused(Exception):
        pass

    def fail() -> None:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        cluster.call(fail)


def test_what_cannot_travel_is_named(cluster: mp.Cluster) -> None:
    lock = threading.Lock()

    with pytest.raises(mp.errors.NotPicklable, match="lock"):
        cluster.call(add, lock)
    with pytest.raises(mp.errors.NotPicklable):
        cluster.call(threading.Lock)


def test_a_call_ends_at_its_timeout(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.CallTimeout):
        cluster.on(timeout=0.3).call(time.sleep, 30)


def start_and_wait(marker: Path, body: Callable[[], object]) -> Callable[[], None]:
    """Return a function that creates `marker` and then runs `body`."""

    def function() -> None:
        marker.touch()
        body()

    return function


def test_a_running_call_can_be_cancelled(cluster: mp.Cluster, tmp_path: Path) -> None:
    def spin() -> None:
        while True:
            pass

    future = cluster.on("gpu").submit(start_and_wait(tmp_path / "runs", spin))
    until_exists(tmp_path / "runs")

    future.cancel()

    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert cluster.on("gpu", timeout=30).call(add, 1) == 2


def test_a_function_that_ignores_a_cancel_loses_its_worker(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def stay() -> None:
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                continue

    future = cluster.on("gpu").submit(start_and_wait(tmp_path / "runs", stay))
    until_exists(tmp_path / "runs")

    future.cancel()

    assert cluster.on("gpu", timeout=30).call(add, 1) == 2


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("os._exit(3)", "exit code 3"),
        ("ctypes.string_at(0)", "signal SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ],
    ids=["exit", "segfault", "kill"],
)
def test_a_crash_says_how_the_worker_ended_and_what_it_printed(
    cluster: mp.Cluster, line: str, cause: str
) -> None:
    def crash(line: str) -> None:
        import ctypes
        import os

        print("last words")  # noqa: T201 - the error has it
        exec(line, {"os": os, "ctypes": ctypes})  # noqa: S102 - lines of this test

    with pytest.raises(mp.errors.WorkerCrashed, match=cause) as caught:
        cluster.on("gpu").call(crash, line)

    assert caught.value.executed == "yes"
    assert "last words" in str(caught.value)
    assert cluster.on("gpu").call(add, 1) == 2


def test_map_returns_results_in_order(cluster: mp.Cluster) -> None:
    assert cluster.map(add, range(100)) == list(range(1, 101))


def test_map_takes_several_iterables(cluster: mp.Cluster) -> None:
    assert cluster.map(add, [1, 2, 3], [10, 20]) == [11, 22]


def test_the_first_error_of_a_map_is_raised(cluster: mp.Cluster) -> None:
    def fail_at_three(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    with pytest.raises(ValueError, match="three"):
        cluster.map(fail_at_three, range(10))


def test_futures_work_with_the_standard_library(cluster: mp.Cluster) -> None:
    futures = [cluster.submit(add, n) for n in range(5)]
    seen: list[Any] = []
    done = threading.Event()

    def note(future: Any) -> None:
        seen.append(future.result())
        done.set()

    futures[0].add_done_callback(note)

    found = {each.result() for each in concurrent.futures.as_completed(futures)}
    assert found == {1, 2, 3, 4, 5}
    assert done.wait(60)
    assert seen == [1]


def test_futures_can_be_awaited(cluster: mp.Cluster) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(*(cluster.submit(add, n) for n in range(2)))

    assert asyncio.run(both()) == [1, 2]


def test_executors_run_calls(cluster: mp.Cluster) -> None:
    with cluster.executor("cpu") as executor:
        assert list(executor.map(add, range(3))) == [1, 2, 3]
        assert executor.submit(add, 5).result() == 6


def test_joblib_runs_calls(cluster: mp.Cluster) -> None:
    import joblib

    with joblib.parallel_config("mpreg"):
        made = joblib.Parallel(n_jobs=2)(joblib.delayed(add)(n) for n in range(4))

    assert list(made) == [1, 2, 3, 4]


def test_prints_appear_here_in_order_with_the_node(
    cluster: mp.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    def talk() -> None:
        for n in range(20):
            print(n)  # noqa: T201 - what the test is about

    cluster.on("gpu").call(talk)

    assert capfd.readouterr().out == "".join(f"[gpu-1] {n}\n" for n in range(20))


def test_warnings_of_functions_appear_on_standard_error(
    cluster: mp.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    def complain() -> None:
        import sys

        sys.stderr.write("careful\n")

    cluster.on("gpu").call(complain)

    assert capfd.readouterr().err == "[gpu-1] careful\n"


def test_coroutine_functions_run(cluster: mp.Cluster) -> None:
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert cluster.call(later, 4) == 4


def test_an_edited_function_runs_as_it_is_now(cluster: mp.Cluster) -> None:
    scope: dict[str, Any] = {}
    answers = []
    for source in ("def f(): return 'old'", "def f(): return 'new'"):
        exec(source, scope)  # noqa: S102 - cells of this test
        answers.append(cluster.call(scope["f"]))

    assert answers == ["old", "new"]


def test_captured_values_are_those_of_the_moment(cluster: mp.Cluster) -> None:
    values = [1]

    def read() -> list[int]:
        return values

    first = cluster.call(read)
    values.append(2)

    assert (first, cluster.call(read)) == ([1], [1, 2])


def test_a_worker_keeps_what_modules_cache(cluster: mp.Cluster) -> None:
    def count() -> int:
        import fractions

        fractions.seen = getattr(fractions, "seen", 0) + 1  # type: ignore[attr-defined]
        return fractions.seen  # type: ignore[attr-defined, no-any-return]

    gpu = cluster.on("gpu")

    assert gpu.call(count) + 1 == gpu.call(count)


def test_a_function_leaves_no_variables_of_the_environment(
    cluster: mp.Cluster,
) -> None:
    def change() -> None:
        import os

        os.environ["LEFT_OVER"] = "1"

    def look() -> str | None:
        import os

        return os.environ.get("LEFT_OVER")

    cluster.on("gpu").call(change)

    assert cluster.on("gpu").call(look) is None


def test_relative_paths_are_those_of_the_caller(
    cluster: mp.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    monkeypatch.chdir(tmp_path)

    assert cluster.call(lambda: Path("data.csv").read_text()) == "1,2"


def test_functions_call_the_cluster_that_they_run_on(cluster: mp.Cluster) -> None:
    def outer(n: int) -> int:
        return int(mp.current().call("inner", n)) + 1

    cluster.register(lambda n: n + 1, "inner", resources={"gpu"})

    # On the only worker that `inner` could run on too.
    assert cluster.on("gpu", timeout=60).call(outer, 1) == 3


def test_nested_maps_do_not_wait_for_each_other(cluster: mp.Cluster) -> None:
    def outer(n: int) -> int:
        return sum(mp.current().map("leaf", range(n)))

    cluster.register(lambda n: n, "leaf")

    assert cluster.on(timeout=60).map(outer, range(6)) == [0, 0, 1, 3, 6, 10]


def test_functions_for_a_thread_of_the_node_run(cluster: mp.Cluster) -> None:
    cluster.register(lambda n: n + 1, "light", isolation="thread")

    assert cluster.call("light", 1) == 2


def test_a_space_keeps_variables_of_its_calls(cluster: mp.Cluster) -> None:
    def bump() -> int:
        import fractions

        fractions.kept = getattr(fractions, "kept", 0) + 1  # type: ignore[attr-defined]
        return fractions.kept  # type: ignore[attr-defined, no-any-return]

    calling = parts_of(cluster).calling
    space = calling.open_space("gpu-1")
    try:
        options = dataclasses.replace(mp_options(cluster), space=space)
        found = [calling.call(bump, (), {}, options) for _ in range(2)]
    finally:
        calling.close_space("gpu-1", space)

    assert found == [1, 2]


def mp_options(cluster: mp.Cluster) -> Any:
    from mpreg_nb.cluster.function import call_options

    return call_options((), "gpu-1", None, None)


# ---------------------------------------------------------------------- workflows


def make(n: int) -> list[int]:
    return list(range(n))


def test_a_chain_of_steps_runs_where_each_belongs(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("chain")
    made = flow.step("make", make, 4).on("gpu")
    flow.step("sum", sum, made).on("cpu")

    run = flow.run()

    assert run["sum"] == 6
    assert dict(zip(run.frame().step, run.frame().node, strict=True)) == {
        "make": "gpu-1",
        "sum": "cpu-1",
    }


def test_references_stand_anywhere_in_arguments(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("references")
    made = flow.step("make", make, 4)
    flow.step("pick", lambda x: x, {"first": [made[1]], "all": (made,)})

    assert flow.run().outputs == {"pick": {"first": [1], "all": ([0, 1, 2, 3],)}}


def test_a_step_maps_over_a_result_and_gathers(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("map")
    made = flow.step("make", make, 5)
    squares = flow.map("square", lambda n: n * n, over=made)
    flow.step("sum", sum, squares)

    assert flow.run()["sum"] == 30


def test_large_results_go_from_step_to_step(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("large")
    made = flow.step("make", np.arange, 300_000).on("gpu")
    double = flow.step("double", lambda a: a * 2, made).on("cpu")
    flow.step("sum", lambda a: int(a.sum()), double).on("gpu")

    run = flow.run()

    assert run["sum"] == 89_999_700_000
    assert run["double"][-1] == 599_998


def test_a_step_is_tried_again(cluster: mp.Cluster, tmp_path: Path) -> None:
    marker = tmp_path / "tried"

    def flaky() -> str:
        if marker.exists():
            return "second"
        marker.touch()
        raise OSError("first")

    flow = cluster.workflow("retry")
    flow.step("flaky", flaky).retry(1)

    run = flow.run()

    assert run["flaky"] == "second"
    assert list(run.frame().attempts) == [2]


def fail() -> None:
    raise ValueError("broken")


def test_a_fallback_stands_in_for_a_failure(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("fallback")
    failed = flow.step("fail", fail).fallback(7)
    flow.step("add", add, failed)

    assert flow.run()["add"] == 8


def test_finished_steps_are_undone_when_a_later_one_fails(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    flow = cluster.workflow("saga")
    booked = flow.step("book", lambda: "seat").undo((tmp_path / "undone").touch)
    flow.step("pay", fail).after(booked)

    with pytest.raises(mp.errors.WorkflowFailed):
        flow.run()

    assert (tmp_path / "undone").exists()


def test_a_failed_run_says_what_failed_and_what_was_skipped(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("fails")
    failed = flow.step("fail", fail)
    flow.step("next", add, failed)
    flow.step("other", add, 1)

    with pytest.raises(mp.errors.WorkflowFailed, match="broken") as caught:
        flow.run()

    run = caught.value.run
    assert run is not None
    assert dict(zip(run.frame().step, run.frame().status, strict=True)) == {
        "fail": "failed",
        "next": "skipped",
        "other": "done",
    }
    with pytest.raises(ValueError, match="broken"):
        run["fail"]


def test_a_step_runs_only_when_its_condition_holds(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("when")
    number = flow.step("number", add, 1)
    flow.step("no", add, 1).when(flow.step("zero", add, -1))
    flow.step("yes", add, 2).when(number)

    run = flow.run()

    states = dict(zip(run.frame().step, run.frame().status, strict=True))
    assert (states["yes"], states["no"]) == ("done", "skipped")


def test_holes_of_a_workflow_are_filled_when_it_runs(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("inputs")
    flow.step("add", add, flow.input("n"), b=1)

    assert [flow.run(n=n)["add"] for n in (1, 2)] == [2, 3]


def test_a_step_ends_at_its_timeout(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("timeout")
    flow.step("sleep", time.sleep, 30).timeout(0.3)

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()

    assert isinstance(caught.value.exceptions[0], mp.errors.CallTimeout)


def test_a_run_can_be_cancelled_and_resumed(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    def wait() -> str:
        (tmp_path / "runs").touch()
        while not go.exists():
            time.sleep(0.01)
        return "went"

    flow = cluster.workflow("cancel")
    flow.step("wait", wait)
    run = flow.start()
    until_exists(tmp_path / "runs")
    run.cancel()
    until(lambda: run.status != "running")
    go.touch()

    assert run.status == "cancelled"
    assert run.resume().wait(30)["wait"] == "went"


def test_prints_of_a_step_are_in_its_log(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("log")
    flow.step("talk", lambda: print("said"))  # noqa: T201 - what the test is about

    assert "said" in str(flow.run().log("talk"))


def test_a_plan_says_where_steps_would_run(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("plan")
    flow.step("add", add, 1).on("gpu")

    plan = flow.plan()

    assert list(plan.chosen) == ["gpu-1"]


def test_a_run_explains_the_choice_of_a_node(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("why")
    flow.step("add", add, 1).on("cpu")

    assert "cpu-1" in str(flow.run().why("add"))


def test_a_workflow_that_no_node_fits_does_not_begin(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("nowhere")
    flow.step("add", add, 1).on("tape")

    with pytest.raises(mp.errors.MpregError, match="tape"):
        flow.run()


# ------------------------------------------------------------------ frames, views


def test_nodes_and_their_resources_are_listed(cluster: mp.Cluster) -> None:
    nodes = cluster.nodes()
    held = dict(zip(nodes.node, nodes.resources, strict=True))

    assert {name: str(held[name]) for name in NODES} == {
        "gpu-1": "disk, gpu",
        "cpu-1": "cpu",
    }
    assert set(nodes.state) == {"alive"}


def test_functions_are_listed_with_their_nodes(cluster: mp.Cluster) -> None:
    cluster.register(lambda n: n, "listed", resources={"gpu"})
    cluster.call("listed", 1)

    frame = cluster.functions("listed")

    assert str(frame.nodes.iloc[0]) == "gpu-1"
    assert int(frame.calls.iloc[0]) == 1


def test_routes_and_latency_count_calls(cluster: mp.Cluster) -> None:
    cluster.register(lambda n: n, "routed", resources={"gpu"})
    for _ in range(3):
        cluster.call("routed", 1)

    routes = cluster.routes().set_index("function")
    latency = cluster.latency().set_index("function")

    assert (routes.node["routed"], routes.calls["routed"]) == ("gpu-1", 3)
    assert latency["count"]["routed"] == 3
    assert latency.p50_ms["routed"] > 0


def test_events_list_workers_that_died(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.WorkerCrashed):
        cluster.on("cpu").call(__import__("os")._exit, 4)

    events = cluster.events()
    died = events[(events.event == "worker died") & (events.node == "cpu-1")]
    assert "exit code 4" in died.detail.iloc[-1]


def test_versions_do_not_differ(cluster: mp.Cluster) -> None:
    assert all(not str(each) for each in cluster.versions().differs)


def test_views_show_themselves_as_text(cluster: mp.Cluster) -> None:
    assert "gpu-1" in str(cluster.watch("members").to_frame())
    assert "gpu-1" in repr(cluster.status())


def test_function_objects_keep_working_locally(cluster: mp.Cluster) -> None:
    made = cluster.register(lambda n: n + 1, "both")

    assert (made(1), made.call(1), made.map([1, 2])) == (2, 2, [2, 3])
