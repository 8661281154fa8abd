"""Fallbacks, undo functions and inputs of workflows, on a real cluster."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


def passes(value: Any) -> Any:
    return value


def fails(*_: Any) -> None:
    raise ValueError("the card is gone")


# ---------------------------------------------------------------- fallbacks


def test_a_failed_step_goes_on_with_a_value(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("degraded")
    price = flow.step("price", fails).fallback({"price": 0})
    flow.step("shown", passes, price["price"])
    run = flow.run()

    assert run["shown"] == 0
    assert run["price"] == {"price": 0}
    assert run.status == "done"
    assert [state.status for state in run.steps] == ["fallback", "done"]
    assert run.frame()["error"].tolist() == ["ValueError: the card is gone", ""]


def test_a_large_value_stays_in_the_cluster(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("degraded")
    rows = flow.step("rows", fails).fallback(b"x" * 200_000)
    flow.step("size", len, rows)

    run = flow.run()

    assert run["size"] == 200_000
    assert run.steps[0].result_bytes is not None
    assert run.steps[0].result_bytes > 200_000


def test_a_fallback_function_gets_the_exception_itself(cluster: mp.Cluster) -> None:
    def rescue(error: Exception) -> tuple[bool, bool, str]:
        return isinstance(error, ValueError), isinstance(error, KeyError), str(error)

    flow = cluster.workflow("rescued")
    flow.step("pay", fails).on("gpu").retry(1).fallback(rescue)
    run = flow.run()

    is_value_error, is_key_error, text = run["pay"]
    assert (is_value_error, is_key_error) == (True, False)
    assert "the card is gone" in text
    assert run.steps[0].attempts == 3


def test_a_fallback_that_fails_too_fails_the_step(cluster: mp.Cluster) -> None:
    def worse(error: Exception) -> None:
        raise KeyError("no plan C") from error

    flow = cluster.workflow("worse")
    flow.step("pay", fails).fallback(worse)

    with pytest.raises(
        mp.errors.WorkflowFailed, match=r"pay \(the fallback, after Value"
    ) as caught:
        flow.run()

    [error] = caught.value.exceptions
    assert isinstance(error, KeyError)
    assert error.__notes__[-1] == (
        "In the fallback, after ValueError: the card is gone."
    )


# --------------------------------------------------------------------- undo


def write(path: str, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def book(path: str, what: str) -> dict[str, str]:
    write(path, f"book {what}")
    return {"id": f"{what}-1"}


def cancel(path: str, booking: str) -> None:
    write(path, f"cancel {booking}")
    if booking.startswith("flight"):
        raise OSError("the airline does not answer")


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def holiday(cluster: mp.Cluster, log: str) -> Any:
    """Book three things one after another, each with what takes it back."""
    flow = cluster.workflow("holiday")
    last = None
    for what in ("hotel", "flight", "car"):
        step = flow.step(what, book, log, what)
        step.undo(cancel, log, step["id"])
        if last is not None:
            step.after(last)
        last = step
    return flow


def test_what_was_done_is_undone_backwards_when_a_later_step_fails(
    cluster: mp.Cluster, log: str
) -> None:
    flow = holiday(cluster, log)
    flow.step("pay", fails).after("car")

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run()

    error = caught.value
    assert Path(log).read_text(encoding="utf-8").splitlines() == [
        *("book hotel", "book flight", "book car"),
        *("cancel car-1", "cancel flight-1", "cancel hotel-1"),
    ]
    assert (error.undone, error.done) == (("hotel", "car"), ("flight",))
    assert error.not_undone == {"flight": "OSError: the airline does not answer"}
    assert "NOT undone: flight (OSError: the airline does not answer)" in str(error)
    states = {state.name: state.status for state in error.run.steps}
    assert states == {
        "hotel": "undone",
        "flight": "done",
        "car": "undone",
        "pay": "failed",
    }
    assert error.run["hotel"] == {"id": "hotel-1"}


def test_a_cancelled_run_is_undone_after_its_steps_have_ended(
    cluster: mp.Cluster, log: str
) -> None:
    def sleeps(path: str) -> None:
        write(path, "sleep")
        try:
            threading.Event().wait(60)
        finally:
            threading.Event().wait(0.2)
            write(path, "awake")

    flow = cluster.workflow("cancelled")
    hotel = flow.step("hotel", book, log, "hotel")
    hotel.undo(cancel, log, hotel["id"])
    flow.step("sleeps", sleeps, log).after(hotel)
    run = flow.start()
    asleep = threading.Event()
    undo = cluster.on_run(lambda _: asleep.set() if _sleeps(run) else None)
    try:
        assert _sleeps(run) or asleep.wait(60)
    finally:
        undo()

    run.cancel()

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(60)
    assert [state.status for state in run.steps] == ["undone", "cancelled"]
    lines = Path(log).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "book hotel"
    assert lines[-1] == "cancel hotel-1"
    assert lines.count("sleep") == lines.count("awake")


def _sleeps(run: Any) -> bool:
    return bool(run.steps[1].status == "running")


def test_a_run_that_succeeds_is_not_undone(cluster: mp.Cluster, log: str) -> None:
    run = holiday(cluster, log).run()

    assert {state.status for state in run.steps} == {"done"}
    assert "cancel" not in Path(log).read_text(encoding="utf-8")


def test_references_inside_of_objects_are_checked_before_anything_runs(
    cluster: mp.Cluster, log: str
) -> None:
    flow = cluster.workflow("typo")
    flow.step("hotel", book, log, "hotel").undo(cancel, log, Wrapped(mp.ref("hotle")))

    with pytest.raises(mp.errors.InvalidWorkflow, match="Did you mean 'hotel'"):
        flow.run()

    assert not Path(log).exists()


def test_an_undo_that_nobody_knows_is_refused_before_anything_runs(
    cluster: mp.Cluster, log: str
) -> None:
    flow = cluster.workflow("typo")
    flow.step("hotel", book, log, "hotel").undo("cancle", mp.ref("hotel"))

    with pytest.raises(
        mp.errors.InvalidWorkflow, match="'cancle', which is not registered"
    ):
        flow.run()

    assert not Path(log).exists()


# ------------------------------------------------------------------- inputs


class Wrapped:
    """An object of the user's own, with something inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


