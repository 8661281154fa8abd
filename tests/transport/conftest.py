"""Async tests here run on both event loops and must leave nothing behind."""

import asyncio
import gc
import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

LONGEST_TEST_S = 60.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def open_sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
def loop_errors() -> list[dict[str, Any]]:
    """What reached the loop's exception handler; a test that expects some clears it."""
    return []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.fixturenames.append("loop_name")
        metafunc.parametrize("loop_name", list(LOOPS))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    given: dict[str, Any] = pyfuncitem.funcargs
    arguments = {name: given[name] for name in inspect.signature(test).parameters}
    errors: list[dict[str, Any]] = given.get("loop_errors", [])
    loop_name = str(pyfuncitem.callspec.params["loop_name"])
    before = open_sockets()

    async def body() -> set[str]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        async with asyncio.timeout(LONGEST_TEST_S):
            await test(**arguments)
        left = {
            task for task in asyncio.all_tasks() if task is not asyncio.current_task()
        }
        if left:  # asyncio's own, of a connection that ends just now, may be there
            await asyncio.wait(left, timeout=30.0)
        return {repr(task) for task in left if not task.done()}

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        left_tasks = runner.run(body())
    assert left_tasks == set()
    assert errors == []
    if open_sockets() - before:
        gc.collect()  # of those that only wait for it; a leak is what stays
    assert open_sockets() - before == set()
    return True
