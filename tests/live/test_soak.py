"""The soak finds what grows, and measures each kind of process."""

import pytest

from tests.live.soak import ALLOWED, Row, judged, soak


def growing(
    begin: float, *, by: float, until: float = 1.0
) -> list[tuple[float, float]]:
    """Return a figure that grows for a share of the time."""
    steps = 100
    return [
        (float(at), begin + by * min(at / steps, until) / until) for at in range(steps)
    ]


@pytest.mark.parametrize(
    ("figure", "begin", "by"),
    [("memory MB", 60.0, 40.0), ("descriptors", 30.0, 20.0), ("files", 20.0, 60.0)],
)
def test_what_grows_all_the_time_is_found(figure: str, begin: float, by: float) -> None:
    assert judged("node", figure, growing(begin, by=by)).grew


@pytest.mark.parametrize("figure", ALLOWED)
def test_what_grows_at_the_beginning_alone_is_no_leak(figure: str) -> None:
    assert not judged("node", figure, growing(30.0, by=60.0, until=0.2)).grew


def test_a_single_peak_is_no_leak() -> None:
    series = [(float(at), 90.0 if at == 80 else 30.0) for at in range(100)]

    assert judged("kernel", "threads", series) == Row(
        "kernel", "threads", 30.0, 30.0, 30.0, 32.0
    )


@pytest.mark.live
def test_kernel_nodes_workers_and_files_are_measured() -> None:
    figures = soak(4.0, every_s=0.5, churn_s=2.0)

    measured = {(row.kind, row.figure) for row in figures.rows()}
    of_each = {"memory MB", "descriptors", "threads", "processes"}
    assert measured == {
        ("cluster", "files"),
        *(
            (kind, figure)
            for kind in ("kernel", "node", "worker")
            for figure in of_each
        ),
    }
