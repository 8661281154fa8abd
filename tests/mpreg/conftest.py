"""Async tests here run to their end on a loop of their own and leave nothing behind."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.leaks import nothing_left

LONGEST_TEST_S = 60.0


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    # The user's own token is looked for, and made, in a folder of the test.
    with nothing_left(tmp_path):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    given: dict[str, Any] = pyfuncitem.funcargs
    arguments = {name: given[name] for name in inspect.signature(test).parameters}
    errors: list[dict[str, Any]] = []

    async def body() -> set[str]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(LONGEST_TEST_S):
            await test(**arguments)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        return {repr(task) for task in rest if not task.cancelling()}

    left_tasks = asyncio.run(body())

    assert left_tasks == set()
    assert errors == []
    return True
