import json
from typing import Any

import pandas as pd
import pytest

from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot
from mpreg_nb.view.frames import nodes_frame
from mpreg_nb.view.live import members
from tests.support.builders import V1, node, offer, snapshot

LOAD = Load(running=1, slots=6, queued=3, memory_mb=61, cpu_percent=12.5, uptime_s=77)
EVIL = "<img src=x onerror=alert(1)>"


def cluster() -> Snapshot:
    return snapshot(
        node("cpu-1", load=LOAD, rtt_ms=0.25),
        node("gpu-1", "gpu", "ml", state=MemberState.SUSPECT),
        offers=(("cpu-1", offer("train", V1, "gpu")), ("cpu-1", offer("echo"))),
    )


def read(*at: float, load: Load = LOAD, name: str = "cpu-1") -> members.Readings:
    readings = members.Readings()
    for now in at:
        readings.take([node(name, load=load)], now)
    return readings


def test_a_picture_has_the_figures_of_the_frame_and_curves() -> None:
    picture = members.picture(cluster(), read(0.0, 2.0), {"gpu-1"})

    busy, suspect = picture["rows"]
    assert json.loads(json.dumps(picture)) == picture
    assert busy["node"] == "cpu-1"
    assert (busy["busy"], busy["slots"], busy["queued"]) == (1, 6, 3)
    assert (busy["cpu"], busy["memory"]) == ([12.5, 12.5], [61, 61])
    assert (busy["own"], suspect["own"]) == (False, True)
    assert suspect["resources"] == ["gpu", "ml"]
    assert (suspect["state"], suspect["functions"]) == ("suspect", 2)
    assert (suspect["busy"], suspect["cpu_percent"], suspect["cpu"]) == (None, None, [])


def test_the_frame_of_a_picture_is_the_frame_of_nodes() -> None:
    picture = members.picture(cluster(), members.Readings(), ())

    frame = members.frame(picture)

    pd.testing.assert_frame_equal(frame, nodes_frame(cluster()))


def test_nodes_of_one_machine_stand_together_once_there_are_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    picture = members.picture(cluster(), members.Readings(), ())
    for row, host in zip(picture["rows"], ("lab", "box"), strict=True):
        row["host"] = host

    [drawn] = members.drawing(picture)

    assert [line.split()[:2] for line in members.text(picture).splitlines()] == [
        ["node", "host"],
        ["gpu-1", "box"],
        ["cpu-1", "lab"],
    ]
    html = str(drawn)
    assert html.index("gpu-1") < html.index("cpu-1")
    assert "Sort by the machine of the node" in html


def test_loads_are_read_at_about_even_steps() -> None:
    readings = members.Readings()
    nodes = [node("cpu-1", load=LOAD)]

    taken = [readings.take(nodes, now) for now in (10.0, 10.5, 11.9, 12.1, 13.6, 60.0)]

    assert taken == [True, False, True, False, False, True]
    assert readings.of("cpu-1") == ([12.5] * 3, [61] * 3)


def test_readings_are_bounded_in_length_and_forget_nodes_that_are_gone() -> None:
    readings = read(*(2.0 * step for step in range(members.KEPT + 20)))
    assert len(readings.of("cpu-1")[0]) == members.KEPT

    readings.take([node("n2", load=LOAD)], 1000.0)

    assert readings.of("cpu-1") == ([], [])


def test_the_curve_of_a_dead_node_stands_still() -> None:
    readings = read(0.0, 2.0)

    readings.take([node("cpu-1", load=LOAD, state=MemberState.DEAD)], 4.0)

    assert readings.of("cpu-1")[1] == [61, 61]


def test_state_is_shown_by_shape_and_word_and_the_dead_have_no_load() -> None:
    states = tuple(MemberState)
    nodes = (node(f"n{place}", load=LOAD, state=s) for place, s in enumerate(states))
    picture = members.picture(snapshot(*nodes), members.Readings(), ())

    text, html = members.text(picture), members.html(picture)

    for mark, word in zip("●◐✗○", ("alive", "suspect", "dead", "left"), strict=True):
        assert f"{mark} {word}" in text
        assert f">{mark}</span> {word}" in html
    lines = text.splitlines()
    assert ["61" in line for line in lines[1:]] == [True, True, False, False]


def test_html_is_without_script_and_shows_names_as_text() -> None:
    evil = snapshot(node(EVIL, EVIL, load=LOAD))
    readings = read(0.0, 2.0, name=EVIL)

    html = members.html(members.picture(evil, readings, ()))

    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert html.count('src="data:image/svg+xml;base64,') == 2
    assert "<script" not in html
    assert "<style" not in html


def test_a_hundred_nodes_stay_readable() -> None:
    many: list[NodeSnapshot] = [node(f"n{place:03}", load=LOAD) for place in range(100)]
    picture = members.picture(snapshot(*many), members.Readings(), ())

    html, text = members.html(picture), members.text(picture)

    assert html.count("<tr>") == members.MOST_ROWS + 1
    assert "… and 60 more: cluster.nodes()" in html
    assert "… and 60 more: cluster.nodes()" in text
    assert len(members.frame(picture)) == 100


def test_of_many_nodes_those_that_are_not_well_are_shown() -> None:
    dead = MemberState.DEAD
    many = [node(f"n{place:03}", load=LOAD) for place in range(100)]
    picture = members.picture(
        snapshot(*many, node("zz", state=dead)), members.Readings(), ()
    )

    lines = members.text(picture).splitlines()

    assert len(lines) == members.MOST_ROWS + 2
    assert lines[1].startswith("n000")
    assert lines[-2].split() == ["zz", "✗", "dead", "0"]


def test_plain_tables_have_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    picture: dict[str, Any] = members.picture(cluster(), read(0.0, 2.0), ())

    assert members.text(picture).splitlines() == [
        "node   state      resources  functions",
        "cpu-1  ● alive                       1",
        "gpu-1  ◐ suspect  gpu, ml            2",
    ]
    assert "img" not in members.html(picture)
