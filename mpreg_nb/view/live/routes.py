"""Calls by function and node: a heat map."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mpreg_nb.units import count, duration
from mpreg_nb.view.diagram_text import clipped
from mpreg_nb.view.frames import ROUTES, Route, routes
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import BLUE, WIDE
from mpreg_nb.view.live.charts import choice, empty, scrolled, tip
from mpreg_nb.view.markup import Element, element
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Shaded, Table

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.client.statistics import CallRow


MOST_ROWS = 30
MOST_NODES = 12
"""Of a still table: the functions and nodes with the most calls; the frame has all."""

LONGEST_NODE = 14
"""Characters of a node's name at the head of a column."""

DOT = "\N{MIDDLE DOT}"
"""Stands in a cell without calls."""

NOBODY = "(no node)"
"""Stands for the node of calls that no node accepted."""


def picture(rows: "Iterable[CallRow]") -> dict[str, Any]:
    """Return calls by function and node, both sorted; None where there were none."""
    found = routes(rows)
    functions = sorted({route.function for route in found})
    nodes = sorted({route.node for route in found})
    cells: list[list[Route | None]] = [[None] * len(nodes) for _ in functions]
    places = {node: place for place, node in enumerate(nodes)}
    lines = {function: line for line, function in enumerate(functions)}
    for route in found:
        cells[lines[route.function]][places[route.node]] = route
    return {"functions": functions, "nodes": nodes, "cells": cells}


# -------------------------------------------------------------------- drawing

TURNED_HEADS = 10
"""With more nodes their names stand upright."""

MEASURES: dict[str, tuple[str, Callable[[Route], float], Callable[[Route], str]]] = {
    "calls": ("calls", lambda cell: cell.calls, lambda cell: f"{cell.calls:,}"),
    "share": ("share", lambda cell: cell.share, lambda cell: f"{cell.share:.0%}"),
    "p50": (
        "median time",
        lambda cell: cell.p50_ms,
        lambda cell: duration(cell.p50_ms),
    ),
    "errors": ("errors", lambda cell: cell.errors, lambda cell: f"{cell.errors:,}"),
}
"""What a cell can show: its word, its value for the shade, its text."""


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return the calls as a heat map; each cell has the texts of all measures."""
    functions, nodes, cells = picture["functions"], picture["nodes"], picture["cells"]
    if not functions:
        return empty("No calls yet. Make one:", "train.call(rows)")
    found = [cell for line in cells for cell in line if cell is not None]
    most = {name: max(found, key=value) for name, (_, value, _) in MEASURES.items()}
    tops = tuple(value(most[name]) for name, (_, value, _) in MEASURES.items())
    corner = element("th", element("span", "Function"), scope="col")
    corner[1]["class"] = "mpreg-corner"
    heads = [
        element("th", element("span", name), scope="col", title=name, key=name)
        for name in (node or NOBODY for node in nodes)
    ]
    rows = [
        element(
            "tr",
            element("th", element("span", function), scope="row", title=function),
            *(
                _live_cell(function, node or NOBODY, cell, tops)
                for node, cell in zip(nodes, line, strict=True)
            ),
            key=function,
        )
        for function, line in zip(functions, cells, strict=True)
    ]
    table = element(
        "table",
        element("caption", "Calls by function and node", class_="mpreg-hidden"),
        element("thead", element("tr", corner, *heads)),
        element("tbody", *rows, data_walk="grid"),
        class_="mpreg-heat",
        role="grid",
        data_turned=len(nodes) > TURNED_HEADS,
    )
    words = {name: word for name, (word, _, _) in MEASURES.items()}
    return [
        element(
            "div",
            choice("Show", "measure", words),
            _scale(most),
            class_="mpreg-toolbar",
        ),
        scrolled(table, "Heat map"),
    ]


@lru_cache(maxsize=4_096)  # most cells are the same in the next picture
def _live_cell(
    function: str, node: str, cell: Route | None, tops: tuple[float, ...]
) -> Element:
    """Return a cell; its shades are relative to `tops`, the most of each measure."""
    place = {"role": "gridcell", "key": node, "data_item": f"{function}|{node}"}
    if cell is None:
        told = tip(f"{function} on {node}", note="No calls from here.")
        said = f"{function} on {node}: no calls"
        return element(
            "td", DOT, class_="mpreg-none", aria_label=said, tip=told, **place
        )
    median = duration(cell.p50_ms)
    told = tip(
        f"{function} on {node}",
        ("calls", f"{cell.calls:,}"),
        ("share", f"{cell.share:.0%}"),
        ("median", median),
        ("errors", f"{cell.errors:,}"),
    )
    heats = {
        name: (value(cell) / top if top else 0.0)
        for (name, (_, value, _)), top in zip(MEASURES.items(), tops, strict=True)
    }
    return element(
        "td",
        *(
            element("span", words(cell), class_=f"mpreg-number mpreg-of-{name}")
            for name, (_, _, words) in MEASURES.items()
        ),
        element("span", "\N{BLACK UP-POINTING TRIANGLE}", class_="mpreg-flag")
        if cell.errors
        else None,
        style=";".join(
            f"--{name}:{8 + 62 * heat:.0f}%" for name, heat in heats.items()
        ),
        aria_label=f"{function} on {node}: {count(cell.calls, 'call')}, "
        f"{count(cell.errors, 'error')}, median {median}",
        tip=told,
        **place,
    )


def _scale(most: Mapping[str, Route]) -> Element:
    """Return what the shades mean, for each measure."""
    steps = (
        element("i", class_="mpreg-heat-step", style=f"--mpreg-heat:{heat}%")
        for heat in (8, 24, 39, 55, 70)
    )
    return element(
        "span",
        element("span", "0"),
        element("span", *steps, class_="mpreg-heat-steps", aria_hidden="true"),
        *(
            element("span", words(most[name]), class_=f"mpreg-number mpreg-of-{name}")
            for name, (_, _, words) in MEASURES.items()
        ),
        element("span", "\N{BLACK UP-POINTING TRIANGLE} with errors"),
        class_="mpreg-scale mpreg-soft",
    )


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the rows of `cluster.routes()`."""
    rows = [tuple(cell) for line in picture["cells"] for cell in line if cell]
    return table_frame(ROUTES, rows)


