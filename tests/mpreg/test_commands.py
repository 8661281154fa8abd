"""Which strings of a command are references, and what comes in their places."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.mpreg import RPCCommand
from mpreg_nb.mpreg.client import PackedCommand, last_commands, pack_commands
from mpreg_nb.serialize.pickle import pack, unpack_call


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Boxed:
    value: Any


class Words(str):
    """A string of a class of its own."""


def packed_one(
    *args: Any, others: tuple[str, ...] = ("a", "b"), **kwargs: Any
) -> PackedCommand:
    """Pack a command with these arguments, beside others of these names."""
    commands = [RPCCommand(name, "f") for name in others]
    return pack_commands([*commands, RPCCommand("me", "f", args, kwargs)])[-1]


def got(packed: PackedCommand, **results: Any) -> Any:
    """What the function gets, where these are the results of the others."""
    return unpack_call(packed.parts, [pack(results[name]) for name in packed.inputs])


def test_a_name_is_replaced_by_the_result() -> None:
    packed = packed_one("a", 1, key="b")

    assert packed.inputs == ("a", "b")
    assert got(packed, a=[1], b={2}) == (([1], 1), {"key": {2}})


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        (["a", ["x", "a"]], [1, ["x", 1]]),
        (("a", "b"), (1, 2)),
        ({"k": "a"}, {"k": 1}),
        ({"a": "b"}, {"a": 2}),
        ({"a", "x"}, {1, "x"}),
        (frozenset({"a"}), frozenset({1})),
        ({"k": [{"deep": ("a",)}]}, {"k": [{"deep": (1,)}]}),
        (Point("a", "x"), Point(1, "x")),
        (OrderedDict(k="a", l="b"), OrderedDict(k=1, l=2)),
        ([Words("a")], [1]),
        ([Words("x")], [Words("x")]),
    ],
)
def test_containers_are_looked_into_at_any_depth(given: Any, filled: Any) -> None:
    (value, *_), _ = got(packed_one(given, "a", "b"), a=1, b=2)

    assert value == filled
    assert type(value) is type(filled)


def test_the_default_of_a_dict_is_kept() -> None:
    given: defaultdict[str, Any] = defaultdict(list, k="a")

    (value,), _ = got(packed_one(given), a=1)

    assert value == {"k": 1}
    assert value["new"] == []
    assert given == {"k": "a"}


def test_objects_are_not_looked_into() -> None:
    packed = packed_one(Boxed("a"))

    assert packed.inputs == ()
    assert got(packed) == ((Boxed("a"),), {})


def test_a_list_that_holds_itself_is_passed_on() -> None:
    given: list[Any] = ["x"]
    given.append(given)

    (value,), _ = got(packed_one(given))

    assert value[0] == "x"
    assert value[1] is value


def test_fields_are_followed_by_keys_of_dicts_only() -> None:
    result = {"rows": {"n": 3}, "list": [7], "text": "abc"}

    packed = packed_one("a.rows.n", "a.list.0", "a.text.upper", "a.rows.gone", "a.")

    assert packed.inputs == ("a",)
    assert got(packed, a=result)[0] == (
        3,
        "a.list.0",
        "a.text.upper",
        "a.rows.gone",
        "a.",
    )


def test_a_field_of_a_result_that_is_no_dict_leaves_the_string() -> None:
    packed = packed_one("a.rows")

    assert packed.inputs == ("a",)  # and still waits for it
    assert got(packed, a=[1])[0] == ("a.rows",)


def test_the_longest_name_counts() -> None:
    packed = packed_one("a.b", "a.b.k", others=("a", "a.b"))

    assert packed.inputs == ("a.b",)
    assert got(packed, **{"a.b": {"k": 1}})[0] == ({"k": 1}, 1)


@pytest.mark.parametrize("text", ["me", "me.x", "A", "ab", "x.a", " a", "", "."])
def test_other_strings_mean_themselves(text: str) -> None:
    packed = packed_one(text)

    assert packed.inputs == ()
    assert got(packed) == ((text,), {})


@pytest.mark.parametrize("args", ["SELECT *", {"k": 1}, 7, None, {1, 2}])
def test_args_that_are_no_tuple_are_one_argument(args: Any) -> None:
    (packed,) = pack_commands([RPCCommand("q", "f", args)])

    assert got(packed) == ((args,), {})


def test_a_name_alone_is_one_argument_too() -> None:
    packed = pack_commands([RPCCommand("a", "f"), RPCCommand("b", "f", args="a")])[1]

    assert got(packed, a=[1]) == (([1],), {})


def test_the_last_commands_are_those_that_nobody_uses() -> None:
    packed = pack_commands(
        [
            RPCCommand("end", "f", ("mid.gone",)),
            RPCCommand("mid", "f", (["start"],)),
            RPCCommand("start", "f"),
            RPCCommand("alone", "f", ("alone",)),
        ]
    )

    assert last_commands(packed) == ["end", "alone"]


def test_circles_and_equal_names_are_refused() -> None:
    with pytest.raises(InvalidWorkflow, match="cycle"):
        pack_commands([RPCCommand("a", "f", "b.x"), RPCCommand("b", "f", ["a"])])
    with pytest.raises(InvalidWorkflow, match="2 steps are named 'a'"):
        pack_commands([RPCCommand("a", "f"), RPCCommand("a", "g")])


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a:b"},
        {"name": ""},
        {"fun": "a,b"},
        {"locs": {"g/pu"}},
        {"name": 5},
        {"kwargs": [1]},
        {"locs": [1]},
    ],
)
def test_bad_commands_are_refused_when_they_are_made(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        RPCCommand(**{"name": "a", "fun": "f", **bad})


def test_locs_may_be_one_name() -> None:
    assert RPCCommand("a", "f", locs="gpu").resources == {"gpu"}


def test_ten_thousand_commands_are_packed_in_a_moment() -> None:
    commands = [
        RPCCommand(f"c{number}", "f", (f"c{number - 1}.rows", "x"))
        for number in range(10_000)
    ]

    packed = pack_commands(commands)

    assert last_commands(packed) == ["c9999"]
