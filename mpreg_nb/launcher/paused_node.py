"""Pauses a node by SIGSTOP, and resumes it whatever happens to this process.

A second process stops the node and resumes it: a node that this process stopped by
itself would stay stopped if this process were killed. This process only holds a pipe.
When it closes the pipe, or ends in any way, or the time is over, the node is resumed.
The second process is started by `PausedNode`, as

    python -m mpreg_nb.launcher.paused_node PID STARTED_S SECONDS PARENT_PID

It prints STOPPED once the node is stopped, or GONE if there is no such process.
"""

import math
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.child import launch, node_environment
from mpreg_nb.launcher.pid import WATCHER, ProcessId, is_alive, send, session_of

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


def halt(node: ProcessId) -> bool:
    """Stop a node and all processes of its session; False if it is gone.

    The node first, so that it starts none meanwhile. Returns when they stand still.
    """
    if not is_alive(node):
        return False
    send(node, signal.SIGSTOP)
    stopped: set[ProcessId] = set()
    while running := session_of(node) - stopped:
        for process in running:
            send(process, signal.SIGSTOP)
        stopped |= running
    deadline = time.monotonic() + STOPS_WITHIN_S
    while any(map(_runs, stopped)) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)  # the system tells nobody but the parent
    return True


def _runs(process: ProcessId) -> bool:
    try:
        status = psutil.Process(process.pid).status()
    except psutil.Error:
        return False
    return status not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


def release(node: ProcessId) -> None:
    """Let a node and all processes of its session go on, the node last."""
    for process in session_of(node) - {node}:
        send(process, signal.SIGCONT)
    send(node, signal.SIGCONT)


def main(words: list[str]) -> int:
    """Stop the node that `words` name, and release it in time; return 0."""
    pid, started_s, seconds, parent = words
    node = ProcessId(pid=int(pid), started_s=float(started_s))
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


def _stand(node: ProcessId, until: float, parent: int) -> bool:
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


LONGEST_S = 600.0
"""A node that stands still for longer is better ended."""

STOPPED_WITHIN_S = 10.0
"""The process that stops the node is started and has done so."""

GOES_ON_WITHIN_S = 5.0


class PausedNode:
    """One node that stands still, until `end` or until its time is over.

    Every method but those of the watching thread may be called from any thread.
    """

    def __init__(self, name: str, node: ProcessId, seconds: float, log: Path) -> None:
        """Stop `node`; when this returns it stands still.

        log: where the process that stops it writes what goes wrong.

        Raises:
            MpregError: the node has ended.
        """
        self._node = node
        self._lock = threading.Lock()  # of the pipe to the process
        self._owner = os.getpid()
        self._handed_over = False
        self._over = threading.Event()
        self._child = launch(
            [
                *(sys.executable, "-P", "-m", "mpreg_nb.launcher.paused_node"),
                *map(str, (node.pid, node.started_s, seconds, os.getpid())),
            ],
            log=log,
            environment=node_environment(),
            keep=False,
        )
        self._pipe = self._child.lifeline
        self._output = self._child.output
        try:
            said = self._first_word()
        except BaseException:  # interrupted: the node shall not stay as it is
            self._hang_up()
            WATCHER.watch(self)
            raise
        WATCHER.watch(self)
        if said != STOPPED:
            self.end()
            raise MpregError(
                f"node {name} could not be paused: "
                + ("it has ended" if said == GONE else "its log says why")
            )

    @property
    def is_over(self) -> bool:
        """Whether the node goes on again."""
        return self._over.is_set()

    def end(self) -> None:
        """Let the node go on now; returns when it does."""
        self._hang_up()
        self._over.wait(GOES_ON_WITHIN_S)

    def take_over_from(self, older: "PausedNode") -> None:
        """End an older pause of the same node; it stands still all the while."""
        older._hand_over()
        # The time of the older one may have been over just now.
        self._say(AGAIN)

    def _first_word(self) -> bytes:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(STOPPED_WITHIN_S * 1e3):
            return b""
        return os.read(self._output, len(STOPPED))

    def _hand_over(self) -> None:
        self._handed_over = True
        self._say(HAND_OVER)
        self._over.wait(GOES_ON_WITHIN_S)

    def _say(self, word: bytes) -> None:
        with self._lock:
            try:
                if self._pipe >= 0:
                    os.write(self._pipe, word)
            except BrokenPipeError:
                return  # its time was over

    def _hang_up(self) -> None:
        with self._lock:
            if self._pipe >= 0:
                os.close(self._pipe)
            self._pipe = -1

    # What follows is called by the watching thread only.

    def descriptors(self) -> set[int]:
        """Return what is closed when the process has ended."""
        return set() if self.is_over else {self._output}

    def step(self, now: float) -> float:
        """Notice the end of the process."""
        try:
            ended = not self.is_over and not os.read(self._output, len(STOPPED))
        except BlockingIOError:
            ended = False
        if ended:
            code = self._child.popen.wait()
            if code and not self._handed_over:  # it was killed itself
                release(self._node)
            self._over.set()
        return math.inf

    def close(self) -> None:
        """Give back the descriptors: it is over, or this is a fork."""
        if os.getpid() != self._owner:
            self._lock = threading.Lock()  # whoever held it was not copied
        self._hang_up()
        os.close(self._output)


class Pauses:
    """The pauses of one node; its methods may be called from any thread."""

    def __init__(self, name: str, node: ProcessId, log: Path) -> None:
        """Pause nothing yet; the arguments are those of `PausedNode`."""
        self._name = name
        self._node = node
        self._log = log
        self._lock = threading.Lock()  # of `_pause`
        self._pause: PausedNode | None = None

    def begin(self, seconds: float) -> None:
        """Stop the node for `seconds`; again: for so long from now.

        Raises:
            MpregError: it has ended.
        """
        with self._lock:
            pause = PausedNode(self._name, self._node, seconds, self._log)
            if self._pause is not None:
                pause.take_over_from(self._pause)
            self._pause = pause

    @property
    def is_paused(self) -> bool:
        """Whether the node stands still."""
        with self._lock:
            is_over = self._pause is None or self._pause.is_over
        # The process that resumed it may not have ended yet.
        return not is_over and not _runs(self._node)

    def end(self) -> None:
        """Let the node go on; nothing happens where it runs."""
        with self._lock:
            pause, self._pause = self._pause, None
        if pause is not None:
            pause.end()
