"""Calls are put into lanes so that those that overlap are in different ones."""

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.client.under_way import UnderWay
from mpreg_nb.view.live.lanes import LONGEST_CHAIN_S, MOST_BARS, WINDOW_S, Lanes
from tests.support.builders import NOW, call, ran, runs


def lanes_of(
    rows: Iterable[CallRow],
    running: Iterable[UnderWay] = (),
    *,
    slots: int = 4,
    now: float = 0.0,
) -> Lanes:
    lanes = Lanes()
    lanes.take(list(rows), running, {"n1": slots}, NOW + now)
    return lanes


def spans(lanes: Lanes, node: str = "n1") -> list[list[tuple[float, float]]]:
    return [
        [(round(bar.begin - NOW, 2), round(bar.end - NOW, 2)) for bar in lane]
        for lane in lanes.of(node)
    ]


def test_calls_that_follow_each_other_share_a_lane_and_others_do_not() -> None:
    lanes = lanes_of([ran(-9, -6), ran(-8, -4), ran(-6, -2), ran(-4, -1)])

    assert spans(lanes) == [[(-9, -6), (-6, -2)], [(-8, -4), (-4, -1)]]


def test_no_more_lanes_are_used_than_calls_ran_at_the_same_time() -> None:
    lots = random.Random(7)
    slots = 4
    free = [-50.0] * slots
    rows = []
    while min(free) < -2:
        slot = free.index(min(free))
        begin = free[slot] + lots.uniform(0.0, 0.5)
        free[slot] = begin + lots.uniform(0.2, 4.0)
        rows.append(ran(begin, free[slot]))
    rows.sort(key=lambda row: row.started_at + row.total_us / 1e6)

    lanes = lanes_of(rows, slots=slots, now=5.0)

    assert len(lanes.of("n1")) == slots
    for lane in spans(lanes):
        assert all(one[1] <= other[0] for one, other in pairwise(lane))
    assert sum(len(lane) for lane in spans(lanes)) == len(rows)


def test_short_calls_in_a_row_are_one_bar_that_counts_them() -> None:
    rows = [ran(-5 + 0.02 * place, -4.99 + 0.02 * place) for place in range(40)]

    ((bar,),) = lanes_of(rows).of("n1")

    assert (bar.calls, bar.failed, bar.main) == (40, 0, "f")
    assert bar.busy_s == pytest.approx(0.4)
    assert bar.end - bar.begin == pytest.approx(0.79)


def test_a_bar_of_short_calls_is_of_several_functions_only_for_a_moment() -> None:
    rows = [
        ran(-5 + 0.02 * place, -4.99 + 0.02 * place, "fg"[place % 4 == 3])
        for place in range(40)
    ]

    (bars,) = lanes_of(rows).of("n1")

    assert all(bar.end - bar.begin <= 0.11 for bar in bars)
    assert {bar.main for bar in bars} == {"f"}
    assert sum(bar.calls for bar in bars) == 40


def test_a_failed_call_is_not_hidden_among_others() -> None:
    rows = [ran(-5 + 0.02 * place, -4.99 + 0.02 * place) for place in range(9)]
    rows[4].status = "failed"

    (bars,) = lanes_of(rows).of("n1")

    assert [(bar.calls, bar.failed) for bar in bars] == [(4, 0), (1, 1), (4, 0)]


def test_a_node_has_no_more_lanes_than_slots_though_times_are_estimated() -> None:
    lots = random.Random(3)
    rows = []
    for place in range(200):  # one after the other, noted up to 0.2 s late
        begin = -40 + place * 0.15 + lots.uniform(0.0, 0.2)
        rows.append(ran(begin, begin + 0.12))

    lanes = lanes_of(rows, slots=1)

    assert len(lanes.of("n1")) == 1
    assert lanes.functions()["f"][0] == 200


def test_a_long_call_that_is_noted_late_is_shown_in_full() -> None:
    lanes = lanes_of([ran(-0.01, 0.02), ran(-3.0, 0.0)], slots=1, now=0.1)

    assert spans(lanes) == [[(-3.0, 0.0), (-0.01, 0.02)]]


