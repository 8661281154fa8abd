"""Tells callers which of their calls stand in the queue of this node.

A call that is known to wait has not run, so when this node is lost it can be sent
elsewhere without a doubt. Calls that wait only for a moment are not worth a word.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from mpreg_nb.node.pending import Pending, Source
from mpreg_nb.node.recalls import Recalls
from mpreg_nb.node.running import Running
from mpreg_nb.wire.gossip import Load
from mpreg_nb.wire.messages import Waiting

SWEEP_S = 0.02
"""A call that is in the queue this long is reported to its caller."""


class WaitingReports:
    """Looks at the queue every now and then, while there is one."""

    def __init__(
        self,
        me: str,
        pending: Mapping[bytes, Pending],
        *,
        running: Running,
        recalls: Recalls,
        measure: Callable[[], Load],
    ) -> None:
        self._me = me
        self._pending = pending
        self._running = running
        self._recalls = recalls
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def look_soon(self) -> None:
        """Look at the queue in a while, if there is one and no look is due."""
        if self._timer is None and self._running.queued:
            self._timer = self._loop.call_later(SWEEP_S, self._look)

    def stop(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        edge = time.monotonic() - SWEEP_S
        by_source: dict[Source, list[bytes]] = {}
        waiting: list[Pending] = []
        for pending in self._pending.values():
            if (
                pending.node == self._me
                and not pending.started
                and not pending.waiting_told
                and not pending.answered
                and pending.arrived <= edge
            ):
                pending.waiting_told = True
                waiting.append(pending)
                by_source.setdefault(pending.source, []).append(pending.call.id)
        if waiting:
            load = self._measure()
            for source, ids in by_source.items():
                source.send(Waiting(ids=tuple(ids), load=load))
            if load.queued:
                self._recalls.wait(waiting)
        self.look_soon()
