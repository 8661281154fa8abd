"""Links by the name of the node at the other end.

Two nodes that dial each other at the same moment make two links. Both ends then
use the one that the smaller name dialled, without a word about it. On the control
lane the other is closed; on the data lane it stays as a spare, since requests may
have gone out on it whose replies come back that way. Of links that were not made
at the same moment the newer counts: who has a link does not dial, so the older is
one that the other end has lost.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import NotTrusted
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection, FailureKind, Lane, Timeouts
from mpreg_nb.transport.dial import DialFailed, dial
from mpreg_nb.transport.framing import Scratch
from mpreg_nb.transport.token import Role, Token

SAME_MOMENT_S = 5.0
"""Links that opened within this time may stem from dials that crossed."""

LONGEST_QUEUE = 1024
"""Messages that wait for one dial; more are reported unsent."""

_Key: TypeAlias = tuple[str, Lane]
_Failure: TypeAlias = DialFailed | NotTrusted

# What a dial of several urls ended in: the first of these that one of them had.
_WORST_FIRST: tuple[FailureKind, ...] = (
    "not_trusted",
    "wrong_cluster",
    "wrong_node",
    "mismatch",
    "timed_out",
    "refused",
)


@dataclass(slots=True)
class _Attempt:
    """A dial under way, and what waits for it."""

    key: _Key
    link: asyncio.Future[Connection]
    queue: list[tuple[msgspec.Struct, Parts]] = field(default_factory=list)
    task: asyncio.Task[list[_Failure]] = field(init=False)


class ConnectionPool:
    """The links of one process to nodes; one in use per node and lane."""

    def __init__(
        self,
        *,
        token: Token,
        role: Role,
        name: str,
        cluster_id: Callable[[], str],
        on_open: Callable[[Connection], object],
        on_lost: Callable[[Connection, str], object],
        on_failed: Callable[[str, Lane, FailureKind, str], object],
        on_unsent: Callable[[str, Lane, Any, Parts, str], object],
        before_dial: Callable[[str], Awaitable[None]] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        patience: Timeouts | None = None,
    ) -> None:
        """Hold no link yet.

        `cluster_id` is what others must prove; empty takes any. `on_open` sets
        on_message and on_refused of each link, before anything is read from it.
        `on_lost` is what its own would be, which Peers keeps to itself; there may
        be another link to that node, which `get` tells. `on_failed(node, lane,
        kind, detail)` hears of dials that led to nothing; kind is "refused" only
        if every url was. `on_unsent(node, lane, message, parts, reason)` hears of
        messages that `send` could not pass on, at once or when the dial failed.
        `before_dial(node)` may hold a dial up, or raise what it shall end in.
        """
        self._token = token
        self._role: Role = role
        self._name = name
        self._cluster_id = cluster_id
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._on_unsent = on_unsent
        self._before_dial = before_dial
        self._ssl_context = ssl_context
        self._limits = limits
        self._patience = patience
        self._scratch = Scratch()
        self._links: dict[_Key, Connection] = {}
        self._spares: dict[_Key, list[Connection]] = {}
        self._opened_s: dict[Connection, float] = {}  # of every link, spares too
        self._attempts: dict[_Key, _Attempt] = {}

    def get(self, node: str, lane: Lane) -> Connection | None:
        """Return the link to use for `node` now, if there is one."""
        link = self._links.get((node, lane))
        return link if link is not None and link.is_open else None

    def links(self) -> tuple[Connection, ...]:
        """Return every link, spares included."""
        return tuple(self._opened_s)

    async def dial(self, node: str, urls: Sequence[str], lane: Lane) -> Connection:
        """Return the link to `node`, opening one if there is none.

        `urls` are tried in order. Dials of one node and lane at the same time
        are one; a waiter that is cancelled does not end it for the others.

        Raises:
            DialFailed: no url led to that node.
            NotTrusted: what answered could not prove that it knows the token.
        """
        link = self.get(node, lane)
        if link is not None:
            return link
        return await asyncio.shield(self._attempt(node, urls, lane).link)

    def reach(self, node: str, urls: Sequence[str], lane: Lane) -> None:
        """Begin to dial unless there is a link or a dial; `send` may follow."""
        if self.get(node, lane) is None:
            self._attempt(node, urls, lane)

    def send(
        self, node: str, lane: Lane, message: msgspec.Struct, parts: Parts = ()
    ) -> None:
        """Send on the link, or keep for the dial under way, or report as unsent."""
        link = self.get(node, lane)
        if link is not None:
            link.send(message, parts)
            return
        attempt = self._attempts.get((node, lane))
        if attempt is None:
            self._on_unsent(node, lane, message, parts, "there is no connection")
        elif len(attempt.queue) >= LONGEST_QUEUE:
            reason = f"{LONGEST_QUEUE} messages already wait for the connection"
            self._on_unsent(node, lane, message, parts, reason)
        else:
            attempt.queue.append((message, parts))

    def accept(self, connection: Connection) -> bool:
        """Take in a link that was opened elsewhere; return whether it is used.

        For the listener's `on_connection`, with links of role node, and for
        `on_open` of a dial to a node whose name was not known.
        """
        key = (connection.peer.name, connection.peer.lane)
        self._opened_s[connection] = asyncio.get_running_loop().time()
        current = self._links.get(key)
        used = current is None or not self._is_kept(current, connection)
        if used:
            self._links[key] = connection  # first, so that `on_open` may send on it
        try:
            self._on_open(connection)
        except BaseException:
            self._forget(key, connection, current)
            raise
        connection.on_lost = self._lost
        if used:
            self._put_aside(key, current)
            self._settle(key, connection)
        else:
            self._put_aside(key, connection)
        return used

    def _forget(
        self, key: _Key, connection: Connection, before: Connection | None
    ) -> None:
        del self._opened_s[connection]
        if self._links.get(key) is connection:
            del self._links[key]
            if before is not None:
                self._links[key] = before

    def close_link(
        self,
        node: str,
        code: int = 1000,
        reason: str = "",
        *,
        lane: Lane | None = None,
    ) -> None:
        """Close every link to `node` and give up dialling it."""
        for attempt in list(self._attempts.values()):
            if attempt.key[0] == node and lane in (None, attempt.key[1]):
                attempt.task.cancel()
        for connection in self.links():
            peer = connection.peer
            if peer.name == node and lane in (None, peer.lane):
                connection.close(code, reason)

    async def close(self, code: int = 1001, reason: str = "") -> None:
        """End all dials and links; return when they are gone."""
        tasks = [attempt.task for attempt in self._attempts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        links = self.links()
        for connection in links:
            connection.close(code, reason)
        for connection in links:
            await connection.wait_closed()

    def drop(self) -> None:
        """End all dials and links at once, without a goodbye."""
        for attempt in self._attempts.values():
            attempt.task.cancel()
        for connection in self.links():
            connection.give_up("this node ended")

    # ---------------------------------------------------------------- dials

    def _attempt(self, node: str, urls: Sequence[str], lane: Lane) -> _Attempt:
        key = (node, lane)
        attempt = self._attempts.get(key)
        if attempt is None:
            loop = asyncio.get_running_loop()
            attempt = self._attempts[key] = _Attempt(key, loop.create_future())
            attempt.task = loop.create_task(self._try(attempt, tuple(urls)))
            attempt.task.add_done_callback(partial(self._attempt_ended, attempt))
        return attempt

    async def _try(self, attempt: _Attempt, urls: tuple[str, ...]) -> list[_Failure]:
        node, lane = attempt.key
        failures: list[_Failure] = []
        for url in urls:
            try:
                await self._dial_url(url, node, lane)
                break
            except (DialFailed, NotTrusted) as error:
                failures.append(error)
        return failures

    def _attempt_ended(
        self, attempt: _Attempt, task: asyncio.Task[list[_Failure]]
    ) -> None:
        """Report the failure, unless a link settled the attempt."""
        node, lane = attempt.key
        if self._attempts.get(attempt.key) is not attempt:
            return
        del self._attempts[attempt.key]
        error: BaseException = DialFailed("refused", node, "no address is known")
        if task.cancelled():
            # By this side: it says nothing of the node.
            reason = "the connection attempt was abandoned"
            error = DialFailed("timed_out", node, reason)
        elif fault := task.exception():  # of ours or the owner's, not of the node
            error = fault
            context = {"message": f"the dial to {node} failed", "exception": fault}
            task.get_loop().call_exception_handler(context)
        elif failures := task.result():
            error = min(failures, key=lambda one: _WORST_FIRST.index(_kind(one)))
        attempt.link.set_exception(error)
        attempt.link.exception()  # there may be no waiter to look at it
        if isinstance(error, DialFailed | NotTrusted):
            self._on_failed(node, lane, _kind(error), str(error))
        for message, parts in attempt.queue:
            self._on_unsent(node, lane, message, parts, str(error))

    async def _dial_url(self, url: str, node: str, lane: Lane) -> None:
        if self._before_dial is not None:
            await self._before_dial(node)
        await dial(
            url,
            token=self._token,
            role=self._role,
            lane=lane,
            name=self._name,
            on_open=self.accept,
            cluster_id=self._cluster_id(),
            node_name=node,
            ssl_context=self._ssl_context,
            limits=self._limits,
            patience=self._patience,
            scratch=self._scratch,
        )

    def _settle(self, key: _Key, connection: Connection) -> None:
        """Give the new link to those who wait for it."""
        attempt = self._attempts.pop(key, None)
        if attempt is None:
            return
        if not connection.peer.dialled and connection.peer.name < self._name:
            attempt.task.cancel()  # its link would not be used
        if not attempt.link.done():
            attempt.link.set_result(connection)
        for message, parts in attempt.queue:
            connection.send(message, parts)

    # ---------------------------------------------------------------- links

    def _is_kept(self, current: Connection, newer: Connection) -> bool:
        """Whether `current` stays in use although there is a `newer` link."""
        return current.is_open and not keeps_new_link(
            self._name,
            current.peer.name,
            new_dialled_here=newer.peer.dialled,
            old_dialled_here=current.peer.dialled,
            old_age_s=asyncio.get_running_loop().time() - self._opened_s[current],
        )

    def _put_aside(self, key: _Key, connection: Connection | None) -> None:
        if connection is None:
            return
        if key[1] == "control":
            connection.close(1000, "another connection is used")
        else:
            self._spares.setdefault(key, []).append(connection)

    def _lost(self, connection: Connection, reason: str) -> None:
        key = (connection.peer.name, connection.peer.lane)
        del self._opened_s[connection]
        spares = self._spares.get(key, [])
        if connection in spares:
            spares.remove(connection)
        if self._links.get(key) is connection:
            del self._links[key]
            if spares:
                self._links[key] = spares.pop()
        if not spares:
            self._spares.pop(key, None)
        self._on_lost(connection, reason)


def _kind(error: _Failure) -> FailureKind:
    return error.kind if isinstance(error, DialFailed) else "not_trusted"


def keeps_new_link(
    me: str,
    peer: str,
    *,
    new_dialled_here: bool,
    old_dialled_here: bool,
    old_age_s: float,
) -> bool:
    """Whether the newer of two links between one pair is kept.

    Both ends come to the same answer. Dials that crossed: the one made by the
    smaller name stays. Otherwise the newer one stays, since whoever dialled it
    had given up the older.

    >>> keeps_new_link(
    ...     "a", "b", new_dialled_here=False, old_dialled_here=True, old_age_s=0.1
    ... )
    False
    >>> keeps_new_link(
    ...     "b", "a", new_dialled_here=True, old_dialled_here=False, old_age_s=0.1
    ... )
    False
    """
    if new_dialled_here == old_dialled_here or old_age_s >= SAME_MOMENT_S:
        return True
    return new_dialled_here == (me < peer)
