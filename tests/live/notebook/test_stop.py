"""Stop in a real kernel: the cell ends, so does the remote work, and calls go on."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.files import until_exists
from tests.support.kernel import Kernel, kernel
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

PROMPT_S = 2.0
"""At once, also on a busy machine; what is stopped would take a minute."""

SETUP = """%load_ext mpreg_nb
import asyncio, pathlib, time
import mpreg_nb as mp
mp.config("progress_after_s", 0.2)
cluster = mp.up(1)

@mp.function
def spin(folder):
    try:
        pathlib.Path(folder, "begun").touch()
        while True:
            pass
    finally:
        pathlib.Path(folder, "ended").touch()

spin_here = spin.local

@mp.function
async def wait(folder):
    try:
        pathlib.Path(folder, "begun").touch()
        await asyncio.sleep(60)
    finally:
        pathlib.Path(folder, "ended").touch()

@mp.function
def stubborn(folder):
    pathlib.Path(folder, "begun").touch()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

flow = mp.workflow("spins")
flow.step("spin", spin, flow.input("folder"))
"""

BLOCKING = {
    "call": "spin.call(folder)",
    "coroutine": "wait.call(folder)",
    "map": "spin.map([folder] * 20)",
    "result": "spin.submit(folder).result()",
    "run": "flow.run(folder=folder)",
    "waiting for a run": "flow.start(folder=folder).wait()",
    "line magic": "%mpreg call spin(folder)",
    "remote cell": "%%mpreg remote\n"
    "try:\n"
    "    pathlib.Path(folder, 'begun').touch()\n"
    "    while True:\n"
    "        pass\n"
    "finally:\n"
    "    pathlib.Path(folder, 'ended').touch()\n",
    "everywhere": "%%mpreg everywhere\nspin_here(folder)",
}
AWAITING = {
    "awaited call": "await spin.submit(folder)",
    "awaited coroutine": "await wait.submit(folder)",
    "awaited run": "await flow.start(folder=folder)",
    "several calls": "await asyncio.gather(*[wait.submit(folder) for _ in range(5)])",
    "async cluster": "async with mp.connect_async(*cluster.urls) as own:\n"
    "    await own.call(spin, folder)",
    "run of an async cluster": "async with mp.connect_async(*cluster.urls) as own:\n"
    "    ours = own.workflow('ours')\n"
    "    ours.step('spin', spin_here, folder)\n"
    "    await ours.run()",
    "map of an async cluster": "async with mp.connect_async(*cluster.urls) as own:\n"
    "    await own.map(wait, [folder] * 5)",
}


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left over is looked for once, when the kernel of all tests has ended."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPREG_NB_PLAIN", "0")
        with nothing_left(tmp_path_factory.mktemp("stop")), kernel() as made:
            made.set_up(SETUP)
            yield made


def stop_once_begun(front: Kernel, source: str, folder: Path) -> tuple[str, str, float]:
    """Run a cell and press Stop; return its error, traceback, and how long it took.

    On a busy machine that may be too long at times, not three times in a row.
    """
    for number in range(3):
        place = folder / str(number)
        place.mkdir()
        name, traceback, took_s = stopped(front, source, place)
        if took_s < PROMPT_S:
            break
    return name, traceback, took_s


def stopped(front: Kernel, source: str, folder: Path) -> tuple[str, str, float]:
    front.run(f"folder = {str(folder)!r}")
    cell = front.start(source)
    end = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < end:
        os.sched_yield()
    pressed = time.monotonic()
    front.interrupt()
    front.wait(cell)
    took_s = time.monotonic() - pressed
    assert cell.stream("stderr") == ""
    return *cell.error(), took_s


@pytest.mark.parametrize(
    ("source", "error"),
    [
        *((source, "KeyboardInterrupt") for source in BLOCKING.values()),
        *((source, "CancelledError") for source in AWAITING.values()),
    ],
    ids=[*BLOCKING, *AWAITING],
)
def test_stop_ends_the_cell_and_the_remote_work_and_the_next_call_works(
    front: Kernel, tmp_path: Path, source: str, error: str
) -> None:
    name, traceback, took_s = stop_once_begun(front, source, tmp_path)
    after = front.run("cluster.on(timeout=60).call(len, 'abc')")
    collected = front.run("import gc; gc.collect(); await asyncio.sleep(0)")

    assert name == error
    assert took_s < PROMPT_S
    assert "mpreg_nb/" not in traceback
    assert "concurrent/futures" not in traceback
    assert after.data()[-1]["text/plain"] == "3"
    for place in tmp_path.iterdir():
        until_exists(place / "ended")
    assert after.stream("stderr") + collected.stream("stderr") == ""


def test_function_that_ignores_stop_is_killed_with_its_worker(
    front: Kernel, tmp_path: Path
) -> None:
    name, _, took_s = stop_once_begun(front, "stubborn.call(folder)", tmp_path)
    after = front.run("cluster.on(timeout=60).call(len, 'abc')")

    assert name == "KeyboardInterrupt"
    assert took_s < PROMPT_S
    assert after.data()[-1]["text/plain"] == "3"


def test_stop_ends_what_is_shown_of_a_wait_and_nothing_comes_later(
    front: Kernel, tmp_path: Path
) -> None:
    front.run(f"folder = {str(tmp_path)!r}")
    cell = front.start("spin.call(folder)")
    front.wait_until(lambda: bool(cell.data()))
    front.interrupt()
    front.wait(cell)
    came = len(cell.messages)
    front.run("time.sleep(0.6)")

    updates = [m for m in cell.messages if m["msg_type"] == "update_display_data"]
    assert "spin on n1 · running" in cell.data()[0]["text/plain"]
    last = updates[-1]["content"]
    assert "spin on n1 · stopped after" in last["data"]["text/plain"]
    assert len(cell.messages) == came
