"""When a node says how busy it is, and what it tells those who watch."""

import asyncio
import errno
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psutil
import pytest

from mpreg_nb.node import monitor
from mpreg_nb.node.monitor import Counters, LoadMonitor, SnapshotPublisher
from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.protocol.messages import Snapshot, Watch
from mpreg_nb.routing.catalog import Catalog

LONG_S = 1000.0


class Desk:
    """A node with so many calls, and what it told the cluster."""

    def __init__(self) -> None:
        self.running = 0
        self.told: asyncio.Queue[Load] = asyncio.Queue()
        self.load_monitor = LoadMonitor(
            running=lambda: self.running,
            queued=lambda: 0,
            is_idle=lambda: not self.running,
            slots=2,
            counters=Counters("n1"),
            tell=self.tell,
        )

    def tell(self, load: Load) -> int:
        self.told.put_nowait(load)
        return 2


def run(scene: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene(Desk())

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def _seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "NEWS_EVERY_S", LONG_S)


def test_answer_that_leaves_the_node_idle_reports_it_at_once() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        busy = desk.load_monitor.news()
        still_busy = desk.load_monitor.news()
        desk.running = 0
        idle = desk.load_monitor.news()
        still_idle = desk.load_monitor.news()

        assert busy is not None
        assert idle is not None
        assert (busy.running, idle.running) == (1, 0)
        assert still_busy is still_idle is None

    run(scene)


def test_gossip_reports_a_long_call_and_its_end() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        desk.load_monitor.changed()
        busy = await desk.told.get()
        desk.running = 0
        desk.load_monitor.changed()
        idle = await desk.told.get()

        assert (busy.running, idle.running) == (1, 0)
        assert idle.serial > busy.serial

    run(scene)


def test_answer_reports_an_idle_node_after_gossip_reported_a_busy_one() -> None:
    async def scene(desk: Desk) -> None:
        desk.load_monitor.news()
        desk.running = 1
        desk.load_monitor.changed()
        await desk.told.get()
        desk.running = 0

        assert desk.load_monitor.news() is not None

    run(scene)


def test_gossip_reports_at_once_that_a_busy_node_is_idle() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        desk.load_monitor.changed()
        await desk.told.get()
        desk.load_monitor.changed()  # the next report is due in a while

        desk.running = 0
        desk.load_monitor.changed()
        await asyncio.sleep(0)

        assert desk.told.get_nowait().running == 0
        desk.load_monitor.stop()

    run(scene)


def test_gossip_reports_an_idle_node_at_once_after_a_ping_reported_it_busy() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        desk.load_monitor.measure_for_peer()

        desk.running = 0
        desk.load_monitor.changed()
        await asyncio.sleep(0)

        assert desk.told.get_nowait().running == 0

    run(scene)


def test_gossip_reports_short_calls_no_more_often_than_long_ones() -> None:
    async def scene(desk: Desk) -> None:
        for _ in range(20):
            desk.running = 1
            desk.load_monitor.measure_for_peer()
            desk.running = 0
            desk.load_monitor.changed()
            await asyncio.sleep(0)

        assert desk.told.qsize() == 1
        desk.load_monitor.stop()

    run(scene)


def test_node_that_is_busy_again_does_not_report_that_it_is_idle() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        desk.load_monitor.measure_for_peer()
        desk.running = 0
        desk.load_monitor.changed()
        desk.running = 1
        desk.load_monitor.changed()

        assert (await desk.told.get()).running == 1

    run(scene)


def test_answer_reports_an_idle_node_after_a_ping_reported_a_busy_one() -> None:
    async def scene(desk: Desk) -> None:
        desk.load_monitor.news()
        desk.running = 1
        desk.load_monitor.measure_for_peer()
        desk.running = 0

        assert desk.load_monitor.news() is not None

    run(scene)


def test_same_load_is_sent_again_after_an_answer_with_another_load() -> None:
    async def scene(desk: Desk) -> None:
        desk.running = 1
        desk.load_monitor.changed()
        await desk.told.get()
        desk.running = 0
        desk.load_monitor.news()
        desk.running = 1
        desk.load_monitor.changed()

        assert (await desk.told.get()).running == 1

    run(scene)


