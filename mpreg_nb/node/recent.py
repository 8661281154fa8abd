"""Results of other nodes that several calls here want, fetched once for all.

The items of a map often share an argument, such as a model. A result that only one
call asks for is not held: it would be memory for nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.messages import Failure, Kept

HOLD_S = 5.0
"""After its last use; items of one map follow each other faster than that."""

MOST_BYTES = 256 << 20
"""Of all that is held. Those that were not used for longest go first."""

Found: TypeAlias = bytes | tuple[Buffer, ...]
Fetch: TypeAlias = Callable[[Kept], Coroutine[Any, Any, Found | Failure]]


@dataclass(slots=True)
class _Held:
    found: Found
    size_bytes: int
    used_at_s: float


class Recent:
    """What was fetched a moment ago, by the id of the call that made it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._asked: dict[bytes, asyncio.Task[Found | Failure]] = {}
        self._askers: dict[bytes, int] = {}  # of what is on its way
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._held_bytes = 0
        self._sweep: asyncio.TimerHandle | None = None

    async def get(self, kept: Kept) -> Found | Failure:
        """Return a result, or why it is not to be had."""
        loop = asyncio.get_running_loop()
        held = self._held.get(kept.id)
        if held is not None:
            held.used_at_s = loop.time()
            self._held.move_to_end(kept.id)
            return held.found
        task = self._asked.get(kept.id)
        if task is None:
            task = self._asked[kept.id] = loop.create_task(self._fetch(kept))
            task.add_done_callback(lambda done: self._came(kept, done))
        self._askers[kept.id] = self._askers.get(kept.id, 0) + 1
        # A call that is cancelled takes it away from none of the others.
        return await asyncio.shield(task)

    def stop(self) -> None:
        """Fetch and hold nothing any more."""
        for task in self._asked.values():
            task.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        self._held.clear()

    def _came(self, kept: Kept, task: "asyncio.Task[Found | Failure]") -> None:
        del self._asked[kept.id]
        several = self._askers.pop(kept.id) > 1
        if not several or task.cancelled() or task.exception() is not None:
            return
        found = task.result()
        if isinstance(found, Failure):
            return
        size = len(found) if isinstance(found, bytes) else sum(map(len, found))
        loop = asyncio.get_running_loop()
        self._held[kept.id] = _Held(found, size, loop.time())
        self._held_bytes += size
        while self._held_bytes > MOST_BYTES:
            self._drop(next(iter(self._held)))
        if self._sweep is None:
            self._sweep = loop.call_later(HOLD_S, self._drop_old)

    def _drop_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        for key, held in list(self._held.items()):
            if held.used_at_s + HOLD_S <= loop.time():
                self._drop(key)
        if self._held:
            self._sweep = loop.call_later(HOLD_S, self._drop_old)

    def _drop(self, key: bytes) -> None:
        self._held_bytes -= self._held.pop(key).size_bytes
