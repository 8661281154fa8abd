"""How many workers there are: started ahead, replaced when they die, and lent.

A worker with one slot whose function waits for another call of the cluster can
run nothing else. So as long as it waits, another worker is lent in its place if
there is something to run; otherwise calls of calls could wait for each other.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping

from mpreg_nb.node.worker_link import Owner, WorkerLink
from mpreg_nb.node.worker_process import End
from mpreg_nb.wire.jobs import Setup

START_FAILURES = 3
"""Workers in a row that end before they are ready; then waiting jobs are refused."""

RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Pause before the next start after so many failed ones."""

LENT = 32
"""Workers that are lent at once, at most: each holds memory."""

LENT_IDLE_S = 10.0
"""How long a lent worker stays for the next such call."""

_log = logging.getLogger(__name__)


class Staff:
    """The workers of a node.

    `on_hopeless` gets the cause and the last lines when workers do not start.
    """

    def __init__(
        self,
        owner: Owner,
        count: int,
        environment: Mapping[str, str],
        on_event: Callable[[str, str], None],
        on_hopeless: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self._owner = owner
        self._count = count
        self._environment = environment
        self._on_event = on_event
        self._on_hopeless = on_hopeless
        self.links: list[WorkerLink] = []
        self._leaving: set[WorkerLink] = set()
        self._failed_starts = 0
        self._is_shrinking = False
        self._stopping = False

    def start(self, setup: Setup) -> None:
        """Start all workers."""
        self._setup = setup
        for _ in range(self._count):
            self._start_one()

    @property
    def _wanted(self) -> int:
        return self._count + min(sum(link.is_blocked for link in self.links), LENT)

    @property
    def is_stuck(self) -> bool:
        """Whether every worker waits for the cluster, and no more can be lent."""
        blocked = sum(link.is_blocked for link in self.links)
        return blocked >= self._count + LENT

    def lend(self) -> None:
        """Start a worker in the place of one that waits, if there is none yet."""
        if len(self.links) < self._wanted:
            self._start_one()

    def _start_one(self) -> None:
        if self._stopping or len(self.links) >= self._wanted:
            return
        try:
            os.makedirs(self._setup.scratch, exist_ok=True)
            link = WorkerLink(self._owner, self._setup, self._environment)
        except OSError as error:  # no processes, files or memory to be had now
            self._on_event("worker died", f"it could not be started: {error}")
            self._start_failed(str(error), ())
            return
        self.links.append(link)
        if len(self.links) > self._count and not self._is_shrinking:
            self._is_shrinking = True
            asyncio.get_running_loop().call_later(LENT_IDLE_S, self._shrink)

    def _shrink(self) -> None:
        """Let lent workers go that have nothing to do."""
        for link in list(self.links):
            if len(self.links) > self._wanted and not link.handed:
                self.links.remove(link)
                self._leaving.add(link)
                link.close()
        self._leaving = {link for link in self._leaving if not link.gone.is_set()}
        self._is_shrinking = len(self.links) > self._count
        if self._is_shrinking:
            asyncio.get_running_loop().call_later(LENT_IDLE_S, self._shrink)

    def became_ready(self) -> None:
        """Note that workers can be started."""
        self._failed_starts = 0

    def replace(self, link: WorkerLink, end: End) -> None:
        """Start another worker for one that has died and is not among `links`."""
        if link.is_ready:
            self._start_one()
        else:
            self._start_failed(end.cause, link.last_lines())

    def _start_failed(self, cause: str, lines: tuple[str, ...]) -> None:
        self._failed_starts += 1
        _log.error("a worker did not start: %s\n%s", cause, "\n".join(lines))
        if self._failed_starts >= START_FAILURES and not self.links:
            self._on_hopeless(f"workers do not start: {cause}", lines)
        pause_s = RESTART_S[min(self._failed_starts, len(RESTART_S) - 1)]
        asyncio.get_running_loop().call_later(pause_s, self._start_one)

    def kill(self) -> None:
        """Kill all workers and start no other."""
        self._stopping = True
        for link in (*self.links, *self._leaving):
            link.process.kill(signal.SIGKILL)

    async def stop(self, timeout_s: float) -> None:
        """End all workers; kills what is left after the timeout."""
        self._stopping = True
        links, self.links = [*self.links, *self._leaving], []
        for link in links:
            link.close()
        ends = [asyncio.ensure_future(link.gone.wait()) for link in links]
        if ends:
            _, pending = await asyncio.wait(ends, timeout=timeout_s)
            for link in links:
                link.process.kill(signal.SIGKILL)
            if pending:
                await asyncio.wait(pending)
