"""Steps between the wire and the machine of a run."""

from mpreg_nb.node.run_plan import needs, run_step
from mpreg_nb.node.workflow_run import bare, deal, failed_of, state_of
from mpreg_nb.protocol.messages import (
    Failed,
    Failure,
    Given,
    RunStart,
    SideCall,
    StepPlan,
)
from mpreg_nb.workflows.run import FallbackCall, FallbackResult, UndoCall
from mpreg_nb.workflows.state import MissingResult, StepRow, TimedOut

ID = b"0123456789abcdef"
MAP = StepPlan(
    name="m",
    function="f",
    payload=b"item",
    parts=1,
    inputs=("k", "/0", "x"),
    after=("a",),
    attempts=2,
    retry_on=("builtins.OSError",),
    split=SideCall(function="f", payload=b"over", parts=2, inputs=("s",)),
    fallback=Given(payload=b"value", parts=1),
    undo=SideCall(function="u", payload=b"undo", inputs=("m", "x"), idempotent=True),
)


def test_parts_are_dealt_to_calls_and_inputs_in_their_order() -> None:
    plain = StepPlan(name="p", function="f", payload=b"", parts=1)
    inputs = (Given(name="x", payload=b"small"), Given(name="y", payload=b"", parts=2))
    request = RunStart(id=ID, workflow="w", steps=(MAP, plain), inputs=inputs)

    dealt, given = deal(request, tuple(bytes([n]) for n in range(7)))

    assert dealt == {
        ("m", "call"): (b"\0",),
        ("m", "split"): (b"\1", b"\2"),
        ("m", "fallback"): (b"\3",),
        ("p", "call"): (b"\4",),
    }
    assert given == {"x": (b"small", ()), "y": (b"", (b"\5", b"\6"))}


def test_a_step_waits_for_what_its_split_needs_and_not_for_inputs() -> None:
    given = {"x", "/0"}

    made = run_step(MAP, needs(MAP, given), given, FallbackResult(result=b"value"))

    assert needs(MAP, given) == ("s", "k", "a")
    assert made.dependencies == {"s", "k", "a"}
    assert made.is_map
    assert made.fallback == FallbackResult(result=b"value")
    assert made.undo == UndoCall(
        inputs=frozenset({"m"}), more_attempts=1, retry_on=("builtins.OSError",)
    )


def test_an_undo_is_tried_again_after_a_loss_only_if_it_is_idempotent_itself() -> None:
    undo = SideCall(function="u", payload=b"")
    step = StepPlan(name="p", function="f", payload=b"", idempotent=True, undo=undo)

    made = run_step(step, (), (), None)

    assert made.more_attempts == 2
    assert made.undo is not None
    assert made.undo.more_attempts == 0


def test_a_fallback_that_is_called_is_known_as_one() -> None:
    fallback = SideCall(function="g", payload=b"")
    step = StepPlan(name="p", function="f", payload=b"", fallback=fallback)

    assert run_step(step, (), (), None).fallback == FallbackCall()


def test_the_row_of_a_step_has_no_arguments() -> None:
    told = bare(MAP)

    sides = (told.split, told.undo)
    assert (told.payload, told.parts, told.inputs) == (b"", 0, ("k", "x"))
    assert [side and (side.payload, side.parts) for side in sides] == [(b"", 0)] * 2
    assert told.fallback == Given(payload=b"")


def test_failures_of_the_machine_are_reported_like_those_of_nodes() -> None:
    late, _ = failed_of(TimedOut(1.5, 3), ID)
    lacking, _ = failed_of(MissingResult("b"), ID)
    own = Failed(id=ID, failure=Failure(kind="node_lost")), (b"part",)

    assert late.failure.kind == "deadline"
    assert (late.failure.where, late.failure.timeout_ms) == ("item [3]", 1500)
    assert "result of step 'b'" in lacking.failure.message
    assert failed_of(own, ID) == own


def test_the_state_of_a_step_says_why_it_was_not_undone() -> None:
    failure = Failure(kind="application", message="OSError: no way back")
    row = StepRow(
        step="m",
        status="done",
        items=3,
        items_done=3,
        undo_failure=(Failed(id=ID, failure=failure), ()),
    )

    state = state_of(row)

    assert (state.undo_error, state.items, state.items_done) == (
        "OSError: no way back",
        3,
        3,
    )
