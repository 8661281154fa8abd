"""Boxes and arrows find their places."""

import random
import time
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg_nb.view.graph_layout import MOST_BENDS, Layers, Layout, Size, arrange

BOX = Size(along=60.0, across=100.0)


def arranged(*edges: tuple[str, str], alone: tuple[str, ...] = ()) -> Layout:
    names = dict.fromkeys([*alone, *(name for edge in edges for name in edge)])
    return arrange(dict.fromkeys(names, BOX), edges)


def test_nothing_takes_no_room() -> None:
    layout = arrange({}, [])

    assert layout == Layout(boxes={}, edges={}, size=Size(along=0.0, across=0.0))


def test_a_chain_is_straight() -> None:
    layout = arranged(("a", "b"), ("b", "c"), ("c", "d"))

    assert {place.across for place in layout.boxes.values()} == {50.0}
    assert layout.size == Size(along=4 * 60.0 + 3 * 40.0, across=100.0)


def test_boxes_without_arrows_stand_side_by_side() -> None:
    layout = arranged(alone=("a", "b", "c"))

    assert [place.across for place in layout.boxes.values()] == [50.0, 166.0, 282.0]
    assert layout.size == Size(along=60.0, across=332.0)


def test_what_fans_out_and_in_stands_in_the_middle() -> None:
    layout = arranged(
        ("a", "b1"), ("a", "b2"), ("a", "b3"), ("b1", "c"), ("b2", "c"), ("b3", "c")
    )

    middle = layout.boxes["b2"].across
    assert layout.boxes["a"].across == middle
    assert layout.boxes["c"].across == middle


def test_a_long_arrow_goes_around_the_boxes_between() -> None:
    layout = arranged(("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"))

    path = layout.edges["a", "d"]

    for name in ("b", "c"):
        box = layout.boxes[name]
        beside = [point for point in path if abs(point.along - box.along) <= 30.0]
        assert len(beside) == 2
        assert all(abs(point.across - box.across) >= 50.0 for point in beside)


def test_an_arrow_begins_and_ends_at_the_borders_of_its_boxes() -> None:
    layout = arranged(("a", "b"))

    first, last = layout.edges["a", "b"]

    assert (first.along, first.across) == (60.0, 50.0)
    assert (last.along, last.across) == (100.0, 50.0)


def test_a_step_that_only_gives_stands_close_to_what_takes_it() -> None:
    layout = arranged(("a", "b"), ("b", "c"), ("late", "c"))

    assert layout.boxes["late"].along == layout.boxes["b"].along


def test_arrows_that_need_not_cross_do_not() -> None:
    edges = [("a", "y"), ("b", "x"), ("c", "z"), ("x", "q"), ("y", "p"), ("z", "r")]

    graph = Layers(sorted({name for edge in edges for name in edge}), edges)
    graph.order()

    places = [{key: row.index(key) for key in row} for row in graph.rows]
    for upper, lower in pairwise(range(len(graph.rows))):
        between = [edge for edge in edges if edge[0] in places[upper]]
        for (s1, t1), (s2, t2) in combinations(between, 2):
            before = places[upper][s1] - places[upper][s2]
            after = places[lower][t1] - places[lower][t2]
            assert before * after >= 0


def test_a_cycle_is_drawn_with_one_arrow_going_back() -> None:
    layout = arranged(("a", "b"), ("b", "c"), ("c", "a"))

    backward = [
        edge for edge, path in layout.edges.items() if path[0].along > path[-1].along
    ]

    assert backward == [("c", "a")]


def test_arrows_both_ways_between_two_boxes_are_both_drawn() -> None:
    layout = arranged(("a", "b"), ("b", "a"))

    assert layout.edges["a", "b"] == layout.edges["b", "a"][::-1]


def test_arrows_to_nowhere_and_to_oneself_are_left_out() -> None:
    layout = arrange({"a": BOX}, [("a", "a"), ("a", "gone"), ("gone", "a")])

    assert layout.edges == {}


def test_a_box_may_be_named_like_a_number() -> None:
    layout = arranged(("0", "1"), ("1", "2"), ("0", "2"))

    assert layout.size.across < 2 * 100.0


def test_a_graph_with_too_many_bends_is_drawn_with_straight_arrows() -> None:
    size = 150
    chain = [(f"s{i}", f"s{i + 1}") for i in range(size)]
    jumps = [("s0", f"s{i}") for i in range(2, size)]
    assert sum(range(1, size - 1)) > MOST_BENDS

    layout = arranged(*chain, *jumps)

    assert len(layout.edges["s0", f"s{size - 1}"]) == 2


def random_edges(rng: random.Random, size: int, reach: int) -> list[tuple[str, str]]:
    edges = []
    for target in range(1, size):
        near = range(max(0, target - reach), target)
        for source in rng.sample(near, min(len(near), rng.choice([1, 1, 2, 3]))):
            edges.append((f"s{source}", f"s{target}"))
    return edges


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 4),
)
def test_boxes_never_touch_and_all_is_inside(
    seed: int, size: int, reach: int, backward: int
) -> None:
    rng = random.Random(seed)
    edges = random_edges(rng, size, reach)
    edges += [(target, source) for source, target in edges[:backward]]
    sizes = {
        f"s{i}": Size(along=rng.uniform(20, 80), across=rng.uniform(40, 200))
        for i in range(size)
    }

    layout = arrange(sizes, edges)

    assert layout.boxes.keys() == sizes.keys()
    assert layout.edges.keys() == set(edges)
    for first, second in combinations(sizes, 2):
        along = abs(layout.boxes[first].along - layout.boxes[second].along)
        across = abs(layout.boxes[first].across - layout.boxes[second].across)
        assert (
            along >= (sizes[first].along + sizes[second].along) / 2 + 16.0 - 1e-6
            or across >= (sizes[first].across + sizes[second].across) / 2 + 16.0 - 1e-6
        )
    for name, place in layout.boxes.items():
        assert place.along - sizes[name].along / 2 >= -1e-6
        assert place.across - sizes[name].across / 2 >= -1e-6
        assert place.along + sizes[name].along / 2 <= layout.size.along + 1e-6
        assert place.across + sizes[name].across / 2 <= layout.size.across + 1e-6
    for path in layout.edges.values():
        assert all(0 <= point.across <= layout.size.across for point in path)
    assert arrange(sizes, edges) == layout


@pytest.mark.parametrize("reach", [3, 25, 200])
def test_two_hundred_steps_are_arranged_fast(reach: int) -> None:
    edges = random_edges(random.Random(7), 200, reach)
    sizes = {f"s{i}": BOX for i in range(200)}

    begun = time.perf_counter()
    arrange(sizes, edges)
    spent_s = time.perf_counter() - begun

    assert spent_s < 1.0
