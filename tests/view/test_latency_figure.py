import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from mpreg_nb.client.statistics import CallLog, CallRow
from mpreg_nb.view.figures import FEW, MOST_CURVES, latency_figure
from mpreg_nb.view.palette import PARTS
from tests.support.builders import call


def journal(*functions: str, calls: int = 40) -> CallLog:
    made = CallLog()
    for place, function in enumerate(functions):
        for number in range(calls + place):
            made.add(call(function, "n1", 1000 * (number + 1)))
    return made


def figure(made: CallLog) -> Figure:
    return latency_figure(made.histograms(), made.rows())


def said(shown: Figure) -> list[str]:
    """What stands in the axes of the curves."""
    return [text.get_text() for text in shown.axes[0].texts]


def test_each_function_has_a_curve_and_a_bar_of_its_parts() -> None:
    shown = figure(journal("train", "clean"))

    curves, bars = shown.axes
    assert [str(line.get_label()) for line in curves.lines] == [
        "clean (41)",
        "train (40)",
    ]
    assert [t.get_text().split("\n")[0] for t in bars.get_yticklabels()] == [
        "clean",
        "train",
    ]
    widths = [patch.get_width() for patch in bars.patches]  # type: ignore[attr-defined]
    assert len(widths) == 2 * len(PARTS)
    assert round(sum(widths)) == 2 * 100


def test_a_figure_has_a_title_and_units_on_every_axis() -> None:
    for shown in (figure(journal("f")), figure(CallLog())):
        curves, bars = shown.axes

        assert curves.get_title(loc="left")
        assert bars.get_title(loc="left")
        assert curves.get_xlabel().endswith(", %")
        assert curves.get_ylabel().endswith(", ms")
        assert bars.get_xlabel().endswith(", %")


def test_a_curve_ends_where_the_calls_are_too_few_to_know_more() -> None:
    (curve,) = figure(journal("f", calls=99)).axes[0].lines

    tens, milliseconds = np.asarray(curve.get_data(), dtype=float)
    assert tens.max() == pytest.approx(2)  # 99 percent
    assert milliseconds.max() >= 98
    assert (np.diff(milliseconds) >= 0).all()


def test_few_calls_are_points_and_one_more_is_a_curve() -> None:
    few, curve = figure(journal("few", "many", calls=FEW - 1)).axes[0].lines

    assert few.get_linestyle() == "None"
    assert few.get_marker() == "o"
    assert len(np.asarray(few.get_xdata())) == FEW - 1
    milliseconds = np.asarray(few.get_ydata(), dtype=float)
    assert milliseconds == pytest.approx(np.arange(1, FEW), rel=0.001)
    assert curve.get_linestyle() != "None"


def test_the_points_of_few_calls_stand_in_the_middle_of_their_shares() -> None:
    shown = figure(journal("f", calls=2))

    (points,) = shown.axes[0].lines
    shares = 1 - 10.0 ** -np.asarray(points.get_xdata(), dtype=float)
    assert shares == pytest.approx([0.25, 0.75])
    assert f"fewer than {FEW} calls: a point each" in said(shown)


def test_each_curve_has_its_name_at_its_end_in_its_colour_and_no_two_overlap() -> None:
    shown = figure(journal(*(f"function-{letter}" for letter in "abcdefgh")))

    axes = shown.axes[0]
    labels = {text.get_text(): text for text in axes.texts}
    ends = [labels[str(line.get_label())] for line in axes.lines]
    shown.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ends]  # without their leaders
    assert [text.get_color() for text in ends] == [
        line.get_color() for line in axes.lines
    ]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])
        assert box.x1 <= shown.bbox.x1
    assert len(shown.legends) == 1  # of the parts


def test_waiting_for_a_node_is_a_part_of_its_own() -> None:
    made = CallLog()
    made.add(call("f", "n1", 1_000, waited_us=600, queued_us=0, run_us=300))

    bars = figure(made).axes[1]
    legend = [text.get_text() for text in figure(made).legends[0].get_texts()]

    widths = dict(zip(legend, [b.get_width() for b in bars.patches], strict=True))  # type: ignore[attr-defined]
    assert widths == pytest.approx(
        {"waited": 60, "queued": 0, "run": 30, "network": 5, "serialize": 5}
    )


def test_a_figure_brings_no_ground_and_its_ink_shows_on_white_and_on_black() -> None:
    png = figure(journal("f"))._repr_png_()  # type: ignore[attr-defined]

    opacity = imread(BytesIO(png))[:, :, 3]
    assert opacity[2, 2] == 0
    assert (opacity.min(), opacity.max()) == (0, 1)


def test_of_many_functions_those_called_most_are_shown_and_it_says_so() -> None:
    names = [f"f{number:02}" for number in range(MOST_CURVES + 3)]

    shown = figure(journal(*names))

    labels = [str(line.get_label()) for line in shown.axes[0].lines]
    assert [label.split()[0] for label in labels] == names[3:]
    assert "the 8 most called of 11 functions" in said(shown)


def test_a_name_is_no_formula() -> None:
    made = journal("$x^2$")

    assert figure(made)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_a_call_that_no_node_took_is_in_no_mean() -> None:
    made = journal("f", calls=1)
    refused = call("f", "", 99_000, status="failed", queued_us=0, run_us=0)
    made.add(refused)

    bars = figure(made).axes[1]

    assert [label.get_text() for label in bars.get_yticklabels()] == ["f\n1.00 ms"]


def test_calls_that_took_no_time_at_all_can_be_drawn() -> None:
    histogram = HdrHistogram(1, 1_000_000, 3)
    histogram.record_value(1)
    nothing: CallRow = call("f", "n1", 0, queued_us=0, run_us=0, serialize_us=0)

    shown = latency_figure({("f", "n1"): histogram}, [nothing])

    assert shown._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_pyplot_is_left_alone() -> None:
    program = (
        "import sys; from mpreg_nb.view.figures import latency_figure;"
        "latency_figure({}, ())._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout == "False\n"
