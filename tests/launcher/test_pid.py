import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from mpreg_nb.launcher import pid as identity
from mpreg_nb.launcher.pid import ProcessId, await_end, end_all, is_alive, stamp

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
GONE = ProcessId(pid=2**22 + 1, started_s=1.0)  # beyond the ids that Linux gives


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        yield process
        process.kill()


def test_remains_of_a_process_are_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    process = stamp(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(process)


WITHOUT_MAIN_THREAD = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
exits = {"x86_64": 60, "aarch64": 93}[platform.machine()]
print("ready", flush=True)
ctypes.CDLL(None).syscall(exits, 0)  # of this thread alone
"""


@pytest.mark.skipif(sys.platform != "linux", reason="this machine is no Linux")
def test_a_process_without_its_main_thread_is_alive() -> None:
    command = [sys.executable, "-c", WITHOUT_MAIN_THREAD]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = stamp(child.pid)
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            os.sched_yield()

        alive = is_alive(process)
        os.kill(child.pid, signal.SIGKILL)

        assert alive
        assert await_end([process], timeout=30)
        assert not is_alive(process)


def test_setting_the_clock_changes_no_identity(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = stamp(sleeper.pid)
    boot_time, create_time = psutil.boot_time, psutil.Process.create_time

    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 3600)
    monkeypatch.setattr(
        psutil.Process, "create_time", lambda self: create_time(self) + 3600
    )

    assert is_alive(process)


def test_after_the_next_boot_whoever_has_the_id_is_left_alone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    now = stamp(sleeper.pid)
    before = msgspec.structs.replace(now, boot="of another day")

    assert now.boot or sys.platform != "linux"
    assert not is_alive(before)
    assert end_all([before], drain=0.1) == ()
    assert sleeper.poll() is None
    assert end_all([now], drain=10.0) == (now,)


def test_waiting_for_an_end_is_bounded_also_without_a_notification(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "open_pidfd", lambda pid: -1)
    process = stamp(sleeper.pid)

    assert not identity.await_end([process], timeout=0.1)
    sleeper.kill()
    assert identity.await_end([process], timeout=60)


def test_a_process_that_is_not_there_has_no_identity() -> None:
    with pytest.raises(ProcessLookupError):
        stamp(GONE.pid)
