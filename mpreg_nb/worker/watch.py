"""No worker outlives its node, however the node ends and whatever runs here."""

import contextlib
import os
import select
import signal
import sys
import threading

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
    threading.Thread(
        target=_watch, args=(channel,), name="mpreg-watch", daemon=True
    ).start()


def _watch(channel: int) -> None:
    poll = select.poll()
    poll.register(channel, 0)  # hang-up and error are always told
    poll.poll()
    end_all()


def end_all() -> None:
    """Kill this process and all that functions started, if they did not move away."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(0)
