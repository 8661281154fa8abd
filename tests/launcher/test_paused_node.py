"""Nodes that stand still for a while, and always go on."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.launcher import paused_node
from mpreg_nb.launcher.paused_node import PausedNode, Pauses
from mpreg_nb.launcher.pid import ProcessId
from mpreg_nb.launcher.process import NodeProcess
from tests.support.leaks import nothing_left
from tests.support.node_processes import SOON_S, Start, worker_of
from tests.support.until import until

pytestmark = pytest.mark.live


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with nothing_left(tmp_path), Start(tmp_path) as start:
        yield start


def paused(node: NodeProcess, seconds: float) -> PausedNode:
    return PausedNode(node.name, node.stamp, seconds, node.log_path)


def stands_still(*processes: ProcessId) -> bool:
    states = {psutil.Process(process.pid).status() for process in processes}
    return states == {psutil.STATUS_STOPPED}


def test_node_and_worker_stand_still_and_go_on_when_the_time_is_over(
    start: Start,
) -> None:
    node = start()
    worker = worker_of(node)

    pause = paused(node, 1.5)
    stood_still = stands_still(node.stamp, worker)

    until(lambda: pause.is_over)
    assert stood_still
    assert not stands_still(node.stamp)
    assert not stands_still(worker)


def test_pause_can_be_ended_before_its_time(start: Start) -> None:
    node = start()
    worker = worker_of(node)
    pause = paused(node, 60)

    pause.end()
    pause.end()

    assert pause.is_over
    assert not stands_still(node.stamp)
    assert not stands_still(worker)


def test_second_pause_counts_from_now_on(start: Start) -> None:
    node = start()
    first = paused(node, 60)

    second = paused(node, 60)
    second.take_over_from(first)

    assert first.is_over
    assert not second.is_over
    assert stands_still(node.stamp)
    second.end()
    assert not stands_still(node.stamp)


def test_second_pause_begins_where_the_first_was_just_over(start: Start) -> None:
    node = start()
    first, second = paused(node, 60), paused(node, 60)
    first.end()  # lets the node go on under the second

    second.take_over_from(first)

    until(lambda: stands_still(node.stamp))
    second.end()


def test_node_goes_on_when_what_watches_it_is_killed(start: Start) -> None:
    node = start()
    worker = worker_of(node)
    pause = paused(node, 60)

    pause._child.popen.send_signal(signal.SIGKILL)

    until(lambda: pause.is_over)
    assert not stands_still(node.stamp)
    assert not stands_still(worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_node_goes_on_when_what_watches_it_is_asked_to_end(
    start: Start, number: signal.Signals
) -> None:
    node = start()
    pause = paused(node, 60)

    pause._child.popen.send_signal(number)

    until(lambda: pause.is_over)
    assert not stands_still(node.stamp)


def test_what_watches_a_node_ends_with_it(start: Start) -> None:
    node = start()
    pause = paused(node, 60)

    node.kill()

    until(lambda: pause.is_over)
    assert node.wait(SOON_S) == -signal.SIGKILL


def test_process_that_got_the_id_of_a_node_is_let_be(start: Start) -> None:
    node = start()
    before = ProcessId(pid=node.pid, started_s=node.stamp.started_s - 100)

    with pytest.raises(MpregError, match="it has ended"):
        PausedNode("n1", before, 60, node.log_path)

    assert not stands_still(node.stamp)


def test_interrupted_pause_leaves_the_node_running(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    before = set(psutil.Process().children())  # of other tests too

    def interrupted(self: PausedNode) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(paused_node.PausedNode, "_first_word", interrupted)
    with pytest.raises(KeyboardInterrupt):
        paused(node, 60)

    until(lambda: set(psutil.Process().children()) <= before)
    assert not stands_still(node.stamp)
    assert [t for t in threading.enumerate() if t.name == "mpreg_nb-nodes"]


def test_a_node_is_not_called_paused_once_it_runs_although_its_watcher_is_there(
    start: Start,
) -> None:
    node = start()
    pauses = Pauses(node.name, node.stamp, node.log_path)
    pauses.begin(30.0)
    stood_still = pauses.is_paused

    paused_node.release(node.stamp)  # as the watcher does just before it ends

    assert stood_still
    assert not pauses.is_paused
    pauses.end()
