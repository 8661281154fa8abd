import subprocess
import sys

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from matplotlib.figure import Figure

from mpreg_nb.client.journal import CallRow, Journal
from mpreg_nb.view.plots import MOST_FUNCTIONS, latency_figure
from tests.view.pictures import call


def journal(*functions: str, calls: int = 20) -> Journal:
    made = Journal()
    for place, function in enumerate(functions):
        for number in range(calls + place):
            made.add(call(function, "n1", 1000 * (number + 1)))
    return made


def figure(made: Journal) -> Figure:
    return latency_figure(made.histograms(), made.rows())


def test_each_function_has_a_curve_and_a_bar_of_its_parts() -> None:
    shown = figure(journal("train", "clean"))

    curves, bars = shown.axes
    assert [str(line.get_label()) for line in curves.lines] == [
        "clean (21)",
        "train (20)",
    ]
    assert [t.get_text().split("\n")[0] for t in bars.get_yticklabels()] == [
        "clean",
        "train",
    ]
    widths = [patch.get_width() for patch in bars.patches]  # type: ignore[attr-defined]
    assert len(widths) == 2 * 4
    assert round(sum(widths)) == 2 * 100


def test_a_figure_has_a_title_and_units_on_every_axis() -> None:
    for shown in (figure(journal("f")), figure(Journal())):
        curves, bars = shown.axes

        assert curves.get_title()
        assert bars.get_title()
        assert curves.get_xlabel().endswith(", %")
        assert curves.get_ylabel().endswith(", ms")
        assert bars.get_xlabel().endswith(", %")


def test_a_curve_ends_where_the_calls_are_too_few_to_know_more() -> None:
    (curve,) = figure(journal("f", calls=99)).axes[0].lines

    tens, milliseconds = np.asarray(curve.get_data(), dtype=float)
    assert tens.max() == pytest.approx(2)  # 99 percent
    assert milliseconds.max() >= 98
    assert (np.diff(milliseconds) >= 0).all()


def test_of_many_functions_those_called_most_are_shown_and_it_says_so() -> None:
    names = [f"f{number:02}" for number in range(MOST_FUNCTIONS + 3)]

    shown = figure(journal(*names))

    labels = [str(line.get_label()) for line in shown.axes[0].lines]
    assert [label.split()[0] for label in labels] == names[3:]
    title = shown.legends[0].get_title().get_text()
    assert title == "function (calls), the 8 most called of 11"


def test_a_name_is_no_formula() -> None:
    made = journal("$x^2$")

    assert figure(made)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_calls_that_took_no_time_at_all_can_be_drawn() -> None:
    histogram = HdrHistogram(1, 1_000_000, 3)
    histogram.record_value(1)
    nothing: CallRow = call("f", "n1", 0, queued_us=0, run_us=0, serialize_us=0)

    shown = latency_figure({("f", "n1"): histogram}, [nothing])

    assert shown._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_pyplot_is_left_alone() -> None:
    program = (
        "import sys; from mpreg_nb.view.plots import latency_figure;"
        "latency_figure({}, ())._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout == "False\n"
