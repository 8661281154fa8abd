"""One port where links arrive: who may bind it, how many may knock at once."""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable

from mpreg_nb.errors import NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.arrival import Arrival, Door
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.handshake import is_loopback
from mpreg_nb.transport.terms import Patience, Terms
from mpreg_nb.transport.token import Token

LOG = logging.getLogger("mpreg_nb.transport")

BACKLOG = 512
"""Connections that the system holds until they are accepted."""

YOUNG_S = 0.25
"""Arrivals up to this age are let be: a burst of honest ones is proven by then."""

LINES_PER_S = 10
"""Refusals logged in one second; the others are only counted."""

PORT_TRIES = 8


class Listener:
    """A bound port with its links. Made by `listen`."""

    def __init__(
        self, door: Door, on_connection: Callable[[Connection], object], *, scheme: str
    ) -> None:
        self._door = door
        self._on_connection = on_connection
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._unproven: dict[Arrival, None] = {}  # oldest first
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._links: set[Connection] = set()
        self._second = 0.0  # of the last logged refusal
        self._lines = 0  # logged in that second
        self.refusals = 0
        self.host = ""
        self.port = 0

    @property
    def url(self) -> str:
        """ws:// or wss://, with the host and port that were bound."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def draining(self) -> bool:
        """Whether /healthz says "draining"; set it when the node begins to leave."""
        return self._door.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._door.draining = value

    @property
    def links(self) -> int:
        """How many proven links there are."""
        return len(self._links)

    @property
    def unproven(self) -> int:
        """How many sockets have not proven themselves yet."""
        return len(self._unproven)

    async def bind(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None
    ) -> None:
        """Begin to accept; `listen` does this."""
        first = "127.0.0.1" if host == "localhost" else host
        for tries_left in range(PORT_TRIES if port == 0 else 1, 0, -1):
            server = await self._serve(first, port, ssl_context)
            self.port = server.sockets[0].getsockname()[1]
            self._servers = [server]
            if host != "localhost":
                break
            try:
                self._servers.append(await self._serve("::1", self.port, ssl_context))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    break  # there is no IPv6 here
                server.close()
                if tries_left == 1:
                    raise
        self.host = first

    async def take(
        self, listening: socket.socket, ssl_context: ssl.SSLContext | None
    ) -> None:
        """Accept on a socket that listens already; `listen` does this."""
        self.host, self.port = listening.getsockname()[:2]
        server = await self._loop.create_server(
            lambda: Arrival(self._door, self),
            sock=listening,
            ssl=ssl_context,
            ssl_handshake_timeout=self._handshake_timeout_s(ssl_context),
            backlog=BACKLOG,
        )
        self._servers = [server]

    async def _serve(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None
    ) -> asyncio.Server:
        try:
            return await self._loop.create_server(
                lambda: Arrival(self._door, self),
                host,
                port,
                ssl=ssl_context,
                ssl_handshake_timeout=self._handshake_timeout_s(ssl_context),
                backlog=BACKLOG,
            )
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else str(error)
            cure = "Choose another with port=, or port=0 for a free one"
            if error.errno != errno.EADDRINUSE:
                cure = "Set host= to an address of this machine"
            raise OSError(
                error.errno, f"cannot listen on {host} port {port}: {cause}. {cure}"
            ) from error

    def _handshake_timeout_s(self, ssl_context: ssl.SSLContext | None) -> float | None:
        limits = self._door.terms.limits
        return limits.proof_timeout_s if ssl_context is not None else None

    def stop_accepting(self) -> None:
        """Take no new links; open ones go on."""
        for server in self._servers:
            server.close()
        for arrival in list(self._unproven):
            arrival.drop()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    async def close(self, code: int = 1001, reason: str = "") -> None:
        """Take no new links, end the open ones and return when they are gone.

        Safe to cancel; what has not ended by then ends by itself.
        """
        self.stop_accepting()
        links = list(self._links)
        for link in links:
            link.close(code, reason)
        for link in links:
            await link.wait_closed()
        for server in self._servers:
            await server.wait_closed()

    def drop(self) -> None:
        """Take no new links and end the open ones at once, without a goodbye."""
        self.stop_accepting()
        for link in list(self._links):
            link.give_up("this node ended")

    # ----------------------------------------------- what arrivals report

    def came(self, arrival: Arrival) -> None:
        """Give a place to one that knocked, at the cost of the slowest."""
        if len(self._unproven) >= self._door.terms.limits.connections:
            arrival.drop()
            return
        self._unproven[arrival] = None
        if self._sweep_timer is None or self._crowded:
            self._sweep()

    def proven(self, arrival: Arrival, connection: Connection, rest: bytes) -> None:
        """Hand a link to its owner, then let it read."""
        self._unproven.pop(arrival, None)
        self._links.add(connection)
        self._count_links()
        connection.on_gone = self._forget
        try:
            self._on_connection(connection)
        except Exception as error:  # noqa: BLE001 - the loop must accept others
            message = f"on_connection failed for {connection!r}"
            context = {"message": message, "exception": error}
            self._loop.call_exception_handler(context)
            connection.close(1011, "internal error")
        connection.begin(rest)

    def refused(self, address: str, reason: str) -> None:
        """Log why one was sent away, not more often than a person can read."""
        self.refusals += 1
        second = self._loop.time() // 1
        self._lines = self._lines + 1 if second == self._second else 1
        self._second = second
        if self._lines <= LINES_PER_S:
            LOG.warning("%s was refused: %s", address, reason)

    def gone(self, arrival: Arrival) -> None:
        """Free the place of one that left or was dropped."""
        self._unproven.pop(arrival, None)

    @property
    def _crowded(self) -> bool:
        return len(self._unproven) > self._door.terms.limits.unproven_connections

    def _sweep(self) -> None:
        """Drop those whose time is up; in a crowd, all but the young."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        now = self._loop.time()
        timeout_s = self._door.terms.limits.proof_timeout_s
        for arrival in list(self._unproven):
            allowed_s = min(YOUNG_S, timeout_s) if self._crowded else timeout_s
            end = arrival.came_s + allowed_s
            if end > now:
                self._sweep_timer = self._loop.call_at(end, self._sweep)
                return
            del self._unproven[arrival]
            self.refused(arrival.address, "no proof in time")
            arrival.drop()

    def _forget(self, connection: Connection) -> None:
        self._links.discard(connection)
        self._count_links()

    def _count_links(self) -> None:
        self._door.full = len(self._links) >= self._door.terms.limits.connections


