"""Requests of this node to other nodes, each with one answer."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import (
    CodePull,
    CodePush,
    Failed,
    Failure,
    Fetch,
    HasResults,
    HeldResults,
    Ids,
    Reply,
    ResultRef,
)
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.pool import ConnectionPool


class PeerSender:
    """Sends to nodes by name; what cannot be sent is reported by `ConnectionPool`."""

    def __init__(
        self, peers: ConnectionPool, urls: Callable[[str], Sequence[str]]
    ) -> None:
        self._peers = peers
        self._urls = urls

    def link(self, node: str) -> Connection | None:
        """Return the link that `send` uses for `node` now, if there is one."""
        return self._peers.get(node, "data")

    def send(self, node: str, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Send on the link to `node`, opening one if there is none."""
        if self._peers.get(node, "data") is None:
            self._peers.reach(node, self._urls(node), "data")
        self._peers.send(node, "data", message, parts)


Answer: TypeAlias = tuple[Reply | CodePush | Failed, tuple[Buffer, ...]]


CODE_TIMEOUT_S = 30.0
"""For the code of one function; 100 MB take 10 s over a slow network of a site."""


class PeerRequests:
    """Sends questions on the data lane and hands each answer to who asked.

    An answer always comes: from the node, or, when its link is lost, as
    `Failed("node_lost")`.
    """

    def __init__(
        self, peer_sender: PeerSender, *, code_timeout_s: float = CODE_TIMEOUT_S
    ) -> None:
        self._peer_sender = peer_sender
        self._code_timeout_s = code_timeout_s
        self._ids = Ids()
        self._open: dict[bytes, tuple[str, asyncio.Future[Any]]] = {}

    async def code(self, node: str, version: str) -> Answer:
        """Ask `node` for the code of `version`.

        It has a time, unlike a result: a node that is alive and never answers must not
        keep this one from asking the next.
        """
        pull = CodePull(id=self._ids.next(), version=version)
        try:
            return await asyncio.wait_for(self._ask(node, pull), self._code_timeout_s)
        except TimeoutError:
            reason = f"it sent no code within {self._code_timeout_s:g} s"
            failure = Failure(kind="node_lost", message=reason, node=node)
            return Failed(id=pull.id, failure=failure), ()

    async def result(self, kept: ResultRef) -> Answer:
        """Ask for a result that its owner holds."""
        return await self._ask(kept.owner, Fetch(id=self._ids.next(), kept=kept))

    async def held(self, node: str, kept: Iterable[ResultRef]) -> frozenset[bytes]:
        """Return the ids of those results that `node` holds; none if it is gone."""
        ids = tuple(one.id for one in kept)
        answer, _ = await self._ask(node, HasResults(id=self._ids.next(), ids=ids))
        told: object = answer
        return frozenset(told.ids) if isinstance(told, HeldResults) else frozenset()

    async def place(
        self, node: str, push: CodePush, parts: tuple[Buffer, ...]
    ) -> Answer:
        """Give code to `node`; `push.id` must be made by `new_id`."""
        return await self._ask(node, push, parts)

    def new_id(self) -> bytes:
        """Return an id for a question that is put together elsewhere."""
        return self._ids.next()

    def answered(
        self,
        message: Reply | CodePush | HeldResults | Failed,
        parts: tuple[Buffer, ...],
    ) -> bool:
        """Deliver an answer; False if nobody waits for it."""
        _, future = self._open.pop(message.id, ("", None))
        if future is None:
            return False
        if not future.done():
            future.set_result((message, parts))
        return True

    def lost(self, node: str, reason: str) -> None:
        """Answer all that `node` was asked: the link to it is gone."""
        gone = [key for key, (asked, _) in self._open.items() if asked == node]
        for key in gone:
            failure = Failure(kind="node_lost", message=reason, node=node)
            self.answered(Failed(id=key, failure=failure), ())

    async def _ask(
        self,
        node: str,
        message: CodePull | Fetch | CodePush | HasResults,
        parts: tuple[Buffer, ...] = (),
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[message.id] = (node, future)
        self._peer_sender.send(node, message, parts)
        try:
            return await future
        finally:
            self._open.pop(message.id, None)
