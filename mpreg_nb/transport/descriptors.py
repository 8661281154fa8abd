"""The way for descriptors beside a link between two processes of one machine.

A link cannot carry them itself: what reads it for asyncio drops them. So the end that
accepted it listens on a socket of its own, tells its name over the link, which is
proven, and the end that dialled connects to it. Each asks the system which user the
other one is. The name is not that of a file: nothing of it can be left behind.
"""

import contextlib
import os
import socket
from collections.abc import Callable

from mpreg_nb.shared_memory.exchange import DescriptorChannel
from mpreg_nb.transport.acceptor import Acceptor
from mpreg_nb.transport.local_socket import is_own


class DescriptorDoor:
    """Waits for the other end of one link; `on_channel` gets the channel, once."""

    def __init__(self, on_channel: Callable[[DescriptorChannel], None]) -> None:
        """Listen; raises OSError where the system has no such sockets."""
        self._on_channel = on_channel
        self.address = b"\0mpreg_nb-" + os.urandom(16).hex().encode()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listening.bind(self.address)
            listening.listen(1)
        except BaseException:
            listening.close()
            raise
        self._acceptor = Acceptor(listening, self._came)

    def look(self) -> None:
        """Let the other end in, if it has come."""
        self._acceptor.look()

    def _came(self, end: socket.socket) -> None:
        if is_own(end):
            self.close()
            self._on_channel(DescriptorChannel(end))
        else:
            end.close()

    def close(self) -> None:
        """Wait no longer; again does nothing."""
        self._acceptor.close()


def enter(address: bytes) -> DescriptorChannel | None:
    """Return the channel to a door; None where it cannot be reached."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError):  # another network namespace, or it was closed
        end.setblocking(False)
        end.connect(address)
        if is_own(end):
            return DescriptorChannel(end)
    end.close()
    return None
