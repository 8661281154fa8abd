"""What a node shows to those who dial it, and what it asks of those it dials."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tls:
    """The two sides of TLS; both ends still prove the token inside of it."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext


def read_tls(certificate: str, key: str) -> Tls:
    """Return what the two PEM files say.

    Raises:
        OSError: they cannot be read, or do not belong together.
    """
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accept.load_cert_chain(certificate, key)
    dial = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    dial.load_verify_locations(certificate)  # a private one may be its own root
    return Tls(accept, dial)
