"""A link whose cable is cut, for drills: both ends stay, nothing passes.

What is sent on it vanishes, what arrives is dropped unread, and that the other
end has closed is not told: a dead cable tells nothing. Since messages were lost,
and maybe half of one was read, a cut link is never used again: when the cable is
mended it ends as one that was lost, and its owner dials anew. So nothing that was
said before or during the cut arrives after it.
"""

import asyncio
from collections.abc import Callable


class Cut(asyncio.BufferedProtocol):
    """Stands between the transport and the link from the cut until `mend`."""

    def __init__(
        self,
        link: asyncio.BufferedProtocol,
        *,
        is_open: Callable[[], bool],
        give_up: Callable[[str], None],
    ) -> None:
        """`is_open` tells whether the owner has not ended the link itself."""
        self._link = link
        self._is_open = is_open
        self._give_up = give_up
        self._room = memoryview(bytearray(64 * 1024))
        self._lost = False  # the transport is gone, and the link was not told
        self._over = False

    def mend(self) -> None:
        """End the link as one that was lost; again does nothing."""
        if self._over:
            return
        self._over = True
        if self._is_open():
            self._give_up("the connection was lost: it had been cut off")
        if self._lost:
            self._link.connection_lost(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what nobody will read."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Drop what came."""

    def eof_received(self) -> None:
        """Let the transport close."""

    def pause_writing(self) -> None:
        """Pass on what concerns writes from before the cut."""
        self._link.pause_writing()

    def resume_writing(self) -> None:
        """Pass on what concerns writes from before the cut."""
        self._link.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the link, unless only the other end can have ended it."""
        if self._over or not self._is_open():
            self._over = True
            self._link.connection_lost(exc)
        else:
            self._lost = True


class Nowhere(asyncio.Transport):
    """Takes what is written and passes nothing on."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop `data`."""

    def get_write_buffer_size(self) -> int:
        """Return that nothing waits."""
        return 0

    def is_closing(self) -> bool:
        """Return that it can be written to."""
        return False

    def can_write_eof(self) -> bool:
        """Return that an end may be told; it is dropped too."""
        return True

    def write_eof(self) -> None:
        """Drop the end."""
