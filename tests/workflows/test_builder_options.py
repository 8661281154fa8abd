"""Fallback, undo, map and input, as they are written down."""

import operator
import pickle
from typing import Any

import pytest

from mpreg_nb.errors import InvalidWorkflow, NotPicklable
from mpreg_nb.workflows.builder import Flow, ref
from mpreg_nb.workflows.graph import Arrow, Box, Reference, Undo, Value
from tests.support.recorder import Recorder


@pytest.fixture
def runner() -> Recorder:
    return Recorder()


@pytest.fixture
def flow(runner: Recorder) -> Flow[str, int]:
    return Flow("w", runner)


def book(what: str) -> dict[str, str]:
    return {"id": what}


def cancel(booking: str, *, why: str = "") -> None:
    return None


def rescue(error: Exception) -> str:
    return str(error)


# ------------------------------------------------------- fallback and undo


@pytest.mark.parametrize("value", [None, 0, "a name", [1, 2]])
def test_a_fallback_may_be_any_value(flow: Flow[str, int], value: object) -> None:
    flow.step("a", book, "x").fallback(value)

    assert flow.freeze().steps[0].fallback == Value(value)


def test_a_fallback_may_be_a_function(flow: Flow[str, int]) -> None:
    flow.step("a", book, "x").fallback(rescue)

    assert flow.freeze().steps[0].fallback is rescue


def test_the_value_of_a_fallback_cannot_refer_to_results(flow: Flow[str, int]) -> None:
    step = flow.step("a", book, "x")

    with pytest.raises(TypeError, match="Give a function"):
        step.fallback({"k": [ref("b")]})


def test_an_undo_may_refer_to_its_own_step_and_waits_for_nothing(
    flow: Flow[str, int],
) -> None:
    step = flow.step("a", book, "x")
    own = step["id"]
    step.undo(cancel, own, why=ref("b"))
    flow.step("b", book, "y").after(step)

    first, second = flow.freeze().steps
    assert first.undo == Undo(cancel, (own,), {"why": Reference("b")})
    assert first.undo.inputs == ("a", "b")
    assert first.dependencies == frozenset()
    assert second.dependencies == {"a"}


def test_an_undo_of_a_step_that_is_not_there_is_refused(flow: Flow[str, int]) -> None:
    flow.step("hotel", book, "x").undo(cancel, ref("hotle"))

    with pytest.raises(
        InvalidWorkflow,
        match=r"'hotle', which is not a step of this workflow\. Did you mean 'hotel'",
    ):
        flow.freeze()


def test_an_undo_takes_a_function_or_the_name_of_one(flow: Flow[str, int]) -> None:
    step = flow.step("a", book, "x").undo("cancel", 1)

    assert flow.freeze().steps[0].undo == Undo("cancel", (1,))
    with pytest.raises(TypeError, match="undo takes a function"):
        step.undo(5)  # type: ignore[arg-type]


# ------------------------------------------------------------------ inputs


def test_inputs_are_given_when_it_is_run(
    flow: Flow[str, int], runner: Recorder
) -> None:
    sensor = flow.input("sensor")
    flow.step("a", book, {"deep": [sensor["name"]]})

    assert flow.run(sensor={"name": "s"}) == "the run"
    assert flow.start(sensor=1) == "the started run"
    assert flow.plan(sensor=2) == 1
    assert [workflow.inputs["sensor"] for _, workflow in runner.asked] == [
        {"name": "s"},
        1,
        2,
    ]
    assert runner.asked[0][1].steps[0].inputs == ("sensor",)


def test_a_chain_takes_inputs_too(flow: Flow[str, int], runner: Recorder) -> None:
    last = flow.step("a", book, flow.input("x")).step("b", book, ref("x"))

    last.run(x=1)

    assert runner.asked[0][1].inputs == {"x": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"input 'sensor' has no value. Give it one: flow.run\(sensor=...\)"),
        ({"sensor": 1, "senser": 2}, "no input 'senser'. Did you mean 'sensor'"),
        ({"sensor": 1, "zzz": 2}, "no input 'zzz'. Its inputs are: 'sensor'"),
    ],
)
def test_unfilled_and_unknown_inputs_are_refused(
    flow: Flow[str, int], given: dict[str, Any], message: str
) -> None:
    flow.step("a", book, flow.input("sensor"))

    with pytest.raises(InvalidWorkflow, match=message):
        flow.freeze(**given)


def test_a_name_means_a_step_or_an_input_and_never_both(flow: Flow[str, int]) -> None:
    flow.input("x")
    flow.step("y", book, "y")

    with pytest.raises(InvalidWorkflow, match="has an input 'x' already"):
        flow.step("x", book, "x")
    with pytest.raises(InvalidWorkflow, match="has an input 'x' already"):
        flow.replace("x", book, "x")
    with pytest.raises(InvalidWorkflow, match="has a step 'y', so no input"):
        flow.input("y")


def test_an_input_of_another_flow_is_refused(
    flow: Flow[str, int], runner: Recorder
) -> None:
    other = Flow("other", runner).input("x")

    with pytest.raises(InvalidWorkflow, match="refers to 'x' of another workflow"):
        flow.step("a", book, other["k"])


def test_an_input_is_not_pickled_where_it_does_not_belong(
    flow: Flow[str, int],
) -> None:
    hole = flow.input("x")

    for held in (hole, hole["k"]):
        with pytest.raises(NotPicklable, match="input 'x' of workflow 'w'"):
            pickle.dumps(held)
    assert repr(hole) == "<input x>"
    assert repr(hole["k"]) == "<input x['k']>"


# -------------------------------------------------------------------- maps


