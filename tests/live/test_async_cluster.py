"""Async code on a real cluster: calls, workflows, frames and views."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster import calling
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.cluster.map_call import WINDOW
from tests.support.files import wait_for_file
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

TOKEN = "5a" * 32


@pytest.fixture(autouse=True)
def leaks() -> None:
    """Look for what is left over once, when the cluster of all tests has ended."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mp.Cluster]:
    with nothing_left(tmp_path_factory.mktemp("async")):
        with mp.up({"n1": "odd", "n2": ()}, fresh=True, token=TOKEN) as cluster:
            yield cluster


def passes(value: Any) -> Any:
    return value


def fails(*_: Any) -> None:
    raise ValueError("the card is gone")


def add(first: int, second: int) -> int:
    return first + second


def test_calls_are_made_by_name_by_view_and_by_namespace(cluster: mp.Cluster) -> None:
    async def main() -> list[Any]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            await connected.register(add)
            await connected.wait_for("n1", "n2")
            with pytest.raises(AttributeError, match="Did you mean 'add'"):
                _ = connected.fn.ad
            return [
                await connected.submit(add, 1, 2),
                await connected.on("odd").submit("add", 1, 3),
                await connected.fn.add(1, 4),
                await connected.on(node="n2").map("add", [1, 2], [3, 4]),
                "add" in dir(connected.fn),
            ]

    assert asyncio.run(main()) == [3, 4, 5, [4, 6], True]


def test_tasks_of_submit_wait_while_very_many_calls_have_no_outcome(
    cluster: mp.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "MOST_OUTSTANDING", 3)
    begun, go_on = tmp_path / "begun", tmp_path / "go"

    async def main() -> tuple[int, list[str]]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            tasks = [
                connected.submit(wait_for_file, str(begun), str(go_on))
                for _ in range(8)
            ]
            calls = parts_of(connected).client.calls
            while not begun.exists() or len(calls) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # in which the others would be sent, too
            outstanding = len(calls)
            go_on.touch()
            return outstanding, await asyncio.gather(*tasks)

    assert asyncio.run(main()) == (3, ["done"] * 8)


def test_a_map_sends_no_more_than_its_window_and_ends_with_its_first_error(
    cluster: mp.Cluster,
) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 10 * WINDOW:
            taken += 1
            yield taken

    async def main() -> list[int]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            with pytest.raises(ValueError, match="the card is gone"):
                await connected.map(fails, items())
            with pytest.raises(TypeError, match="at least one iterable"):
                await connected.map(fails)
            return await connected.map(add, range(2 * WINDOW), range(3 * WINDOW))

    found = asyncio.run(main())

    assert found == [2 * number for number in range(2 * WINDOW)]
    assert taken < 5 * WINDOW


def test_a_live_view_shows_nodes_and_runs_until_the_cluster_is_left(
    cluster: mp.Cluster,
) -> None:
    async def main() -> tuple[Any, list[str], list[str], str]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            view = await connected.watch("members", "runs")
            flow = connected.workflow("watched")
            flow.step("one", passes, 1)
            run = await flow.run()
            assert await connected.get_run(run.id) is run
            return (
                view,
                view.to_frame()["node"].tolist(),
                view.to_frame("runs")["workflow"].tolist(),
                view._repr_mimebundle_()["text/plain"],
            )

    view, nodes, runs, text = asyncio.run(main())

    assert nodes == ["n1", "n2"]
    assert runs == ["watched"]
    assert text.startswith("2 nodes: 2 alive")
    assert view.closed


def test_a_decorated_function_keeps_its_options_where_none_is_given(
    cluster: mp.Cluster,
) -> None:
    decorated = mp.Function(add, resources={"odd"}, cluster=lambda: cluster)

    async def main() -> list[str]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            await connected.register(decorated)
            await connected.register(decorated, name="again")
            await connected.register(decorated, "anywhere", "odd", idempotent=True)
            return [
                str((await connected.functions(n))["resources"].iloc[0])
                for n in ("add", "again", "anywhere")
            ]

    held = asyncio.run(main())
    same = cluster.register(decorated)
    other = cluster.register(decorated, name="other", isolation="thread")

    stacked = mp.function(name="stacked")(decorated)
    unnamed = mp.Function(lambda: 1, name="one", cluster=lambda: cluster)
    threaded = cluster.register(unnamed, isolation="thread")

    assert held == ["odd"] * 3
    assert same is decorated
    assert stacked.name == "stacked"
    assert stacked.resources == {"odd"}
    assert (threaded.name, threaded.isolation) == ("one", "thread")
    assert (other.name, other.isolation) == ("other", "thread")
    assert other.resources == {"odd"}
    assert cluster.call("other", 1, 2) == 3


