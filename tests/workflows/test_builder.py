"""How a workflow is written down."""

import io
import pickle
import traceback
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from mpreg_nb.errors import InvalidWorkflow, NotPicklable
from mpreg_nb.workflows.builder import Flow, StepHandle, ref
from mpreg_nb.workflows.graph import Arrow, Box, Diagram, Reference, Value, Workflow
from tests.support.recorder import Recorder


@pytest.fixture
def runner() -> Recorder:
    return Recorder()


@pytest.fixture
def flow(runner: Recorder) -> Flow[str, int]:
    return Flow("sensor-report", runner)


def ingest(sensor: str) -> dict[str, object]:
    return {"station": sensor}


def clean_data(raw: object) -> object:
    return raw


def analyse(rows: object, k: int = 1) -> dict[str, object]:
    return {"mean": k}


def render(parts: list[object]) -> str:
    return str(parts)


def test_steps_refer_to_each_other_by_their_objects(
    flow: Flow[str, int], runner: Recorder
) -> None:
    raw = flow.step("raw", ingest, "sensor-7").on("raw-data")
    clean = flow.step("clean", clean_data, raw).on("cpu")
    stats = flow.step("stats", analyse, clean, k=3).on("gpu").retry(2).timeout(5)
    flow.step("report", render, [raw["station"], stats["mean"]])

    result = flow.run()

    assert result == "the run"
    [(verb, workflow)] = runner.asked
    assert verb == "run"
    assert workflow.name == "sensor-report"
    by_name = {step.name: step for step in workflow.steps}
    assert list(by_name) == ["raw", "clean", "stats", "report"]
    assert by_name["raw"].function is ingest
    assert by_name["raw"].args == ("sensor-7",)
    assert by_name["raw"].resources == {"raw-data"}
    assert by_name["raw"].inputs == ()
    assert by_name["stats"].inputs == ("clean",)
    assert by_name["stats"].kwargs == {"k": 3}
    assert by_name["stats"].more_attempts == 2
    assert by_name["stats"].timeout_s == 5.0
    assert by_name["report"].inputs == ("raw", "stats")
    [parts] = by_name["report"].args
    assert [part.__mpreg_reference__() for part in parts] == [
        Reference("raw", ("station",)),
        Reference("stats", ("mean",)),
    ]


def test_one_chain_makes_the_same_workflow(
    flow: Flow[str, int], runner: Recorder
) -> None:
    result = (
        flow.step("raw", ingest, "sensor-7")
        .on("raw-data")
        .step("clean", clean_data, ref("raw"))
        .on("cpu")
        .step("report", render, [ref("raw")["station"], ref("clean")])
        .run()
    )

    assert result == "the run"
    [(_, workflow)] = runner.asked
    assert [(step.name, step.inputs, step.resources) for step in workflow.steps] == [
        ("raw", (), {"raw-data"}),
        ("clean", ("raw",), {"cpu"}),
        ("report", ("clean", "raw"), frozenset()),
    ]


def test_start_and_plan_go_to_the_runner_from_flow_and_step(
    flow: Flow[str, int], runner: Recorder
) -> None:
    last = flow.step("a", "echo", 1)

    answers = (flow.start(), last.start(), flow.plan(), last.plan())

    assert answers == ("the started run", "the started run", 1, 1)
    assert [verb for verb, _ in runner.asked] == ["start", "start", "plan", "plan"]


def test_a_reference_may_come_before_its_step(flow: Flow[str, int]) -> None:
    flow.step("report", render, [ref("raw")])
    flow.step("raw", ingest, "s")

    workflow = flow.freeze()

    assert [step.name for step in workflow.steps] == ["report", "raw"]


def test_a_name_in_the_catalog_is_a_function_too(flow: Flow[str, int]) -> None:
    flow.step("a", "echo", "raw")

    [step] = flow.freeze().steps

    assert step.function == "echo"
    assert step.inputs == ()


def test_arguments_may_have_the_names_of_our_own_parameters(
    flow: Flow[str, int],
) -> None:
    flow.step("a", "echo", name="x", function="y", self="z")

    [step] = flow.freeze().steps

    assert step.kwargs == {"name": "x", "function": "y", "self": "z"}


def test_after_takes_steps_names_and_references_and_only_orders(
    flow: Flow[str, int],
) -> None:
    a = flow.step("a", "echo")
    flow.step("b", "echo")
    flow.step("c", "echo")
    flow.step("d", "echo").after(a, "b").after(ref("c"), a["x"])

    step = flow.freeze().steps[-1]

    assert step.after == ("a", "b", "c")
    assert step.inputs == ()


