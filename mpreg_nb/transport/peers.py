"""Links by the name of the node at the other end (interface; the body follows)."""

import ssl
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.facts import FailureKind, Lane, Role
from mpreg_nb.transport.token import Token
from mpreg_nb.wire.codec import Parts


class Peers:
    """The links of one process to nodes, at most one in use per node and lane."""

    def __init__(
        self,
        *,
        token: Token,
        role: Role,
        name: str,
        cluster_id: Callable[[], str],
        on_open: Callable[[Connection], None],
        on_lost: Callable[[Connection, str], None],
        on_failed: Callable[[str, Lane, FailureKind, str], None],
        on_unsent: Callable[[str, Lane, Any, Parts, str], None],
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`on_open` sets on_message and on_refused of each new link.

        `on_lost` is what a link's own would be (Peers keeps that for itself).
        `on_failed(node, lane, kind, detail)` tells of a dial without a link,
        `on_unsent(node, lane, message, parts, reason)` of a message that `send`
        took and could not pass on.
        """
        raise NotImplementedError

    def get(self, node: str, lane: Lane) -> Connection | None:
        """Return the link to use for `node` now, if there is one."""
        raise NotImplementedError

    async def dial(self, node: str, urls: Sequence[str], lane: Lane) -> Connection:
        """Return the link to `node`, opening one if there is none.

        Urls are tried in order. Dials of one node and lane share one attempt;
        cancelling a waiter does not end it for the others.

        Raises:
            DialFailed: no url led to that node.
            NotTrusted: a node answered that could not prove the token.
        """
        raise NotImplementedError

    def reach(self, node: str, urls: Sequence[str], lane: Lane) -> None:
        """Begin a dial unless there is a link or a dial; `send` may follow."""
        raise NotImplementedError

    def send(
        self, node: str, lane: Lane, message: msgspec.Struct, parts: Parts = ()
    ) -> None:
        """Send on the link, or keep for the dial under way, or report unsent."""
        raise NotImplementedError

    def accept(self, connection: Connection) -> bool:
        """Take a link that a node opened; False if it was a duplicate and closed.

        Call it in the listener's `on_connection`, for links of role node.
        """
        raise NotImplementedError

    def close_link(self, node: str, code: int = 1000, reason: str = "") -> None:
        """Close every link to `node` and give up its dials."""
        raise NotImplementedError

    async def close(self, code: int = 1001, reason: str = "") -> None:
        """End all dials and links; returns when they are gone."""
        raise NotImplementedError
