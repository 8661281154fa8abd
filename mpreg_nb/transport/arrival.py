"""A socket that was accepted, from its first byte until it is proven or refused.

It holds little: the request may have 64 KiB, the proof has 38 bytes, and both
must be there within `Limits.proof_timeout_s`. Nothing of ours is decoded here.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Protocol, cast

from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.facts import Lane, PeerFacts
from mpreg_nb.transport.framing import BINARY, MASKED, Scratch, unmasked
from mpreg_nb.transport.handshake import (
    NONCE_BYTES,
    PROOF_BYTES,
    SUBPROTOCOLS,
    Hello,
    Refused,
    Welcome,
    bearer,
    check_origin_and_host,
    dialler_proof,
    listener_proof,
    proves,
    read_hello,
    welcome_headers,
)
from mpreg_nb.transport.terms import Terms
from mpreg_nb.transport.token import Token

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


@dataclass(kw_only=True, slots=True)
class Door:
    """What one listener asks of those who knock."""

    token: Token
    node_name: str
    cluster_id: Callable[[], str]
    hosts: frozenset[str]
    json_open: bool
    metrics: Callable[[], str] | None
    terms: Terms
    scratch: Scratch = field(default_factory=Scratch)
    draining: bool = False
    full: bool = False  # as many links as there may be


class Keeper(Protocol):
    """Who counts the arrivals of one port."""

    def came(self, arrival: "Arrival") -> None:
        """Hear of a socket that was accepted."""

    def proven(self, arrival: "Arrival", connection: Connection, rest: bytes) -> None:
        """Take over `connection`; `rest` came behind the proof."""

    def refused(self, address: str, reason: str) -> None:
        """Hear why one was sent away; the one itself is not told."""

    def gone(self, arrival: "Arrival") -> None:
        """Hear of the end of one that was not proven."""


class Arrival(asyncio.Protocol):
    """Reads the upgrade request and the proof, then hands over to a Connection."""

    def __init__(self, door: Door, keeper: Keeper) -> None:
        self._door = door
        self._keeper = keeper
        self._websocket = ServerProtocol(
            select_subprotocol=_select,
            max_size=door.terms.limits.max_frame_bytes,
            logger=QUIET,
        )
        self._received = b""
        self._read: Callable[[], None] = self._read_request
        self._read_next: Callable[[], None] | None = None  # after the answer
        self.address = ""
        self.came_s = 0.0  # on the loop's clock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who knocks, and when."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("unknown", 0)
        self.address = f"{peer[0]}:{peer[1]}"
        self.came_s = asyncio.get_running_loop().time()
        self._keeper.came(self)

    def data_received(self, data: bytes) -> None:
        """Read on, as far as the request and the proof go."""
        self._received += data
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self._keeper.gone(self)

    def drop(self) -> None:
        """Close at once, without an answer."""
        self._read = self._read_nothing
        self._transport.abort()

    # ----------------------------------------------------------- the request

    def _read_request(self) -> None:
        if not self._received[:1].isalpha():  # no HTTP; most likely TLS
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
            self._transport.close()

    def _answer(self, request: Request, rest: bytes) -> None:
        try:
            response = self._respond(request)
            if rest:
                raise Refused(400, "data before the answer is not allowed")
        except Refused as refusal:
            self._keeper.refused(self.address, f"{refusal.status} {refusal.text}")
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
            peer = PeerFacts(
                role="client",
                name="",
                cluster_id=self._door.cluster_id(),
                lane="json",
                address=self.address,
                dialled=False,
            )
            self._hand_over(peer, b"")

    def _respond(self, request: Request) -> Response:
        door, headers = self._door, request.headers
        check_origin_and_host(headers, door.hosts)
        if request.path in ("/healthz", "/metrics") and request.method != "GET":
            raise Refused(405, "only GET is served here")
        if request.path == "/healthz":
            state = "draining" if door.draining else "ok"
            return self._websocket.reject(HTTPStatus.OK, f"{state}\n")
        if request.path == "/metrics":
            return self._metrics(request)
        if request.path != "/":
            raise Refused(404, "not found")
        if door.full:
            raise Refused(503, "connection limit reached; try another node")
        response = self._websocket.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return response
        lane = LANES.get(self._websocket.subprotocol, "json")
        if lane == "json":
            if not door.json_open and not door.token.matches(bearer(headers)):
                raise Refused(401, "token required: Authorization: Bearer TOKEN")
            return response
        hello = read_hello(headers, lane)
        welcome = Welcome(
            nonce=secrets.token_bytes(NONCE_BYTES),
            cluster_id=door.cluster_id(),
            node_name=door.node_name,
        )
        proof = listener_proof(door.token, hello, welcome)
        response.headers.update(welcome_headers(replace(welcome, proof=proof)))
        self._read_next = partial(self._read_proof, hello, welcome)
        return response

    def _metrics(self, request: Request) -> Response:
        if not self._door.token.matches(bearer(request.headers)):
            raise Refused(401, "token required: Authorization: Bearer TOKEN")
        if self._door.metrics is None:
            raise Refused(404, "not found")
        response = self._websocket.reject(HTTPStatus.OK, self._door.metrics())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return response

    # ------------------------------------------------------------- the proof

    def _read_proof(self, hello: Hello, welcome: Welcome) -> None:
        received = self._received
        if not PROOF_HEAD.startswith(received[: len(PROOF_HEAD)]):
            self._refuse_proof("the first frame is not a proof")
            return
        if len(received) < PROOF_FRAME_BYTES:
            return
        key_at = len(PROOF_HEAD)
        key = received[key_at : key_at + 4]
        offered = unmasked(received[key_at + 4 : PROOF_FRAME_BYTES], key)
        right = dialler_proof(self._door.token, hello, welcome)
        if not proves(offered, right):
            self._refuse_proof(f"a wrong proof for role {hello.role}")
            return
        peer = PeerFacts(
            role=hello.role,
            name=hello.name,
            cluster_id=welcome.cluster_id,
            lane=hello.lane,
            address=self.address,
            dialled=False,
        )
        self._hand_over(peer, received[PROOF_FRAME_BYTES:])

    def _refuse_proof(self, reason: str) -> None:
        self._read = self._read_nothing
        self._received = b""
        self._keeper.refused(self.address, reason)
        self._websocket.fail(CloseCode.POLICY_VIOLATION)  # it is not told why
        self._write()

    def _read_nothing(self) -> None:
        self._received = b""

    def _hand_over(self, peer: PeerFacts, rest: bytes) -> None:
        self._read = self._read_nothing
        self._received = b""
        door = self._door
        connection = Connection(
            self._transport, self._websocket, peer, door.terms, door.scratch
        )
        self._keeper.proven(self, connection, rest)

    def _write(self) -> None:
        for data in self._websocket.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()  # a close would cut off the answer
            else:
                self._transport.close()


def _select(
    protocol: ServerProtocol, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    """Choose the lane; foreign JSON clients need not name theirs."""
    if not offered:
        return None
    if len(offered) > 1 or offered[0] not in LANES:
        raise NegotiationError(f"exactly one of {', '.join(SUBPROTOCOLS.values())}")
    return offered[0]