def test_a_call_that_waits_for_the_only_slot_takes_none() -> None:
    lanes = lanes_of([ran(-9, -3)], [runs("aa", -8.0), runs("bb", -7.0)], slots=1)
    waited = spans(lanes)

    lanes.take([ran(-3, 1)], [runs("aa", -8.0)], {"n1": 1}, NOW + 2.0)

    assert waited == [[(-9.0, -3.0), (-3.0, 0.0)]]
    assert spans(lanes) == [[(-9.0, -3.0), (-3.0, 1.0), (1.0, 2.0)]]


def test_threads_of_the_node_need_no_slot() -> None:
    lanes = lanes_of([ran(-9, -3), ran(-8, -2), ran(-7, -1)], slots=1)

    assert len(lanes.of("n1")) == 3


def test_a_call_that_runs_keeps_its_lane_until_its_row_comes() -> None:
    lanes = lanes_of([], [runs("aa", -3.0)])
    first = spans(lanes)

    short, long = ran(-2, -1), ran(-3, 1.5, call_id="aa")
    lanes.take([short], [runs("aa", -3.0)], {"n1": 4}, NOW + 1.0)
    during = spans(lanes)
    lanes.take([short, long], [], {"n1": 4}, NOW + 2.0)

    assert first == [[(-3.0, 0.0)]]
    assert during == [[(-3.0, 1.0)], [(-2.0, -1.0)]]
    assert spans(lanes) == [[(-3.0, 1.5)], [(-2.0, -1.0)]]
    assert [bar.status for bar in lanes.of("n1")[0]] == ["done"]


def test_a_cancelled_call_is_as_long_as_it_was_seen_to_run() -> None:
    lanes = lanes_of([], [runs("aa", -3.0)])

    cancelled = call("f", "n1", 5_000_000, run_us=0, queued_us=0, call_id="aa")
    cancelled.status, cancelled.started_at = "cancelled", NOW - 4.0
    lanes.take([cancelled], [], {"n1": 4}, NOW + 2.0)

    assert spans(lanes) == [[(-3.0, 1.0)]]


def test_a_step_that_runs_becomes_the_call_of_that_step() -> None:
    step = {"run": "ab12cd34", "step": "train"}
    lanes = lanes_of([], [runs("", -3.0, **step)])

    lanes.take([ran(-3, 1, **step)], [], {"n1": 4}, NOW + 2.0)

    ((bar,),) = lanes.of("n1")
    assert (bar.step, bar.status) == ("train", "done")


def test_what_never_had_a_slot_is_not_there() -> None:
    rows = [
        ran(-5, -5, node="", status="failed"),
        ran(-5, -5, status="cancelled"),
        ran(-5, -5),
    ]

    assert lanes_of(rows).nodes == ()


def test_a_lost_call_lasts_until_the_loss_was_noticed() -> None:
    lost = ran(-5, -2, status="lost", run_us=0)

    lanes = lanes_of([lost])

    assert spans(lanes) == [[(-5.0, -2.0)]]
    assert [bar.failed for bar in lanes.of("n1")[0]] == [1]


def test_what_is_older_than_the_window_is_forgotten() -> None:
    lanes = lanes_of([ran(-5, -4)])

    lanes.take([], [], {"n1": 4}, NOW + WINDOW_S)

    assert lanes.nodes == ()
    assert lanes.functions() == {}


def test_each_call_counts_once_however_often_one_looks() -> None:
    rows = [ran(-5, -4), ran(-4, -3)]
    lanes = lanes_of(rows)

    lanes.take([*rows, ran(-3, -2)], [], {"n1": 4}, NOW)

    calls, failed, busy_s = lanes.functions()["f"]
    assert (calls, failed) == (3, 0)
    assert busy_s == pytest.approx(3.0)


def test_many_short_calls_of_many_functions_stay_few_bars() -> None:
    lanes = Lanes()
    rows = []
    for place in range(60_000):
        at = -60 + 60 * place / 60_000
        rows.append(ran(at, at + 0.007, f"f{place % 5}"))
    for start in range(0, len(rows), 6_000):
        part = rows[max(0, start - 100) : start + 6_000]
        lanes.take(part, [], {"n1": 8}, NOW + part[-1].started_at - NOW)

    bars = sum(map(len, lanes.of("n1")))

    assert bars <= 2 * MOST_BARS
    assert max(bar.end - bar.begin for lane in lanes.of("n1") for bar in lane) <= (
        LONGEST_CHAIN_S
    )
