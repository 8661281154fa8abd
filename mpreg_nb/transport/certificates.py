"""Makes the CA of a cluster, and the certificates of its nodes.

The CA vouches for nodes of this cluster and for nothing else: its key stays with
whoever made it. Only there `cryptography` is needed, the extra `tls`; nodes and clients
do without, and what they do with certificates is in `tls`.

A certificate names the hosts that its node is dialled at, and the node itself. So the
key of one node cannot be used to answer as another.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from mpreg_nb.errors import MpregError, NotTrusted
from mpreg_nb.names import check_name
from mpreg_nb.transport.tls import TlsMaterial, node_uri, read_key
from mpreg_nb.user_files import private_folder, write_private

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as missing:
    raise MpregError(
        "making certificates needs the package cryptography: "
        "pip install 'mpreg_nb[tls]'"
    ) from missing

CA_DAYS = 3650
NODE_DAYS = 365

CLOCKS_DIFFER = timedelta(hours=1)
"""Certificates begin so long ago: the clocks of two machines differ."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""In every certificate: a node is dialled there from its own machine and by tunnels."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its certificate, and the key that only it has; both PEM."""

    certificate: str
    key: str = field(repr=False)

    @classmethod
    def make(cls, name: str = "mpreg_nb cluster", *, days: float = CA_DAYS) -> Self:
        """Make a CA that vouches for the nodes of one cluster."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            _begun(_title(name), _title(name), key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(for_ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(made), _key_pem(key))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the CA whose `ca.pem` and `ca.key` are in `folder`.

        Raises:
            NotTrusted: there is none, or others can read its key; names the cure.
        """
        try:
            certificate = (folder / "ca.pem").read_text("ascii")
        except FileNotFoundError:
            raise NotTrusted(
                f"there is no CA in {folder}. Make one, on one machine of the cluster "
                "only: mpreg-nb tls init. If it is in another folder, add --out FOLDER"
            ) from None
        return cls(certificate, read_key(folder / "ca.key"))

    def write(self, folder: Path) -> None:
        """Write `ca.pem` and `ca.key` into `folder`, for this user only.

        Raises:
            FileExistsError: there is one already; certificates of it would be useless.
        """
        private_folder(folder)
        for name in ("ca.pem", "ca.key"):
            if (folder / name).exists():
                raise FileExistsError(
                    f"there is a CA in {folder}. Certificates that it made would be "
                    f"refused with another one. To begin anew, remove {folder / name}"
                )
        write_private(folder / "ca.key", self.key.encode())
        write_private(folder / "ca.pem", self.certificate.encode())

    def issue(
        self, node: str, hosts: Iterable[str] = (), *, days: float = NODE_DAYS
    ) -> TlsMaterial:
        """Return key and certificate for the node of this name, and the CA.

        hosts: names and addresses that others dial it at; those of loopback are
            always among them.

        Raises:
            ValueError: one of `hosts` is neither a name nor an address.
            NotTrusted: the key of this CA is not one that `make` made.
        """
        check_name("node", node)
        ca = x509.load_pem_x509_certificate(self.certificate.encode())
        ca_key = load_pem_private_key(self.key.encode(), None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise NotTrusted("ca.key is not a key that mpreg-nb tls init made")
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_host(host) for host in dict.fromkeys((*hosts, *LOOPBACK))]
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        made = (
            _begun(_title(f"mpreg_nb node {node}"), ca.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(_usage(for_ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [*names, x509.UniformResourceIdentifier(node_uri(node))]
                ),
                critical=False,
            )
            .add_extension(by, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        return TlsMaterial(
            certificate=_pem(made), key=_key_pem(key), ca=self.certificate
        )


def _begun(
    title: x509.Name, by: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - CLOCKS_DIFFER)
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )


def _title(text: str) -> x509.Name:
    # For people alone. A common name has 64 characters at most.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, for_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_ca,
        key_cert_sign=for_ca,
        crl_sign=for_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    """Return `host` as certificates name it.

    Raises:
        ValueError: it is neither a name nor an address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass  # then it is a name
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not name.replace("-", "").replace(".", "").isalnum():
        raise ValueError(
            f"{host!r} is neither the name nor the address of a host. Without ws:// "
            "and port: gpu-2.lan or 10.0.0.7"
        )
    return x509.DNSName(name)


def _pem(made: x509.Certificate) -> str:
    return made.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
