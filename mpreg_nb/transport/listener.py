"""Accepts links on one port, and runs the server's side of the handshake.

A connection whose proof has not come may cost little: its request may have 64 KiB, its
proof has 38 bytes, and both must arrive within `Limits.proof_timeout_s`. No message of
ours is decoded before. The handshake of TLS is part of that time, and descriptors are
kept for those who are proven.

A node also listens on a Unix socket, for processes of its own user on its machine: who
dials ws:// and its address finds that, with or without TLS on its port.
"""

import asyncio
import errno
import logging
import os
import resource
import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Protocol, cast

import msgspec
from msgspec.structs import replace
from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from mpreg_nb.errors import NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport import local_socket
from mpreg_nb.transport.acceptor import BACKLOG, Acceptor
from mpreg_nb.transport.connection import (
    Carrier,
    Connection,
    Lane,
    LinkConfig,
    PeerInfo,
    Timeouts,
    limit_kernel_buffers,
)
from mpreg_nb.transport.framing import BINARY, MASKED, Scratch, unmasked
from mpreg_nb.transport.handshake import (
    NONCE_BYTES,
    PROOF_BYTES,
    SUBPROTOCOLS,
    VERSIONS_HEADER,
    HandshakeHello,
    HandshakeRefused,
    Welcome,
    bearer,
    check_origin_and_host,
    dialler_proof,
    is_loopback,
    link_keys,
    listener_proof,
    proves,
    read_hello,
    welcome_headers,
)
from mpreg_nb.transport.token import Role, Token, accepted

LONGEST_REQUEST = 64 * 1024
END_OF_REQUEST = b"\r\n\r\n"
PROOF_HEAD = bytes((BINARY, MASKED | PROOF_BYTES))
PROOF_FRAME_BYTES = len(PROOF_HEAD) + 4 + PROOF_BYTES  # with the mask's key

LANES: dict[Subprotocol | None, Lane] = {
    subprotocol: lane for lane, subprotocol in SUBPROTOCOLS.items()
}

# What websockets logs of each link says nothing that the owner does not hear.
QUIET = logging.getLogger("mpreg_nb.transport.websockets")
QUIET.setLevel(logging.CRITICAL)


class HandshakeConfig(msgspec.Struct, kw_only=True):
    """What one listener asks of those who knock."""

    token: Token
    node_name: str
    cluster_id: Callable[[], str]
    hosts: frozenset[str]
    json_open: bool
    metrics: Callable[[], str] | None
    terms: LinkConfig
    ssl_context: ssl.SSLContext | None = None
    scratch: Scratch = msgspec.field(default_factory=Scratch)
    draining: bool = False
    full: bool = False  # as many links as there may be


class HandshakeEvents(Protocol):
    """Who counts the arrivals of one port."""

    def came(self, arrival: "ServerHandshake") -> None:
        """Hear of a socket that was accepted."""

    def proven(
        self, arrival: "ServerHandshake", connection: Connection, rest: bytes
    ) -> None:
        """Take over `connection`; `rest` came behind the proof."""

    def refused(self, address: str, reason: str) -> None:
        """Hear why one was sent away; the one itself is not told."""

    def gone(self, arrival: "ServerHandshake") -> None:
        """Hear of the end of one that was not proven."""


