"""Workflows from async code, on a real cluster."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live

TOKEN = "5a" * 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True, token=TOKEN) as cluster:
        yield cluster


def passes(value: Any) -> Any:
    return value


def fails(*_: Any) -> None:
    raise ValueError("the card is gone")


def add(first: int, second: int) -> int:
    return first + second


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
                await asyncio.wait_for(run, 10)

    asyncio.run(main())

    assert cluster.on(timeout=10).call(add, 1, 2) == 3
