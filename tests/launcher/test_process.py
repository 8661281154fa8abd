import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mpreg_nb.errors import StartFailed
from mpreg_nb.launcher.launcher import ReadyLine, wait_all_ready
from mpreg_nb.launcher.process import NodeProcess, ending
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.settings import NodeSettings
from tests.support.leaks import nothing_left
from tests.support.node_processes import SOON_S, Start, await_line, has_ended, worker_of

pytestmark = pytest.mark.live


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with nothing_left(tmp_path), Start(tmp_path) as start:
        yield start


def watching_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "mpreg_nb-nodes"]


def test_nodes_start_in_parallel_and_report_their_names(start: Start) -> None:
    nodes = [start(name=name, cluster_id="a" * 32) for name in ("n1", "n2", "n3")]

    said = wait_all_ready(nodes, SOON_S)

    assert said == tuple(
        ReadyLine(
            name=node.name,
            url="ws://127.0.0.1:7400",
            pid=node.pid,
            cluster_id="a" * 32,
        )
        for node in nodes
    )
    assert [node.poll() for node in nodes] == [None, None, None]
    assert repr(nodes[0]) == "<NodeProcess n1 ready>"
    assert len(watching_threads()) == 1


def test_the_watching_thread_ends_with_the_last_node(start: Start) -> None:
    node = start()

    node.kill()
    node.wait(SOON_S)
    for thread in watching_threads():
        thread.join(SOON_S)

    assert watching_threads() == []


def test_a_node_that_ends_at_once_fails_with_its_last_lines(start: Start) -> None:
    node = start("fails")

    with pytest.raises(StartFailed, match="it ended with exit code 3") as failed:
        node.wait_ready(SOON_S)

    assert failed.value.node == "n1"
    assert failed.value.log == (r"no luck\x1b[31m today",)
    assert node.wait(SOON_S) == 3
    assert repr(node) == "<NodeProcess n1 exit code 3>"


def test_a_wrong_option_fails_with_the_word_of_the_node(start: Start) -> None:
    node = start(cluster_id="not an id")

    with pytest.raises(StartFailed, match="is not 32 hexadecimal digits"):
        node.wait_ready(SOON_S)


def test_a_silent_node_is_ended_after_the_timeout(start: Start) -> None:
    node = start("silent")
    worker = worker_of(node)

    with pytest.raises(StartFailed, match=r"was not ready within 0.01 s"):
        node.wait_ready(0.01)

    assert node.poll() == -9
    assert has_ended(worker)


def test_one_failure_ends_all_that_started_with_it(start: Start) -> None:
    nodes = [start("silent", "n1"), start("good", "n2"), start("fails", "n3")]

    with pytest.raises(StartFailed) as failed:
        wait_all_ready(nodes, SOON_S)

    assert failed.value.node == "n3"
    assert all(node.poll() is not None for node in nodes)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("impostor", "it calls itself 'somebody else'"),
        ("stranger", "it started in another cluster"),
        ("babbles", "its output is not a ready line"),
    ],
)
def test_a_node_that_is_not_the_expected_one_is_ended(
    start: Start, manner: str, reason: str
) -> None:
    node = start(manner, cluster_id="a" * 32)

    with pytest.raises(StartFailed, match=reason):
        node.wait_ready(SOON_S)

    assert node.wait(SOON_S) == -9


def test_a_program_that_is_not_there_fails_to_start(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="No such file"):
        NodeProcess.start(
            NodeOptions(settings=NodeSettings(name="n1")),
            log=tmp_path / "n1.log",
            command=("/no/such/program",),
        )


def test_other_output_neither_hides_the_ready_line_nor_blocks(start: Start) -> None:
    node = start("chatty")

    node.wait_ready(SOON_S)

    await_line(node, "said it all")


def test_a_node_that_is_asked_leaves(start: Start) -> None:
    node = start()
    node.wait_ready(SOON_S)
    worker = worker_of(node)

    node.terminate()

    assert node.wait(SOON_S) == 0
    assert node.log()[-1] == "SIGTERM 1"
    assert has_ended(worker)


def test_a_node_whose_drain_is_over_is_asked_again(start: Start) -> None:
    node = start("drains")
    node.wait_ready(SOON_S)

    node.terminate(drain=0.2)

    assert node.wait(SOON_S) == 1
    assert node.log()[-2:] == ("SIGTERM 1", "SIGTERM 2")


def test_a_node_that_does_not_listen_is_killed_with_its_worker(start: Start) -> None:
    node = start("deaf")
    node.wait_ready(SOON_S)
    worker = worker_of(node)

    node.terminate(drain=60)
    node.terminate(drain=0)

    assert node.wait(SOON_S) == -9
    assert has_ended(worker)


def test_a_stopped_node_can_be_ended(start: Start) -> None:
    node = start()
    node.wait_ready(SOON_S)
    psutil.Process(node.pid).suspend()

    node.terminate(drain=0)

    assert node.wait(SOON_S) == -9


def test_workers_of_a_node_that_somebody_killed_are_ended(start: Start) -> None:
    node = start()
    node.wait_ready(SOON_S)
    worker = worker_of(node)

    os.kill(node.pid, 9)

    assert has_ended(worker)
    assert node.wait(SOON_S) == -9


def test_ending_a_node_that_has_ended_does_nothing(start: Start) -> None:
    node = start()
    node.kill()
    node.wait(SOON_S)

    node.terminate()
    node.kill()

    assert node.poll() == -9


def test_a_listener_for_the_end_need_not_wait(start: Start) -> None:
    node = start()
    told = threading.Event()
    node.ended.add_done_callback(lambda ended: told.set())

    assert not node.ended.cancel()
    assert node.wait(0.01) is None
    node.kill()

    assert told.wait(SOON_S)


def test_a_second_start_has_a_log_of_its_own_at_the_end_of_the_file(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "n1.log").write_text("from the first start\n")

    node = start()
    node.wait_ready(SOON_S)

    assert "from the first start" not in node.log()
    assert (tmp_path / "n1.log").read_text().startswith("from the first start\n")


def test_the_last_lines_outlive_the_log_file(start: Start, tmp_path: Path) -> None:
    node = start()
    node.wait_ready(SOON_S)
    node.terminate()
    node.wait(SOON_S)

    (tmp_path / "n1.log").unlink()

    assert node.log(1) == ("SIGTERM 1",)


def test_twenty_restarts_leave_no_descriptor(start: Start) -> None:
    start().wait_ready(SOON_S)
    before = psutil.Process().num_fds()

    for _ in range(20):
        node = start(name="again")
        node.kill()
        node.wait(SOON_S)

    deadline = time.monotonic() + SOON_S
    while psutil.Process().num_fds() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.Process().num_fds() == before


def test_exit_codes_are_described_in_words() -> None:
    assert ending(0) == "exit code 0"
    assert ending(-15) == "signal SIGTERM"
    assert ending(-50).startswith("signal")


def test_a_missing_interpreter_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "")

    with pytest.raises(StartFailed, match=r"sys.executable is empty"):
        NodeProcess.start(
            NodeOptions(settings=NodeSettings(name="n1")), log=tmp_path / "n1.log"
        )
