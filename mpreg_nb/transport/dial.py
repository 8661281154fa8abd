"""Open a link to a node, and find out that it is the right one before using it."""

import asyncio
import os
import re
import secrets
import socket
import ssl
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import urlsplit

from msgspec.structs import replace
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from mpreg_nb.errors import MpregError, NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport import local_socket, tls
from mpreg_nb.transport.connection import (
    Carrier,
    Connection,
    FailureKind,
    Lane,
    LinkConfig,
    PeerInfo,
    Timeouts,
    limit_kernel_buffers,
)
from mpreg_nb.transport.framing import Scratch
from mpreg_nb.transport.handshake import (
    NONCE_BYTES,
    SUBPROTOCOLS,
    VERSIONS_HEADER,
    HandshakeHello,
    HandshakeRefused,
    Welcome,
    dialler_proof,
    hello_headers,
    link_keys,
    listener_proof,
    proves,
    read_welcome,
)
from mpreg_nb.transport.listener import END_OF_REQUEST, LONGEST_REQUEST, QUIET
from mpreg_nb.transport.token import Role, Token, current

CONNECT_TIMEOUT_S = 3.0
"""From the first packet to the proof; a node on the same continent needs 0.5."""

UNAVAILABLE, UPGRADE_REQUIRED = b"503", b"426"

_HEADER = re.compile(rb"\r\n%s: ([ -~]{1,200})\r\n" % VERSIONS_HEADER.encode(), re.I)


def shown(url: str) -> str:
    """Return the host of `url`: ports change from run to run, messages should not.

    >>> shown("ws://10.0.0.5:7400")
    '10.0.0.5'
    """
    return urlsplit(url).hostname or url


class DialFailed(MpregError, ConnectionError):
    """There is no link to `url`; `kind` says why, `detail` in words."""

    def __init__(self, kind: FailureKind, url: str, detail: str) -> None:
        super().__init__(f"cannot connect to {shown(url)}: {detail}")
        self.kind: FailureKind = kind
        self.url = url
        self.detail = detail


async def dial(
    url: str,
    *,
    token: Token,
    role: Role,
    lane: Lane,
    name: str,
    on_open: Callable[[Connection], object],
    cluster_id: str = "",
    node_name: str = "",
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    patience: Timeouts | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    scratch: Scratch | None = None,
) -> Connection:
    """Open a link and prove both ends to each other.

    `name` is the caller's own; `cluster_id` and `node_name`, where given, are
    those that the other end must prove. `on_open` sets the callbacks; messages
    may be sent in it and from then on. Diallers of one loop may share `scratch`.
    Proxies of the environment are not used and redirects not followed. A node of
    this user on this machine is reached through its Unix socket.

    Cancelling leaves no socket behind: a link that was opened in this moment is lost.

    Raises:
        DialFailed: kind refused, timed_out, wrong_cluster, wrong_node or mismatch.
        NotTrusted: the other end could not prove that it knows the token, or has no
            certificate of the CA that `ssl_context` trusts.
    """
    uri = _parse(url)
    token = current(token)
    key_id = token.key_id(role)
    near = None if uri.secure else local_socket.connect(uri.host, uri.port)
    carrier: Carrier = "tls" if uri.secure else "tcp" if near is None else "unix"
    hello = HandshakeHello(
        role=role,
        lane=lane,
        name=name,
        nonce=secrets.token_bytes(NONCE_BYTES),
        cluster_id=cluster_id,
        node_name=node_name,
        key_id=key_id,
        mac=carrier == "tcp",
    )
    if uri.secure and ssl_context is None:
        raise NotTrusted(
            f"no CA is known that the certificate of {shown(url)} could be checked "
            f"with. {COPY_CA}"
        )
    departure = ClientHandshake(
        url,
        uri,
        hello,
        token=token,
        carrier=carrier,
        direct=near,
        on_open=on_open,
        terms=LinkConfig(limits=limits or Limits(), patience=patience or Timeouts()),
        scratch=scratch or Scratch(),
    )
    link: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            if near is not None:
                # uvloop's create_unix_connection lets the socket object close a
                # descriptor that is another's by then, if the other end hangs up.
                await loop.connect_accepted_socket(lambda: departure, near)
            else:
                await loop.create_connection(
                    lambda: departure,
                    uri.host,
                    uri.port,
                    ssl=ssl_context if uri.secure else None,
                )
            link = await departure.opened
        return link
    except TimeoutError as error:
        detail = f"no answer within {timeout_s:g} s"
        raise DialFailed("timed_out", url, detail) from error
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(_distrust(url, error.verify_code)) from error
    except ssl.SSLError as error:
        raise DialFailed("mismatch", url, _no_tls(error.reason)) from error
    except OSError as error:
        if isinstance(error, MpregError):
            raise
        raise DialFailed("refused", url, _reason(error)) from error
    finally:
        if link is None:
            departure.drop()


