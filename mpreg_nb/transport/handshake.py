"""The mutual proof of two ends of a link, as functions without I/O.

1. The dialler sends an upgrade request with a fresh nonce, its role and name,
   and the cluster and node that it expects, where it knows them.
2. The listener answers with a nonce of its own, its cluster and name, and an
   HMAC over all of that. The dialler sends nothing more until it is right.
3. The dialler's HMAC over the same, labelled otherwise, is its first frame. The
   listener reads nothing else until it is right.

Both nonces are fresh, so what was seen of one link is worthless on another; no
clock and no memory of past links is needed. The key is derived from the token
per role of the dialler. The dialled address is not part of it: tunnels work.

Whoever passes the bytes on, unseen by both ends, could still change what follows. So
where one end sees plain TCP, keys for the MAC of each message are derived from the same
(`link_keys`). Whether there is a MAC is part of what both prove.
"""

import hmac
import ipaddress
from collections.abc import Callable
from typing import TypeVar, cast, get_args
from urllib.parse import quote, unquote

import msgspec
from websockets.datastructures import Headers
from websockets.typing import Subprotocol

from mpreg_nb.names import check_name
from mpreg_nb.transport.connection import Lane
from mpreg_nb.transport.token import Role, Token

T = TypeVar("T")

NONCE_BYTES = 16
PROOF_BYTES = 32
KEY_ID_BYTES = 8
LONGEST_CLUSTER_ID = 64

SUBPROTOCOLS: dict[Lane, Subprotocol] = {
    "control": Subprotocol("mpreg.control.v2"),
    "data": Subprotocol("mpreg.data.v2"),
    "json": Subprotocol("mpreg.json"),
}

NONCE_HEADER = "X-Mpreg-Nonce"
PROOF_HEADER = "X-Mpreg-Proof"
ROLE_HEADER = "X-Mpreg-Role"
NAME_HEADER = "X-Mpreg-Name"
CLUSTER_HEADER = "X-Mpreg-Cluster"
NODE_HEADER = "X-Mpreg-Node"
KEY_HEADER = "X-Mpreg-Key"
MAC_HEADER = "X-Mpreg-Mac"
VERSIONS_HEADER = "X-Mpreg-Speaks"
"""What a listener speaks, in its answer to one that speaks something else."""


class HandshakeRefused(Exception):
    """A request is answered with this HTTP status and sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class HandshakeHello(msgspec.Struct, frozen=True, kw_only=True):
    """What the dialler says of itself and expects of the other end."""

    role: Role
    lane: Lane
    name: str
    nonce: bytes
    cluster_id: str = ""  # expected; empty: any
    node_name: str = ""  # expected; empty: any
    key_id: str = ""  # of the key that it proves itself with
    mac: bool = False  # it needs a MAC on each message, since it sees plain TCP


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the listener says of itself."""

    nonce: bytes
    cluster_id: str
    node_name: str
    mac: bool = False  # each message after the proofs has a MAC
    proof: bytes = b""


def hello_headers(hello: HandshakeHello) -> dict[str, str]:
    """Return the headers that carry `hello`, beside the subprotocol."""
    headers = {
        NONCE_HEADER: hello.nonce.hex(),
        ROLE_HEADER: hello.role,
        NAME_HEADER: quote(hello.name, safe=""),  # names may be in any script
    }
    if hello.cluster_id:
        headers[CLUSTER_HEADER] = hello.cluster_id
    if hello.node_name:
        headers[NODE_HEADER] = quote(hello.node_name, safe="")
    if hello.key_id:
        headers[KEY_HEADER] = hello.key_id
    if hello.mac:
        headers[MAC_HEADER] = "1"
    return headers


def read_hello(headers: Headers, lane: Lane) -> HandshakeHello:
    """Return what a dialler said.

    Raises:
        HandshakeRefused: something is missing, twice there, or not allowed (400, 403).
    """
    role = _single(headers, ROLE_HEADER)
    if role not in get_args(Role):
        raise HandshakeRefused(
            400, f"{ROLE_HEADER} is none of {', '.join(get_args(Role))}"
        )
    if role != "node" and lane == "control":
        raise HandshakeRefused(403, "the control lane is for nodes")
    return HandshakeHello(
        role=cast(Role, role),
        lane=lane,
        name=_read(headers, NAME_HEADER, _name),
        nonce=_read(headers, NONCE_HEADER, _nonce),
        cluster_id=_read(headers, CLUSTER_HEADER, _cluster, default=""),
        node_name=_read(headers, NODE_HEADER, _name, default=""),
        key_id=_read(headers, KEY_HEADER, _key_id, default=""),
        mac=_read(headers, MAC_HEADER, _flag, default=False),
    )


def welcome_headers(welcome: Welcome) -> dict[str, str]:
    """Return the headers that carry `welcome`."""
    headers = {
        NONCE_HEADER: welcome.nonce.hex(),
        CLUSTER_HEADER: welcome.cluster_id,
        NODE_HEADER: quote(welcome.node_name, safe=""),
        PROOF_HEADER: welcome.proof.hex(),
    }
    if welcome.mac:
        headers[MAC_HEADER] = "1"
    return headers


