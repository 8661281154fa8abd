"""A call after a registration never runs an older version."""

from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of

pytestmark = pytest.mark.live


def version(number: int) -> Any:
    """Return the function `answer` as an edited cell would define it."""
    namespace: dict[str, Any] = {}
    exec(f"def answer():\n    return {number}\n", namespace)  # noqa: S102
    return namespace["answer"]


def test_fifty_edits_are_seen_at_once_on_every_node() -> None:
    with mp.up(3, fresh=True) as cluster:
        for number in range(50):
            function = cluster.register(version(number))

            by_name = [cluster.on(node=n).call("answer") for n in ("n1", "n2", "n3")]
            by_object = [cluster.on(node=n).call(function) for n in ("n1", "n2", "n3")]

            assert by_name == [number] * 3
            assert by_object == [number] * 3


def test_function_object_runs_the_code_that_it_holds() -> None:
    with mp.up(1, fresh=True) as cluster:
        old = cluster.register(version(1))
        new = cluster.register(version(2))

        assert (old.call(), new.call(), cluster.call("answer")) == (1, 2, 2)


def test_unchanged_function_keeps_its_version() -> None:
    with mp.up(1, fresh=True) as cluster:
        first = cluster.register(version(1))
        again = cluster.register(version(1))

        assert first.card is not None
        assert again.card is not None
        assert first.card.version == again.card.version
        assert len(cluster.functions("answer")) == 1


def test_node_that_joins_later_serves_what_was_registered_before() -> None:
    with mp.up({"n1": set()}, fresh=True) as cluster:
        train = cluster.register(version(7), resources={"gpu"})
        assert train.card is not None
        assert train.card.nodes == ()

        cluster.add("gpu-1", {"gpu"})

        assert cluster.on("gpu", wait=60).call("answer") == 7
        assert cluster.on("gpu", node="gpu-1").call(train) == 7


def test_code_survives_the_node_where_it_was_registered() -> None:
    with mp.up(3, fresh=True) as cluster:
        answer = cluster.register(version(5))
        entry = parts_of(cluster).client.entry_node

        cluster.kill(entry)
        cluster.wait_for(entry, state="dead")

        assert answer.on(wait=60).call() == 5
        assert cluster.call("answer") == 5


def test_a_card_says_how_many_results_an_edit_made_stale() -> None:
    with mp.up(1, fresh=True) as cluster:
        cluster.register(version(1)).call()
        cluster.call("answer")
        flow = cluster.workflow("one step")
        flow.step("only", "answer")
        flow.run()

        second = cluster.register(version(2))
        first = cluster.register(version(1))
        again = cluster.register(version(1))

        assert "answer v1 → v2, 3 results are now stale" in repr(second)
        assert repr(first).endswith("answer v2 → v1")
        assert "→ v" not in repr(again)


def test_the_decorator_reports_stale_results_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mp.up(1, fresh=True):
        mp.function(version(1)).call()
        mp.function(version(1))
        assert capsys.readouterr().out == ""

        mp.function(version(2))

        assert capsys.readouterr().out == "answer v1 → v2, 1 result is now stale\n"
