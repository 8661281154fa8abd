"""Accepts on one socket that listens, also while the system has no room for more."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

LOG = logging.getLogger("mpreg_nb.transport")

BACKLOG = 512
"""Connections that the system holds until they are accepted."""

ACCEPT_AGAIN_S = 0.2
"""Until the next try, when the system had no descriptor or memory for a connection."""

_FULL = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Accepts on one socket that listens."""

    def __init__(
        self, listening: socket.socket, on_accept: Callable[[socket.socket], object]
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._on_accept = on_accept
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self.look)

    @property
    def is_open(self) -> bool:
        """Whether it still accepts."""
        return self._listening.fileno() >= 0

    def close(self) -> None:
        """Accept no more; what waits to be accepted is reset."""
        if self._pause is not None:
            self._pause.cancel()
        if self.is_open:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def look(self) -> None:
        """Accept who waits now."""
        for _ in range(BACKLOG):
            if not self.is_open:
                return
            try:
                link, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                LOG.warning("no connection can be accepted now: %s", error.strerror)
                self._wait()
                return
            link.setblocking(False)
            self._on_accept(link)

    def _wait(self) -> None:
        # Who waits there would be told again in each turn of the loop.
        self._loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._loop.call_later(ACCEPT_AGAIN_S, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._listening, self.look)
