"""References, steps and workflows as plain values."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.workflow.graph import (
    Reference,
    Step,
    Workflow,
    follow,
    label,
    references,
    type_name,
)

Point = namedtuple("Point", "x y")


def test_an_item_is_taken_before_an_attribute_of_the_same_name() -> None:
    value = {"keys": "the item"}

    assert follow(value, ("keys",)) == "the item"


def test_an_attribute_is_taken_where_there_is_no_such_item() -> None:
    assert follow(SimpleNamespace(mean=3), ("mean",)) == 3
    assert follow(Point(1, 2), ("y",)) == 2
    assert follow(Point(1, 2), (0,)) == 1


def test_a_path_goes_through_items_and_attributes_to_any_depth() -> None:
    value = {"rows": [SimpleNamespace(station={(1, 2): "north"})]}

    assert follow(value, ("rows", 0, "station", (1, 2))) == "north"


def test_an_empty_path_leads_to_the_value_itself() -> None:
    value = object()

    assert follow(value, ()) is value


def test_slices_are_items() -> None:
    assert Reference("rows")[1:3].resolve([1, 2, 3, 4]) == [2, 3]


@pytest.mark.parametrize(
    ("result", "path", "message"),
    [
        (
            {"mean": 1, "count": 2},
            ("meen",),
            "the result of step 'stats' has no item or attribute 'meen'. "
            "It is a dict with the keys 'mean', 'count'",
        ),
        (
            {"a": {1: "x"}},
            ("a", 2),
            "the result of step 'stats'['a'] has no item 2. "
            "It is a dict with the keys 1",
        ),
        ({}, ("a",), "has no item or attribute 'a'. It is a dict without keys"),
        ([1, 2], (2,), "has no item 2. It is a list of length 2"),
        ([1, 2], ("rows",), "no item or attribute 'rows'. It is a list of length 2"),
        (
            SimpleNamespace(mean=1),
            ("maen",),
            "It is a SimpleNamespace with the attributes mean",
        ),
        (None, ("a",), "has no item or attribute 'a'. It is a NoneType"),
        (
            dict.fromkeys("abcdefgh"),
            ("not a name",),
            "has no item 'not a name'. It is a dict with the keys "
            "'a', 'b', 'c', 'd', 'e', 'f', …",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    result: object, path: tuple[object, ...], message: str
) -> None:
    with pytest.raises(LookupError) as caught:
        Reference("stats", path).resolve(result)

    assert message in str(caught.value)


def test_an_error_inside_of_a_lookup_is_not_taken_for_a_missing_item() -> None:
    class Broken:
        def __getitem__(self, key: object) -> object:
            raise RuntimeError("the file is gone")

    with pytest.raises(RuntimeError, match="the file is gone"):
        follow(Broken(), ("a",))


def test_references_are_found_in_all_containers_and_at_any_depth() -> None:
    value = (
        [Reference("a"), {"k": {Reference("b"), "text"}}],
        {Reference("c")["x"]: frozenset({Reference("d")})},
        Point(x=Reference("e"), y=("deep", [[[Reference("f", (0,))]]])),
    )

    found = references(value)

    assert found == {
        Reference("a"),
        Reference("b"),
        Reference("c", ("x",)),
        Reference("d"),
        Reference("e"),
        Reference("f", (0,)),
    }


def test_containers_that_contain_themselves_are_searched_once() -> None:
    loop: list[Any] = [Reference("a")]
    loop.append({"again": loop})

    assert references(loop) == {Reference("a")}


def test_nesting_deeper_than_the_recursion_limit_is_searched() -> None:
    value: Any = Reference("bottom")
    for _ in range(50_000):
        value = [value]

    found = references(value)

    assert found == {Reference("bottom")}
    while isinstance(value, list):  # freed level by level, not by recursion
        value = value.pop()


def test_a_string_is_never_a_reference() -> None:
    assert references(["raw", {"raw": "raw"}]) == frozenset()


def test_a_reference_shows_how_it_is_written() -> None:
    assert repr(Reference("raw")["rows"][0]) == "<ref raw['rows'][0]>"


def test_a_reference_cannot_be_iterated_or_searched() -> None:
    with pytest.raises(TypeError, match=r"<ref raw> cannot be iterated.*step\[0\]"):
        list(Reference("raw"))
    with pytest.raises(TypeError, match="<ref raw> cannot be searched with `in`"):
        _ = 3 in Reference("raw")
    assert bool(Reference("raw")) is True


def test_a_reference_cannot_be_the_key_of_another() -> None:
    with pytest.raises(TypeError, match="<ref b> cannot be a key of <ref a>"):
        Reference("a")[Reference("b")]


def test_a_step_waits_for_what_its_arguments_refer_to_and_for_after() -> None:
    step = Step(
        name="report",
        function="render",
        args=([Reference("stats")],),
        kwargs={"title": Reference("raw")["station"]},
        after=("clean",),
    )

    assert step.inputs == ("raw", "stats")
    assert step.dependencies == {"raw", "stats", "clean"}


@dataclass
class Holder:
    inner: object


def test_references_that_only_pickling_finds_are_added_and_checked() -> None:
    workflow = Workflow(
        "w",
        (
            Step(name="a", function="f"),
            Step(name="b", function="f", args=(Holder(Reference("a")),)),
        ),
    )

    complete = workflow.including({"b": ["a"]})

    assert workflow.steps[1].inputs == ()
    assert complete.steps[1].inputs == ("a",)
    assert complete.steps[0] is workflow.steps[0]
    with pytest.raises(InvalidWorkflow, match="'a' waits for itself"):
        workflow.including({"a": ["a"]})


def test_the_last_steps_are_those_that_nobody_waits_for() -> None:
    workflow = Workflow(
        "w",
        (
            Step(name="a", function="f"),
            Step(name="b", function="f", args=(Reference("a"),)),
            Step(name="c", function="f", after=("a",)),
        ),
    )

    assert workflow.last_steps == ("b", "c")


def test_functions_are_called_by_their_names_in_drawings() -> None:
    from functools import partial

    class Model:
        def __call__(self) -> None: ...

    assert label("train") == "train"
    assert label(sorted) == "sorted"
    assert label(partial(sorted, reverse=True)) == "sorted"
    assert label(Model()) == "Model"


def test_exception_classes_have_one_name_in_every_process() -> None:
    class Local(Exception):
        pass

    assert type_name(KeyError) == "builtins.KeyError"
    assert type_name(Local).endswith(
        "test_exception_classes_have_one_name_in_every_process.<locals>.Local"
    )
