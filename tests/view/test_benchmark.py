"""What the bench measured, as text, as a frame and as a figure."""

import math

import pytest

from mpreg_nb.view.benchmark import COLUMNS, Bench, LatencyRow, RateRow, TransferRow

CALL = LatencyRow(
    row="call, worker process",
    mean_us=150.0,
    p50_us=120.0,
    p95_us=240.0,
    p99_us=480.0,
    p50_echoes=2.0,
    p99_echoes=8.0,
    p50_echoes_min=1.9,
    p50_echoes_max=2.2,
    goal_echoes=1.5,
)
MAP = RateRow(
    row="map of 2,000, two nodes",
    calls_per_s=20_000.0,
    calls_per_s_min=15_000.0,
    calls_per_s_max=25_000.0,
    goal_calls_per_s=15_000.0,
)
ARRAY = TransferRow(
    row="100 MB there and back",
    gb_per_s=5.0,
    gb_per_s_min=4.0,
    gb_per_s_max=6.0,
    times_tcp=3.5,
    goal_times_tcp=3.0,
)
BENCH = Bench(
    unit_us=60.0,
    quiet=True,
    latencies=(CALL,),
    rates=(MAP,),
    transfers=(ARRAY,),
    one_core=0.25,
)
TABLE = """\
unit: a bare websockets echo, p50 60 µs
mode: the echo stayed on one core in 25% of the looks
ms                            mean     p50     p95     p99     p50      its spread     p99   goal
call, worker process         0.150   0.120   0.240   0.480   2.00x   1.90 -  2.20x   8.00x   1.5x
map of 2,000, two nodes        20,000/s  15,000 - 25,000  goal 15,000/s
100 MB there and back         5.00 GB/s  4.00 - 6.00  3.5x raw TCP, goal 3.0x"""  # noqa: E501


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPREG_NB_PLAIN", raising=False)


def test_the_table_tells_ratios_spreads_and_goals() -> None:
    assert str(BENCH) == repr(BENCH) == TABLE


def test_it_says_where_processors_could_not_be_kept_awake() -> None:
    noisy = Bench(unit_us=60.0, quiet=False, latencies=(), rates=(MAP,))

    assert "cannot keep its processors awake" in str(noisy)


def test_in_plain_mode_there_are_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    bundle = BENCH._repr_mimebundle_()

    assert repr(BENCH) == "<bench of 3 rows: .frame() has the figures>"
    assert "20,000" not in bundle["text/html"]


def test_a_notebook_shows_the_table_as_it_is() -> None:
    bundle = BENCH._repr_mimebundle_()

    assert bundle["text/plain"] == TABLE
    assert "<pre" in bundle["text/html"]
    assert "call, worker process         0.150" in bundle["text/html"]


def test_the_frame_has_a_row_for_each_measurement_and_one_for_the_unit() -> None:
    table = BENCH.frame()

    assert list(table.columns) == list(COLUMNS)
    assert list(table["row"]) == ["bare echo", CALL.row, MAP.row, ARRAY.row]
    assert list(table["p50_us"])[:2] == [60.0, 120.0]
    assert list(table["p50_echoes"])[:2] == [1.0, 2.0]
    assert math.isnan(table["calls_per_s"][1])
    assert table["calls_per_s"][2] == 20_000.0
    assert list(table["times_tcp"])[2:] == [pytest.approx(math.nan, nan_ok=True), 3.5]
    assert {str(dtype) for dtype in table.dtypes[1:]} == {"float64"}


def test_the_figure_has_titles_units_and_a_bar_a_row() -> None:
    figure = BENCH.plot()

    left, right = figure.axes
    assert left.get_title(loc="left") == "Time of calls and workflows"
    assert left.get_xlabel() == "time, bare echoes"
    assert right.get_title(loc="left") == "Rate of calls"
    assert right.get_xlabel() == "rate, calls per second"
    assert [t.get_text() for t in left.get_yticklabels()] == [CALL.row]
    assert len(left.patches) == len(right.patches) == 1
    assert "1 echo = 60 µs" in left.texts[0].get_text()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "p99",
        "goal of the median",
        "median, and its spread over the rounds",
    ]


def test_what_was_not_measured_is_said() -> None:
    figure = Bench(unit_us=60.0, quiet=True, latencies=(), rates=()).plot()

    for axes in figure.axes:
        assert "not measured" in [text.get_text() for text in axes.texts]
