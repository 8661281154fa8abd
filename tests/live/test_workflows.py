"""Workflows on a real cluster, against what they give when run here."""

import functools
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpreg_nb as mp
from mpreg_nb.node.workflows import REMEMBERED_RUNS

pytestmark = pytest.mark.live

DAGS = 60
MOST_STEPS = 40
SEED = 20240229


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}, "n3": {"gpu"}}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


def combine(name: str, *values: Any) -> dict[str, Any]:
    """Give a result in which every input can be found again."""
    total = sum(value if isinstance(value, int) else value["total"] for value in values)
    return {"name": name, "total": total + len(name), "parts": [name, [name]]}


def nested(name: str, inputs: dict[str, list[Any]], word: str) -> dict[str, Any]:
    """Take inputs that stand deep inside of containers, and a literal string."""
    assert isinstance(word, str)
    values = [inner for pair in inputs["pairs"] for inner in pair]
    return {"name": name, "total": sum(values) + len(word), "parts": [word, [word]]}


def random_dag(rng: random.Random, flow: Any) -> dict[str, dict[str, Any]]:
    """Fill `flow` with a random DAG and return what each step must give."""
    expected: dict[str, dict[str, Any]] = {}
    handles: dict[str, Any] = {}
    for number in range(rng.randint(1, MOST_STEPS)):
        name = f"s{number}"
        picked = rng.sample(sorted(expected), min(len(expected), rng.randint(0, 3)))
        if rng.random() < 0.5:
            value = rng.randint(0, 9)
            handle = flow.step(
                name, combine, name, value, *(handles[p] for p in picked)
            )
            expected[name] = combine(name, value, *(expected[p] for p in picked))
        else:
            # The literal equals the name of a step, and stays a string.
            word = rng.choice(sorted(expected) or ["s0"])
            pairs = [(handles[p]["total"], 1) for p in picked]
            handle = flow.step(name, nested, name, {"pairs": pairs}, word=word)
            expected[name] = nested(
                name, {"pairs": [(expected[p]["total"], 1) for p in picked]}, word
            )
        handles[name] = handle
        if rng.random() < 0.5:
            handle.on(rng.choice(["cpu", "gpu"]))
        if expected and rng.random() < 0.2:
            handle.after(*(p for p in picked[:1]))
    return expected


def test_newly_registered_lambdas_are_steps_of_one_run(
    cluster: mp.Cluster,
) -> None:
    for number in range(10):
        flow = mp.workflow("anonymous")
        first = flow.step("first", lambda number=number: number)
        flow.step("second", lambda value, number=number: (value, number), first)

        assert flow.run()["second"] == (number, number)


def test_random_workflows_give_what_they_give_here(cluster: mp.Cluster) -> None:
    rng = random.Random(SEED)
    for number in range(DAGS):
        flow = cluster.workflow(f"dag-{number}")
        expected = random_dag(rng, flow)

        run = flow.run()

        got = {name: run[name] for name in expected}
        assert got == expected, f"DAG {number} of seed {SEED}"
        assert run.status == "done"


def test_both_ways_to_write_a_workflow_give_the_same(cluster: mp.Cluster) -> None:
    def ingest(station: str) -> dict[str, Any]:
        return {"station": station, "rows": [3, 1, 2]}

    def clean(raw: dict[str, Any]) -> list[int]:
        return sorted(raw["rows"])

    def render(parts: list[Any]) -> str:
        return f"{parts[0]}: {parts[1]}"

    flow = cluster.workflow("report")
    raw = flow.step("raw", ingest, "sensor-7").on("cpu")
    tidy = flow.step("clean", clean, raw).on("gpu")
    flow.step("report", render, [raw["station"], tidy])
    one = flow.run()
    other = (
        cluster.workflow("report")
        .step("raw", ingest, "sensor-7").on("cpu")
        .step("clean", clean, mp.ref("raw")).on("gpu")
        .step("report", render, [mp.ref("raw")["station"], mp.ref("clean")])
        .run()
    )  # fmt: skip

    assert one.outputs == other.outputs == {"report": "sensor-7: [1, 2, 3]"}


