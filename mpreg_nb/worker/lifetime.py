"""No worker outlives its node, however the node ends and whatever runs here."""

import contextlib
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; Linux only.

    The watching thread does the same everywhere, but has to wait for a function
    that holds the interpreter's lock.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the line above
        end_all()


def watch(channel: int) -> None:
    """End this process when the other end of the socket `channel` is closed."""
    start_essential(lambda: _watch(channel), "watch")


def _watch(channel: int) -> None:
    poll = select.poll()
    poll.register(channel, 0)  # hang-up and error are always reported
    poll.poll()
    end_all()


def start_essential(work: Callable[[], object], name: str) -> None:
    """Run `work` in a thread without which this process is of no use.

    Half a worker would leave calls without an answer; a dead one is replaced.
    """
    threading.Thread(
        target=essential, args=(work,), name=f"mpreg-{name}", daemon=True
    ).start()


def essential(work: Callable[[], object]) -> None:
    """Do `work`, and end this process if that fails."""
    try:
        work()
    except ConnectionError:  # the node is gone: end what functions started
        end_all()
    except BaseException:  # noqa: BLE001  a fault of ours
        traceback.print_exc(file=sys.__stderr__)
        os._exit(os.EX_SOFTWARE)


def end_all() -> None:
    """Kill this process and all that functions started, if they did not move away."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(0)
