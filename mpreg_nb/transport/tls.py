"""Certificates as nodes and clients use them: what is trusted, and for how long.

Who dials trusts the CA of the cluster and no other: not the store of the system, whose
hundred authorities vouch for every host of the internet. `certificates` makes that CA.
"""

import ipaddress
import os
import ssl
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from mpreg_nb.errors import NotTrusted
from mpreg_nb.user_files import private_folder, state_folder, write_private

SYSTEM = "system"
"""In place of a CA: trust what this system trusts, as web browsers do."""

SOON_S = 30 * 86400.0
"""The end of a certificate is told so long before."""

_NODE = "mpreg-nb:node/"
_BEGIN = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """Key and certificate of one node, and the CA of its cluster; all PEM."""

    certificate: str
    key: str = field(repr=False)
    ca: str

    def write(self, folder: Path, stem: str) -> "TlsFiles":
        """Write it into `folder`, for this user only."""
        private_folder(folder)
        files = TlsFiles(
            certificate=str(folder / f"{stem}.pem"),
            key=str(folder / f"{stem}.key"),
            ca=str(folder / "ca.pem"),
        )
        write_private(Path(files.key), self.key.encode())
        write_private(Path(files.certificate), self.certificate.encode())
        write_private(Path(files.ca), self.ca.encode())
        return files


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node reads what it needs: --tls-cert, --tls-key and --ca."""

    certificate: str
    key: str
    ca: str = ""

    @property
    def vouching(self) -> str:
        """The file that vouches for the certificate; without a CA it does so itself."""
        return self.ca or usual_ca() or self.certificate


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What one certificate says."""

    hosts: tuple[str, ...]
    """Names and addresses that its node may be dialled at."""

    nodes: tuple[str, ...]
    """Names of the node that it is for; none: any."""

    expires_s: float
    """When it ends, on the wall clock."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Certificate":
        """Return what `ssl` found in a certificate that it has checked."""
        names = found.get("subjectAltName", ())
        return cls(
            hosts=tuple(
                _plain(name) for kind, name in names if kind in ("DNS", "IP Address")
            ),
            nodes=tuple(
                unquote(name.removeprefix(_NODE))
                for kind, name in names
                if kind == "URI" and name.startswith(_NODE)
            ),
            expires_s=ssl.cert_time_to_seconds(found["notAfter"]),
        )

    def is_for(self, host: str) -> bool:
        """Whether its node may be dialled at `host`.

        >>> one = Certificate(hosts=("::1", "*.lan"), nodes=(), expires_s=0.0)
        >>> one.is_for("[0:0::1]"), one.is_for("N1.lan"), one.is_for("a.b.lan")
        (True, True, False)
        """
        host = _plain(host)
        return host in self.hosts or f"*.{host.partition('.')[2]}" in self.hosts


class Tls(msgspec.Struct, frozen=True):
    """The two sides of TLS of one node; both ends still prove the token inside."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext
    ca: str = ""
    """What others need to check the certificate: PEM."""

    certificate: Certificate | None = None


def _plain(host: str) -> str:
    """Return `host` as it is compared: there are several ways to write an address."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.lower()


def node_uri(node: str) -> str:
    """Return how a certificate names a node.

    >>> node_uri("gpu 1")
    'mpreg-nb:node/gpu%201'
    """
    return f"{_NODE}{quote(node, safe='')}"


def ends_soon(expires_s: float, now_s: float | None = None) -> str:
    """Return in words when a certificate ends, if that is within a month.

    >>> ends_soon(86400.0 * 12.5, 0.0), ends_soon(5.0, 10.0), ends_soon(1e9, 0.0)
    ('ends in 12 days', 'has ended', '')
    """
    left_s = expires_s - (time.time() if now_s is None else now_s)
    if left_s > SOON_S:
        return ""
    if left_s <= 0:
        return "has ended"
    days = int(left_s // 86400)
    return f"ends in {days} day{'' if days == 1 else 's'}" if days else "ends today"


# ------------------------------------------------------------------- what is trusted


def certificates_folder() -> Path:
    """Return where `mpreg-nb tls` writes, unless told otherwise."""
    return state_folder() / "tls"


def load_ca(
    given: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return the CA that certificates of nodes are checked with: PEM, or `SYSTEM`.

    The first of these that is set decides: `given`, MPREG_NB_CA, and the CA that this
    user made with `mpreg-nb tls init`. "": there is none. Each is a file, or the word
    "system"; `given` may also be PEM itself.

    Raises:
        NotTrusted: the file cannot be read, or holds no certificate; names the cure.
    """
    text = usual_ca(environ) if given is None else os.fspath(given)
    return text if text in ("", SYSTEM) or _BEGIN in text else read_ca(Path(text))


def usual_ca(environ: Mapping[str, str] = os.environ) -> str:
    """Return the file of the CA that is used unless another is given; "": none."""
    if (named := environ.get("MPREG_NB_CA")) is not None:
        return named
    own = certificates_folder() / "ca.pem"
    return str(own) if own.exists() else ""


def read_ca(path: Path) -> str:
    """Return the certificates in a file.

    Raises:
        NotTrusted: it cannot be read, or holds none; names the cure.
    """
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise NotTrusted(
            f"the CA {path} cannot be read: {error.strerror}. Copy ca.pem from the "
            "machine where mpreg-nb tls init made it, and name it with --ca FILE, "
            "ca=FILE or MPREG_NB_CA"
        ) from None
    except UnicodeDecodeError:
        text = ""
    if _BEGIN not in text:
        kind = "a private key" if "PRIVATE KEY-----" in text else "no certificate (PEM)"
        raise NotTrusted(
            f"{path} holds {kind}. The CA of a cluster is the file ca.pem that "
            "mpreg-nb tls init made"
        )
    return text


