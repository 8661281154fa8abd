"""Which nodes do not answer: asked at their ports, all at the same time."""

import selectors
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


def silent(urls: Mapping[str, str], timeout_s: float) -> tuple[str, ...]:
    """Return the names of the nodes of `urls` that do not answer in time.

    A node whose port is closed counts at once.
    """
    quiet: list[str] = []
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as waiting:
        for name, url in urls.items():
            try:
                link = _asked(url, timeout_s)
            except OSError:  # nobody listens there any more
                quiet.append(name)
            else:
                waiting.register(link, selectors.EVENT_READ, name)
        while waiting.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left_s):
                link = waiting.unregister(key.fileobj).fileobj  # type: ignore[assignment]
                if not _answers(link):
                    quiet.append(key.data)
        for key in list(waiting.get_map().values()):
            quiet.append(key.data)
            key.fileobj.close()  # type: ignore[union-attr]  # a socket
    return tuple(quiet)


def _asked(url: str, timeout_s: float) -> socket.socket:
    parts = urlsplit(url)
    link = socket.create_connection((parts.hostname, parts.port), timeout_s)
    link.sendall(_REQUEST % parts.netloc.encode())
    return link


def _answers(link: socket.socket) -> bool:
    with link:
        try:
            return bool(link.recv(1))
        except OSError:  # it ended before it could answer
            return False
