"""Functions for workers: some work, some resist, some end their process."""

from typing import Any


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    import os

    return os.getpid()


def leave(code: int) -> None:
    import os
    import sys

    sys.stdout.write("about to leave\n")
    os._exit(code)


def fault() -> None:
    import ctypes

    ctypes.string_at(0)


def kill_self() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "slept"


def spin() -> None:
    while True:
        pass


def say_and_spin() -> None:
    import sys

    sys.stdout.write("spins\n")
    while True:
        pass


def say_and_sleep() -> None:
    import sys
    import time

    sys.stdout.write("sleeps\n")
    time.sleep(60)  # in the system, where a thread cannot be interrupted


class LeavesWhenOpened:
    """An argument that ends the process that unpacks it."""

    def __reduce__(self) -> Any:
        import os

        return os._exit, (4,)


class SpinsWhenOpened:
    """An argument that is never ready."""

    def __reduce__(self) -> Any:
        return say_and_spin, ()


def ignore_interrupts() -> None:
    import sys
    import time

    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            sys.stdout.write("ignored")


def ignore_terminate_too() -> None:
    import signal
    import sys
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            sys.stdout.write("ignored")


async def wait_long() -> None:
    import asyncio
    import sys

    sys.stdout.write("waits\n")
    await asyncio.sleep(60)


def wait_elsewhere(gate: str, number: int) -> int:
    import os
    import sys
    import time

    from mpreg_nb.call_context import BlockedOnCluster

    with BlockedOnCluster():
        sys.stdout.write(f"waits {number}\n")
        while not os.path.exists(gate):
            time.sleep(0.01)
    return number


async def wait_elsewhere_async(gate: str, number: int) -> int:
    import asyncio
    import os
    import sys

    from mpreg_nb.call_context import BlockedOnCluster

    with BlockedOnCluster():
        sys.stdout.write(f"waits {number}\n")
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240  made by the test
            await asyncio.sleep(0.01)
    return number


def interrupt() -> None:
    raise KeyboardInterrupt


class InterruptsWhenOpened:
    """An argument that raises what would end a thread."""

    def __reduce__(self) -> Any:
        return interrupt, ()


async def leave_loop(code: int) -> None:
    import asyncio
    import sys

    await asyncio.sleep(0)
    sys.exit(code)