@lru_cache(maxsize=64)
def dialling(ca: str) -> ssl.SSLContext:
    """Return how to dial nodes that `ca` vouches for: PEM, or `SYSTEM`.

    Raises:
        NotTrusted: `ca` holds no whole certificate.
    """
    if ca == SYSTEM:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise NotTrusted(
            "the CA is damaged: its file was changed or cut short. Copy ca.pem again"
        ) from error


# ------------------------------------------------------------------- what a node shows


def read_key(path: Path) -> str:
    """Return the private key in a file that nobody else can read.

    Raises:
        NotTrusted: others can, or it cannot be read; names the cure.
    """
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid not in (os.geteuid(), 0):
                raise NotTrusted(
                    f"the key {path} belongs to user {about.st_uid}, who knows it. "
                    "Make one of your own: mpreg-nb tls node NAME HOST"
                )
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise NotTrusted(
                    f"the key {path} can be read by other users (mode "
                    f"{stat.S_IMODE(about.st_mode):04o}), who could answer in the name "
                    f"of this node. Close it: chmod 600 {path}"
                )
            text = file.read(1 << 20).decode("ascii", errors="replace")
    except OSError as error:
        if isinstance(error, NotTrusted):
            raise
        raise NotTrusted(
            f"the key {path} cannot be read: {error.strerror}. Make one with its "
            "certificate: mpreg-nb tls node NAME HOST"
        ) from None
    if "ENCRYPTED" in text:
        raise NotTrusted(
            f"the key {path} is locked with a password, and a node can ask nobody for "
            "it. Use one without: mpreg-nb tls node NAME HOST"
        )
    return text


def read_tls(files: TlsFiles, *, node: str = "", hosts: Iterable[str] = ()) -> Tls:
    """Return what a node needs to listen with a certificate and to dial others.

    Without a CA in `files` it is the one of this user (`load_ca`), or else the
    certificate itself, which vouches for itself then. What others would refuse is
    refused here, before anybody dials.

    node, hosts: what the certificate must be for: the name of the node, and where
        others dial it.

    Raises:
        NotTrusted: the files cannot be used, do not belong together or have ended, or
            the certificate is for others; names the cure.
    """
    hosts = tuple(hosts)
    read_key(Path(files.key))
    ca = load_ca(files.vouching)
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accept.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        accept.load_cert_chain(files.certificate, files.key)
    except FileNotFoundError:
        raise NotTrusted(
            f"there is no certificate {files.certificate}. Make one: "
            f"{_again(node, hosts)}"
        ) from None
    except ssl.SSLError as error:
        raise NotTrusted(
            f"{files.certificate} and {files.key} do not belong together or are "
            f"damaged ({error.reason}). Make both anew: {_again(node, hosts)}"
        ) from None
    again = _again(node, hosts)
    certificate = _seen_by_others(accept, ca, files, again)
    if node and certificate.nodes and node not in certificate.nodes:
        raise NotTrusted(
            f"the certificate {files.certificate} is for node "
            f"{', '.join(certificate.nodes)}, not {node}. Make one: {again}"
        )
    if missing := [host for host in hosts if not certificate.is_for(host)]:
        raise NotTrusted(
            f"the certificate {files.certificate} is for "
            f"{', '.join(certificate.hosts)}, and others dial this node at "
            f"{', '.join(missing)}. Make one that names it: {again}"
        )
    return Tls(accept, dialling(ca), ca, certificate)


EXPIRED, NOT_YET, WRONG_HOST, WRONG_ADDRESS = 10, 9, 62, 64
"""What OpenSSL calls the reasons why a certificate is refused; others mean its CA."""


def _seen_by_others(
    accept: ssl.SSLContext, ca: str, files: TlsFiles, again: str
) -> Certificate:
    """Return what one who dials finds in the certificate, after checking it.

    Both ends of a handshake are here, in memory.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False  # where it will be dialled is not known here
    if ca == SYSTEM:
        anybody.load_default_certs()
    else:
        dialling(ca)  # raises what is wrong with it
        anybody.load_verify_locations(cadata=ca)
    to_listener, to_dialler = ssl.MemoryBIO(), ssl.MemoryBIO()
    listener = accept.wrap_bio(to_listener, to_dialler, server_side=True)
    dialler = anybody.wrap_bio(to_dialler, to_listener)
    try:
        for end in (dialler, listener, dialler):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue  # the other end's turn
    except ssl.SSLCertVerificationError as error:
        file = files.certificate
        if error.verify_code in (EXPIRED, NOT_YET):
            when = "has ended" if error.verify_code == EXPIRED else "is not valid yet"
            raise NotTrusted(
                f"the certificate {file} {when}. Make one anew: {again}"
            ) from None
        raise NotTrusted(
            f"the certificate {file} is not of the CA that this node trusts, so other "
            "nodes would refuse it. Name the CA that made it: --ca FILE, or make one "
            f"of your CA: {again}"
        ) from None
    except ssl.SSLError as error:
        raise NotTrusted(
            f"the certificate {files.certificate} cannot be used: {error.reason}. Make "
            f"one: {again}"
        ) from None
    return Certificate.of(dialler.getpeercert() or {})


def _again(node: str, hosts: Iterable[str]) -> str:
    return f"mpreg-nb tls node {node or 'NAME'} {' '.join(hosts) or 'HOST'}"