def read_welcome(headers: Headers) -> Welcome:
    """Return what a listener said.

    Raises:
        HandshakeRefused: something is missing, twice there, or not well formed.
    """
    return Welcome(
        nonce=_read(headers, NONCE_HEADER, _nonce),
        cluster_id=_read(headers, CLUSTER_HEADER, _cluster),
        node_name=_read(headers, NODE_HEADER, _name),
        mac=_read(headers, MAC_HEADER, _flag, default=False),
        proof=_read(headers, PROOF_HEADER, bytes.fromhex),
    )


def listener_proof(token: Token, hello: HandshakeHello, welcome: Welcome) -> bytes:
    """Return what only a listener that knows `token` can answer to `hello`."""
    return _proof("server", token, hello, welcome)


def dialler_proof(token: Token, hello: HandshakeHello, welcome: Welcome) -> bytes:
    """Return what only a dialler that knows `token` can answer to `welcome`."""
    return _proof("client", token, hello, welcome)


def link_keys(
    token: Token, hello: HandshakeHello, welcome: Welcome
) -> tuple[bytes, bytes]:
    """Return the keys for the MACs of what the dialler sends, and the listener."""
    return (
        _proof("messages of the client", token, hello, welcome),
        _proof("messages of the server", token, hello, welcome),
    )


def proves(offered: bytes, right: bytes) -> bool:
    """Whether the proofs are the same; takes as long where they nearly are."""
    return hmac.compare_digest(offered, right)


def check_origin_and_host(headers: Headers, hosts: frozenset[str]) -> None:
    """Let nothing through that a browser sent or was lured to.

    A page of any site may open a WebSocket to loopback, and then an Origin
    header tells; a name of the attacker's that resolves to loopback shows in
    the Host header. `hosts` are the names, beside loopback, that are ours.

    Raises:
        HandshakeRefused: 400 for a header that is there twice or lacks, 403 otherwise.
    """
    origins = headers.get_all("Origin")
    if len(origins) > 1:
        raise HandshakeRefused(400, "more than one Origin header")
    if origins:
        raise HandshakeRefused(403, "requests from web pages are rejected")
    names = headers.get_all("Host")
    if len(names) != 1:
        raise HandshakeRefused(400, "exactly one Host header is needed")
    host = _host_without_port(names[0])
    if host != "localhost" and host not in hosts and not is_loopback(host):
        raise HandshakeRefused(403, "this Host is not served here")


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine only; names are not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bearer(headers: Headers) -> str:
    """Return the token in the Authorization header, or nothing."""
    values = headers.get_all("Authorization")
    if len(values) != 1:
        return ""
    scheme, _, secret = values[0].partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _proof(side: str, token: Token, hello: HandshakeHello, welcome: Welcome) -> bytes:
    fields = (
        side.encode(),
        hello.nonce,
        welcome.nonce,
        hello.role.encode(),
        hello.lane.encode(),
        hello.name.encode(),
        welcome.cluster_id.encode(),
        welcome.node_name.encode(),
        hello.key_id.encode(),
        b"mac" if hello.mac else b"",
        b"mac" if welcome.mac else b"",
    )
    # Each with its length, so that no two lists of fields make the same bytes.
    transcript = b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    return hmac.digest(token.key(hello.role), transcript, "sha256")


def _host_without_port(value: str) -> str:
    host, colon, port = value.lower().rpartition(":")
    if not colon or not port.isdigit():
        host = value.lower()
    return host.strip("[]")


def _single(headers: Headers, header: str) -> str:
    values = headers.get_all(header)
    if len(values) > 1:
        raise HandshakeRefused(400, f"more than one {header} header")
    return values[0] if values else ""


def _read(
    headers: Headers,
    header: str,
    convert: Callable[[str], T],
    *,
    default: T | None = None,
) -> T:
    value = _single(headers, header)
    if not value and default is not None:
        return default
    try:
        return convert(value)
    except ValueError as error:
        raise HandshakeRefused(
            400, f"{header} is missing or not well formed"
        ) from error


def _nonce(value: str) -> bytes:
    nonce = bytes.fromhex(value)
    if len(nonce) != NONCE_BYTES:
        raise ValueError(value)
    return nonce


def _key_id(value: str) -> str:
    if len(bytes.fromhex(value)) != KEY_ID_BYTES:
        raise ValueError(value)
    return value


def _flag(value: str) -> bool:
    if value != "1":
        raise ValueError(value)
    return True


def _name(value: str) -> str:
    return check_name("node", unquote(value, errors="strict"))


def _cluster(value: str) -> str:
    if not 1 <= len(value) <= LONGEST_CLUSTER_ID or not value.isalnum():
        raise ValueError(value)
    return value
