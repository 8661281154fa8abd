"""The figure of routes: which node took how many calls of which function."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING

from mpreg_nb.view.data_frame import three_digits
from mpreg_nb.view.figures import (
    GRID,
    IN_BAR,
    dress,
    new_axes,
    new_figure,
    say_empty,
    short,
    subtitle,
)
from mpreg_nb.view.measured import Route, routes
from mpreg_nb.view.text import MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mpreg_nb.client.journal import CallRow

MOST_FUNCTIONS = 30
MOST_NODES = 40
"""More rows or columns could not be read."""

MOST_WRITTEN = 12
"""With more columns, cells have a colour and no figures."""

WEAKEST, STRONGEST = "#c6dff2", "#0b5a97"
"""Ends of the scale: one hue from light to dark, which all eyes can order.

Both show on light pages and on dark ones. Where no call went, there is no colour.
"""

DARK = 0.45
"""Part of the scale from which on white letters can be read better than black."""

SCALES = (10.0, 20.0, 50.0, 100.0)
"""Percent that the darkest colour stands for: with many nodes shares are small."""


def routes_figure(rows: "Iterable[CallRow]", nodes: Collection[str] = ()) -> "Figure":
    """Return a heat map of functions by nodes, coloured by share of the calls.

    rows: the calls, as in the frame of routes.
    nodes: have a column even if no call went there.
    """
    from matplotlib.colors import LinearSegmentedColormap

    taken = {(route.function, route.node): route for route in routes(rows)}
    totals: Counter[str] = Counter()
    for route in taken.values():
        totals[route.function] += route.calls
    busiest = sorted(totals, key=lambda name: (-totals[name], name))
    functions = sorted(busiest[:MOST_FUNCTIONS])
    columns = _columns({node for _, node in taken}, set(nodes))
    written = len(columns) <= MOST_WRITTEN
    height = 1.9 + (0.5 if written else 0.28) * max(len(functions), 2)
    width = max(6.5, 3.4 + (0.95 if written else 0.3) * len(columns))
    figure = new_figure(figsize=(width, height), dpi=100, layout="constrained")
    (axes,) = new_axes(figure)
    said = ["in each cell: calls and their median time"] if written else []
    if len(busiest) > len(functions):
        said.append(f"the {len(functions)} most called of {len(busiest)} functions")
    subtitle(axes, "Calls by function and node", "; ".join(said) if taken else "")
    axes.set_xlabel("node")
    axes.set_ylabel("function")
    if not taken:
        say_empty(axes, "no calls yet")
        return figure
    axes.spines[:].set_visible(False)
    shares = [
        [
            100 * taken[name, node].share if (name, node) in taken else nan
            for node in columns
        ]
        for name in functions
    ]
    most = 100 * max(
        route.share for (name, _), route in taken.items() if name in functions
    )
    scale = next(percent for percent in SCALES if most <= percent + 1e-9)
    colours = LinearSegmentedColormap.from_list("shares", [WEAKEST, STRONGEST])
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=scale, aspect="auto")
    label = "share of the function's calls, %"
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    dress(bar.ax)
    _name(axes, functions, columns, totals)
    for (name, node), route in taken.items():
        if written and name in functions:
            place = columns.index(node), functions.index(name)
            _write(axes, place, route, dark=100 * route.share >= DARK * scale)
    return figure


def _columns(taking: Collection[str], present: Collection[str]) -> list[str]:
    """Return the nodes to show: those that took calls first, if they are too many."""
    columns = sorted(taking)[:MOST_NODES]
    columns += sorted(set(present) - set(taking))[: MOST_NODES - len(columns)]
    return sorted(columns)


def _name(
    axes: "Axes",
    functions: Sequence[str],
    columns: Sequence[str],
    totals: Mapping[str, int],
) -> None:
    slanted = sum(len(node) for node in columns) > 60
    axes.set_xticks(
        range(len(columns)),
        [short(node, 16) or "no node" for node in columns],
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(
        range(len(functions)),
        [f"{short(name, 24)} ({totals[name]:,})" for name in functions],
    )
    axes.tick_params(length=0)
    # Lines around the cells: neighbours of one colour stay apart.
    axes.set_xticks([place - 0.5 for place in range(len(columns) + 1)], minor=True)
    axes.set_yticks([place - 0.5 for place in range(len(functions) + 1)], minor=True)
    axes.grid(which="minor", color=GRID, linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _write(axes: "Axes", place: tuple[int, int], route: Route, *, dark: bool) -> None:
    lines = [f"{route.calls:,}", f"{three_digits(route.p50_ms)} ms"]
    if route.errors:
        lines[0] += f"  {MARKS['failed']} {route.errors:,} failed"
    axes.text(
        *place,
        "\n".join(lines),
        ha="center",
        va="center",
        fontsize=8.5,
        color=IN_BAR if dark else "black",
    )