class ServerHandshake(asyncio.Protocol):
    """Reads the upgrade request and the proof, then hands over to a Connection."""

    def __init__(self, config: HandshakeConfig, events: HandshakeEvents) -> None:
        self._config = config
        self._events = events
        self._websocket = ServerProtocol(
            select_subprotocol=_select,
            max_size=config.terms.limits.max_frame_bytes,
            logger=QUIET,
        )
        self._received = b""
        self._read: Callable[[], None] = self._read_request
        self._read_next: Callable[[], None] | None = None  # after the answer
        self._carrier: Carrier = "tls" if config.ssl_context else "tcp"
        self._accepted: socket.socket | None = None  # until the transport has it
        self._unix: socket.socket | None = None
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self.address = ""
        self.came_s = 0.0  # on the loop's clock
        self.descriptor = 0

    def accept(self, link: socket.socket) -> None:
        """Note who knocks, and when; then read, through TLS where that is asked."""
        loop = asyncio.get_running_loop()
        self._accepted = link
        self.descriptor = link.fileno()
        self.came_s = loop.time()
        if link.family == socket.AF_UNIX:
            self._carrier, self.address, self._unix = "unix", "this machine", link
            if not local_socket.is_own(link):
                uid = local_socket.peer_uid(link)
                self._events.refused(self.address, f"it is of another user, {uid}")
                self.drop()
                return
            local_socket.widen(link)
        else:
            try:
                peer = link.getpeername()
            except OSError:  # it has gone already
                peer = ("unknown", 0)
            self.address = f"{peer[0]}:{peer[1]}"
        self._events.came(self)
        if self._accepted is not None:
            self._opening = loop.create_task(self._open(link))

    async def _open(self, link: socket.socket) -> None:
        if self._carrier == "tls" and not await self._begins_tls(link):
            return
        self._accepted = None  # a transport will own it, and close it
        context = self._config.ssl_context if self._carrier == "tls" else None
        timeout_s = self._config.terms.limits.proof_timeout_s
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                link,
                ssl=context,
                ssl_handshake_timeout=timeout_s if context is not None else None,
            )
        except OSError as error:  # those of TLS and its time too
            if context is not None and self._read != self._read_nothing:
                self._events.refused(self.address, _why_no_tls(error))
            self._events.gone(self)

    async def _begins_tls(self, link: socket.socket) -> bool:
        """Whether the first byte is one of TLS; who speaks without it is told so."""
        try:
            first = await _first_byte(link)
            if first == TLS_HANDSHAKE:
                return True
            if first:
                reason = (
                    "it speaks without TLS. The URL of this node begins with wss://"
                )
                self._events.refused(self.address, reason)
                link.recv(LONGEST_REQUEST)  # a close with unread bytes cuts the answer
                link.send(SPEAK_TLS)
        except OSError:  # it is gone, or does not listen
            pass
        self._events.gone(self)
        link.close()
        self._accepted = None
        return False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, which now owns the socket."""
        self._transport = cast(asyncio.Transport, transport)
        if self._read == self._read_nothing:  # dropped meanwhile
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, as far as the request and the proof go."""
        self._received += data
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self._events.gone(self)

    def drop(self) -> None:
        """Close at once, without an answer."""
        self._read = self._read_nothing
        if self._transport is not None:
            self._transport.abort()
            return
        if self._opening is not None:
            self._opening.cancel()
        if self._accepted is not None:
            asyncio.get_running_loop().remove_reader(self._accepted)
            self._accepted.close()
            self._accepted = None

    # ----------------------------------------------------------- the request

    def _read_request(self) -> None:
        if not self._received[:1].isalpha():  # no HTTP
            if self._received.startswith(TLS_HANDSHAKE):
                self._speaks_tls()
            self.drop()
            return
        head, end, rest = self._received.partition(END_OF_REQUEST)
        if not end and len(head) <= LONGEST_REQUEST:
            return
        self._read = self._read_nothing
        self._received = b""
        self._websocket.receive_data(head + end)
        for event in self._websocket.events_received():
            if isinstance(event, Request):
                self._answer(event, rest)
        self._write()
        if not end:  # and websockets did not find a line too long either
            cast(asyncio.Transport, self._transport).close()

    def _speaks_tls(self) -> None:
        reason = "it speaks TLS, and this node has no certificate. Its URL begins with "
        self._events.refused(self.address, f"{reason}ws://")
        cast(asyncio.Transport, self._transport).write(SPEAK_PLAIN)

    def _answer(self, request: Request, rest: bytes) -> None:
        try:
            response = self._respond(request)
            if rest:
                raise HandshakeRefused(400, "data before the answer is not allowed")
        except HandshakeRefused as refusal:
            self._events.refused(self.address, f"{refusal.status} {refusal.text}")
            response = self._websocket.reject(refusal.status, f"{refusal.text}\n")
            if refusal.status == HTTPStatus.UNAUTHORIZED:
                response.headers["WWW-Authenticate"] = "Bearer"
        self._websocket.send_response(response)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return
        self._write()
        if self._read_next is not None:
            self._read = self._read_next
        else:
            peer = PeerInfo(
                role="client",
                name="",
                cluster_id=self._config.cluster_id(),
                lane="json",
                address=self.address,
                carrier=self._carrier,
                dialled=False,
            )
            self._hand_over(peer, b"", None)

    def _respond(self, request: Request) -> Response:
        config, headers = self._config, request.headers
        check_origin_and_host(headers, config.hosts)
        if request.path in ("/healthz", "/metrics") and request.method != "GET":
            raise HandshakeRefused(405, "only GET is served here")
        if request.path == "/healthz":
            state = "draining" if config.draining else "ok"
            return self._websocket.reject(HTTPStatus.OK, f"{state}\n")
        if request.path == "/metrics":
            return self._metrics(request)
        if request.path != "/":
            raise HandshakeRefused(404, "not found")
        if config.full:
            raise HandshakeRefused(503, "connection limit reached; try another node")
        response = self._websocket.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._tell_versions(request, response)
            return response
        lane = LANES.get(self._websocket.subprotocol, "json")
        if lane == "json":
            if not config.json_open and self._bearer_role(request) != "client":
                raise HandshakeRefused(
                    401, "token required: Authorization: Bearer TOKEN"
                )
            return response
        hello = read_hello(headers, lane)
        welcome = Welcome(
            nonce=secrets.token_bytes(NONCE_BYTES),
            cluster_id=config.cluster_id(),
            node_name=config.node_name,
            mac=hello.mac or self._carrier == "tcp",
        )
        token = self._token_of(hello)
        proof = listener_proof(token, hello, welcome)
        response.headers.update(welcome_headers(replace(welcome, proof=proof)))
        self._read_next = partial(self._read_proof, token, hello, welcome)
        return response

    def _tell_versions(self, request: Request, response: Response) -> None:
        """Say on both ends that this node speaks another version, if that is it."""
        offered = request.headers.get_all("Sec-WebSocket-Protocol")
        if not (len(offered) == 1 and offered[0].startswith("mpreg.")):
            return
        spoken = ", ".join(SUBPROTOCOLS.values())
        response.headers[VERSIONS_HEADER] = spoken
        reason = (
            f"it speaks {offered[0][:64]!a}, and this node {spoken}: install the "
            "same version of mpreg_nb on both"
        )
        self._events.refused(self.address, reason)

    def _token_of(self, hello: HandshakeHello) -> Token:
        """Return the token that the dialler has, or else ours: it will not fit."""
        tokens = accepted(self._config.token)
        for token in tokens:
            if token.key_id(hello.role) == hello.key_id:
                return token
        if hello.key_id:
            # It finds that out by our proof, and hangs up without a word.
            reason = f"{hello.role} {hello.name!a} has another token"
            cure = "Copy the one of this node to it: mpreg-nb token show"
            self._events.refused(self.address, f"{reason}. {cure}")
        return tokens[0]

    def _bearer_role(self, request: Request) -> Role | None:
        """Return what a foreign client is, by the token that it shows."""
        shown = bearer(request.headers)
        for token in accepted(self._config.token):
            if role := token.role_of(shown):
                return role
        return None

    def _metrics(self, request: Request) -> Response:
        if self._bearer_role(request) is None:
            raise HandshakeRefused(401, "token required: Authorization: Bearer TOKEN")
        if self._config.metrics is None:
            raise HandshakeRefused(404, "not found")
        response = self._websocket.reject(HTTPStatus.OK, self._config.metrics())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return response

    # ------------------------------------------------------------- the proof

    def _read_proof(
        self, token: Token, hello: HandshakeHello, welcome: Welcome
    ) -> None:
        received = self._received
        if not PROOF_HEAD.startswith(received[: len(PROOF_HEAD)]):
            self._refuse_proof("the first frame is not a proof")
            return
        if len(received) < PROOF_FRAME_BYTES:
            return
        key_at = len(PROOF_HEAD)
        key = received[key_at : key_at + 4]
        offered = unmasked(received[key_at + 4 : PROOF_FRAME_BYTES], key)
        right = dialler_proof(token, hello, welcome)
        if not proves(offered, right):
            self._refuse_proof(f"a wrong proof for role {hello.role}")
            return
        peer = PeerInfo(
            role=hello.role,
            name=hello.name,
            cluster_id=welcome.cluster_id,
            lane=hello.lane,
            address=self.address,
            carrier=self._carrier,
            dialled=False,
        )
        keys = None
        if welcome.mac:
            keys = link_keys(token, hello, welcome)[::-1]
            transport = cast(asyncio.Transport, self._transport)
            limit_kernel_buffers(transport.get_extra_info("socket"))
        self._hand_over(peer, received[PROOF_FRAME_BYTES:], keys)

    def _refuse_proof(self, reason: str) -> None:
        self._read = self._read_nothing
        self._received = b""
        self._events.refused(self.address, reason)
        self._websocket.fail(CloseCode.POLICY_VIOLATION)  # it is not told why
        self._write()

    def _read_nothing(self) -> None:
        self._received = b""

    def _hand_over(
        self, peer: PeerInfo, rest: bytes, keys: tuple[bytes, bytes] | None
    ) -> None:
        self._read = self._read_nothing
        self._received = b""
        config = self._config
        transport = cast(asyncio.Transport, self._transport)
        connection = Connection(
            transport,
            self._websocket,
            peer,
            config.terms,
            config.scratch,
            keys,
            direct=self._unix,
        )
        self._events.proven(self, connection, rest)

    def _write(self) -> None:
        transport = cast(asyncio.Transport, self._transport)
        for data in self._websocket.data_to_send():
            if data:
                transport.write(data)
            elif transport.can_write_eof():
                transport.write_eof()  # a close would cut off the answer
            else:
                transport.close()


