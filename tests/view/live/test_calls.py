"""The stream of calls: as data, frame, text and image."""

import base64
import json
import re
from typing import Any

import pandas as pd
import pytest

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.view.live import calls
from mpreg_nb.view.live.lanes import Lanes
from mpreg_nb.view.palette import BAD, FUNCTIONS
from tests.support.builders import NOW, node, ran, runs, snapshot

EVIL = "<b onclick=alert(1)>"


def cluster(*more: str) -> Snapshot:
    left = node("n3", state=MemberState.LEFT)
    return snapshot(node("n1"), node("n2"), left, *map(node, more))


def rows() -> list[CallRow]:
    return [
        ran(-20, -10, "train"),
        ran(-15, -12, EVIL, step="fit", run="ab12cd34", status="failed"),
        ran(-10, -5, "train"),
    ]


def picture(*, of: Snapshot | None = None) -> dict[str, Any]:
    lanes, seen = Lanes(), of or cluster()
    lanes.take(rows(), [runs("aa", -2.0, "score")], calls.slots_of(seen), NOW)
    return calls.picture(lanes, seen, NOW)


def test_each_slot_of_each_node_that_is_there_has_its_bars() -> None:
    made = picture()

    nodes = made["nodes"]
    assert json.loads(json.dumps(made)) == made
    assert [(one["node"], len(one["slots"])) for one in nodes] == [("n1", 6), ("n2", 6)]
    first, second, *_ = nodes[0]["slots"]
    assert [(bar["start_ms"], bar["end_ms"], bar["status"]) for bar in first] == [
        (-20_000.0, -10_000.0, "done"),
        (-10_000.0, -5_000.0, "done"),
        (-2_000.0, 0.0, "running"),
    ]
    assert [(bar["status"], bar["step"]) for bar in second] == [("failed", "fit")]


def test_functions_are_named_with_their_colour_the_busiest_first() -> None:
    made = picture()

    assert [
        (one["function"], one["hue"], one["calls"]) for one in made["functions"]
    ] == [
        ("train", FUNCTIONS.place("train"), 2),
        (EVIL, FUNCTIONS.place(EVIL), 1),
        ("score", FUNCTIONS.place("score"), 1),
    ]


def test_of_a_large_cluster_only_slots_that_ran_something_are_shown() -> None:
    many = cluster(*(f"m{number}" for number in range(50)))

    made = picture(of=many)

    assert [(one["node"], len(one["slots"])) for one in made["nodes"]] == [("n1", 2)]


def test_a_node_that_is_gone_stays_while_it_has_bars() -> None:
    made = picture(of=snapshot(node("n1", state=MemberState.DEAD)))

    assert [(one["node"], one["state"]) for one in made["nodes"]] == [("n1", "dead")]


def test_the_frame_has_a_row_for_each_bar() -> None:
    frame = calls.frame(picture())

    assert list(frame.columns) == list(calls.COLUMNS)
    failed = frame[frame.status == "failed"].iloc[0]
    assert (failed.node, failed.slot, failed.function) == ("n1", 2, EVIL)
    assert (failed.run, failed.step, failed.calls) == ("ab12cd34", "fit", 1)
    assert failed.started_at == pd.Timestamp(NOW - 15, unit="s", tz="UTC")
    assert failed.run_ms == pytest.approx(3_000.0)
    assert len(calls.frame(calls.picture(Lanes(), cluster(), NOW))) == 0


def test_text_says_what_each_slot_ran_and_runs_now() -> None:
    lines = calls.text(picture()).splitlines()

    assert lines[0].split() == [
        *("node", "slot", "calls", "failed", "busy", "ran", "most", "runs", "now")
    ]
    assert lines[1].split() == [
        *("n1", "1", "3", "0", "28%", "train,", "score", "score,", "2.00", "s")
    ]
    assert len(lines) == 1 + 12


def test_html_has_an_image_and_a_table_and_shows_names_as_text() -> None:
    html = calls.html(picture())

    (data,) = re.findall(r"base64,([^\"]+)", html)
    image = base64.b64decode(data).decode()
    assert FUNCTIONS.of("train").light in image
    assert FUNCTIONS.of("train").dark in image
    assert BAD.ink.light in image  # the cross of what failed
    assert "<table" in html
    assert EVIL not in html
    assert EVIL not in image


def test_without_calls_the_text_says_so() -> None:
    empty = calls.picture(Lanes(), cluster(), NOW)

    assert calls.text(empty) == calls.NOTHING
    assert calls.NOTHING in calls.html(empty)


def test_in_plain_mode_there_are_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    assert calls.text(picture()) == calls.NOT_PLAIN
    assert "<img" not in calls.html(picture())
