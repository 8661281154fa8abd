"""How fast a count grows, and how long it will still take."""

import pytest

from mpreg_nb.cluster.call_progress import NOTES, Pace


def noted(*notes: tuple[float, int]) -> Pace:
    pace = Pace(0.0)
    for now, ended in notes:
        pace.note(ended, now)
    return pace


def test_a_steady_count_has_one_rate_and_a_time_left() -> None:
    pace = noted(*((float(second), 20 * second) for second in range(1, 11)))

    assert pace.per_s == pytest.approx(20)
    assert pace.mean_per_s == pytest.approx(20)
    assert pace.left_s(1_000) == pytest.approx(40)


def test_the_rate_is_that_of_the_latest_half() -> None:
    slow = [(float(second), second) for second in range(1, 11)]
    fast = [(10.0 + second, 10 + 100 * second) for second in range(1, 11)]

    pace = noted(*slow, *fast)

    assert pace.per_s == pytest.approx(100)
    assert pace.mean_per_s == pytest.approx(1010 / 20)
    assert pace.left_s(1_110) == pytest.approx(1)


def test_of_a_few_long_calls_the_rate_is_that_of_all_the_time() -> None:
    pace = noted((10.0, 2), (20.0, 4), (29.0, 4))

    assert pace.per_s == pytest.approx(4 / 29)
    assert pace.left_s(8) == pytest.approx(29)


def test_no_time_left_is_estimated_before_a_few_calls_have_ended() -> None:
    assert noted((5.0, 2)).left_s(100) is None
    assert noted((5.0, 3)).left_s(100) is not None


def test_what_has_ended_needs_no_more_time() -> None:
    pace = noted((5.0, 100))

    assert pace.left_s(100) is None
    assert pace.left_s(99) is None


def test_what_had_ended_before_the_wait_is_not_of_its_rate() -> None:
    pace = Pace(100.0, ended=50)
    pace.note(60, 110.0)

    assert pace.per_s == pytest.approx(1)
    assert pace.left_s(70) == pytest.approx(10)


def test_a_day_of_looks_holds_few_notes() -> None:
    pace = Pace(0.0)

    for look in range(1, 20_000):
        pace.note(look, look / 4)

    assert len(pace._notes) <= NOTES + 2
    assert pace.per_s == pytest.approx(4, rel=0.01)