TLS_HANDSHAKE = b"\x16"
"""The first byte of everybody who speaks TLS."""

_ANSWER = "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{}\n"
SPEAK_TLS = _ANSWER.format(
    "426 Upgrade Required\r\nUpgrade: TLS/1.2",
    "this node speaks TLS only: https:// or wss://",
).encode()
SPEAK_PLAIN = _ANSWER.format(
    "400 Bad Request", "this node does not speak TLS: http:// or ws://"
).encode()


async def _first_byte(link: socket.socket) -> bytes:
    """Return the first byte that comes, without taking it; nothing: it hung up."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(link, readable.set)
    try:
        await readable.wait()
        return link.recv(1, socket.MSG_PEEK)
    finally:
        if link.fileno() >= 0:  # else it was dropped
            loop.remove_reader(link)


_ALERTS = {
    "UNKNOWN_CA": "it does not know the CA of this node. Copy ca.pem to it, and name "
    "it there with --ca FILE, ca=FILE or MPREG_NB_CA",
    "BAD_CERTIFICATE": "the certificate of this node does not name the address that "
    "it was dialled at. Make one that does: mpreg-nb tls node NAME HOST",
    "CERTIFICATE_EXPIRED": "the certificate of this node has ended. Make one: mpreg-nb "
    "tls node NAME HOST",
    "CERTIFICATE_UNKNOWN": "it rejects the certificate of this node",
}
"""What who dials says before it hangs up, and what it means."""


def _why_no_tls(error: OSError) -> str:
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    for alert, meaning in _ALERTS.items():
        if reason.endswith(alert):
            return meaning
    if isinstance(error, ConnectionError):  # asyncio does not send the alert
        return (
            "it hung up during the TLS handshake. Most likely it does not trust the "
            "certificate of this node: it needs the CA of this cluster (--ca FILE, "
            "ca=FILE or MPREG_NB_CA), and the certificate must name the address that "
            "it dials"
        )
    return f"no TLS: {error}"


def _select(
    protocol: ServerProtocol, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    """Choose the lane; foreign JSON clients need not name theirs."""
    if not offered:
        return None
    if len(offered) > 1 or offered[0] not in LANES:
        raise NegotiationError(f"exactly one of {', '.join(SUBPROTOCOLS.values())}")
    return offered[0]


LOG = logging.getLogger("mpreg_nb.transport")

YOUNG_S = 0.25
"""Arrivals up to this age are let be: a burst of honest ones is proven by then."""

LINES_PER_S = 10
"""Refusals logged in one second; the others are only counted."""

PORT_TRIES = 8

RESERVED_DESCRIPTORS = 16
"""Open files of this process that strangers cannot use up."""


class Listener:
    """A bound port with its links. Made by `listen`."""

    def __init__(
        self,
        config: HandshakeConfig,
        on_connection: Callable[[Connection], object],
        *,
        scheme: str,
    ) -> None:
        self._config = config
        self._on_connection = on_connection
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self._acceptors: list[Acceptor] = []
        self._local: local_socket.LocalSocket | None = None
        self._scarce = False  # nearly all descriptors were in use at the last arrival
        self._unproven: dict[ServerHandshake, None] = {}  # oldest first
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
        return self._config.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._config.draining = value

    @property
    def links(self) -> int:
        """How many proven links there are."""
        return len(self._links)

    @property
    def unproven(self) -> int:
        """How many sockets have not proven themselves yet."""
        return len(self._unproven)

    async def bind(self, host: str, port: int) -> None:
        """Begin to accept; `listen` does this."""
        first = "127.0.0.1" if host == "localhost" else host
        for tries_left in range(PORT_TRIES if port == 0 else 1, 0, -1):
            found = await self._bound(first, port)
            self.port = found[0].getsockname()[1]
            if host != "localhost":
                break
            try:
                found += await self._bound("::1", self.port)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    break  # there is no IPv6 here
                for one in found:
                    one.close()
                if tries_left == 1:
                    raise
        self.host = first
        self._acceptors = [Acceptor(one, self._arrived) for one in found]

    def take(self, listening: socket.socket) -> None:
        """Accept on a socket that listens already; `listen` does this."""
        self.host, self.port = listening.getsockname()[:2]
        self._acceptors = [Acceptor(listening, self._arrived)]

    def bind_local(self) -> None:
        """Accept on a Unix socket too, where there can be one; `listen` does this."""
        self._local = local_socket.bind(self.host, self.port, backlog=BACKLOG)
        if self._local is not None:
            self._acceptors.append(Acceptor(self._local.listening, self._arrived))

    @property
    def local_path(self) -> str:
        """Where the Unix socket of this listener is; "" without one."""
        return str(self._local.path) if self._local is not None else ""

    def _arrived(self, link: socket.socket) -> None:
        ServerHandshake(self._config, self).accept(link)

    async def _bound(self, host: str, port: int) -> list[socket.socket]:
        """Return sockets that listen on all addresses of `host`."""
        found: list[socket.socket] = []
        try:
            addresses = await self._loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(addresses):
                one = socket.create_server(address, family=family, backlog=BACKLOG)
                found.append(one)
        except OSError as error:
            for one in found:
                one.close()
            cause = os.strerror(error.errno) if error.errno else str(error)
            cure = "Choose another with port=, or port=0 for a free one"
            if error.errno != errno.EADDRINUSE:
                cure = "Set host= to an address of this machine"
            raise OSError(
                error.errno, f"cannot listen on {host} port {port}: {cause}. {cure}"
            ) from error
        return found

    def stop_accepting(self) -> None:
        """Take no new links; open ones go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        if self._local is not None:
            self._local.close()
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

    def drop(self) -> None:
        """Take no new links and end the open ones at once, without a goodbye."""
        self.stop_accepting()
        for link in list(self._links):
            link.give_up("this node ended")

    # ----------------------------------------------- what arrivals report

    def came(self, arrival: ServerHandshake) -> None:
        """Give a place to one that knocked, at the cost of the slowest."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The system gives out the lowest number that is free.
        self._scarce = 0 <= files - RESERVED_DESCRIPTORS <= arrival.descriptor
        if len(self._unproven) >= self._config.terms.limits.connections:
            arrival.drop()
            return
        self._unproven[arrival] = None
        if self._sweep_timer is None or self._crowded:
            self._sweep()
        if self._scarce:  # its place is taken from those who come from now on
            self._unproven.pop(arrival, None)
            arrival.drop()

    def proven(
        self, arrival: ServerHandshake, connection: Connection, rest: bytes
    ) -> None:
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

    def gone(self, arrival: ServerHandshake) -> None:
        """Free the place of one that left or was dropped."""
        self._unproven.pop(arrival, None)

    @property
    def _crowded(self) -> bool:
        most = self._config.terms.limits.unproven_connections
        return self._scarce or len(self._unproven) > most

    def _sweep(self) -> None:
        """Drop those whose time is up; in a crowd, all but the young."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        now = self._loop.time()
        timeout_s = self._config.terms.limits.proof_timeout_s
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
        self._config.full = len(self._links) >= self._config.terms.limits.connections


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
    patience: Timeouts | None = None,
    local: bool = False,
) -> Listener:
    """Accept links on `host` and `port`; port 0 takes a free one.

    `listening` is a socket that listens already, taken in place of both.

    `cluster_id` is asked for each link, since a node may learn it late.
    `on_connection` gets each proven link before its first message and sets its
    callbacks. `hosts` are names, beside loopback and `host`, that a Host header
    may have. `metrics` makes the body of GET /metrics. "localhost" listens on
    both of its addresses, where there are both. `local` asks for a Unix socket
    beside the port.

    Raises:
        OSError: the port is taken, or the address cannot be bound; says which.
        NotTrusted: `host` is not loopback, and the link would be in the clear
            or `json_open`; or the token was issued for clients only.
    """
    token.key("node")
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
    config = HandshakeConfig(
        token=token,
        node_name=node_name,
        cluster_id=cluster_id,
        hosts=frozenset(name.lower() for name in (*hosts, host)),
        json_open=json_open,
        metrics=metrics,
        terms=LinkConfig(limits=limits or Limits(), patience=patience or Timeouts()),
        ssl_context=ssl_context,
    )
    listener = Listener(config, on_connection, scheme="wss" if ssl_context else "ws")
    if listening is not None:
        listener.take(listening)
    else:
        await listener.bind(host, port)
    if local:
        listener.bind_local()
    return listener