COPY_CA = (
    "Copy ca.pem from the machine where mpreg-nb tls init made it, and name it with "
    "--ca FILE, ca=FILE or MPREG_NB_CA"
)


def _distrust(url: str, code: int) -> str:
    """Return why the certificate of the node at `url` is refused, and the cure."""
    whose = f"the certificate of the node at {shown(url)}"
    again = "Make one, where the CA is: mpreg-nb tls node NAME HOST"
    match code:
        case tls.EXPIRED:
            return f"{whose} has ended. {again}"
        case tls.NOT_YET:
            return (
                f"{whose} is not valid yet, so the clock of one of the two machines is "
                "wrong. Set it"
            )
        case tls.WRONG_HOST | tls.WRONG_ADDRESS:
            return (
                f"{whose} does not name {shown(url)}. Use an address that it names, or "
                f"make one for this address, where the CA is: mpreg-nb tls node NAME "
                f"{shown(url)}"
            )
        case _:
            return f"{whose} is of another CA than the one known here. {COPY_CA}"


# What OpenSSL reads in an answer that is no TLS.
_PLAIN = re.compile("WRONG_VERSION|RECORD_LAYER_FAILURE|PACKET_LENGTH|HTTP_REQUEST")


def _reason(error: OSError) -> str:
    """Return why the system refused, in its words: asyncio puts addresses into them."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error)
    several = _ERRNO.search(str(error))  # one for each address of the host
    number = error.errno or (int(several[1]) if several else 0)
    return os.strerror(number) if number else str(error)


_ERRNO = re.compile(r"\[Errno (\d+)\]")


def _no_tls(reason: str | None) -> str:
    if reason and _PLAIN.search(reason):
        return (
            "it does not speak TLS. A node without a certificate has a URL that begins "
            "with ws://"
        )
    return f"TLS failed ({reason or 'no reason given'})"


def _parse(url: str) -> WebSocketURI:
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError) as error:
        raise DialFailed(
            "refused", url, f"not a ws:// or wss:// URL: {error}"
        ) from error
    if uri.username is not None:
        # Not shown: what stands there may be meant to be secret.
        raise DialFailed(
            "refused", uri.host, "a URL must not contain a user or password"
        )
    return uri


class ClientHandshake(asyncio.Protocol):
    """Sends the upgrade request, checks the answer, then hands over to a Connection."""

    def __init__(
        self,
        url: str,
        uri: WebSocketURI,
        hello: HandshakeHello,
        *,
        token: Token,
        carrier: Carrier,
        direct: socket.socket | None,
        on_open: Callable[[Connection], object],
        terms: LinkConfig,
        scratch: Scratch,
    ) -> None:
        self._url = url
        self._carrier: Carrier = carrier
        self._direct = direct
        self._hello = hello
        self._token = token
        self._on_open = on_open
        self._terms = terms
        self._scratch = scratch
        self._websocket = ClientProtocol(
            uri,
            subprotocols=[SUBPROTOCOLS[hello.lane]],
            max_size=terms.limits.max_frame_bytes,
            logger=QUIET,
        )
        self._transport: asyncio.Transport | None = None
        self._received = b""
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Connection] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)
        request = self._websocket.connect()
        request.headers.update(hello_headers(self._hello))
        self._websocket.send_request(request)
        self._write(self._transport)

    def data_received(self, data: bytes) -> None:
        """Read the answer; open the link if it is right."""
        self._received += data
        head, end, rest = self._received.partition(END_OF_REQUEST)
        if self.opened.done() or (not end and len(head) <= LONGEST_REQUEST):
            return
        try:
            self._check_answer(head + end, rest)
        except MpregError as error:
            self.opened.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if there was no answer."""
        if not self.opened.done():
            detail = (
                f"it closed the connection without an answer{f': {exc}' if exc else ''}"
            )
            self.opened.set_exception(DialFailed("refused", self._url, detail))

    def drop(self) -> None:
        """Leave no socket and no link behind: the dial failed or was given up."""
        ended = self.opened.cancel() or self.opened.cancelled()
        if self._transport is not None:
            self._transport.abort()
        if not ended and self.opened.exception() is None:
            # uvloop may have closed the transport already, and tells nobody.
            self.opened.result().connection_lost(None)

    def _check_answer(self, head: bytes, rest: bytes) -> None:
        status = head.split(b" ", 2)[1:2]
        if status == [UNAVAILABLE]:
            detail = "its connection limit is reached"
            raise DialFailed("refused", self._url, detail)
        self._websocket.receive_data(head)
        answers = self._websocket.events_received()
        if self._websocket.handshake_exc is not None or not answers or rest:
            self._check_language(status, head)
            code = ascii(status[0].decode("latin-1"))[:5] if status else "none"
            raise NotTrusted(
                f"the server at {shown(self._url)} is not a node, or rejects this "
                f"kind of client (HTTP status {code}). Check the URL"
            )
        answer = cast(Response, answers[0])  # what a dialler gets first
        try:
            welcome = read_welcome(answer.headers)
        except HandshakeRefused as error:
            raise NotTrusted(
                f"the server at {shown(self._url)} did not prove that it knows "
                "the token"
            ) from error
        right = listener_proof(self._token, self._hello, replace(welcome, proof=b""))
        if not proves(welcome.proof, right):
            raise NotTrusted(
                f"the node at {shown(self._url)} has a different token than "
                f"{self._token.source}. Copy its token to here: mpreg-nb token show"
            )
        if self._hello.mac and not welcome.mac:
            raise NotTrusted(
                f"the node at {shown(self._url)} would send messages without a MAC on "
                "a connection that is not encrypted"
            )
        self._check_expected("cluster", self._hello.cluster_id, welcome.cluster_id)
        self._check_expected("node", self._hello.node_name, welcome.node_name)
        self._open(welcome, self._check_certificate(welcome))

    def _check_language(self, status: list[bytes], head: bytes) -> None:
        """Raise what is wrong if the other end says that it speaks otherwise."""
        if status == [UPGRADE_REQUIRED]:
            detail = "it speaks TLS only. Its URL begins with wss://"
            raise DialFailed("mismatch", self._url, detail)
        spoken = _HEADER.search(head)
        if spoken:
            mine = SUBPROTOCOLS[self._hello.lane]
            theirs = ascii(spoken[1].decode("latin-1"))[1:-1]
            detail = (
                f"it speaks {theirs}, and this process {mine}: their versions of "
                "mpreg_nb do not fit. Install the same one on both: pip install -U "
                "mpreg_nb"
            )
            raise DialFailed("mismatch", self._url, detail)

    def _check_certificate(self, welcome: Welcome) -> float:
        """Return when the certificate of the other end ends; 0: there is none.

        Raises:
            NotTrusted: it is for other nodes than the one that answers.
        """
        transport = cast(asyncio.Transport, self._transport)
        found = transport.get_extra_info("peercert")
        if not found:
            return 0.0
        certificate = tls.Certificate.of(found)
        if certificate.nodes and welcome.node_name not in certificate.nodes:
            raise NotTrusted(
                f"node {welcome.node_name} answers at {shown(self._url)} with the "
                f"certificate of node {', '.join(certificate.nodes)}. Give it its own: "
                f"mpreg-nb tls node {welcome.node_name} {shown(self._url)}"
            )
        return certificate.expires_s

    def _check_expected(
        self, kind: Literal["cluster", "node"], expected: str, proven: str
    ) -> None:
        if expected and expected != proven:
            detail = f"{kind} {proven} answers there, not {expected}"
            wrong: FailureKind = "wrong_cluster" if kind == "cluster" else "wrong_node"
            raise DialFailed(wrong, self._url, detail)

    def _open(self, welcome: Welcome, expires_s: float) -> None:
        transport = cast(asyncio.Transport, self._transport)
        self._websocket.send_binary(dialler_proof(self._token, self._hello, welcome))
        self._write(transport)
        if welcome.mac:
            limit_kernel_buffers(transport.get_extra_info("socket"))
        address = "this machine"
        if self._carrier != "unix":
            host, port = (transport.get_extra_info("peername") or ("unknown", 0))[:2]
            address = f"{host}:{port}"
        peer = PeerInfo(
            role="node",
            name=welcome.node_name,
            cluster_id=welcome.cluster_id,
            lane=self._hello.lane,
            address=address,
            carrier=self._carrier,
            dialled=True,
            expires_s=expires_s,
        )
        keys = link_keys(self._token, self._hello, welcome) if welcome.mac else None
        connection = Connection(
            transport,
            self._websocket,
            peer,
            self._terms,
            self._scratch,
            keys,
            direct=self._direct,
        )
        try:
            self._on_open(connection)
        except Exception as error:  # noqa: BLE001 - the dial's caller gets it
            if not self.opened.done():
                self.opened.set_exception(error)
        if not self.opened.done():  # else the dial was given up just now
            self.opened.set_result(connection)
        connection.begin()

    def _write(self, transport: asyncio.Transport) -> None:
        for data in self._websocket.data_to_send():
            if data:
                transport.write(data)
