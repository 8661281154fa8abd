"""Runs callbacks of futures on a thread of their own, where they may do anything.

Callbacks run one after the other, as with the executors of Python. One that waits,
perhaps for a later one, does not hold up the rest for ever: after `PATIENCE_S` the
others go on in another thread.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from mpreg_nb.boundary import cut, wants_all_frames

PATIENCE_S = 0.25
"""How long one callback may take before the others no longer wait for it."""

IDLE_S = 5.0
"""A thread that has had nothing to do for so long ends."""

_log = logging.getLogger(__name__)

_running = threading.local()
"""Has `yes` in the threads that run callbacks."""


class Callbacks:
    """A queue of callbacks, and the threads that run them. Safe on any thread."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[tuple[Callable[[], object], object]] = deque()
        self._left: Counter[object] = Counter()  # to run, by owner
        self._turn = 0  # of the thread that serves now; others end after their callback
        self._serving = False
        self._relieving = False
        self._began: float | None = None  # the callback that runs, on this turn

    def hand_over(self, callback: Callable[[], object], owner: object = None) -> None:
        """Run `callback` soon, after those that were handed over before.

        owner: whoever may wait for it, see `wait_for`.
        """
        with self._changed:
            self._queue.append((callback, owner))
            self._left[owner] += 1
            if self._serving:
                self._changed.notify_all()
            else:
                self._serving = True
                self._start(self._serve, self._turn)
            others_wait = self._began is not None or len(self._queue) > 1
            if others_wait and not self._relieving:
                self._relieving = True
                self._start(self._relieve)

    def wait_for(self, owner: object) -> None:
        """Return when all callbacks that were handed over for `owner` have run.

        At once in a callback, which would wait for itself.
        """
        if getattr(_running, "yes", False):
            return
        with self._changed:
            self._changed.wait_for(lambda: owner not in self._left)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(
            target=target, args=args, name="mpreg-callbacks", daemon=True
        ).start()

    def _serve(self, turn: int) -> None:
        _running.yes = True
        while True:
            with self._changed:
                if turn != self._turn:
                    return
                self._began = None
                if not self._changed.wait_for(lambda: self._queue, IDLE_S):
                    self._serving = False
                    return
                callback, owner = self._queue.popleft()
                self._began = time.monotonic()
            try:
                callback()
            except BaseException as error:  # noqa: BLE001  the border of user code
                if not wants_all_frames():
                    cut(error)
                # As in concurrent.futures: nobody waits for what a callback raises.
                _log.exception("a callback of a future failed")
            with self._changed:
                self._left[owner] -= 1
                if not self._left[owner]:
                    del self._left[owner]
                    self._changed.notify_all()
            del callback, owner  # they may hold results

    def _relieve(self) -> None:
        """Let another thread go on whenever a callback takes long and others wait."""
        with self._changed:
            while self._queue or self._began is not None:
                if self._began is None:
                    self._changed.wait(PATIENCE_S)
                    continue
                left_s = self._began + PATIENCE_S - time.monotonic()
                if left_s > 0 or not self._queue:
                    self._changed.wait(max(left_s, PATIENCE_S / 10))
                    continue
                self._turn += 1
                self._began = None
                self._start(self._serve, self._turn)
            self._relieving = False

    def forget(self) -> None:
        """Start afresh in a forked child, which has none of the threads."""
        self._reset()


CALLBACKS = Callbacks()
"""Those of this process."""
