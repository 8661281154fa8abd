"""What the bench measured, as text, as a frame and as a figure."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from msgspec.structs import replace

from mpreg_nb.view.benchmark import (
    COLUMNS,
    Bench,
    LatencyRow,
    MemoryRow,
    NodeShare,
    PeerRow,
    RateRow,
    ScalingRow,
    TransferRow,
    UnequalRow,
)

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
    per_s=20_000.0,
    per_s_min=15_000.0,
    per_s_max=25_000.0,
    goal_per_s=15_000.0,
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


ANSWERED = Bench(
    unit_us=60.0,
    quiet=True,
    latencies=(replace(CALL, mpreg_us=(870.0, 1240.0, 2600.0)),),
    rates=(
        MAP,
        RateRow(
            row="throughput, one connection",
            per_s=15_230.0,
            per_s_min=12_000.0,
            per_s_max=16_000.0,
            mpreg_per_s=1523.0,
        ),
    ),
    scaling=tuple(
        ScalingRow(
            row=f"scaling, {nodes} nodes",
            nodes=nodes,
            per_s=95.0 * nodes,
            per_s_min=90.0 * nodes,
            per_s_max=97.0 * nodes,
            times_one=0.98 * nodes,
            work_ms=10.0,
        )
        for nodes in (4, 5)
    ),
    unequal=(
        UnequalRow(
            row="mixed work, unequal nodes",
            per_s=120.0,
            per_s_min=110.0,
            per_s_max=122.0,
            most_per_s=125.0,
            mpreg_per_s=24.0,
            shares=(
                NodeShare(node="fast", share=0.75, speed_share=0.8),
                NodeShare(node="slow", share=0.25, speed_share=0.2),
            ),
        ),
    ),
    memory=(
        MemoryRow(
            row="memory, node and worker",
            memory_mb=45.0,
            memory_mb_min=44.0,
            memory_mb_max=46.0,
            processes=2,
        ),
    ),
)
ANSWERS = """\
call, worker process         0.150   0.120   0.240   0.480   2.00x   1.90 -  2.20x   8.00x   1.5x
map of 2,000, two nodes        20,000/s  15,000 - 25,000  goal 15,000/s
throughput, one connection     15,230/s  12,000 - 16,000
scaling, 4 nodes                  380/s  360 - 388  3.92x one node, pauses of 10 ms
scaling, 5 nodes                  475/s  450 - 485  4.90x one node, pauses of 10 ms
mixed work, unequal nodes         120/s  110 - 122  of 125/s that the nodes can do
  fast                            75% of the operations, 80% of the speed
  slow                            25% of the operations, 20% of the speed
memory, node and worker       45.0 MB  44.0 - 46.0  in 2 processes
                               MPREG says            here