def test_on_narrows_further_each_time(flow: Flow[str, int]) -> None:
    flow.step("a", "echo").on("gpu").on("mnist", node="n1").on()

    [step] = flow.freeze().steps

    assert step.resources == {"gpu", "mnist"}
    assert step.node == "n1"


def test_retry_takes_one_class_or_several(flow: Flow[str, int]) -> None:
    flow.step("a", "echo").retry(1)
    flow.step("b", "echo").retry(1, on=ValueError)
    flow.step("c", "echo").retry(1, (ValueError, OSError))

    steps = flow.freeze().steps

    assert [step.retry_on for step in steps] == [
        (Exception,),
        (ValueError,),
        (ValueError, OSError),
    ]


Mistake = Callable[[StepHandle[str, int]], object]


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        (lambda step: step.timeout(-1), ValueError, "seconds above 0, at most 10,000"),
        (lambda step: step.timeout(float("nan")), ValueError, "above 0, at most"),
        (lambda step: step.timeout(float("inf")), ValueError, "above 0, at most"),
        (lambda step: step.timeout(1e16), ValueError, "above 0, at most"),
        (lambda step: step.timeout("5"), TypeError, "seconds, a number, not str"),
        (lambda step: step.timeout(True), TypeError, "a number, not bool"),
        (lambda step: step.retry(2.0), TypeError, "a whole number, not float"),
        (lambda step: step.retry(True), TypeError, "a whole number, not bool"),
        (lambda step: step.retry(-1), ValueError, "0 to 100 more attempts, not -1"),
        (lambda step: step.retry(101), ValueError, "0 to 100 more attempts, not 101"),
        (lambda step: step.retry(1, on="x"), TypeError, "an exception class or"),
        (lambda step: step.retry(1, on=(int,)), TypeError, "an exception class or"),
        (lambda step: step.retry(1, on=()), TypeError, "an exception class or"),
        (lambda step: step.on("a,b"), ValueError, "'a,b' cannot name a resource"),
        (lambda step: step.on({"a"}), TypeError, "a resource name must be a string"),
        (lambda step: step.on(node="a/b"), ValueError, "'a/b' cannot name a node"),
        (
            lambda step: step.after(3),
            TypeError,
            "a step name must be a string, not int",
        ),
        (lambda step: step.after("x:y"), ValueError, "'x:y' cannot name a step"),
        (lambda step: step.step("", "f"), ValueError, "'' cannot name a step"),
        (lambda step: step.step("x:y", "f"), ValueError, "'x:y' cannot name a step"),
        (lambda step: step.step("b", "f,g"), ValueError, "cannot name a function"),
        (
            lambda step: step.step("b", None),
            TypeError,
            r"step 'b' needs a function or the name of one, not NoneType. Its "
            r"arguments come after it: flow.step\('b', function, ...\)",
        ),
        (lambda step: step.step("b", step), TypeError, "not StepHandle"),
        (lambda step: step.step("a", "f"), InvalidWorkflow, "has a step 'a' already"),
        (lambda step: step[step], TypeError, "<step a> cannot be a key of <ref a>"),
    ],
)
def test_a_mistake_is_refused_where_it_is_made(
    flow: Flow[str, int], mistake: Mistake, error: type[Exception], message: str
) -> None:
    step = flow.step("a", "echo")

    with pytest.raises(error, match=message):
        mistake(step)

    assert flow.freeze().steps[0].retry_on == (Exception,)
    assert len(flow.freeze().steps) == 1


def test_names_of_workflows_and_references_follow_the_rule(runner: Recorder) -> None:
    with pytest.raises(ValueError, match="'a:b' cannot name a workflow"):
        Flow("a:b", runner)
    with pytest.raises(ValueError, match="'a:b' cannot name a step"):
        ref("a:b")


@pytest.mark.parametrize("take", [lambda step: step, lambda step: step["x"]["y"]])
def test_a_step_of_another_workflow_is_refused(
    runner: Recorder, take: Callable[[Any], Any]
) -> None:
    old, new = Flow("w", runner), Flow("w", runner)
    stale = take(old.step("raw", ingest, "s"))

    with pytest.raises(InvalidWorkflow) as in_arguments:
        new.step("clean", clean_data, {"deep": [stale]})
    with pytest.raises(InvalidWorkflow) as in_after:
        new.step("stats", analyse).after(stale)

    assert str(in_arguments.value) == (
        "step 'clean' refers to 'raw' of another workflow ('w', perhaps made by an "
        "earlier run of the cell). Add 'raw' to this one first, or refer to it by "
        "name: mp.ref('raw')"
    )
    assert "step 'stats' refers to 'raw' of another" in str(in_after.value)


