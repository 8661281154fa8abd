"""A node ends with the process that started it, however that one ends.

Two signs, since each can fail alone: a pipe that the parent holds open is
closed by the system when the parent ends, unless a child that the parent forked
holds it too; and an orphan gets another parent, but only a look once a second
shows it.
"""

import asyncio
import os
import stat
from collections.abc import Callable

LOOK_S = 1.0
"""Seconds between two looks at who the parent is; bounds how late it is seen."""

CHUNK_BYTES = 4096


class Lifeline:
    """Calls `on_cut` once, with the reason, when the parent is gone.

    Lives on the event loop that runs when it is made; `close` ends it without a
    call. Without `descriptor` and without `parent` it never calls.
    """

    def __init__(
        self,
        on_cut: Callable[[str], None],
        *,
        descriptor: int | None = None,
        parent: int | None = None,
        look_s: float = LOOK_S,
        parent_now: Callable[[], int] = os.getppid,
    ) -> None:
        """Begin to watch.

        Raises:
            OSError: `descriptor` is not open.
            ValueError: it is a file or terminal, which nobody closes.
        """
        self._on_cut = on_cut
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._parent = parent
        self._look_s = look_s
        self._parent_now = parent_now
        self._timer: asyncio.Handle | None = None
        self._closed = False
        if descriptor is not None:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                raise ValueError(
                    f"descriptor {descriptor} is not a pipe, so it cannot be a "
                    "lifeline. Start the node without --lifeline to run it on "
                    "its own"
                )
            self._loop.add_reader(descriptor, self._read, descriptor)
        if parent is not None:
            # Not at once: the caller has not got this object yet.
            self._timer = self._loop.call_soon(self._look)

    def close(self) -> None:
        """Stop watching; may be called again."""
        if self._closed:
            return
        self._closed = True
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()

    def _read(self, descriptor: int) -> None:
        try:
            said = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:  # a socket pair whose other end went with a reset
            said = b""
        if not said:
            self._cut("its lifeline was closed")

    def _look(self) -> None:
        if self._parent_now() != self._parent:
            self._cut("the process that started it has ended")
        else:
            self._timer = self._loop.call_later(self._look_s, self._look)

    def _cut(self, reason: str) -> None:
        self.close()
        self._on_cut(reason)
