"""Tunnels: Unix sockets of one machine that lead to Unix sockets of another, over ssh.

A node on another machine has the URL ws://127.0.0.1:PORT, with a port that is free on
both. Who dials that URL, on whichever machine, looks first into its own private folder
of Unix sockets (`transport/local_socket.py`): there a tunnel listens under the name of
that address. So one URL is right for all members, no port is open to others, and what
passes is encrypted and authenticated by ssh.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast
from urllib.parse import urlsplit

import asyncssh

from mpreg_nb.errors import MpregError
from mpreg_nb.transport import local_socket
from mpreg_nb.transport.acceptor import Acceptor

LOG = logging.getLogger("mpreg_nb.launcher.tunnel")

LOOPBACK = "127.0.0.1"

BACKLOG = 128

BUFFERED_BYTES = 1 << 20
"""What may wait for one end before the other is read no further."""


def port_of(url: str) -> int:
    """Return the port of a URL of a node on loopback; 0: it needs no tunnel."""
    parts = urlsplit(url)
    needs_one = parts.scheme == "ws" and parts.hostname == LOOPBACK
    return parts.port or 0 if needs_one else 0


def socket_name(port: int) -> str:
    """Return the file name of the Unix socket of a node on loopback."""
    return f"{LOOPBACK}-{port}"


class NearEnd(asyncio.Protocol):
    """A link on this machine, whose other end is `far`."""

    def __init__(self, far: "FarEnd") -> None:
        self._far = far
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on what came before."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(BUFFERED_BYTES)
        self._far.near_opened(self)

    def data_received(self, data: bytes) -> None:
        """Send it through the tunnel."""
        self._far.send(data)

    def eof_received(self) -> bool:
        """End the tunnel once all was sent."""
        self._far.finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the tunnel."""
        self._far.finish()

    def pause_writing(self) -> None:
        """Receive no more."""
        self._far.pause_receiving()

    def resume_writing(self) -> None:
        """Receive again."""
        self._far.resume_receiving()


class FarEnd(asyncssh.SSHUNIXSession[bytes]):
    """A channel of ssh, whose other end is a link on this machine."""

    def __init__(self) -> None:
        self._channel: Any = None
        self._near: NearEnd | None = None
        self._early: list[bytes] = []
        self._over = False

    def connection_made(self, chan: Any) -> None:
        """Take the channel."""
        self._channel = chan
        chan.set_write_buffer_limits(BUFFERED_BYTES)

    def near_opened(self, near: NearEnd) -> None:
        """Take the link on this machine."""
        self._near = near
        for piece in self._early:
            self.data_received(piece, None)
        self._early.clear()
        if self._over:
            self.connection_lost(None)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Pass on what the other machine sent."""
        if self._near is None or self._near.transport is None:
            self._early.append(data)
        else:
            self._near.transport.write(data)

    def eof_received(self) -> bool:
        """End the link once all was written."""
        self.connection_lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the link on this machine."""
        self._over = True
        if self._near is not None and self._near.transport is not None:
            self._near.transport.close()

    def pause_writing(self) -> None:
        """Read no more here."""
        transport = self._near.transport if self._near is not None else None
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again here."""
        transport = self._near.transport if self._near is not None else None
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Send to the other machine."""
        if not self._over:
            self._channel.write(data)

    def finish(self) -> None:
        """End the channel once all was sent."""
        if not self._over:
            self._over = True
            self._channel.close()

    def pause_receiving(self) -> None:
        """Take no more from the channel."""
        if not self._over:
            self._channel.pause_reading()

    def resume_receiving(self) -> None:
        """Take from the channel again."""
        if not self._over:
            self._channel.resume_reading()


class TunnelTo:
    """Listens on this machine for those who dial a node of another one."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        port: int,
        far_path: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Know both ends; `open` begins to listen."""
        self._connection = connection
        self._port = port
        self._far_path = far_path
        self._spawn = spawn
        self._tcp: socket.socket | None = None
        self._unix: local_socket.LocalSocket | None = None
        self._acceptors: list[Acceptor] = []

    def take_port(self) -> bool:
        """Hold the port on this machine too, for other programs; False: it is taken."""
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        link.setblocking(False)
        try:
            link.bind((LOOPBACK, self._port))
            link.listen(BACKLOG)
        except OSError:
            link.close()
            return False
        self._tcp = link
        return True

    def open(self) -> None:
        """Begin to listen.

        Raises:
            MpregError: this user has no private folder for sockets here.
        """
        self._unix = local_socket.bind(LOOPBACK, self._port, backlog=BACKLOG)
        if self._unix is None:
            raise MpregError(
                "there is no private folder for the sockets of tunnels. Set "
                "XDG_STATE_HOME to a folder that you can write"
            )
        for listening in filter(None, (self._unix.listening, self._tcp)):
            self._acceptors.append(Acceptor(listening, self._came))

    def close(self) -> None:
        """Listen no more; links that are open go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        if self._unix is not None:
            self._unix.close()
        if self._tcp is not None:
            self._tcp.close()

    def _came(self, link: socket.socket) -> None:
        self._spawn(self._carry(link))

    async def _carry(self, link: socket.socket) -> None:
        if link.family == socket.AF_UNIX:
            if not local_socket.is_own(link):
                link.close()
                return
            local_socket.widen(link)
        try:
            _, far = await self._connection.create_unix_connection(
                FarEnd, self._far_path, encoding=None
            )
        except (asyncssh.Error, OSError) as error:
            LOG.info("no link to port %s: %s", self._port, error)
            link.close()
            return
        near = NearEnd(cast(FarEnd, far))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: near, link)


async def tunnel_from(
    connection: asyncssh.SSHClientConnection,
    port: int,
    far_path: str,
    spawn: Callable[[Coroutine[Any, Any, None]], object],
) -> None:
    """Let the other machine listen for those there who dial a node that is here.

    It ends with the connection.

    Raises:
        asyncssh.Error, OSError: the other machine does not.
    """

    async def connect(far: FarEnd) -> None:
        loop = asyncio.get_running_loop()
        near = local_socket.connect(LOOPBACK, port)
        try:
            if near is not None:
                await loop.connect_accepted_socket(lambda: NearEnd(far), near)
            else:
                await loop.create_connection(lambda: NearEnd(far), LOOPBACK, port)
        except OSError as error:  # the node has ended
            LOG.info("nobody is at port %s: %s", port, error)
            far.finish()

    def accepted() -> FarEnd:
        far = FarEnd()
        spawn(connect(far))
        return far

    listener = await connection.create_unix_server(accepted, far_path, encoding=None)
    if listener is None:
        raise OSError(f"the host does not listen at {far_path}")
