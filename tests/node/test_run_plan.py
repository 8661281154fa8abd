"""What a node works out of a workflow: for its next runs too, while it is the same."""

import pytest

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.node import run_plan as plans_module
from mpreg_nb.node.run_plan import RunPlans
from mpreg_nb.protocol.messages import Given, RunStart, SideCall, StepPlan
from mpreg_nb.workflows.run import FallbackResult


def plan(name: str, *inputs: str, **more: object) -> StepPlan:
    options = {"function": "f", "payload": b"", **more}
    return StepPlan(name=name, inputs=inputs, **options)  # type: ignore[arg-type]


def run_of(*plans: StepPlan, given: tuple[str, ...] = ()) -> RunStart:
    inputs = tuple(Given(name=name, payload=b"") for name in given)
    return RunStart(id=bytes(16), workflow="w", steps=plans, inputs=inputs)


def test_the_next_run_of_the_same_steps_takes_other_arguments() -> None:
    plans = RunPlans()

    first = plans.of(run_of(plan("a", payload=b"1"), plan("b", "a")), {})
    second = plans.of(run_of(plan("a", payload=b"2"), plan("b", "a")), {})

    assert second is first
    assert dict(first.needs) == {"a": (), "b": ("a",)}
    assert first.followers == {"a": "b"}
    assert first.outputs == ("b",)


@pytest.mark.parametrize(
    "other",
    [
        run_of(plan("a"), plan("b")),
        run_of(plan("a"), plan("b", after=("a",))),
        run_of(plan("a"), plan("b", "a", parts=1)),
        run_of(plan("a"), plan("b", "a", attempts=2)),
        run_of(plan("a"), plan("b", "a", retry_on=("builtins.ValueError",))),
        run_of(plan("a"), plan("b", "a", delay_ms=5)),
        run_of(plan("a"), plan("b", "a", backoff=2.0)),
        run_of(plan("a", timeout_ms=5), plan("b", "a")),
        run_of(plan("a", idempotent=True), plan("b", "a")),
        run_of(plan("b", "a"), given=("a",)),
        run_of(plan("a"), plan("b", "a", json=True)),
        run_of(plan("a"), plan("b", "a", undo=SideCall(function="u", payload=b""))),
    ],
)
def test_steps_that_differ_have_a_plan_of_their_own(other: RunStart) -> None:
    plans, alone = RunPlans(), RunPlans()
    plans.of(run_of(plan("a"), plan("b", "a")), {})

    assert plans.of(other, {}) == alone.of(other, {})


def test_a_result_that_was_given_for_a_failure_is_that_of_its_run() -> None:
    plans = RunPlans()
    request = run_of(plan("a", fallback=Given(name="", payload=b"")))

    found = [
        plans.of(request, {"a": FallbackResult(result=result)}).steps[0].fallback
        for result in (b"1", b"2")
    ]

    assert found == [FallbackResult(result=b"1"), FallbackResult(result=b"2")]


def test_steps_that_could_never_run_are_refused_each_time() -> None:
    plans = RunPlans()

    for _ in range(2):
        with pytest.raises(InvalidWorkflow, match="cycle"):
            plans.of(run_of(plan("a", "b"), plan("b", "a")), {})


def test_the_plan_that_was_not_used_for_longest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans_module, "MOST_KEPT_STEPS", 4)
    plans = RunPlans()
    a, b, c = (run_of(plan(name), plan("x", name)) for name in "abc")
    plan_of_a, plan_of_b = plans.of(a, {}), plans.of(b, {})

    assert plans.of(a, {}) is plan_of_a
    plans.of(c, {})

    assert plans.of(a, {}) is plan_of_a
    assert plans.of(b, {}) is not plan_of_b