def test_inputs_fill_holes_at_any_depth(cluster: mp.Cluster) -> None:
    def look(deep: dict[str, list[Any]], name: str, wrapped: Any) -> list[Any]:
        return [*deep["k"], name, wrapped.inner]

    flow = cluster.workflow("report")
    sensor = flow.input("sensor")
    flow.step("look", look, {"k": [1, sensor]}, sensor["name"], Wrapped(sensor["no"]))

    first = flow.run(sensor={"name": "s-7", "no": 7})
    second = flow.run(sensor={"name": "s-8", "no": 8})

    assert first["look"] == [1, {"name": "s-7", "no": 7}, "s-7", 7]
    assert second["look"] == [1, {"name": "s-8", "no": 8}, "s-8", 8]


def test_a_large_input_goes_to_every_step_that_wants_it(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("sizes")
    for name, node in (("a", "n1"), ("b", "n2")):
        flow.step(name, len, flow.input("data")).on(node=node)

    run = flow.run(data=b"x" * 300_000)

    assert run.outputs == {"a": 300_000, "b": 300_000}


def test_a_started_flow_with_inputs_can_be_awaited(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("await")
    flow.step("a", passes, flow.input("x"))

    async def main() -> Any:
        return (await flow.start(x=3))["a"]

    assert asyncio.run(main()) == 3


def test_plan_wants_the_inputs_too(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("plan")
    flow.step("a", passes, flow.input("sensor"))

    assert flow.plan(sensor=1)["step"].tolist() == ["a"]
    with pytest.raises(mp.errors.InvalidWorkflow, match="Did you mean 'sensor'"):
        flow.plan(sensr=1)
