"""What is refused before anything runs."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.workflows.graph import MOST_STEPS, check_order, find_cycle


def refusal(*waits: tuple[str, set[str]]) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        check_order("w", waits)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_an_empty_workflow_is_refused() -> None:
    assert refusal() == (
        "workflow 'w' cannot run: it has no steps. "
        "Add one: flow.step(name, function, ...)"
    )


def test_two_steps_of_one_name_are_refused() -> None:
    assert "2 steps are named 'a'" in refusal(("a", set()), ("a", set()))


def test_an_unknown_step_is_refused_with_the_nearest_name() -> None:
    message = refusal(("clean", set()), ("stats", {"claen"}))

    assert message == (
        "workflow 'w' cannot run: step 'stats' refers to 'claen', which is not a "
        "step of this workflow. Did you mean 'clean'?"
    )


def test_an_unknown_step_unlike_any_other_is_refused_with_all_names() -> None:
    message = refusal(("clean", set()), ("stats", {"zzz"}))

    assert message.endswith("The steps are: clean, stats")


def test_a_step_that_waits_for_itself_is_refused() -> None:
    assert "step 'a' waits for itself" in refusal(("a", {"a"}))


def test_a_cycle_is_shown() -> None:
    message = refusal(("c", {"b"}), ("a", {"c"}), ("b", {"a"}), ("d", {"a"}))

    assert "in a cycle: a → b → c → a (each gives its result to the next)" in message


def test_a_very_long_cycle_is_shown_in_part() -> None:
    size = 9_000
    waits = [(f"s{i:04}", {f"s{(i - 1) % size:04}"}) for i in range(size)]

    message = refusal(*waits)

    assert "s0000 → s0001 → s0002 → s0003 → s0004 → s0005 → … 8,992 more …" in message
    assert message.endswith(
        "s8998 → s8999 → s0000 (each gives its result to the next). "
        "Remove one of these references"
    )


def test_all_faults_are_reported_at_once_up_to_five() -> None:
    message = refusal(*((f"s{i}", {f"x{i}"}) for i in range(7)))

    assert message.count("which is not a step of this workflow") == 5
    assert message.endswith("(and 2 more)")


def test_one_step_more_than_the_limit_is_refused() -> None:
    waits = [(f"s{i}", set[str]()) for i in range(MOST_STEPS)]

    check_order("w", waits)

    assert "it has 10,001 steps, and a workflow may have 10,000" in refusal(
        *waits, ("one more", set())
    )


def test_a_chain_as_long_as_a_workflow_may_be_is_accepted() -> None:
    chain = [("s0", set[str]())]
    chain += [(f"s{i}", {f"s{i - 1}"}) for i in range(1, MOST_STEPS)]

    check_order("w", chain)
    check_order("w", chain[::-1])


@given(st.integers(2, 30), st.randoms(use_true_random=False))
def test_a_graph_without_a_cycle_has_none_and_one_edge_back_makes_one(
    size: int, rng: random.Random
) -> None:
    dependencies = {
        str(i): {str(j) for j in range(i) if rng.random() < 0.3} for i in range(size)
    }
    assert find_cycle(dependencies) == ()
    first, last = 0, size - 1
    dependencies[str(last)].add(str(first))

    dependencies[str(first)].add(str(last))
    cycle = find_cycle(dependencies)

    assert len(cycle) >= 3
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    for giver, taker in pairwise(cycle):
        assert giver in dependencies[taker]
