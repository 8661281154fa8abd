from datetime import UTC, datetime
from typing import Any

import msgspec
import pandas as pd
import pytest
from hdrh.histogram import HdrHistogram

from mpreg_nb.client.statistics import CallLog
from mpreg_nb.launcher.cluster_files import LedgerRow
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import EventSnapshot, FunctionSnapshot, StepSnapshot
from mpreg_nb.view import frames
from mpreg_nb.view.explain import PlanRow, plan_frame
from tests.support.builders import V1, V2, call, node, offer, snapshot

BUSY = Load(running=1, queued=2, cpu_percent=12.5, memory_mb=60, uptime_s=9)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(column): value for column, value in row.items() if not pd.isna(value)}
        for row in frame.to_dict("records")
    ]


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        (frames.nodes_frame(snapshot()), frames.NODES),
        (frames.functions_frame(snapshot(), ()), frames.FUNCTIONS),
        (frames.events_frame(snapshot()), frames.EVENTS),
        (frames.routes_frame(()), frames.ROUTES),
        (frames.calls_frame(()), frames.CALLS),
        (frames.run_frame((), {}), frames.STEPS),
        (plan_frame(()), frames.PLAN),
        (frames.ps_frame(()), frames.PROCESSES),
        (
            frames.latency_frame({}, ("node", "function")),
            {"node": "str", "function": "str", **frames.PERCENTILES},
        ),
    ],
    ids=str,
)
def test_a_frame_without_rows_has_the_columns_and_dtypes_of_a_full_one(
    empty: pd.DataFrame, expected: dict[str, str]
) -> None:
    text = str(pd.Series([], dtype="str").dtype)  # pandas 2: object
    dtypes = [text if dtype == "str" else dtype for dtype in expected.values()]

    assert list(empty.columns) == list(expected)
    assert [str(dtype) for dtype in empty.dtypes] == dtypes
    assert len(empty) == 0


def test_nodes_are_sorted_and_what_is_not_known_of_them_is_missing() -> None:
    picture = snapshot(
        node("gpu-1", "gpu", "big", load=BUSY, rtt_ms=0.25),
        node("cpu-1", state=MemberState.DEAD),
        offers=(("cpu-1", offer("train", V1, "gpu")),),
    )

    frame = frames.nodes_frame(picture)

    common = {"workers": 2, "slots": 3, "host": "lab", "python": "3.11.7"}
    assert records(frame) == [
        {"node": "cpu-1", "state": "dead", "resources": "", "functions": 0, **common},
        {
            "node": "gpu-1",
            "state": "alive",
            "resources": "big, gpu",
            "functions": 1,
            **common,
            "busy": 1,
            "queued": 2,
            "rtt_ms": 0.25,
            "cpu_percent": 12.5,
            "memory_mb": 60,
            "uptime_s": 9,
        },
    ]


def test_a_function_is_served_by_every_live_node_that_holds_its_resources() -> None:
    picture = snapshot(
        node("gpu-1", "gpu"),
        node("gpu-2", "gpu", state=MemberState.SUSPECT),
        node("gpu-3", "gpu", state=MemberState.LEFT),
        node("cpu-1"),
        offers=(("cpu-1", offer("train", V1, "gpu")),),
    )

    _, nodes = frames.served(picture)["train"]

    assert nodes == ("gpu-1", "gpu-2")


def test_a_function_that_is_not_placed_is_served_by_those_that_have_it() -> None:
    own = offer("lookup", V1, placed=False)
    picture = snapshot(
        node("a"), node("b"), node("c"), offers=(("b", own), ("gone", own))
    )

    _, nodes = frames.served(picture)["lookup"]

    assert nodes == ("b",)


def test_a_row_of_functions_is_of_the_newest_version_only() -> None:
    picture = snapshot(
        node("a"),
        node("b"),
        offers=(
            ("a", offer("f", V1, counter=1)),
            ("a", offer("f", V2, counter=2, signature="(x, y=1)")),
            ("a", offer("g", V1)),
            ("a", offer("f", "", counter=0, removed=True)),
        ),
    )
    counted = (
        FunctionSnapshot(function="f", version=V1, node="a", calls=9, p50_ms=90.0),
        FunctionSnapshot(function="f", version=V2, node="a", calls=3, p50_ms=1.0),
        FunctionSnapshot(
            function="f", version=V2, node="b", calls=1, errors=1, p50_ms=5.0
        ),
    )

    frame = frames.functions_frame(picture, counted)

    assert records(frame) == [
        {
            "function": "f",
            "version": "222222",
            "resources": "",
            "nodes": "a, b",
            "calls": 4,
            "errors": 1,
            "p50_ms": 2.0,
            "signature": "(x, y=1)",
        },
        {
            "function": "g",
            "version": "111111",
            "resources": "",
            "nodes": "a, b",
            "calls": 0,
            "errors": 0,
            "signature": "(x)",
        },
    ]


def test_functions_are_chosen_by_a_pattern() -> None:
    picture = snapshot(
        offers=(("a", offer("train")), ("a", offer("tame")), ("a", offer("Train")))
    )

    frame = frames.functions_frame(picture, (), "t*a*")

    assert list(frame.function) == ["tame", "train"]


