"""Which calls run at this moment."""

from types import SimpleNamespace
from typing import Any

from mpreg_nb.client.calls import ActiveCall, CallOptions
from mpreg_nb.client.under_way import UnderWay, under_way
from mpreg_nb.protocol.messages import StepSnapshot

OFFSET_S = 1_000.0
RUN = b"\xab" * 16


def call(number: int, **values: Any) -> ActiveCall:
    made = ActiveCall(
        id=bytes([number]) * 16,
        function="train",
        payload=b"",
        parts=(),
        done=lambda *_: None,
        writer=lambda *_: None,
    )
    link: Any = object()
    for name, value in {"place": link, "at": "n1", "sent": 5.0, **values}.items():
        setattr(made, name, value)
    return made


def test_a_call_runs_from_when_it_left_the_queue_else_from_when_it_was_sent() -> None:
    calls = [
        call(1),
        call(2, started=7.0),
        call(3, at="", to="n2"),
        # Its entry passed it on, to the node that it names.
        call(4, at="", options=CallOptions(node="n3")),
    ]

    found = under_way(calls, [], OFFSET_S)

    assert found == [
        UnderWay("01" * 16, "train", "n1", 1_005.0),
        UnderWay("02" * 16, "train", "n1", 1_007.0),
        UnderWay("03" * 16, "train", "n2", 1_005.0),
        UnderWay("04" * 16, "train", "n3", 1_005.0),
    ]


def test_what_waits_or_runs_nobody_knows_where_is_left_out() -> None:
    calls = [call(1, waiting=True), call(2, place=None), call(3, at="")]

    assert under_way(calls, [], OFFSET_S) == []


def test_steps_that_run_are_there_and_maps_are_not() -> None:
    steps = (
        StepSnapshot(name="raw", status="done", node="n1", started_ms=1.0),
        StepSnapshot(name="fit", status="running", node="n2", started_ms=2_000.0),
        StepSnapshot(name="each", status="running", node="n1", started_ms=3.0, items=9),
        StepSnapshot(name="later", status="running", node="n1"),
    )
    record: Any = SimpleNamespace(
        id=RUN,
        steps={step.name: step for step in steps},
        functions={"fit": "train"},
        started_at_s=500.0,
    )

    found = under_way([], [record], OFFSET_S)

    assert found == [UnderWay("", "train", "n2", 502.0, run="abababab", step="fit")]
