"""A node of this process that stands still for a while: a drill.

Another process stops it and lets it go on (`standstill`), so that it goes on too
when this one is killed.
"""

import math
import os
import select
import sys
import threading
from pathlib import Path

from mpreg_nb.cluster.identity import Stamp
from mpreg_nb.cluster.launch import launch, node_environment
from mpreg_nb.cluster.standstill import AGAIN, GONE, HAND_OVER, STOPPED, release
from mpreg_nb.cluster.watcher import WATCHER
from mpreg_nb.errors import MpregError

LONGEST_S = 600.0
"""A node that stands still for longer is better ended."""

STOPPED_WITHIN_S = 10.0
"""The process that stops the node is started and has done so."""

GOES_ON_WITHIN_S = 5.0


class Pause:
    """One node that stands still, until `end` or until its time is over.

    Every method but those of the watching thread may be called from any thread.
    """

    def __init__(self, name: str, node: Stamp, seconds: float, log: Path) -> None:
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
                *(sys.executable, "-P", "-m", "mpreg_nb.cluster.standstill"),
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

    def take_over_from(self, older: "Pause") -> None:
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