def test_async_code_in_a_function_gives_up_its_slot_while_it_waits(
    cluster: mp.Cluster,
) -> None:
    async def outer(url: str, token: str) -> list[Any]:
        async with mp.connect_async(url, token=token) as connected:
            there = connected.on(node="n1")
            flow = connected.workflow("inner")
            flow.step("one", "echo", 1).on(node="n1")
            flow.step("two", add, mp.ref("one"), 1).on(node="n1")
            return [
                await there.call(add, 1, 2),
                await there.map(add, [1, 2], [3, 4]),
                await (await flow.run())["two"],
            ]

    url = cluster.urls[0]

    assert cluster.on(node="n1", timeout=60).call(outer, url, TOKEN) == [3, [4, 6], 2]


def test_a_flow_is_run_started_and_planned_by_awaiting_it(cluster: mp.Cluster) -> None:
    async def main() -> tuple[Any, Any, list[str]]:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            flow = connected.workflow("async")
            doubled = flow.map("doubled", add, over=flow.input("rows"), second=1)
            flow.step("sum", sum, doubled)
            done = await flow.run(rows=[1, 2, 3])
            begun = await flow.start(rows=[])
            plan = await flow.plan(rows=[1])
            await begun
            return (
                await done.outputs(),
                await begun.result("doubled"),
                plan["step"].tolist(),
            )

    outputs, doubled, steps = asyncio.run(main())

    assert outputs == {"sum": 9}
    assert doubled == []
    assert steps == ["doubled", "sum"]


def test_a_failed_run_raises_where_it_is_awaited(cluster: mp.Cluster) -> None:
    async def main() -> Any:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            flow = connected.workflow("async saga")
            first = flow.step("first", passes, 1).undo(passes, mp.ref("first"))
            flow.step("rescued", fails).fallback(str)
            flow.step("bad", fails, first)
            with pytest.raises(mp.errors.WorkflowFailed) as caught:
                await flow.run()
            return caught.value

    error = asyncio.run(main())

    assert error.failed == ("bad",)
    assert error.undone == ("first",)
    assert error.done == ("rescued",)
    assert isinstance(error.exceptions[0], ValueError)


def test_values_of_a_run_are_unpickled_once_and_an_end_of_an_iteration_is_an_error(
    cluster: mp.Cluster,
) -> None:
    def ends_an_iteration() -> None:
        raise StopIteration("too early")

    async def main() -> None:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            flow = connected.workflow("values")
            flow.step("rows", passes, [1, 2])
            flow.step("ends", ends_an_iteration)
            run = await flow.start()
            with pytest.raises(mp.errors.WorkflowFailed):
                await run
            with pytest.raises(mp.errors.RemoteError, match="too early"):
                await run.result("ends")
            with pytest.raises(mp.errors.RemoteError, match="too early"):
                await run.outputs()
            assert await run.result("rows") is await run.result("rows")
            assert (await run.why("rows")).frame()["chosen"].any()

    asyncio.run(main())


def test_cancelling_the_await_of_a_run_cancels_it(cluster: mp.Cluster) -> None:
    def sleeps() -> None:
        import time

        time.sleep(60)

    async def main() -> None:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            flow = connected.workflow("async sleep")
            flow.step("sleeps", sleeps)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flow.run(), 0.5)
            run = await connected.get_run("async sleep")
            with pytest.raises(mp.errors.CallCancelled):
                await asyncio.wait_for(run, 60)

    asyncio.run(main())

    assert cluster.on(timeout=60).call(add, 1, 2) == 3


def test_a_report_is_written_by_awaiting_it(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    async def main() -> Path:
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            flow = connected.workflow("reported")
            flow.step("good", passes, "all is well")
            flow.step("bad", fails)
            run = await flow.start()
            with pytest.raises(mp.errors.WorkflowFailed):
                await run
            return await run.report(tmp_path / "r.html")

    page = asyncio.run(main()).read_text(encoding="utf-8")

    assert "all is well" in page
    assert "the card is gone" in page
