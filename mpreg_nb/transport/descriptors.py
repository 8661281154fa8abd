"""The way for descriptors beside a link between two processes of one machine.

A link cannot carry them itself: what reads it for asyncio drops them. So the end that
accepted it listens on a socket of its own, tells its name over the link, which is
proven, and the end that dialled connects to it. Each asks the system which user the
other one is. The name is not that of a file: nothing of it can be left behind.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from mpreg_nb.shared_memory.exchange import DescriptorChannel
from mpreg_nb.transport.local_socket import is_own


class DescriptorDoor:
    """Waits for the other end of one link; `on_channel` gets the channel, once."""

    def __init__(self, on_channel: Callable[[DescriptorChannel], None]) -> None:
        """Listen; raises OSError where the system has no such sockets."""
        self._on_channel = on_channel
        self._loop = asyncio.get_running_loop()
        self.address = b"\0mpreg_nb-" + os.urandom(16).hex().encode()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listening.setblocking(False)
            self._listening.bind(self.address)
            self._listening.listen(1)
        except BaseException:
            self._listening.close()
            raise
        self._loop.add_reader(self._listening.fileno(), self.look)

    def look(self) -> None:
        """Let the other end in, if it has come."""
        while self._listening.fileno() >= 0:
            try:
                end, _ = self._listening.accept()
            except OSError:  # nobody is there
                return
            if is_own(end):
                self.close()
                self._on_channel(DescriptorChannel(end))
            else:
                end.close()

    def close(self) -> None:
        """Wait no longer; again does nothing."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()


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
