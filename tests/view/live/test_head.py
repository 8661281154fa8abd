"""Calls a second, from a count that is looked at now and then."""

import pytest

from mpreg_nb.view.live.head import KEPT_S, NOW_S, CallRate
from tests.support.builders import call

NOW = 1_750_000_000.0


def test_calls_of_each_second_are_shown_when_the_second_is_over() -> None:
    pace = CallRate()
    pace.take(tuple, 0, NOW)

    pace.take(tuple, 3, NOW + 0.4)
    pace.take(tuple, 5, NOW + 0.9)
    during = pace.rates()[-1]
    pace.take(tuple, 5, NOW + 1.1)

    assert during == 0.0
    assert pace.rates()[-2:] == [0.0, 5.0]
    assert len(pace.rates()) == KEPT_S
    assert pace.now == 5.0 / NOW_S


def test_calls_that_came_while_nobody_looked_are_spread_over_that_time() -> None:
    pace = CallRate()
    pace.take(tuple, 0, NOW)

    pace.take(tuple, 100, NOW + 10.0)

    assert pace.rates()[-10:] == [pytest.approx(10.0)] * 10
    assert pace.now == pytest.approx(10.0)


def test_after_more_than_a_minute_only_the_last_is_kept() -> None:
    pace = CallRate()
    pace.take(tuple, 0, NOW)

    pace.take(tuple, 600, NOW + 600.0)

    assert sum(pace.rates()) == pytest.approx(600.0)
    pace.take(tuple, 600, NOW + 700.0)
    assert sum(pace.rates()) == 0.0


def test_calls_from_before_the_first_look_are_taken_from_their_rows() -> None:
    pace = CallRate()
    rows = [call("f", "n1", 1_000, started_at=NOW - back - 0.5) for back in (1, 1, 3)]

    pace.take(lambda: rows, 3, NOW)

    assert pace.rates()[-4:] == [1.0, 0.0, 2.0, 0.0]


def test_what_it_is_made_from_changes_only_while_there_are_calls() -> None:
    pace = CallRate()
    pace.take(tuple, 0, NOW)
    idle = pace.origin
    pace.take(tuple, 0, NOW + 5.0)
    still_idle = pace.origin
    pace.take(tuple, 1, NOW + 6.0)
    busy = pace.origin
    pace.take(tuple, 1, NOW + 7.0)

    assert idle == still_idle
    assert busy != still_idle
    assert pace.origin != busy
