"""A live drawing of a workflow, and the places that all drawings share."""

import random
import time
from itertools import pairwise

import pytest

from mpreg_nb.view import diagram_svg
from mpreg_nb.view.diagram_svg import (
    MARGIN,
    MOST_BOXES,
    Drawing,
    Figure,
    UndoBox,
    arrange_diagram,
    undo_name,
)
from mpreg_nb.view.markup import Element
from mpreg_nb.view.palette import GOOD
from mpreg_nb.workflows.graph import Arrow, Box, Diagram

DIAGRAM = Diagram(
    name="w",
    boxes=(
        Box(name="sensor", kind="input"),
        Box(name="raw", function="ingest", undo="delete_raw"),
        Box(name="fits", kind="map", function="fit", resources=("gpu",)),
        Box(name="report", function="render", notes=("retry 2",)),
    ),
    arrows=(
        Arrow(source="sensor", target="raw"),
        Arrow(source="raw", target="fits"),
        Arrow(source="fits", target="report"),
        Arrow(source="raw", target="report", order_only=True),
    ),
)
STATES = {"raw": "done", "fits": "running", "report": "waiting"}
DETAILS = {"raw": "on n1, 1.20 s", "fits": "7 of 12 done"}


def long_chain() -> Diagram:
    names = [f"s{number}" for number in range(12)]
    return Diagram(
        name="w",
        boxes=tuple(Box(name=name, undo="take_back") for name in names),
        arrows=tuple(
            Arrow(source=left, target=right) for left, right in pairwise(names)
        ),
    )


def live(diagram: Diagram = DIAGRAM) -> dict[str, Element]:
    """The elements of a live drawing by their key."""
    drawing = Drawing(diagram, STATES, DETAILS, {"fits": 12}).live()
    assert drawing is not None
    return {part[1]["key"]: part for part in drawing[2:] if "key" in part[1]}


def test_each_box_of_a_live_drawing_says_what_is_in_it() -> None:
    drawn = live()

    boxes = {key: part[1] for key, part in drawn.items() if part[1].get("tip")}
    assert {key: box["aria-label"] for key, box in boxes.items()} == {
        "undo: raw": "delete_raw, undoes raw",
        "sensor": "sensor, input",
        "raw": "raw, ingest, done, on n1, 1.20 s",
        "fits": "fits, fit \xd7 12, running, 7 of 12 done",
        "report": "report, render, waiting",
    }
    assert boxes["raw"]["tip"] == [
        "raw",
        [
            ["function", "ingest"],
            ["status", "done"],
            ["so far", "on n1, 1.20 s"],
            ["undone by", "delete_raw"],
        ],
        "",
    ]


def test_arrows_on_which_results_went_have_the_colour_of_what_is_done() -> None:
    drawn = live()

    inks = {key: part[2][1]["stroke"] for key, part in drawn.items() if "|" in key}
    assert {key for key, ink in inks.items() if ink == GOOD.ink.light} == {
        "raw|fits|data"
    }
    assert inks.keys() > {"raw|report|order", "raw|undo: raw|undo"}


@pytest.mark.parametrize("diagram", [DIAGRAM, long_chain()], ids=["across", "down"])
def test_nothing_overlaps_or_sticks_out(diagram: Diagram) -> None:
    states = dict.fromkeys((b.name for b in diagram.boxes), "done")

    drawn = arrange_diagram(diagram, states, {})

    boxes: list[Figure | UndoBox] = [*drawn.figures, *drawn.undos]
    for box in boxes:
        assert box.x >= MARGIN
        assert box.y >= MARGIN
        assert box.x + box.w <= drawn.width - MARGIN + 0.1
        assert box.y + box.h <= drawn.height - MARGIN + 0.1
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            beside = one.x + one.w <= other.x or other.x + other.w <= one.x
            below = one.y + one.h <= other.y or other.y + other.h <= one.y
            assert beside or below, (one, other)


@pytest.mark.parametrize("diagram", [DIAGRAM, long_chain()], ids=["across", "down"])
def test_arrows_end_at_the_border_of_their_box(diagram: Diagram) -> None:
    drawn = arrange_diagram(diagram, {}, {})
    boxes: dict[str, Figure | UndoBox] = {f.box.name: f for f in drawn.figures}
    boxes |= {undo_name(undo.step): undo for undo in drawn.undos}

    for way in drawn.ways:
        target = boxes[way.target]
        x, y = way.points[-1]
        on_side = x == pytest.approx(target.x, abs=0.2)
        on_top = y == pytest.approx(target.y, abs=0.2)
        assert on_side or on_top
        assert target.x - 0.2 <= x <= target.x + target.w + 0.2
        assert target.y - 0.2 <= y <= target.y + target.h + 0.2


def test_boxes_stay_where_they_are_while_steps_run() -> None:
    before = arrange_diagram(DIAGRAM, dict.fromkeys(STATES, "waiting"), {})
    after = arrange_diagram(DIAGRAM, STATES, {"raw": "on n1", "fits": "1 of 2 done"})

    assert before is after


def test_long_details_make_room() -> None:
    short = arrange_diagram(DIAGRAM, STATES, {})
    long = arrange_diagram(DIAGRAM, STATES, {"raw": "on a-node-of-a-long-name, 1.2 s"})

    assert long.figures[0].w > short.figures[0].w


def test_more_boxes_than_can_be_read_are_left_out() -> None:
    many = Diagram(
        name="w",
        boxes=tuple(Box(name=f"s{number}") for number in range(MOST_BOXES + 1)),
        arrows=(),
    )

    assert Drawing(many).live() is None


def test_two_hundred_steps_are_drawn_in_a_tenth_of_a_second() -> None:
    lots = random.Random(7)
    names = [f"step-{number}" for number in range(200)]
    diagram = Diagram(
        name="big",
        boxes=tuple(
            Box(name=name, function="work", resources=("gpu",), undo="back")
            for name in names
        ),
        arrows=tuple(
            Arrow(source=source, target=names[place])
            for place in range(1, 200)
            for source in sorted(set(lots.choices(names[:place][-25:], k=2)))
        ),
    )
    states = dict.fromkeys(names, "done")

    def drawn_in_s() -> float:
        began = time.process_time()
        diagram_svg.draw(diagram, states)
        return time.process_time() - began

    # Of this process alone, the best of several, and a wide bound: other programs
    # run here too. It is a tenth of a second on an idle machine of today.
    assert min(drawn_in_s() for _ in range(5)) < 0.3
