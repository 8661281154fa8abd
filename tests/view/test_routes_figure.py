"""The figure of routes."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.view.figures import MOST_FUNCTIONS, routes_figure
from mpreg_nb.view.frames import routes_frame
from tests.support.builders import call

ROWS = [
    call("train", "gpu-1", 2_000),
    *(call("clean", "n1", 1_000 * (number + 1)) for number in range(3)),
    call("clean", "n2", 500, status="failed"),
]


def shares(figure: Figure) -> Any:
    """The share of each cell in percent; masked where no call went."""
    return figure.axes[0].images[0].get_array()


def said(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_colours_are_the_shares_of_the_frame() -> None:
    figure = routes_figure(ROWS)

    table = routes_frame(ROWS).pivot(index="function", columns="node", values="share")
    drawn = np.ma.filled(shares(figure), np.nan)
    assert drawn == pytest.approx(table.to_numpy() * 100, nan_ok=True)


def test_functions_and_nodes_are_named_and_cells_have_figures() -> None:
    figure = routes_figure(ROWS, ["n3", "n1"])

    axes = figure.axes[0]
    functions = [tick.get_text() for tick in axes.get_yticklabels()]
    nodes = [tick.get_text() for tick in axes.get_xticklabels()]
    assert functions == ["clean (4)", "train (1)"]
    assert nodes == ["gpu-1", "n1", "n2", "n3"]
    assert said(figure)[1:] == ["3\n2.00 ms", "1  ✗ 1 failed\n0.500 ms", "1\n2.00 ms"]


def test_the_figure_has_a_title_labels_and_a_scale_with_its_unit() -> None:
    figure = routes_figure(ROWS)

    axes, scale = figure.axes
    assert axes.get_title(loc="left") == "Calls by function and node"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("node", "function")
    assert scale.get_ylabel() == "share of the function's calls, %"
    assert axes.images[0].get_clim() == (0.0, 100.0)


def test_with_many_nodes_the_scale_is_shorter_and_cells_hold_no_figures() -> None:
    rows = [call("f", f"n{number}", 100) for number in range(20)]

    figure = routes_figure(rows)

    assert figure.axes[0].images[0].get_clim() == (0.0, 10.0)
    assert said(figure) == []


def test_of_many_functions_those_called_most_are_shown_and_it_says_so() -> None:
    rows: list[CallRow] = [
        call(f"f{number:02}", "n1", 100)
        for number in range(MOST_FUNCTIONS + 2)
        for _ in range(number + 1)
    ]

    figure = routes_figure(rows)

    assert len(shares(figure)) == MOST_FUNCTIONS
    assert said(figure)[0].endswith(f"the {MOST_FUNCTIONS} most called of 32 functions")


def test_calls_that_no_node_took_are_as_in_the_frame() -> None:
    rows = [call("f", "", 100, status="failed"), call("f", "n1", 100)]

    figure = routes_figure(rows)

    shown = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert shown == [node or "no node" for node in routes_frame(rows)["node"]]


def test_no_calls_are_no_error() -> None:
    figure = routes_figure([], ["n1"])

    assert said(figure) == ["no calls yet"]