def test_nothing_is_run_when_a_check_fails(
    flow: Flow[str, int], runner: Recorder
) -> None:
    flow.step("a", "echo", ref("b"))
    last = flow.step("b", "echo", ref("a"))

    for verb in (flow.run, flow.start, flow.plan, last.run):
        with pytest.raises(InvalidWorkflow, match="a → b → a"):
            verb()

    assert runner.asked == []


def test_a_step_cannot_be_iterated_searched_or_unpacked(
    flow: Flow[str, int],
) -> None:
    raw = flow.step("raw", ingest, "s")

    with pytest.raises(TypeError, match="<step raw> cannot be iterated"):
        zip(raw, [1], strict=True)
    with pytest.raises(TypeError, match=r"<step raw\['rows'\]> cannot be iterated"):
        list(raw["rows"])
    with pytest.raises(TypeError, match="cannot be searched with `in`"):
        _ = "station" in raw
    assert {raw: 1}[raw] == 1


@pytest.mark.parametrize(
    "take", [lambda hole, raw: raw, lambda hole, raw: raw["x"], lambda hole, raw: hole]
)
def test_a_step_has_no_truth_value_and_is_not_compared_or_computed_with(
    flow: Flow[str, int], take: Callable[[Any, Any], Any]
) -> None:
    asked = take(flow.input("sensor"), flow.step("raw", ingest, "s"))

    with pytest.raises(TypeError, match="has no truth value"):
        bool(asked)
    with pytest.raises(TypeError, match="cannot be compared"):
        _ = asked == 3
    with pytest.raises(TypeError, match="cannot be compared"):
        _ = asked != "raw"
    with pytest.raises(TypeError, match="cannot be computed with"):
        _ = 1 + asked
    assert asked in [asked]
    assert Value(asked) == Value(asked)  # a dataclass asks each field by itself


@pytest.mark.parametrize(
    ("name", "said"),
    [("retri", "Did you mean 'retry'?"), ("shape", "Use .shape inside a function")],
)
def test_an_attribute_that_a_step_lacks_says_what_to_do(
    flow: Flow[str, int], name: str, said: str
) -> None:
    step = flow.step("raw", ingest, "sensor-7")

    with pytest.raises(AttributeError) as caught:
        getattr(step, name)

    assert said in str(caught.value)
    assert not hasattr(step, "_repr_png_")


@pytest.mark.parametrize(
    "use",
    [
        bool,
        iter,
        lambda step: step == 3,
        lambda step: step + 1,
        lambda step: 1 - step,
        lambda step: "x" in step,
        lambda step: step.retry("2"),
    ],
    ids=["bool", "iter", "equal", "add", "subtract", "in", "modifier"],
)
def test_a_wrong_use_of_a_step_ends_at_the_line_of_the_user(
    flow: Flow[str, int], use: Callable[[Any], object]
) -> None:
    with pytest.raises(TypeError) as caught:
        use(flow.step("raw", ingest, "s"))

    files = {frame.filename for frame in traceback.extract_tb(caught.tb)}
    assert files == {__file__}


@pytest.mark.parametrize("take", [lambda step: step, lambda step: step["x"]])
def test_a_step_cannot_be_pickled_by_accident(
    flow: Flow[str, int], take: Callable[[Any], object]
) -> None:
    part = take(flow.step("raw", ingest, "s"))

    with pytest.raises(NotPicklable) as caught:
        pickle.dumps([part])

    assert "step 'raw' of workflow 'sensor-report' cannot be pickled" in str(
        caught.value
    )
    assert "run['raw']" in str(caught.value)


@dataclass
class Holder:
    inner: object


def test_a_pickler_can_find_references_inside_any_object(
    flow: Flow[str, int],
) -> None:
    raw = flow.step("raw", ingest, "s")
    found: list[Reference] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            convert = getattr(type(obj), "__mpreg_reference__", None)
            if convert is None:
                return None
            found.append(convert(obj))
            return found[-1].step

    Pickler(io.BytesIO()).dump(Holder([raw, raw["rows"], ref("raw")["rows"][1]]))

    assert found == [
        Reference("raw"),
        Reference("raw", ("rows",)),
        Reference("raw", ("rows", 1)),
    ]


def test_an_unfinished_flow_shows_what_it_has(flow: Flow[str, int]) -> None:
    assert repr(flow) == "<workflow sensor-report: no steps>"
    flow.step("clean", clean_data, ref("raw")).on("cpu", "big")

    assert repr(flow) == "<workflow sensor-report: clean ← raw on big, cpu>"
    assert flow._repr_mimebundle_() == {"text/plain": repr(flow)}