def test_large_results_stay_in_the_cluster_until_asked_for(
    cluster: mp.Cluster,
) -> None:
    def make(count: int) -> Any:
        import numpy

        return numpy.arange(count, dtype="float64")

    def half(array: Any) -> Any:
        return array[::2]

    flow = cluster.workflow("arrays")
    big = flow.step("big", make, 500_000).on("cpu", node="n1")
    small = flow.step("half", half, big).on("gpu", node="n3")
    flow.step("sum", lambda array: float(array.sum()), small).on("gpu")
    run = flow.run()

    frame = run.frame().set_index("step")
    assert run["sum"] == float(np.arange(0, 500_000, 2, dtype="float64").sum())
    assert frame.loc["big", "result_bytes"] > 4_000_000
    assert frame.loc["half", "node"] == "n3"
    np.testing.assert_array_equal(run["half"], np.arange(0, 500_000, 2.0))


def test_failed_step_skips_what_depends_on_it_and_nothing_else(
    cluster: mp.Cluster,
) -> None:
    def fails() -> None:
        raise KeyError("no such sensor")

    flow = cluster.workflow("diamond")
    bad = flow.step("bad", fails)
    flow.step("after bad", combine, "x", bad)
    flow.step("good", combine, "y", 1)
    run = flow.start()

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        run.wait(60)

    assert caught.value.failed == ("bad",)
    assert caught.value.skipped == ("after bad",)
    assert caught.value.done == ("good",)
    assert isinstance(caught.value.exceptions[0], KeyError)
    assert run["good"]["total"] == 2
    with pytest.raises(KeyError, match="no such sensor"):
        run["bad"]
    with pytest.raises(mp.errors.StepSkipped, match="'bad'"):
        run["after bad"]


def test_step_is_tried_again_as_often_as_was_asked(cluster: mp.Cluster) -> None:
    def flaky() -> int:
        import sys
        import types

        state: Any = sys.modules.setdefault("flaky_state", types.ModuleType("state"))
        state.calls = getattr(state, "calls", 0) + 1
        if state.calls < 3:
            raise OSError("not yet")
        return int(state.calls)

    flow = cluster.workflow("retry")
    flow.step("flaky", flaky).on(node="n2").retry(2, on=OSError)
    run = flow.run()

    assert run["flaky"] == 3
    assert run.frame()["attempts"].tolist() == [3]


def test_step_that_takes_too_long_fails_and_its_slot_is_free(
    cluster: mp.Cluster,
) -> None:
    def slow() -> None:
        import time

        time.sleep(60)

    flow = cluster.workflow("slow")
    flow.step("slow", slow).on(node="n2").timeout(0.3)

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()

    assert isinstance(caught.value.exceptions[0], TimeoutError)
    assert cluster.on(node="n2", timeout=60).call(combine, "x", 1)["total"] == 2


def test_cancelled_run_ends_at_once(cluster: mp.Cluster) -> None:
    def slow(seconds: float) -> None:
        import time

        time.sleep(seconds)

    flow = cluster.workflow("cancel")
    first = flow.step("slow", slow, 60)
    flow.step("never", slow, first)
    run = flow.start()

    run.cancel()
    said = repr(run)

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(60)
    assert "cancelling" in said or "cancelled" in said
    assert run.status == "cancelled"
    assert {state.status for state in run.steps} == {"cancelled"}


