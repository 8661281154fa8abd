"""Which node took which function's calls: a heat map."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mpreg_nb.units import count, duration
from mpreg_nb.view.diagram_text import clipped
from mpreg_nb.view.frames import ROUTES, routes
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import BLUE, WIDE
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

NOBODY = "(no node)"
"""Stands for the node of calls that none took."""


def picture(rows: "Iterable[CallRow]") -> dict[str, Any]:
    """Return calls by function and node, both sorted; None where there were none."""
    found = routes(rows)
    functions = sorted({route.function for route in found})
    nodes = sorted({route.node for route in found})
    cells: list[list[dict[str, Any] | None]] = [[None] * len(nodes) for _ in functions]
    places = {node: place for place, node in enumerate(nodes)}
    lines = {function: line for line, function in enumerate(functions)}
    for route in found:
        cells[lines[route.function]][places[route.node]] = {
            "calls": route.calls,
            "errors": route.errors,
            "share": route.share,
            "p50_ms": route.p50_ms,
        }
    return {"functions": functions, "nodes": nodes, "cells": cells}


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the rows of `cluster.routes()`."""
    rows = [
        (function, node, *cell.values())
        for function, cells in zip(picture["functions"], picture["cells"], strict=True)
        for node, cell in zip(picture["nodes"], cells, strict=True)
        if cell is not None
    ]
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
    shares = [c["share"] for line in cells for c in line if c is not None]
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


def _totals(functions: list[str], cells: list[list[dict[str, Any] | None]]) -> Table:
    """Return a table without nodes: which took a call differs from run to run."""
    rows = []
    for function, line in list(zip(functions, cells, strict=True))[:MOST_ROWS]:
        errors = sum(cell["errors"] for cell in line if cell is not None)
        rows.append((function, f"{sum(map(_calls, line)):,}", f"{errors:,}"))
    head = ("function", "calls", "errors")
    return Table(head=head, rows=rows, numbers=head[1:])


def _calls(cell: dict[str, Any] | None) -> int:
    return cell["calls"] if cell is not None else 0


def _most(sizes: list[int], most: int) -> list[int]:
    """Return the places of the largest, in their order."""
    largest = sorted(range(len(sizes)), key=lambda place: -sizes[place])[:most]
    return sorted(largest)


def _cell(cell: dict[str, Any] | None, most: float) -> Cell:
    if cell is None:
        return ""
    errors = f", {count(cell['errors'], 'error')}" if cell["errors"] else ""
    said = f"{cell['share']:.0%}{errors} · {duration(cell['p50_ms'])}"
    return Shaded(said, BLUE, cell["share"] / most)
