from dataclasses import dataclass
from typing import Any

import pytest

from mpreg_nb.errors import BadRequest, NotPicklable
from mpreg_nb.serialize.json_rpc import (
    pack_json,
    pack_json_call,
    unpack_json,
    unpack_json_call,
)
from mpreg_nb.serialize.pickle import pack, pack_call, unpack_call
from tests.support.cells import run_cell


@dataclass(frozen=True)
class Ref:
    step: str
    path: tuple[Any, ...] = ()
    literal: str | None = None

    def __mpreg_reference__(self) -> "Ref":
        return self


class Handle:
    def __init__(self, step: str) -> None:
        self.step = step

    def __mpreg_reference__(self) -> Ref:
        return Ref(self.step)


class Custom:
    def __init__(self, inside: object) -> None:
        self.inside = inside


def test_references_at_any_depth_become_results() -> None:
    args = ([Handle("raw"), {"key": (Ref("stats", ("mean",)),)}],)
    kwargs = {"custom": Custom({Ref("raw")})}

    parts, steps = pack_call(args, kwargs)
    args, kwargs = unpack_call(parts, [pack(5), pack({"mean": 0.5})])

    assert steps == ("raw", "stats")
    assert args == ([5, {"key": (0.5,)}],)
    assert kwargs["custom"].inside == {5}


def test_the_order_of_results_can_be_given() -> None:
    parts, steps = pack_call((Handle("b"), Handle("c")), {}, inputs=("a", "b"))

    args, _ = unpack_call(parts, [pack("A"), pack("B"), pack("C")])

    assert steps == ("a", "b", "c")
    assert args == ("B", "C")


def test_two_references_to_a_step_are_one_object() -> None:
    parts, _ = pack_call((Handle("raw"), Handle("raw")), {})

    (first, second), _ = unpack_call(parts, [pack([])])

    assert first is second


def test_arguments_of_the_notebook_travel_with_references() -> None:
    space = run_cell("class Point:\n    x = 1\np = Point()\nf = lambda x: x + 1")

    parts, steps = pack_call((space["p"], space["f"], Handle("raw")), {})
    (point, function, raw), _ = unpack_call(parts, [pack(1)])

    assert steps == ("raw",)
    assert (type(point), function(raw)) == (space["Point"], 2)


def test_paths_take_items_first_and_attributes_where_there_is_none() -> None:
    refs = (Ref("a", ("keys",)), Ref("a", ("deep", 1)), Ref("b", ("real",)))
    parts, _ = pack_call(refs, {})

    args, _ = unpack_call(parts, [pack({"keys": 1, "deep": [2, 3]}), pack(4 + 5j)])

    assert args == (1, 3, 4.0)


def test_a_missing_part_is_reported_with_the_existing_ones() -> None:
    parts, _ = pack_call((Ref("a", ("rows", "men")),), {})

    with pytest.raises(LookupError, match=r"'a'\['rows'\] has no .* 'men'.*'mean'"):
        unpack_call(parts, [pack({"rows": {"mean": 1}})])


@pytest.mark.parametrize(
    ("result", "expected"),
    [({"x": {"y": 1}}, 1), ({"x": 1}, "a.x.y"), ([1], "a.x.y"), ({}, "a.x.y")],
)
def test_a_literal_stays_where_a_key_is_missing(
    result: object, expected: object
) -> None:
    parts, steps = pack_call((Ref("a", ("x", "y"), literal="a.x.y"),), {})

    args, _ = unpack_call(parts, [pack(result)])

    assert steps == ("a",)
    assert args == (expected,)


def test_json_keeps_what_it_can_hold() -> None:
    import numpy as np

    value = {"a": np.float64(1.5), "b": np.arange(3), "c": {1}, "d": (None, True)}

    back = unpack_json((pack_json(value),))

    assert back == {"a": 1.5, "b": [0, 1, 2], "c": [1], "d": [None, True]}


@pytest.mark.parametrize("value", [object(), {"a": [lambda: 1]}, 1j])
def test_a_value_that_json_cannot_express_is_named(value: object) -> None:
    with pytest.raises(NotPicklable, match="JSON cannot hold it"):
        pack_json(value)


def test_json_arguments_have_results_in_the_place_of_their_names() -> None:
    payload = pack_json_call(
        ["a", {"a": "a.x"}, "a.gone", ["b.c"]], {"k": "plain"}, ["a", "b.c"]
    )

    args, kwargs = unpack_json_call((payload,), [(b'{"x": 1}',), (b"2",)])

    assert args == ({"x": 1}, {"a": 1}, "a.gone", [2])
    assert kwargs == {"k": "plain"}


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[[], {}, ["a"]]', b"\xff"])
def test_what_is_no_json_call_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        unpack_json_call((data,))