def test_plan_says_where_each_step_would_run_and_why(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("plan")
    flow.step("a", combine, "a", 1).on("cpu", "gpu")

    plan = flow.plan()

    assert plan["chosen"].tolist() == ["n2"]
    assert "n1" in str(plan["rejected"][0])
    assert "lacks gpu" in str(plan["rejected"][0])


def test_every_view_of_a_failed_run_shows_the_cause(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def charge(amount: int) -> None:
        raise ValueError("no such card\nsecond line")

    flow = cluster.workflow("shop")
    flow.step("pay", charge, 3)
    flow.step("slow", time.sleep, 30).timeout(0.2)
    run = flow.start()

    with pytest.raises(mp.errors.WorkflowFailed) as raised:
        run.wait()

    line, late = "ValueError: no such card", "CallTimeout: no result within 0.2 s"
    assert f"failed: pay ({line}), slow (CallTimeout: " in str(raised.value)
    assert "second line" not in str(raised.value)
    assert run.frame()["error"].tolist() == [line, late]
    assert line in run.report(tmp_path / "r.html").read_text()
    assert f"failed: {line}" in run._repr_mimebundle_()["text/html"]


def test_steps_and_stopped_calls_are_among_the_calls(cluster: mp.Cluster) -> None:
    def odd(number: int) -> int:
        if number % 2 == 0:
            raise ValueError("even")
        return number

    flow = cluster.workflow("odds")
    flow.step("one", odd, 1)
    flow.step("two", odd, 2)
    flow.map("more", odd, over=[3, 5, 7])
    run = flow.start()
    with pytest.raises(mp.errors.WorkflowFailed):
        run.wait()
    stopped = cluster.submit(time.sleep, 30)
    stopped.cancel()
    cluster.call("echo", 1)

    calls = cluster.calls()
    steps = calls[calls.run == run.id[:8]]
    found = sorted(zip(steps.step, steps.function, steps.status, strict=True))
    more = [("more", "odd", "done")] * 3
    assert found == [*more, ("one", "odd", "done"), ("two", "odd", "failed")]
    routes = cluster.routes().query("function == 'odd'")
    assert (routes.calls.sum(), routes.errors.sum()) == (5, 1)
    assert cluster.latency().set_index("function")["count"]["odd"] == 5


def test_resources_of_decorated_and_registered_functions_are_drawn(
    cluster: mp.Cluster,
) -> None:
    decorated = mp.function(resources={"gpu"})(given_back)
    cluster.register(combine, name="named", resources={"cpu", "gpu"})
    flow = cluster.workflow("declared")
    flow.step("decorated", decorated, 1)
    flow.step("partial", functools.partial(decorated, 1))
    flow.step("named", "named", "x").on("cpu")
    flow.step("plain", len, "abc")

    before = {box.name: box.resources for box in flow.diagram().boxes}
    run = flow.run()
    planned = dict(zip(*(flow.plan()[c] for c in ("step", "resources")), strict=True))

    assert before == {
        "decorated": ("gpu",),
        "partial": ("gpu",),
        "named": ("cpu", "gpu"),
        "plain": (),
    }
    assert {box.name: box.resources for box in run.diagram().boxes} == before
    shown = {step: ", ".join(resources) for step, resources in before.items()}
    assert planned == shown
    assert "on gpu" in repr(flow)


def given_back(x: int) -> int:
    """Return what it was given."""
    return x


# ---------------------------------------------------------- conditions and delays


def look(value: float) -> dict[str, Any]:
    return {"value": value, "alarm": value > 3}


def mend(value: float) -> str:
    return f"mended {value}"


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def alarm_flow(cluster: Any) -> Any:
    flow = cluster.workflow("alarm")
    check = flow.step("check", look, flow.input("value"))
    mended = flow.step("mend", mend, check["value"]).when(check["alarm"]).on("gpu")
    flow.step("note", combine, "note", 1, mended).on("cpu")
    flow.step("sum", len, mended).fallback(0)
    flow.step("said", len, mended).fallback(told)
    flow.step("close", combine, "close", 2).after(mended)
    return flow


def test_a_step_runs_only_if_its_condition_is_true(cluster: mp.Cluster) -> None:
    flow = alarm_flow(cluster)
    flow.replace("note", len, mp.ref("mend"))

    run = flow.run(value=4)

    assert {step.status for step in run.steps} == {"done"}
    assert run.outputs == {
        "note": 8,
        "sum": 8,
        "said": 8,
        "close": combine("close", 2),
    }


def test_what_a_condition_skips_is_skipped_everywhere_and_is_no_failure(
    cluster: mp.Cluster,
) -> None:
    flow = alarm_flow(cluster)

    run = flow.run(value=2)

    said = (
        "StepSkipped: step 'mend' was skipped because the condition that .when gave it "
        "was false"
    )
    assert run.status == "done"
    assert {step.name: step.status for step in run.steps} == {
        "check": "done",
        "mend": "skipped",
        "note": "skipped",
        "sum": "fallback",
        "said": "fallback",
        "close": "done",
    }
    assert set(run.outputs) == {"sum", "said", "close"}
    assert run.outputs["sum"] == 0
    assert run.outputs["said"].startswith(said)
    with pytest.raises(mp.errors.StepSkipped, match=r"condition that \.when gave"):
        run["mend"]
    with pytest.raises(mp.errors.StepSkipped, match="because step 'mend' has no"):
        run["note"]
    assert "was not sent: its condition was false" in str(run.why("mend"))
    assert "its condition is false" in run._repr_mimebundle_()["text/html"]
    assert "when check['alarm']" in str(flow)
    frame = run.frame().set_index("step")
    assert "StepSkipped: step mend was skipped" in frame.loc["sum", "error"]
    resumed = run.resume().wait()
    assert resumed.status == "done"
    assert [s.name for s in resumed.steps if s.status == "skipped"] == ["mend", "note"]


@pytest.mark.parametrize(
    ("value", "runs"),
    [
        (np.array([1]), True),
        ([], False),
        (None, False),
        ({"x": 0}, True),
        ("no", True),
        (np.zeros((400, 400)).any(), False),
    ],
)
def test_a_condition_is_as_true_as_python_finds_it(
    cluster: mp.Cluster, value: Any, runs: bool
) -> None:
    flow = cluster.workflow("truth")
    flow.map("each", mend, over=[1, 2]).when(flow.input("value"))
    flow.step("called by name", "echo", 7).when(flow.input("value"))

    run = flow.run(value=value)

    expected = {"each": ["mended 1", "mended 2"], "called by name": 7} if runs else {}
    assert run.outputs == expected


def test_a_condition_without_a_truth_value_fails_its_step(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("unclear")
    check = flow.step("check", look, 4)
    flow.step("no key", mend, 1).when(check["alram"])
    flow.step("both", mend, 2).when(flow.input("array"))
    flow.step("rescued", mend, 3).when(flow.input("array")).fallback(told)

    with pytest.raises(mp.errors.WorkflowFailed) as raised:
        flow.run(array=np.zeros(2))

    run = raised.value.run
    frame = run.frame().set_index("step")
    assert "alram" in frame.loc["no key", "error"]
    assert "(the condition)" in frame.loc["both", "error"]
    assert run["rescued"].startswith("ValueError: The truth value of an array")


def test_retries_wait_for_the_given_delay(cluster: mp.Cluster, tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    def flaky() -> int:
        with tries.open("a") as file:
            file.write(f"{time.time()}\n")
        if len(tries.read_text().splitlines()) < 4:
            raise OSError("not yet")
        return 1

    flow = cluster.workflow("slowly")
    flow.step("flaky", flaky).retry(3, OSError, delay=0.1, backoff=2)

    run = flow.run()

    times = [float(line) for line in tries.read_text().splitlines()]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert run["flaky"] == 1
    assert [gap >= wait for gap, wait in zip(gaps, (0.1, 0.2, 0.4), strict=True)] == [
        True
    ] * 3
    assert "retry 3 after 0.1, 0.2, 0.4 s" in str(run.diagram().boxes[0].notes)


def test_errors_of_more_runs_than_a_node_remembers_are_all_kept(
    cluster: mp.Cluster,
) -> None:
    def refuse(buyer: int) -> None:
        raise LookupError(f"nothing left for {buyer}")

    flow = cluster.workflow("rush")
    flow.step("buy", refuse, flow.input("buyer"))
    runs = [flow.start(buyer=number) for number in range(REMEMBERED_RUNS + 20)]
    while any(run.status == "running" for run in runs):
        cluster.call("echo", None)

    told = []
    for run in runs:
        with pytest.raises(mp.errors.WorkflowFailed) as raised:
            run.wait()
        told += [str(error) for error in raised.value.exceptions]

    assert told == [f"nothing left for {number}" for number in range(len(runs))]


def test_result_of_a_forgotten_run_says_what_to_do(cluster: mp.Cluster) -> None:
    def grown(value: int) -> bytes:
        return bytes(20_000 * value)

    flow = cluster.workflow("forgotten")
    flow.step("first", grown, flow.step("start", "echo", 1))
    runs = [flow.run() for _ in range(REMEMBERED_RUNS + 1)]

    with pytest.raises(mp.errors.NoRun) as raised:
        runs[0]["first"]

    node = runs[0].steps[0].node
    assert str(raised.value) == (
        f"node {node} coordinated the run, and no longer has the result of step "
        "'first': it keeps the last 100 runs, up to 256 MB, and this one had to go. "
        "Start the workflow again, and take what you need of it soon after its end: "
        "value = run['first']"
    )
    assert len(runs[1]["first"]) == 20_000


factor = 2


def test_flow_that_runs_again_has_the_arguments_and_functions_of_that_moment(
    cluster: mp.Cluster,
) -> None:
    def scaled(value: int) -> int:
        return value * factor

    def total(values: list[int], last: int) -> int:
        return sum(values) + last

    global factor
    flow = cluster.workflow("again")
    values = [1, 2]
    scale = flow.step("scale", scaled, 10)
    flow.step("total", total, values, scale)
    constant = cluster.workflow("constant")
    constant.step("scale", scaled, 10)
    found = [flow.run()["total"], flow.run()["total"], constant.run()["scale"]]

    values.append(3)
    factor = 3
    found += [flow.run()["total"], constant.run()["scale"]]
    scale.on("no-such-thing")
    constant.replace("scale", scaled, 100)
    found.append(constant.run()["scale"])

    assert found == [23, 23, 20, 36, 30, 300]
    with pytest.raises(mp.errors.NoRoute):
        flow.run()
