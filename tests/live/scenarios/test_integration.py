"""Steps that need each other, routes by resources, many callers, errors, times."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp

pytestmark = [pytest.mark.live, pytest.mark.integration]

TOKEN = "1c" * 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"archive": "raw-data", "lab-1": "cpu", "lab-2": {"cpu", "gpu"}}
    with mp.up(nodes, slots=4, fresh=True, token=TOKEN) as cluster:
        yield cluster


def read(sensor: str) -> dict[str, Any]:
    return {"station": sensor.upper(), "rows": [3, 1, None, 2]}


def tidy(rows: list[int | None]) -> list[int]:
    return sorted(row for row in rows if row is not None)


def mean(rows: list[int]) -> float:
    return sum(rows) / len(rows)


def join(*parts: Any) -> str:
    return " ".join(map(str, parts))


def fail(*_: Any) -> None:
    raise RuntimeError("this step fails")


def ran_on(run: mp.Run) -> dict[str, str]:
    """Return which node ran each step."""
    frame = run.frame()
    return dict(zip(frame["step"], frame["node"], strict=True))


def states(run: Any) -> dict[str, str]:
    return {step.name: step.status for step in run.steps}


# ----------------------------------------------------------------- workflows


def test_a_chain_runs_in_order_each_step_where_its_data_is(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("report")
    raw = flow.step("raw", read, "s-7").on("raw-data")
    clean = flow.step("clean", tidy, raw["rows"]).on("cpu")
    stats = flow.step("stats", mean, clean).on("gpu")
    flow.step("report", join, raw["station"], stats)

    run = flow.run()

    assert run.outputs == {"report": "S-7 2.0"}
    where = ran_on(run)
    assert where["raw"] == "archive"
    assert where["clean"] in {"lab-1", "lab-2"}
    assert where["stats"] == "lab-2"


def test_steps_may_be_written_in_any_order(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("backwards")
    flow.step("report", join, mp.ref("raw")["station"], mp.ref("stats"))
    flow.step("stats", mean, mp.ref("clean"))
    flow.step("clean", tidy, mp.ref("raw")["rows"])
    flow.step("raw", read, "s-8")

    assert flow.run().outputs == {"report": "S-8 2.0"}


def test_a_diamond_joins_both_of_its_sides(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("diamond")
    top = flow.step("top", tidy, [4, 2])
    left = flow.step("left", min, top).on("cpu")
    right = flow.step("right", max, top).on("gpu")
    flow.step("bottom", join, left, right)

    assert flow.run()["bottom"] == "2 4"


def test_steps_that_do_not_need_each_other_run_at_the_same_time(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def meet(name: str, other: str) -> str:
        """End only when the other has begun, too."""
        import pathlib
        import time

        folder = pathlib.Path(str(tmp_path))
        (folder / name).touch()
        while not (folder / other).exists():
            time.sleep(0.005)
        return name

    flow = cluster.workflow("both")
    flow.step("a", meet, "a", "b").timeout(20)
    flow.step("b", meet, "b", "a").timeout(20)

    assert flow.run().outputs == {"a": "a", "b": "b"}


def test_a_map_step_fans_out_and_its_reference_gathers(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("fan")
    items = flow.step("items", tidy, list(range(12)))
    squares = flow.map("squares", functools.partial(pow, exp=2), over=items)
    flow.step("total", sum, squares)

    run = flow.run()

    assert run["squares"] == [number**2 for number in range(12)]
    assert run["total"] == sum(number**2 for number in range(12))


def test_references_are_found_deep_inside_of_arguments(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("deep")
    a = flow.step("a", read, "x")
    flow.step("b", join, {"k": [(a["station"], {"z": a["rows"][1]})]})

    assert flow.run()["b"] == "{'k': [('X', {'z': 1})]}"


def test_a_string_that_equals_the_name_of_a_step_stays_a_string(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("strings")
    a = flow.step("a", read, "x")
    flow.step("b", join, "a", a["station"])

    assert flow.run()["b"] == "a X"


def test_inputs_are_filled_in_for_each_run(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("inputs")
    flow.step("raw", read, flow.input("sensor")).on("raw-data")

    runs = [flow.run(sensor=name) for name in ("s-1", "s-2")]

    assert [run["raw"]["station"] for run in runs] == ["S-1", "S-2"]


def test_the_plan_shows_where_steps_run_and_why(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("planned")
    flow.step("train", tidy, [2, 1]).on("gpu")

    row = flow.plan().iloc[0]
    run = flow.run()

    assert row["chosen"] == "lab-2"
    assert "archive: lacks gpu" in row["rejected"]
    assert "lab-1: lacks gpu" in row["rejected"]
    assert ran_on(run) == {"train": "lab-2"}
    assert "lab-2" in str(run.why("train"))


# -------------------------------------------------------------------- routes


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        (("raw-data",), {"archive"}),
        (("gpu",), {"lab-2"}),
        (("cpu", "gpu"), {"lab-2"}),
        (("cpu",), {"lab-1", "lab-2"}),
    ],
    ids=["one", "another", "two", "shared"],
)
def test_a_call_goes_to_a_node_that_holds_all_resources(
    cluster: mp.Cluster, resources: tuple[str, ...], nodes: set[str]
) -> None:
    cluster.on(*resources).call(join, *resources)

    assert cluster.calls().iloc[-1]["node"] in nodes


def test_a_resource_that_no_node_holds_is_refused_with_the_cure(
    cluster: mp.Cluster,
) -> None:
    with pytest.raises(mp.errors.NoRoute, match="tpu"):
        cluster.on("tpu").call(join)


def test_several_callers_share_one_link(cluster: mp.Cluster) -> None:
    def session(user: int) -> list[str]:
        return [cluster.call(join, user, number) for number in range(10)]

    with ThreadPoolExecutor(8) as users:
        answers = list(users.map(session, range(8)))

    assert answers == [[f"{user} {n}" for n in range(10)] for user in range(8)]


def test_hundreds_of_calls_are_in_flight_at_once(cluster: mp.Cluster) -> None:
    async def gather() -> list[str]:
        futures = [cluster.submit(join, number) for number in range(300)]
        return list(await asyncio.gather(*futures))

    assert asyncio.run(gather()) == [str(number) for number in range(300)]


def test_coroutines_have_the_same_verbs(cluster: mp.Cluster) -> None:
    async def scene() -> list[Any]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as other:
            flow = other.workflow("w")
            flow.step("a", join, 3)
            run = await flow.start()
            return [
                await other.call(join, 1),
                await other.map(join, [1, 2]),
                await run.result("a"),
            ]

    assert asyncio.run(scene()) == ["1", ["1", "2"], "3"]


def test_a_second_client_calls_what_the_first_registered(cluster: mp.Cluster) -> None:
    cluster.register(join, name="joined")

    with mp.connect(*cluster.urls, token=TOKEN) as other:
        assert other.call("joined", "from", "elsewhere") == "from elsewhere"


# --------------------------------------------------------- errors and timeouts


def test_a_failed_step_is_reported_and_its_dependents_are_skipped(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("fails")
    good = flow.step("good", tidy, [1])
    bad = flow.step("bad", fail, good)
    flow.step("after", join, bad)
    flow.step("beside", join, good)

    with pytest.raises(mp.errors.WorkflowFailed, match="this step fails") as caught:
        flow.run()

    assert states(caught.value.run) == {
        "good": "done",
        "bad": "failed",
        "after": "skipped",
        "beside": "done",
    }
    assert caught.value.run["beside"] == "[1]"


def test_a_step_is_tried_again(cluster: mp.Cluster, tmp_path: Path) -> None:
    def flaky(path: str) -> int:
        import pathlib

        attempts = pathlib.Path(path)
        with attempts.open("a") as log:
            log.write("x")
        if len(attempts.read_text()) < 3:
            raise OSError("not yet")
        return len(attempts.read_text())

    flow = cluster.workflow("flaky")
    flow.step("a", flaky, str(tmp_path / "attempts")).retry(3, on=OSError)

    run = flow.run()

    assert run["a"] == 3
    assert run.frame()["attempts"].tolist() == [3]


def test_a_step_that_takes_too_long_fails_alone(cluster: mp.Cluster) -> None:
    def forever() -> None:
        import time

        time.sleep(60)

    flow = cluster.workflow("slow")
    flow.step("slow", forever).timeout(0.3).fallback("gave up")
    flow.step("told", join, mp.ref("slow"))

    assert flow.run()["told"] == "gave up"


def test_a_mistake_in_a_workflow_is_found_before_anything_runs(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("circle")
    flow.step("a", join, mp.ref("b"))
    flow.step("b", join, mp.ref("a"))

    with pytest.raises(mp.errors.InvalidWorkflow, match="a"):
        flow.run()


def test_a_run_is_resumed_from_where_it_failed(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def needs(path: str) -> str:
        import pathlib

        return pathlib.Path(path).read_text()

    flow = cluster.workflow("resumed")
    once = flow.step("once", tidy, [3, 1])
    flow.step("file", needs, str(tmp_path / "data")).after(once)
    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()
    (tmp_path / "data").write_text("here")

    resumed = caught.value.run.resume().wait(60)

    assert resumed["file"] == "here"
    assert resumed["once"] == [1, 3]


def test_a_run_is_cancelled(cluster: mp.Cluster, tmp_path: Path) -> None:
    def begin(path: str) -> None:
        import pathlib
        import time

        pathlib.Path(path).touch()
        time.sleep(60)

    begun = tmp_path / "begun"
    flow = cluster.workflow("cancelled")
    flow.step("long", begin, str(begun))
    run = flow.start()
    while not begun.exists():
        assert not run.has_ended(0.01)

    run.cancel()

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(60)
    assert states(run) == {"long": "cancelled"}


# -------------------------------------------------------------- what it took


def test_what_a_call_took_is_the_sum_of_its_parts(cluster: mp.Cluster) -> None:
    def work() -> None:
        threading.Event().wait(0.05)

    cluster.call(work)

    row = cluster.calls().iloc[-1]
    parts = ["waited_ms", "queued_ms", "run_ms", "network_ms", "serialize_ms"]
    assert row["function"] == "work"
    assert row["run_ms"] >= 50
    assert sum(row[part] for part in parts) == pytest.approx(row["total_ms"], abs=0.5)


def test_latencies_and_routes_count_every_call(cluster: mp.Cluster) -> None:
    def counted(_: int) -> None: ...

    cluster.map(counted, range(20))

    latency = cluster.latency().set_index("function").loc["counted"]
    routes = cluster.routes()
    assert latency["count"] == 20
    assert latency["p50_ms"] <= latency["p95_ms"] <= latency["max_ms"]
    assert routes[routes["function"] == "counted"]["calls"].sum() == 20