def test_a_map_waits_for_what_it_goes_over_and_for_its_arguments(
    flow: Flow[str, int],
) -> None:
    rows = flow.step("rows", book, "x")["id"]
    flow.map("m", book, over=rows, factor=ref("f"))
    flow.step("f", book, "y")

    step = flow.freeze().steps[1]
    assert step.over == Value(rows)
    assert step.inputs == ("f", "rows")
    assert step.args == ()


def test_a_map_never_goes_over_the_letters_of_a_name(flow: Flow[str, int]) -> None:
    with pytest.raises(TypeError, match=r"over=mp.ref\('rows'\)"):
        flow.map("m", book, over="rows")


def test_a_map_in_a_chain_takes_modifiers(flow: Flow[str, int]) -> None:
    flow.step("rows", book, "x").map("m", book, over=ref("rows"), k=1).on("gpu").retry(
        2
    )

    step = flow.freeze().steps[1]
    assert step.resources == {"gpu"}
    assert step.more_attempts == 2
    assert step.kwargs == {"k": 1}


# ----------------------------------------------------------------- diagram


def test_the_diagram_shows_fallbacks_and_undo_functions(flow: Flow[str, int]) -> None:
    x = flow.input("x")
    rows = flow.step("rows", book, x).undo(cancel, x).fallback([])
    flow.map("m", book, over=rows).fallback(rescue)

    diagram = flow.diagram()

    assert diagram.boxes == (
        Box(name="x", kind="input"),
        Box(name="rows", function="book", undo="cancel", notes=("fallback: a value",)),
        Box(name="m", kind="map", function="book", notes=("fallback: rescue",)),
    )
    assert diagram.arrows == (
        Arrow(source="x", target="rows"),
        Arrow(source="rows", target="m"),
    )


# ----------------------------------------------------------------- conditions


def test_a_condition_is_waited_for_and_shown_and_is_no_argument(
    flow: Flow[str, int],
) -> None:
    check = flow.step("check", book, "x")
    flow.step("mend", book, "y").when(check["id"]).when(ref("other"))
    flow.step("other", book, "z")

    mend = flow.freeze().steps[1]

    assert mend.conditions == (Reference("check", ("id",)), Reference("other"))
    assert mend.dependencies == {"check", "other"}
    assert mend.inputs == ()
    diagram = flow.diagram()
    assert diagram.boxes[1].notes == ("when check['id'] and other",)
    assert Arrow(source="check", target="mend") in diagram.arrows


def test_an_input_can_be_a_condition(flow: Flow[str, int]) -> None:
    flow.step("mend", book, "y").when(flow.input("careful"))

    assert flow.freeze(careful=True).steps[0].dependencies == {"careful"}


@pytest.mark.parametrize(
    ("condition", "cure"), [("check", "mp.ref('check')"), (True, ".when(check)")]
)
def test_what_is_no_reference_is_no_condition(
    flow: Flow[str, int], condition: Any, cure: str
) -> None:
    step = flow.step("mend", book, "y")

    with pytest.raises(TypeError) as raised:
        step.when(condition)

    assert cure in str(raised.value)


def test_a_condition_of_another_workflow_or_of_itself_is_refused(
    flow: Flow[str, int], runner: Recorder
) -> None:
    stranger = Flow("other", runner).step("check", book, "x")
    step = flow.step("mend", book, "y")

    with pytest.raises(InvalidWorkflow, match="of another workflow"):
        step.when(stranger)
    step.when(ref("mend"))
    with pytest.raises(InvalidWorkflow, match="waits for itself"):
        flow.freeze()


def test_a_result_cannot_be_compared_in_a_condition(flow: Flow[str, int]) -> None:
    check = flow.step("check", book, "x")

    for result in (check, check["id"], flow.input("most")):
        for compare in (
            operator.lt,
            operator.le,
            operator.gt,
            operator.ge,
            operator.eq,
        ):
            with pytest.raises(TypeError, match="Compare inside a function"):
                compare(result, 3)


# --------------------------------------------------------------------- delays


def test_the_delay_of_retries_is_kept_and_shown(flow: Flow[str, int]) -> None:
    flow.step("a", book, "x").retry(5, delay=0.5, backoff=2)
    flow.step("b", book, "x").retry(2, KeyError, delay=1)

    first, second = flow.freeze().steps

    assert (first.delay_s, first.backoff) == (0.5, 2.0)
    assert (second.delay_s, second.backoff) == (1.0, 1.0)
    notes = [box.notes for box in flow.diagram().boxes]
    assert notes == [("retry 5 after 0.5, 1, 2 s, …",), ("retry 2 after 1 s each",)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"delay": -1}, ValueError, "seconds from 0 to 3600, not -1"),
        ({"delay": float("nan")}, ValueError, "not nan"),
        ({"delay": "1 s"}, TypeError, "takes seconds, a number, not str"),
        ({"delay": True}, TypeError, "not bool"),
        ({"delay": 1, "backoff": 0.5}, ValueError, "a factor from 1 to 100, not 0.5"),
        ({"backoff": 2}, TypeError, r"give the first delay too: \.retry\(3, delay=0.5"),
    ],
)
def test_a_delay_that_makes_no_sense_is_refused(
    flow: Flow[str, int], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    step = flow.step("a", book, "x")

    with pytest.raises(error, match=text):
        step.retry(3, **options)


def test_inputs_keep_the_order_in_which_the_flow_has_them(
    flow: Flow[str, int],
) -> None:
    flow.step("a", book, flow.input("x"), flow.input("y"))

    assert list(flow.freeze(y=1, x=2).inputs) == ["x", "y"]