def test_shares_of_routes_add_up_to_one_for_each_function() -> None:
    rows = (
        call("f", "b", 3000),
        call("f", "a", 1000),
        call("f", "a", 2000, status="failed"),
        call("f", "", 10, status="failed"),
        call("g", "a", 500),
    )

    frame = frames.routes_frame(rows)

    assert list(zip(frame.function, frame.node, strict=True)) == [
        ("f", ""),
        ("f", "a"),
        ("f", "b"),
        ("g", "a"),
    ]
    assert list(frame.calls) == [1, 2, 1, 1]
    assert list(frame.errors) == [1, 1, 0, 0]
    assert list(frame.share) == [0.25, 0.5, 0.25, 1.0]
    assert list(frame.p50_ms) == [0.01, 1.5, 3.0, 0.5]


def test_a_row_of_calls_is_in_milliseconds_and_its_parts_add_up() -> None:
    frame = frames.calls_frame([call("f", "n1", 1000)])

    row = frame.iloc[0]
    parts = row.queued_ms + row.run_ms + row.network_ms + row.serialize_ms
    assert row.total_ms == 1.0
    assert parts == pytest.approx(row.total_ms)
    assert row.started_at == datetime.fromtimestamp(1_750_000_000.5, UTC)


@pytest.fixture
def histograms() -> dict[tuple[str, str], HdrHistogram]:
    call_log = CallLog()
    for total_us in range(1000, 101_000, 1000):
        call_log.add(call("f", "n1", total_us))
    call_log.add(call("f", "n2", 1_000_000))
    call_log.add(call("e", "n2", 2000))
    return call_log.histograms()


def test_latencies_are_merged_over_what_they_are_not_grouped_by(
    histograms: dict[tuple[str, str], HdrHistogram],
) -> None:
    by_function = frames.latency_frame(histograms, ("function",))
    by_both = frames.latency_frame(histograms, ("function", "node"))

    assert list(by_function.function) == ["e", "f"]
    assert list(by_function["count"]) == [1, 101]
    assert by_function.p50_ms[1] == pytest.approx(51, rel=0.001)
    assert by_function.p95_ms[1] == pytest.approx(96, rel=0.001)
    assert by_function.max_ms[1] == pytest.approx(1000, rel=0.001)
    assert by_function.mean_ms[1] == pytest.approx(6050 / 101, rel=0.001)
    assert list(by_both.node) == ["n2", "n1", "n2"]
    assert list(by_both["count"]) == [1, 100, 1]  # the merging changed nothing


@pytest.mark.parametrize("keys", [(), ("version",), ("node", "node")])
def test_latencies_by_anything_else_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="by must be 'function', 'node' or"):
        frames.latency_frame({}, keys)


def test_events_come_oldest_first() -> None:
    picture = snapshot(
        events=(
            EventSnapshot(at_s=20.0, node="b", event="dead", detail="no answer"),
            EventSnapshot(at_s=10.0, node="a", event="joined"),
        )
    )

    frame = frames.events_frame(picture)

    assert list(frame.event) == ["joined", "dead"]
    assert frame.time[0] == datetime.fromtimestamp(10, UTC)


def test_events_that_only_other_nodes_saw_are_there_too() -> None:
    joined = EventSnapshot(at_s=10.0, node="b", event="joined")
    died = EventSnapshot(at_s=15.0, node="b", event="worker died")
    late = EventSnapshot(at_s=11.0, node="b", event="joined")
    mine = snapshot(events=(joined, EventSnapshot(at_s=20.0, node="b", event="dead")))
    its = msgspec.structs.replace(snapshot(events=(late, died)), node="b")

    frame = frames.events_frame(mine, [mine, its])

    assert list(frame.event) == ["joined", "worker died", "dead"]


def test_steps_keep_their_order_and_what_has_not_happened_is_missing() -> None:
    steps = (
        StepSnapshot(
            name="raw", status="done", node="n1", version=V1, attempts=2, result_bytes=7
        ),
        StepSnapshot(name="clean", status="failed", error="ValueError: no"),
    )

    frame = frames.run_frame(steps, {"raw": "ingest", "clean": "clean_data"})

    assert records(frame) == [
        {
            "step": "raw",
            "function": "ingest",
            "version": "111111",
            "node": "n1",
            "status": "done",
            "attempts": 2,
            "result_bytes": 7,
            "error": "",
        },
        {
            "step": "clean",
            "function": "clean_data",
            "version": "",
            "node": "",
            "status": "failed",
            "attempts": 0,
            "error": "ValueError: no",
        },
    ]


def test_a_plan_says_why_each_other_node_was_rejected() -> None:
    row = PlanRow(
        step="stats",
        function="analyse",
        version=V1,
        resources=("gpu",),
        candidates=("gpu-2", "gpu-1"),
        rejected=(("cpu-1", "lacks gpu"), ("db-1", "dead")),
        chosen="gpu-1",
    )

    frame = plan_frame([row])

    assert records(frame) == [
        {
            "step": "stats",
            "function": "analyse",
            "version": "111111",
            "resources": "gpu",
            "candidates": "gpu-1, gpu-2",
            "rejected": "cpu-1: lacks gpu; db-1: dead",
            "chosen": "gpu-1",
        }
    ]


def test_processes_are_listed_as_the_ledger_has_them() -> None:
    started_at = datetime(2025, 6, 1, 12, tzinfo=UTC)
    row = LedgerRow(
        cluster="calm-otter",
        node="n1",
        state="alive",
        resources=("gpu",),
        pid=77,
        notebook="a.ipynb",
        started_at=started_at,
        by_hand=False,
    )

    frame = frames.ps_frame([row])

    columns = {k: v for k, v in row._asdict().items() if k != "by_hand"}
    assert records(frame) == [{**columns, "resources": "gpu"}]
