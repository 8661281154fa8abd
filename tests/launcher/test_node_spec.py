from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.launcher.node_spec import (
    MOST_NODES,
    Difference,
    NodeSpec,
    Wanted,
    difference,
    read_spec,
)


def node(name: str, *resources: str) -> NodeSpec:
    return NodeSpec(name, frozenset(resources))


def words() -> Iterator[str]:
    yield "b:gpu"
    yield "a"


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (3, (node("n1"), node("n2"), node("n3"))),
        (
            {"gpu-1": {"gpu", "ml-models"}, "cpu-1": "cpu", "idle": ()},
            (node("gpu-1", "gpu", "ml-models"), node("cpu-1", "cpu"), node("idle")),
        ),
        (
            ["gpu-1:gpu,ml-models", "cpu-1:cpu"],
            (node("gpu-1", "gpu", "ml-models"), node("cpu-1", "cpu")),
        ),
        (words(), (node("b", "gpu"), node("a"))),
        ({"b", "a"}, (node("a"), node("b"))),
        (["a", NodeSpec("b", frozenset({"gpu"}))], (node("a"), node("b", "gpu"))),
        ("gpu-1:gpu", (node("gpu-1", "gpu"),)),
        ("a:x,y b", (node("a", "x", "y"), node("b"))),
        ("'big one':gpu b\n", (node("big one", "gpu"), node("b"))),
        (NodeSpec("a"), (node("a"),)),
        ({"3": "gpu"}, (node("3", "gpu"),)),
    ],
    ids=[
        "number",
        "dict",
        "words",
        "iterator",
        "set",
        "mixed",
        "word",
        "words in a string",
        "quoted words",
        "spec",
        "digits",
    ],
)
def test_every_way_of_asking_becomes_the_same_nodes(
    wanted: Wanted, nodes: tuple[NodeSpec, ...]
) -> None:
    assert read_spec(wanted) == nodes


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        (0, ValueError, "cannot start 0 nodes: the number must be from 1"),
        (-2, ValueError, "cannot start -2 nodes"),
        (MOST_NODES + 1, ValueError, f"from 1 to {MOST_NODES}"),
        (True, TypeError, r"True \(bool\) does not describe nodes"),
        (2.0, TypeError, r"2.0 \(float\) does not describe nodes. up takes a number"),
        (None, TypeError, r"None \(NoneType\) does not describe"),
        (b"gpu-1", TypeError, r"b'gpu-1' \(bytes\) does not describe"),
        ([], ValueError, "0 nodes are given"),
        ({}, ValueError, "0 nodes are given"),
        (["a", 1], TypeError, r"1 \(int\) does not describe nodes"),
        ("3", ValueError, r"For 3 nodes: mp.up\(3\)"),
        ("gpu-1:", ValueError, "has a colon but no resource"),
        ("", ValueError, "0 nodes are given"),
        (["a", "b", "a:gpu"], ValueError, "node 'a' is given twice"),
        ({"a/b": "gpu"}, ValueError, "cannot name a node"),
        ({1: "gpu"}, TypeError, "a node name must be a string, not int"),
        ({"a": "gpu,cpu"}, ValueError, "'gpu,cpu' cannot name a resource"),
        ({"a": 3}, TypeError, r"resources of node 'a' are .* not 3 \(int\)"),
        ({"a": None}, TypeError, r"resources of node 'a' are .* not None"),
        ({"a": b"gpu"}, TypeError, r"resources of node 'a' are .* not b'gpu'"),
        ({"a": {"gpu": 1}}, TypeError, r"resources of node 'a' are .* not \{'gpu'"),
        ("a:gpu,,cpu", ValueError, "'' cannot name a resource"),
    ],
)
def test_bad_input_is_named_with_what_is_accepted(
    wanted: Wanted, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        read_spec(wanted)


names = st.text("abcxyz-19", min_size=1).filter(lambda name: not name.isdecimal())
specs = st.builds(NodeSpec, names, st.frozensets(names, max_size=3))


@given(st.lists(specs, min_size=1, max_size=5, unique_by=lambda spec: spec.name))
def test_the_words_of_a_spec_read_back_as_it(nodes: list[NodeSpec]) -> None:
    assert read_spec([str(node) for node in nodes]) == tuple(nodes)


RUNNING = (node("n1"), node("n2"), node("n3", "gpu"))


def test_the_same_spec_again_changes_nothing() -> None:
    changes = difference(RUNNING, RUNNING)

    assert changes == Difference(start=(), restart=(), keep=RUNNING)
    assert changes.nothing


def test_a_larger_spec_starts_what_is_missing() -> None:
    changes = difference((*RUNNING, node("n4")), RUNNING)

    assert changes == Difference(start=(node("n4"),), restart=(), keep=RUNNING)
    assert not changes.nothing


def test_a_smaller_spec_leaves_the_others_alone() -> None:
    changes = difference((node("n1"),), RUNNING)

    assert changes.nothing
    assert changes.keep == RUNNING


def test_a_node_whose_resources_changed_is_started_again() -> None:
    changes = difference((node("n2", "gpu"),), RUNNING)

    assert changes.restart == (node("n2", "gpu"),)
    assert changes.keep == (node("n1"), node("n3", "gpu"))


def test_a_dead_node_is_started_again_where_it_is_wanted_and_else_not() -> None:
    changes = difference((node("n1"),), RUNNING, dead={"n1", "n2"})

    assert changes == Difference(
        start=(), restart=(node("n1"),), keep=(node("n3", "gpu"),)
    )
