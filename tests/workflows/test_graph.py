"""References, steps and workflows as plain values."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.workflows.graph import (
    Reference,
    Step,
    Workflow,
    label,
    references,
    type_name,
)

Point = namedtuple("Point", "x y")


def test_references_are_found_in_all_containers_and_at_any_depth() -> None:
    value = (
        [Reference("a"), {"k": {Reference("b"), "text"}}],
        {Reference("c")["x"]: frozenset({Reference("d")})},
        Point(x=Reference("e"), y=("deep", [[[Reference("f", (0,))]]])),
    )

    found = references(value)

    assert set(found) == {
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

    assert references(loop) == (Reference("a"),)


def test_nesting_deeper_than_the_recursion_limit_is_searched() -> None:
    value: Any = Reference("bottom")
    for _ in range(50_000):
        value = [value]

    found = references(value)

    assert found == (Reference("bottom"),)
    while isinstance(value, list):  # freed level by level, not by recursion
        value = value.pop()


def test_a_string_is_never_a_reference() -> None:
    assert references(["raw", {"raw": "raw"}]) == ()


def test_a_key_need_not_be_hashable() -> None:
    rows = Reference("table")[1:3]
    columns = Reference("table")[["mean", "count"]]

    step = Step(name="plot", function="draw", args=([rows], columns))

    assert step.inputs == ("table",)


def test_a_reference_shows_how_it_is_written() -> None:
    reference = Reference("raw")["rows"][0]

    assert reference == Reference("raw", ("rows", 0))
    assert repr(reference) == "<ref raw['rows'][0]>"


def test_a_reference_cannot_be_iterated_or_searched() -> None:
    with pytest.raises(TypeError, match=r"<ref raw> cannot be iterated.*step\[0\]"):
        list(Reference("raw"))
    with pytest.raises(TypeError, match="<ref raw> cannot be searched with `in`"):
        _ = 3 in Reference("raw")
    with pytest.raises(TypeError, match="<ref raw> has no truth value"):
        bool(Reference("raw"))


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


def test_functions_are_called_by_their_names_in_drawings() -> None:
    from functools import partial

    class Model:
        def __call__(self) -> None: ...

    assert label("train") == "train"
    assert label(sorted) == "sorted"
    assert label(partial(sorted, reverse=True)) == "sorted"
    assert label(lambda row: row) == "lambda"
    assert label(Model()) == "Model"


def test_exception_classes_have_one_name_in_every_process() -> None:
    class Local(Exception):
        pass

    assert type_name(KeyError) == "builtins.KeyError"
    assert type_name(Local).endswith(
        "test_exception_classes_have_one_name_in_every_process.<locals>.Local"
    )
