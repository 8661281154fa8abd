"""Where labels of curves stand."""

from itertools import combinations

import pytest

from mpreg_nb.view.curve_labels import BESIDE, placed

HIGH = 16.0


def test_a_label_stands_right_of_the_end_of_its_curve() -> None:
    (label,) = placed([[(0, 50), (100, 80)]], [60], high=HIGH, top=200)

    assert (label.x, label.y) == (100 + BESIDE, 80)


def test_labels_of_curves_that_end_together_do_not_touch() -> None:
    curves = [[(0.0, 10.0), (100.0, 100.0 + place)] for place in range(8)]

    labels = placed(curves, [60] * 8, high=HIGH, top=200)

    assert not any(one.touches(other) for one, other in combinations(labels, 2))
    assert all(HIGH / 2 <= label.y <= 200 - HIGH / 2 for label in labels)


def test_a_label_hides_no_other_curve() -> None:
    short, long = [(0.0, 50.0), (100.0, 50.0)], [(0.0, 50.0), (300.0, 50.0)]

    label, other = placed([short, long], [60, 60], high=HIGH, top=200)

    assert abs(label.y - 50) > HIGH / 2
    assert other.y == 50


@pytest.mark.parametrize("y", [0.0, 200.0])
def test_a_label_stays_in_the_room(y: float) -> None:
    (label,) = placed([[(0, y), (100, y)]], [60], high=HIGH, top=200)

    assert HIGH / 2 <= label.y <= 200 - HIGH / 2


def test_where_there_is_no_room_at_all_a_label_stands_at_its_end() -> None:
    (label,) = placed([[(0, 5), (100, 5)]], [60], high=HIGH, top=10)

    assert label.y == 5
