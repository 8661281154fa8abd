"""Accept links (interface; the body follows)."""

import ssl
from collections.abc import Callable

from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.token import Token


class Listener:
    """A bound port. Made by `listen`."""

    url: str
    """ws:// or wss://, with the bound host and port."""

    port: int
    draining: bool
    """What /healthz answers; set it when the node begins to leave."""

    def stop_accepting(self) -> None:
        """Take no new links; open ones go on."""
        raise NotImplementedError

    async def close(self, code: int = 1001, reason: str = "") -> None:
        """Take no new links, close the open ones and return when they are gone."""
        raise NotImplementedError


async def listen(
    *,
    token: Token,
    node_name: str,
    cluster_id: Callable[[], str],
    on_connection: Callable[[Connection], None],
    host: str = "127.0.0.1",
    port: int = 0,
    hosts: frozenset[str] = frozenset(),
    json_open: bool = False,
    metrics: Callable[[], str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
) -> Listener:
    """Accept links on `host`:`port`; port 0 takes a free one.

    `cluster_id` is asked for each link, since a node may learn it late.
    `on_connection` gets each proven link before its first message and sets its
    callbacks. `hosts` are names, beside loopback and `host`, that a Host header
    may have. `metrics` makes the body of GET /metrics.

    Raises:
        OSError: the port is taken, or the address cannot be bound; says which.
        NotTrusted: `host` is not loopback and there is no `ssl_context`, or
            `json_open` off loopback.
    """
    raise NotImplementedError
