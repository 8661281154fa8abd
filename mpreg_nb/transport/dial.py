"""Open a link to a node (interface; the body follows)."""

import ssl
from collections.abc import Callable

from mpreg_nb.errors import MpregError
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.facts import FailureKind, Lane, Role
from mpreg_nb.transport.token import Token

CONNECT_TIMEOUT_S = 3.0


class DialFailed(MpregError, ConnectionError):
    """No link to `url`; `kind` says why."""

    def __init__(self, kind: FailureKind, url: str, detail: str) -> None:
        super().__init__(f"no link to {url}: {detail}")
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
    on_open: Callable[[Connection], None],
    cluster_id: str = "",
    node_name: str = "",
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Connection:
    """Open a link and prove both ends to each other.

    `name` is the caller's own; `cluster_id` and `node_name`, where given, are
    those that the other end must prove. `on_open` sets the callbacks; messages
    may be sent in it and after it. Cancelling leaves no socket behind.

    Raises:
        DialFailed: kind refused, timed_out, wrong_cluster or wrong_node.
        NotTrusted: the other end could not prove that it knows the token.
    """
    raise NotImplementedError