latency, mean                     0.87 ms         0.15 ms     5.8x
latency, p95                      1.24 ms         0.24 ms     5.2x
latency, p99                      2.60 ms         0.48 ms     5.4x
throughput, one connection        1,523/s        15,230/s    10.0x
mixed work, unequal nodes            24/s           120/s     5.0x
scaling, 5 nodes                   linear  4.90x one node
memory, node and worker      low overhead           45 MB"""  # noqa: E501


def of_peer(row: str, peer: str, unit: str, value: float) -> PeerRow:
    return PeerRow(
        row=row, peer=peer, unit=unit, value=value, value_min=value, value_max=value
    )


COMPARED = Bench(
    unit_us=60.0,
    quiet=True,
    latencies=(),
    rates=(),
    peers=(
        of_peer("blocking call", "mpreg_nb", "us", 150.0),
        of_peer("blocking call", "joblib", "us", 11_070.4),
        of_peer("map of 2,000", "mpreg_nb", "/s", 150_000.0),
        of_peer("memory", "joblib", "MB", 100.0),
    ),
)
PEERS = """\
two workers each, the same loop     mpreg_nb       joblib
blocking call, µs                        150       11,070
map of 2,000, /s                     150,000            -
memory, MB                                 -          100"""


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPREG_NB_PLAIN", raising=False)


def test_the_table_shows_ratios_spreads_and_goals() -> None:
    assert str(BENCH) == repr(BENCH) == TABLE


def test_the_table_answers_each_figure_that_mpreg_gives_for_itself() -> None:
    assert str(ANSWERED).splitlines()[2:] == ANSWERS.splitlines()


def test_peers_have_a_column_each_in_a_table_of_their_own() -> None:
    assert str(COMPARED).splitlines()[1:] == PEERS.splitlines()


def test_the_frame_has_a_row_for_what_each_peer_took() -> None:
    frame = COMPARED.frame().set_index("row")

    assert frame.p50_us["blocking call: joblib"] == 11_070.4
    assert frame.per_s_max["map of 2,000: mpreg_nb"] == 150_000.0
    assert frame.memory_mb["memory: joblib"] == 100.0
    assert math.isnan(frame.per_s["memory: joblib"])


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
    assert math.isnan(table["per_s"][1])
    assert table["per_s"][2] == 20_000.0
    assert list(table["times_tcp"])[2:] == [pytest.approx(math.nan, nan_ok=True), 3.5]
    assert {str(dtype) for dtype in table.dtypes[1:]} == {"float64"}


def test_the_figure_has_titles_units_and_a_bar_a_row() -> None:
    figure = BENCH.plot()

    left, right = figure.axes
    assert left.get_title(loc="left") == "Time of calls and workflows"
    assert left.get_xlabel() == "time, bare echoes"
    assert right.get_title(loc="left") == "Rate of calls and workflows"
    assert right.get_xlabel() == "rate, per second"
    assert [t.get_text() for t in left.get_yticklabels()] == [CALL.row]
    assert len(left.patches) == len(right.patches) == 1
    assert "1 echo = 60 µs" in left.texts[0].get_text()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "p99",
        "goal of the median",
        "median, and its spread over the rounds",
    ]


def test_the_frame_has_the_figures_of_mpreg_and_a_row_for_the_share_of_each_node() -> (
    None
):
    table = ANSWERED.frame().set_index("row")

    call = table.loc["call, worker process"]
    assert list(call[["mpreg_mean_us", "mpreg_p95_us", "mpreg_p99_us"]]) == [
        870.0,
        1240.0,
        2600.0,
    ]
    assert table["mpreg_per_s"].dropna().to_dict() == {
        "throughput, one connection": 1523.0,
        "mixed work, unequal nodes": 24.0,
    }
    assert table["share"].dropna().to_dict() == {
        "mixed work, unequal nodes: fast": 0.75,
        "mixed work, unequal nodes: slow": 0.25,
    }
    assert table["times_one"]["scaling, 5 nodes"] == pytest.approx(4.9)
    assert table["memory_mb"]["memory, node and worker"] == 45.0


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]


def test_the_figure_compares_with_mpreg_and_shows_growth_and_shares() -> None:
    figure = ANSWERED.plot()

    beside, growth, shares = (
        axes
        for axes in figure.axes
        if axes.get_title(loc="left").startswith(("Beside", "Rate by", "Unequal"))
    )
    times = [5.8, 1240 / 240, 2600 / 480, 10.0, 5.0]
    assert widths(beside) == pytest.approx(times)
    assert "hold 45 MB" in beside.texts[0].get_text()
    linear, measured = growth.lines
    assert np.asarray(linear.get_xydata()).tolist() == [[4.0, 4.0], [5.0, 5.0]]
    assert np.asarray(measured.get_xydata()).tolist() == [
        [4.0, 0.98 * 4],
        [5.0, 0.98 * 5],
    ]
    assert widths(shares) == [75.0, 25.0]
    assert [t.get_text() for t in shares.get_yticklabels()] == ["fast", "slow"]


def test_the_plot_marks_what_was_not_measured() -> None:
    figure = Bench(unit_us=60.0, quiet=True, latencies=(), rates=()).plot()

    for axes in figure.axes:
        assert "not measured" in [text.get_text() for text in axes.texts]