async def listen(
    *,
    token: Token,
    node_name: str,
    cluster_id: Callable[[], str],
    on_connection: Callable[[Connection], object],
    host: str = "127.0.0.1",
    port: int = 0,
    listening: socket.socket | None = None,
    hosts: frozenset[str] = frozenset(),
    json_open: bool = False,
    metrics: Callable[[], str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> Listener:
    """Accept links on `host` and `port`; port 0 takes a free one.

    `listening` is a socket that listens already, taken in place of both.

    `cluster_id` is asked for each link, since a node may learn it late.
    `on_connection` gets each proven link before its first message and sets its
    callbacks. `hosts` are names, beside loopback and `host`, that a Host header
    may have. `metrics` makes the body of GET /metrics. "localhost" listens on
    both of its addresses, where there are both.

    Raises:
        OSError: the port is taken, or the address cannot be bound; says which.
        NotTrusted: `host` is not loopback, and the link would be in the clear
            or `json_open`.
    """
    if listening is not None:
        host = listening.getsockname()[0]
    if host != "localhost" and not is_loopback(host):
        if ssl_context is None:
            raise NotTrusted(
                f"a node on {host} would receive commands over an unencrypted "
                "network connection. Use host 127.0.0.1, or add a certificate: "
                "--tls-cert and --tls-key"
            )
        if json_open:
            raise NotTrusted(
                f"a node on {host} would accept calls from anyone. Open JSON "
                "calls are for loopback only: remove --json-open, or use host "
                "127.0.0.1"
            )
    door = Door(
        token=token,
        node_name=node_name,
        cluster_id=cluster_id,
        hosts=frozenset(name.lower() for name in (*hosts, host)),
        json_open=json_open,
        metrics=metrics,
        terms=Terms(limits=limits or Limits(), patience=patience or Patience()),
    )
    listener = Listener(door, on_connection, scheme="wss" if ssl_context else "ws")
    if listening is not None:
        await listener.take(listening, ssl_context)
    else:
        await listener.bind(host, port, ssl_context)
    return listener