def text(picture: dict[str, Any]) -> str:
    """Return the calls as a table of text."""
    table = _table(picture)
    return "no calls yet" if table is None else str(table)


def html(picture: dict[str, Any]) -> str:
    """Return the calls as a table whose cells are shaded by their share."""
    table = _table(picture)
    inner = "no calls yet" if table is None else table.html
    return f'<div style="{WIDE}">{inner}</div>'


def _table(picture: dict[str, Any]) -> Table | None:
    functions, nodes, cells = picture["functions"], picture["nodes"], picture["cells"]
    if not functions:
        return None
    if plain():
        return _totals(functions, cells)
    by_node = [
        sum(_calls(line[place]) for line in cells) for place in range(len(nodes))
    ]
    shown = _most(by_node, MOST_NODES)
    lines = _most([sum(map(_calls, line)) for line in cells], MOST_ROWS)
    heads = [clipped(nodes[place] or NOBODY, LONGEST_NODE) for place in shown]
    shares = [c.share for line in cells for c in line if c is not None]
    left_out = [
        count(len(names) - len(kept), word)
        for names, kept, word in (
            (functions, lines, "function"),
            (nodes, shown, "node"),
        )
        if len(names) > len(kept)
    ]
    return Table(
        head=["function", "calls", *heads],
        rows=[
            [
                functions[line],
                f"{sum(map(_calls, cells[line])):,}",
                *(_cell(cells[line][place], max(shares)) for place in shown),
            ]
            for line in lines
        ],
        numbers=["calls", *heads],
        more=f"… and {' and '.join(left_out)} more: cluster.routes()"
        if left_out
        else "",
    )


def _totals(functions: list[str], cells: list[list[Route | None]]) -> Table:
    """Return a table without nodes, because the node of a call differs between runs."""
    rows = []
    for function, line in list(zip(functions, cells, strict=True))[:MOST_ROWS]:
        errors = sum(cell.errors for cell in line if cell is not None)
        rows.append((function, f"{sum(map(_calls, line)):,}", f"{errors:,}"))
    head = ("function", "calls", "errors")
    return Table(head=head, rows=rows, numbers=head[1:])


def _calls(cell: Route | None) -> int:
    return cell.calls if cell is not None else 0


def _most(sizes: list[int], most: int) -> list[int]:
    """Return the positions of the largest values, in ascending order."""
    largest = sorted(range(len(sizes)), key=lambda place: -sizes[place])[:most]
    return sorted(largest)


def _cell(cell: Route | None, most: float) -> Cell:
    if cell is None:
        return ""
    errors = f", {count(cell.errors, 'error')}" if cell.errors else ""
    said = f"{cell.share:.0%}{errors} · {duration(cell.p50_ms)}"
    return Shaded(said, BLUE, cell.share / most)
