import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.support.leaks import Leaks

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
# Leaves its parent and its session, as a daemon does.
DETACH = """
import subprocess, sys
subprocess.Popen(sys.argv[1:], start_new_session=True)
"""


def test_a_test_that_leaves_nothing_is_clean(leaks: Leaks) -> None:
    assert leaks.wait(0) == []


def test_a_child_is_seen_until_it_ends(leaks: Leaks) -> None:
    child = subprocess.Popen(SLEEP)

    left = leaks.wait(0)
    child.kill()
    child.wait()

    assert len(left) == 1
    assert left[0].startswith(f"process {child.pid} ")
    assert leaks.wait(0) == []


def test_a_detached_orphan_is_seen_and_ended(leaks: Leaks) -> None:
    subprocess.run([sys.executable, "-c", DETACH, *SLEEP], check=True)

    left = leaks.wait(0.1)
    leaks.end()

    assert len(left) == 1
    assert "time.sleep" in left[0]
    assert leaks.wait() == []


# Starts a child when it is told to, as a node replaces a worker, and ends with it.
LATER = """
import subprocess, sys
sys.stdin.readline()
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""


def test_a_child_of_a_process_that_was_there_before_is_not_of_this_test(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LATER, *SLEEP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as before:
        assert before.stdin is not None
        assert before.stdout is not None
        leaks = Leaks(tmp_path)
        print(file=before.stdin, flush=True)
        child = int(before.stdout.readline())

        assert psutil.pid_exists(child)
        assert leaks.wait(0) == []
        print(file=before.stdin, flush=True)


def test_a_listening_socket_is_seen(leaks: Leaks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert leaks.wait(0) == [f"listening socket 127.0.0.1:{port}"]


def test_a_thread_is_seen_unless_it_is_a_daemon(leaks: Leaks) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="stays")
    daemon = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    daemon.start()

    left = leaks.wait(0)
    end.set()
    thread.join()

    assert left == ["thread stays"]


@pytest.mark.parametrize(
    ("variable", "place"),
    [("XDG_RUNTIME_DIR", "mpreg_nb"), ("XDG_STATE_HOME", "mpreg_nb/clusters")],
)
def test_a_ledger_file_is_seen(leaks: Leaks, variable: str, place: str) -> None:
    path = Path(os.environ[variable], place, "calm-otter.json")
    path.parent.mkdir(parents=True)
    path.touch()

    left = leaks.wait(0)
    path.unlink()

    assert left == [f"file {path}"]


def test_what_ends_within_the_bound_is_no_leak(leaks: Leaks) -> None:
    thread = threading.Timer(0.1, lambda: None)
    thread.start()

    assert leaks.wait() == []
