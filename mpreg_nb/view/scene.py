"""A drawn workflow as plain data, for a script that draws it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from mpreg_nb.view.places import (
    MOST_BOXES,
    Figure,
    Undo,
    Way,
    arrange_diagram,
    neck,
    undo_name,
)
from mpreg_nb.view.text import MARKS, function_of
from mpreg_nb.workflow.diagram import Diagram

CURVE_PIECES = 8
"""Straight pieces that stand for a curve."""


def scene(
    diagram: Diagram,
    states: Mapping[str, str],
    details: Mapping[str, str],
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return where the boxes and arrows of a run go, as data for a script.

    states: the status of each step, a word such as "running".
    details: more about the status, such as "on gpu-1, 1.2 s".
    counts: of a map, how many items it has.

    Returned: "width" and "height" in pixels; "boxes", each with name, kind (step,
    map, input or undo), function, resources, status, mark, detail, undo, x, y, w,
    h, where x and y are of the left upper corner; "arrows", each with from, to,
    kind (data, order or undo) and points, to be joined by straight lines, the last
    of them being the tip. What undoes a step is a box of its own, whose "undo" is
    that step.
    Of more than MOST_BOXES boxes none is returned: they could not be read.
    """
    if len(diagram.boxes) > MOST_BOXES:
        return {"width": 0.0, "height": 0.0, "boxes": [], "arrows": []}
    drawn = arrange_diagram(diagram, states, details)
    boxes: list[dict[str, Any]] = []
    for figure in drawn.figures:
        box = figure.box
        status = states.get(box.name, "")
        boxes.append(
            {
                "name": box.name,
                "kind": box.kind,
                "function": function_of(box, (counts or {}).get(box.name, 0)),
                "resources": list(box.resources),
                "status": status,
                "mark": MARKS.get(status, ""),
                "detail": details.get(box.name, ""),
                "undo": box.undo,
                **_rounded(figure),
            }
        )
    for undo in drawn.undos:
        boxes.append(
            {
                "name": undo_name(undo.step),
                "kind": "undo",
                "function": undo.function,
                "resources": [],
                "status": "",
                "mark": "",
                "detail": "",
                "undo": undo.step,
                **_rounded(undo),
            }
        )
    arrows = [
        {
            "from": way.source,
            "to": way.target,
            "kind": way.kind,
            "points": _pieces(way, sideways=drawn.sideways),
        }
        for way in drawn.ways
    ]
    return {
        "width": round(drawn.width, 1),
        "height": round(drawn.height, 1),
        "boxes": boxes,
        "arrows": arrows,
    }


def _rounded(figure: Figure | Undo) -> dict[str, float]:
    return {side: round(getattr(figure, side), 1) for side in ("x", "y", "w", "h")}


def _pieces(way: Way, *, sideways: bool) -> list[list[float]]:
    """Return the points of a way, its curves broken into straight pieces."""
    if way.kind == "undo":
        return [[round(x, 1), round(y, 1)] for x, y in way.points]
    places = [way.points[0]]
    for start, end in pairwise((*way.points[:-1], neck(way.points, sideways=sideways))):
        if start[0] == end[0] or start[1] == end[1]:
            places.append(end)
            continue
        for piece in range(1, CURVE_PIECES + 1):
            share = piece / CURVE_PIECES
            bent = share * share * (3 - 2 * share)  # level at both ends
            shares = (share, bent) if sideways else (bent, share)
            x, y = (
                left + (right - left) * part
                for left, right, part in zip(start, end, shares, strict=True)
            )
            places.append((x, y))
    places.append(way.points[-1])
    return [[round(x, 1), round(y, 1)] for x, y in places]
