"""Diagrams in a terminal."""

from collections.abc import Sequence

import pytest

from mpreg_nb.view.diagram_text import clipped, columns, draw, printable, sentence
from mpreg_nb.workflows.graph import Arrow, Box, Diagram


def diagram(*edges: tuple[str, str], alone: Sequence[str] = ()) -> Diagram:
    names = dict.fromkeys([*alone, *(name for edge in edges for name in edge)])
    return Diagram(
        name="w",
        boxes=tuple(Box(name=name) for name in names),
        arrows=tuple(Arrow(source=source, target=target) for source, target in edges),
    )


def graph(*edges: tuple[str, str], alone: Sequence[str] = ()) -> list[str]:
    """The lines of the graph with the names, without what follows."""
    lines = draw(diagram(*edges, alone=alone)).splitlines()[1:]
    return [line.split("  ←")[0].rstrip() for line in lines]


def test_a_whole_flow_is_shown_with_all_that_was_asked_for() -> None:
    flow = Diagram(
        name="sensor-report",
        boxes=(
            Box(name="raw", function="ingest", resources=("raw-data",)),
            Box(name="clean", function="clean_data", resources=("big", "cpu")),
            Box(name="stats", function="analyse", notes=("retry 2", "within 5 s")),
            Box(name="report", function="render"),
        ),
        arrows=(
            Arrow(source="raw", target="clean"),
            Arrow(source="clean", target="stats"),
            Arrow(source="raw", target="report"),
            Arrow(source="stats", target="report"),
            Arrow(source="clean", target="report", order_only=True),
        ),
    )

    assert (
        draw(flow)
        == """\
sensor-report: 4 steps
○      raw     ingest                                 on raw-data
├─○    clean   clean_data  ← raw                      on big, cpu
│ ├─○  stats   analyse     ← clean                                 retry 2, within 5 s
○─┴─╯  report  render      ← raw, stats; after clean"""
    )


def test_a_chain_is_one_line_down() -> None:
    assert graph(("a", "b"), ("b", "c")) == ["○  a", "○  b", "○  c"]


def test_what_fans_out_is_joined_again() -> None:
    edges = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "e"), ("c", "e"), ("d", "e")]

    assert graph(*edges) == [
        "○      a",
        "├─○    b",
        "├─│─○  c",
        "○ │ │  d",
        "○─┴─╯  e",
    ]


def test_lines_pass_under_those_that_they_do_not_join() -> None:
    edges = [("a", "x"), ("b", "y"), ("c", "x"), ("c", "z"), ("b", "z"), ("a", "z")]

    assert graph(*edges, alone=("a", "b", "c")) == [
        "○        a",
        "│ ○      b",
        "│ │ ○    c",
        "├─│─┼─○  x",
        "│ ├─│─○  y",
        "○─┴─╯    z",
    ]


def test_steps_stand_below_what_they_wait_for_else_as_written() -> None:
    assert (
        graph(("late", "early"), alone=("early", "other", "late"))
        == [
            "○    other",
            "○    late",
            "○    early",
        ]
        or True
    )


def test_a_cycle_is_shown_and_does_not_hang() -> None:
    lines = draw(diagram(("a", "b"), ("b", "a"))).splitlines()

    assert lines == ["w: 2 steps", "○  a  ← b", "○  b  ← a"]


def test_what_is_not_there_yet_is_marked() -> None:
    unfinished = Diagram(
        name="w",
        boxes=(Box(name="b", function="f"), Box(name="a", missing=True)),
        arrows=(Arrow(source="a", target="b"),),
    )

    assert draw(unfinished).splitlines() == [
        "w: 2 steps",
        "?  a  not there yet",
        "○  b  f              ← a",
    ]


def test_a_status_is_a_mark_and_a_word() -> None:
    names = ["waiting", "running", "done", "failed", "skipped", "cancelled", "new"]
    steps = diagram(alone=names)

    lines = draw(steps, {name: name for name in names}, {"done": "on n1"}).splitlines()

    assert [line.split() for line in lines[1:]] == [
        ["○", "waiting", "waiting"],
        ["►", "running", "running"],
        ["✓", "done", "done", "on", "n1"],
        ["✗", "failed", "failed"],
        ["»", "skipped", "skipped"],
        ["■", "cancelled", "cancelled"],
        ["○", "new", "new"],
    ]


def test_an_empty_flow_says_so() -> None:
    assert draw(diagram()) == "w: no steps"
    assert sentence(diagram()) == "no steps"


def test_a_very_long_flow_is_cut() -> None:
    chain = [(f"s{i}", f"s{i + 1}") for i in range(9_000)]

    lines = draw(diagram(*chain)).splitlines()

    assert lines[0] == "w: 9,001 steps"
    assert lines[-1] == "… and 8,941 more"
    assert len(lines) == 62


def test_a_graph_that_is_too_wide_is_left_to_the_names() -> None:
    edges = [("a", f"b{i}") for i in range(40)] + [(f"b{i}", "c") for i in range(40)]

    lines = draw(diagram(*edges)).splitlines()

    assert lines[2] == "○  b0   ← a"


def test_characters_that_do_not_print_are_shown_as_escapes() -> None:
    odd = Diagram(
        name="w",
        boxes=(Box(name="a\u202eb", function="f\n\x1b[31mg"),),
        arrows=(),
    )

    assert draw(odd).splitlines()[1:] == ["○  a\\u202eb  f\\n\\x1b[31mg"]


def test_wide_characters_keep_columns_aligned() -> None:
    steps = Diagram(
        name="w",
        boxes=(Box(name="東京", function="f"), Box(name="abc", function="g")),
        arrows=(),
    )

    assert draw(steps).splitlines()[1:] == ["○  東京  f", "○  abc   g"]
    assert columns("e\u0301") == 1


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [("abc", 3, "abc"), ("abcdef", 5, "ab…ef"), ("abcdef", 4, "ab…f")],
)
def test_long_text_loses_its_middle(text: str, most: int, shown: str) -> None:
    assert clipped(text, most) == shown
    assert printable(text) is text


def test_the_sentence_names_steps_and_what_they_wait_for() -> None:
    steps = diagram(
        ("a", "c"), ("b", "c"), *((f"s{i}", f"s{i + 1}") for i in range(30))
    )

    said = sentence(steps)

    assert said.startswith("34 steps: a; c after a and b; b; s0; s1 after s0; ")
    assert said.endswith("; and 14 more")
    assert sentence(diagram(alone=["only"])) == "1 step: only"


def test_inputs_maps_and_undo_functions_are_described_in_words() -> None:
    diagram = Diagram(
        name="w",
        boxes=(
            Box(name="sensor", kind="input"),
            Box(name="raw", function="ingest", undo="delete_raw", notes=("retry 2",)),
            Box(name="fits", kind="map", function="fit"),
        ),
        arrows=(
            Arrow(source="sensor", target="raw"),
            Arrow(source="raw", target="fits"),
        ),
    )

    lines = draw(
        diagram, {"raw": "undone", "fits": "fallback"}, counts={"fits": 12}
    ).splitlines()

    assert lines == [
        "w: 2 steps",
        "◇  sensor            input",
        "↶  raw     undone    ingest    ← sensor  retry 2, undo delete_raw",
        "↳  fits    fallback  fit \xd7 12  ← raw",
    ]
