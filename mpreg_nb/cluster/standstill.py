"""The process that stops a node for a while, and lets it go on whatever happens.

What this process's parent stopped by itself would stay stopped if the parent were
killed. So the parent only holds a pipe: when it closes it, or ends in any way, or
the time is over, the node goes on. Started by `Pause`, as

    python -m mpreg_nb.cluster.standstill PID STARTED_S SECONDS PARENT_PID

It says STOPPED once the node stands still, or GONE if there is no such process.
"""

import os
import select
import signal
import sys
import time

import psutil

from mpreg_nb.cluster.identity import Stamp, is_alive, send, session_of

STOPPED = b"stopped\n"
GONE = b"gone\n"

AGAIN = b"a"
"""Heard on standard input: stop the node once more, another has let it go."""

HAND_OVER = b"h"
"""Heard on standard input: end and leave the node stopped, another watches it."""

LOOK_AGAIN_S = 0.005

LOOK_S = 1.0
"""Between two looks whether node and parent are there: a fork may hold the pipe."""


STOPS_WITHIN_S = 2.0
"""A process that waits for a disk stops only when it has its answer."""


def halt(node: Stamp) -> bool:
    """Stop a node and all processes of its session; False if it is gone.

    The node first, so that it starts none meanwhile. Returns when they stand still.
    """
    if not is_alive(node):
        return False
    send(node, signal.SIGSTOP)
    stopped: set[Stamp] = set()
    while running := session_of(node) - stopped:
        for process in running:
            send(process, signal.SIGSTOP)
        stopped |= running
    deadline = time.monotonic() + STOPS_WITHIN_S
    while any(map(_runs, stopped)) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)  # the system tells nobody but the parent
    return True


def _runs(process: Stamp) -> bool:
    try:
        status = psutil.Process(process.pid).status()
    except psutil.Error:
        return False
    return status not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


def release(node: Stamp) -> None:
    """Let a node and all processes of its session go on, the node last."""
    for process in session_of(node) - {node}:
        send(process, signal.SIGCONT)
    send(node, signal.SIGCONT)


def main(words: list[str]) -> int:
    """Stop the node that `words` name, and release it in time; return 0."""
    pid, started_s, seconds, parent = words
    node = Stamp(pid=int(pid), started_s=float(started_s))
    until = time.monotonic() + float(seconds)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(0))
    try:
        os.write(sys.stdout.fileno(), STOPPED if halt(node) else GONE)
        handed_over = _stand(node, until, int(parent))
    except BaseException:
        release(node)
        raise
    if not handed_over:
        release(node)
    return 0


def _stand(node: Stamp, until: float, parent: int) -> bool:
    """Return when the pause is over; True if another process watches the node."""
    heard = select.poll()
    heard.register(sys.stdin.fileno(), select.POLLIN)
    while os.getppid() == parent and is_alive(node):
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        if not heard.poll(min(left_s, LOOK_S) * 1e3):
            continue
        said = os.read(sys.stdin.fileno(), 16)
        if not said or HAND_OVER in said:
            return bool(said)
        halt(node)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