def test_calls_that_came_and_went_meanwhile_are_not_reported() -> None:
    async def scene(desk: Desk) -> None:
        desk.load_monitor.changed()
        desk.load_monitor._tell_change()

        assert desk.told.empty()
        desk.load_monitor.stop()

    run(scene)


# --------------------------------------------------------------------- snapshots


class Watcher:
    """A link to a client that watches."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Snapshot] = asyncio.Queue()

    def send(self, message: Snapshot, parts: object = ()) -> None:
        self.told.put_nowait(message)


def names(snapshot: Snapshot) -> list[str]:
    return [offer.function for _, offer in snapshot.offers]


def watching(
    scene: Callable[
        [SnapshotPublisher, Callable[[str], None]], Coroutine[Any, Any, None]
    ],
) -> None:
    """Run `scene` with a publisher, and with what registers a function of a name."""

    async def bounded() -> None:
        catalog = Catalog("n1")
        publisher = SnapshotPublisher(
            "n1",
            members=lambda: (),
            own_load=Load,
            load_of=lambda node: None,
            catalog=catalog,
            counters=Counters("n1"),
        )

        def register(function: str) -> None:
            catalog.publish(Offer(function=function, version="1" * 32, origin="n1"))
            publisher.changed()

        async with asyncio.timeout(60):
            await scene(publisher, register)
        publisher.stop()

    asyncio.run(bounded())


def test_watchers_receive_all_functions_once_and_then_the_changed_ones() -> None:
    async def scene(
        publisher: SnapshotPublisher, register: Callable[[str], None]
    ) -> None:
        one, other = Watcher(), Watcher()
        register("a")
        publisher.watch(one, Watch(id=bytes(16), period_ms=1))  # type: ignore[arg-type]
        first = await one.told.get()

        register("b")
        second = await one.told.get()
        publisher.watch(other, Watch(id=bytes(16), period_ms=1))  # type: ignore[arg-type]
        whole = await other.told.get()
        register("c")

        assert (first.changed, names(first)) == (None, ["a"])
        assert (second.changed, names(second)) == (("b",), ["b"])
        assert (whole.changed, names(whole)) == (None, ["a", "b"])
        for watcher in (one, other):
            third = await watcher.told.get()
            assert (third.changed, names(third)) == (("c",), ["c"])

    watching(scene)


def test_a_single_request_gets_the_changes_since_the_last_answer_of_this_process() -> (
    None
):
    async def scene(
        publisher: SnapshotPublisher, register: Callable[[str], None]
    ) -> None:
        asker = Watcher()
        register("a")
        publisher.watch(asker, Watch(id=bytes(16)))  # type: ignore[arg-type]
        before = await asker.told.get()
        register("b")

        publisher.watch(asker, Watch(id=bytes(16), known=before.mark))  # type: ignore[arg-type]
        publisher.watch(asker, Watch(id=bytes(16), known=("other process", 9)))  # type: ignore[arg-type]

        assert names(await asker.told.get()) == ["b"]
        whole = await asker.told.get()
        assert (whole.changed, names(whole)) == (None, ["a", "b"])

    watching(scene)


BURN = """
import time
input()
begun = time.process_time()
while time.process_time() < begun + 0.5:
    pass
print(flush=True)
input()
"""


def test_load_has_the_processor_time_of_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "SAMPLE_S", 0.0)
    worker = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    begin, burnt = worker.stdin, worker.stdout

    async def scene(desk: Desk) -> None:
        begun_s = time.monotonic()
        desk.load_monitor.measure()
        begin.write(b"\n")
        begin.flush()
        burnt.readline()  # what is taken until then, the worker takes
        load = desk.load_monitor.measure()
        taken_s = time.monotonic() - begun_s

        assert load.cpu_percent / 100 * taken_s > 0.3

    try:
        run(scene)
    finally:
        worker.communicate()


def test_load_is_told_when_processes_cannot_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "SAMPLE_S", 0.0)

    def no_descriptor(process: psutil.Process) -> list[psutil.Process]:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene(desk: Desk) -> None:
        before = desk.load_monitor.measure()
        monkeypatch.setattr(psutil.Process, "children", no_descriptor)
        desk.running = 1

        load = desk.load_monitor.measure()

        assert load.running == 1
        assert load.memory_mb == before.memory_mb > 0

    run(scene)
