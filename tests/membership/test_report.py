from pathlib import Path

import pytest

from tests.membership import report


def test_the_report_has_a_table_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "build" / "simulation.png"

    code = report.main(["small", "--plot", str(plot)])

    printed = capsys.readouterr().out
    assert code == 0, printed
    for words in ("silent crash", "5% loss", "bytes/s", "us/message", "refuted p99 s"):
        assert words in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_figure_outside_of_its_bound_is_marked() -> None:
    row = report.agreed("join", "lan", 3, [0.5, 9.0], 1.5)

    assert not row.is_within
    assert "OUTSIDE" in report.printed([row])