def test_a_long_flow_is_cut_where_it_has_no_drawing(flow: Flow[str, int]) -> None:
    for number in range(15):
        flow.step(f"s{number}", "echo")

    assert repr(flow).endswith("; s11; … 3 more>")


@dataclass
class Sketch:
    diagram: Diagram

    def __str__(self) -> str:
        return f"drawn {self.diagram.name}"

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]:
        return {"text/plain": str(self), "text/html": "<svg/>"}


def test_a_flow_and_a_chain_show_themselves_as_the_drawing(runner: Recorder) -> None:
    flow = Flow("w", runner, draw=Sketch)
    step = flow.step("a", "echo")

    assert repr(flow) == "drawn w"
    assert flow._repr_mimebundle_()["text/html"] == "<svg/>"
    assert step._repr_mimebundle_() == flow._repr_mimebundle_()
    assert repr(step) == "<step a>"


def test_what_a_function_needs_is_shown_with_what_its_step_needs(
    runner: Recorder,
) -> None:
    declared = {"train": frozenset({"gpu", "mnist"})}
    flow = Flow("w", runner, needs=lambda name: declared.get(str(name), frozenset()))

    step = flow.step("fit", "train").on("gpu", "big")
    other = flow.step("echo", "echo").on("cpu")

    assert [box.resources for box in flow.diagram().boxes] == [
        ("big", "gpu", "mnist"),
        ("cpu",),
    ]
    assert step._shown() == "fit on big, gpu, mnist"
    assert other._shown() == "echo on cpu"
    assert step._freeze().resources == {"gpu", "big"}  # what it asks for itself


def test_the_diagram_has_boxes_arrows_and_what_is_missing(
    flow: Flow[str, int],
) -> None:
    flow.step("stats", analyse, ref("raw")).after("clean").on("gpu", node="n1")
    flow.step("clean", clean_data, ref("raw")).retry(2).timeout(1.5)

    diagram = flow.diagram()

    assert diagram == Diagram(
        name="sensor-report",
        boxes=(
            Box(
                name="stats",
                function="analyse",
                resources=("gpu",),
                notes=("only on n1",),
            ),
            Box(
                name="clean",
                function="clean_data",
                notes=("retry 2", "within 1.5 s"),
            ),
            Box(name="raw", missing=True),
        ),
        arrows=(
            Arrow(source="clean", target="stats", order_only=True),
            Arrow(source="raw", target="stats"),
            Arrow(source="raw", target="clean"),
        ),
    )


def test_a_fault_of_the_runner_is_not_hidden(flow: Flow[str, int]) -> None:
    class Away:
        def run(self, workflow: Workflow) -> NoReturn:
            raise LookupError("no cluster yet")

        start = plan = run

    away: Flow[object, object] = Flow("w", Away())
    away.step("a", "echo")

    with pytest.raises(LookupError, match="no cluster yet"):
        away.run()


def test_a_step_that_is_replaced_keeps_its_place_and_what_refers_to_it(
    flow: Flow[str, int],
) -> None:
    first = flow.step("first", "echo", 1)
    flow.step("second", "echo", first)

    flow.replace("first", "echo", 2).on("gpu")
    flow.replace("third", "echo", first)

    steps = flow.freeze().steps
    assert [step.name for step in steps] == ["first", "second", "third"]
    assert steps[0].args == (2,)
    assert steps[0].resources == {"gpu"}
    assert steps[1].inputs == steps[2].inputs == ("first",)


def test_flow_that_nobody_changed_is_checked_once(flow: Flow[str, int]) -> None:
    raw = flow.step("raw", ingest, "sensor-7")
    flow.step("clean", clean_data, raw)

    first = flow.freeze()

    assert flow.freeze() is first


def test_what_is_added_or_modified_later_counts(flow: Flow[str, int]) -> None:
    raw = flow.step("raw", ingest, "sensor-7")
    first = flow.freeze()

    raw.retry(2)
    second = flow.freeze()
    flow.step("clean", clean_data, raw)
    third = flow.freeze()
    flow.replace("raw", ingest, "sensor-8")
    fourth = flow.freeze()

    assert [first.steps[0].more_attempts, second.steps[0].more_attempts] == [0, 2]
    assert [len(third.steps), fourth.steps[0].args] == [2, ("sensor-8",)]


def test_arguments_that_can_change_are_looked_at_for_each_run(
    flow: Flow[str, int],
) -> None:
    raw = flow.step("raw", ingest, "sensor-7")
    parts: list[Any] = []
    flow.step("report", render, parts)
    before = flow.freeze()

    parts.append(raw)
    after = flow.freeze()

    assert [before.steps[1].inputs, after.steps[1].inputs] == [(), ("raw",)]
