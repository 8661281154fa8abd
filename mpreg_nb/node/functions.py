"""Functions that this node holds, and how their code gets to other nodes.

Shipped code is bytes that only workers open. A node's own functions are the
builtins and those that a program registered in its own process; they are run
in this process and never travel.

Code travels like the catalog: the node where a function is registered gives it
to every node that holds its resources before it answers; a node that comes
later, or was out of reach, pulls what it should serve and lacks. A call that
names a version which is not here makes it be pulled at once.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Literal

import msgspec

from mpreg_nb.node.dispatch import Handler
from mpreg_nb.node.peer_requests import PeerRequests, PeerSender
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.gossip import Offer
from mpreg_nb.protocol.messages import (
    CodePull,
    CodePush,
    Failed,
    Failure,
    Register,
    Registered,
    Reply,
)
from mpreg_nb.protocol.worker import ByteLimitedCache
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.serialize.code import BUILTIN_VERSIONS, BUILTINS
from mpreg_nb.transport.connection import Connection

KEPT_VERSIONS = 64
"""Of one function. Function objects hold on to old versions; not for ever."""


class ShippedFunction(msgspec.Struct, frozen=True):
    """Code that came over the wire."""

    name: str
    version: str
    parts: tuple[Buffer, ...]

    @property
    def size_bytes(self) -> int:
        """How much its code takes."""
        return sum(map(len, self.parts))


class OwnFunction(msgspec.Struct, frozen=True):
    """A function of this very process.

    `where` is "inline" (on the event loop; only for what returns at once),
    "thread", or "loop" (a coroutine function).
    """

    name: str
    version: str
    function: Callable[..., Any]
    where: Literal["inline", "thread", "loop"]
    size_bytes = 0


class Registry:
    """Functions by version. The catalog tells which version a name means.

    The version of each name that came last is kept. Older ones, which function
    objects still call, are kept up to a number for each name, and to a limit of
    bytes for all together; those that were not called for longest go first.
    """

    def __init__(self, on_gone: Callable[[str], None] = lambda version: None) -> None:
        """on_gone: is told each version that is held no longer."""
        self._on_gone = on_gone
        self._by_version: dict[str, ShippedFunction | OwnFunction] = {}
        self._versions: dict[str, list[str]] = {}  # name -> versions, oldest first
        self._older = ByteLimitedCache()

    def __contains__(self, version: str) -> bool:
        return version in self._by_version

    def get(self, version: str) -> ShippedFunction | OwnFunction | None:
        """Return the function of `version`, or None when it is not held."""
        if version in self._older:
            self._older.use(version)
        return self._by_version.get(version)

    def add(
        self, function: ShippedFunction | OwnFunction
    ) -> list[ShippedFunction | OwnFunction]:
        """Hold `function`; return what had to go for it."""
        version = function.version
        versions = self._versions.setdefault(function.name, [])
        if version in versions:
            versions.remove(version)
        self._older.drop(version)
        self._by_version[version] = function
        gone = []
        if versions:
            older = self._by_version[versions[-1]]
            gone = self._older.add(older.version, older.size_bytes)
        versions.append(version)
        gone += [old for old in versions[:-KEPT_VERSIONS] if old not in gone]
        return [self._forget(old) for old in gone]

    def _forget(self, version: str) -> ShippedFunction | OwnFunction:
        function = self._by_version.pop(version)
        self._versions[function.name].remove(version)
        self._older.drop(version)
        self._on_gone(version)
        return function


def own_version(name: str, owner: str) -> str:
    """Return the version of a function that never travels.

    It names the process that has it: equal names on two nodes are two functions.
    """
    return sha256(f"own\0{owner}\0{name}".encode()).hexdigest()[:32]


PLACE_TIMEOUT_S = 1.0
"""How long a registration waits for nodes that do not confirm; they pull later."""


class CodeDistributor:
    """The code that this node holds, and what it tells others about it."""

    def __init__(
        self,
        me: str,
        resources: frozenset[str],
        *,
        registry: Registry,
        catalog: Catalog,
        peer_requests: PeerRequests,
        peer_sender: PeerSender,
        alive: Callable[[], Mapping[str, frozenset[str]]],
        can_run: Callable[[str, Offer], bool],
        announce: Callable[[tuple[Offer, ...]], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        self._me = me
        self._resources = resources
        self._registry = registry
        self._catalog = catalog
        self._peer_requests = peer_requests
        self._peer_sender = peer_sender
        self._alive = alive
        self._can_run = can_run
        self._announce = announce
        self._on_event = on_event
        self._obtaining: dict[str, asyncio.Task[bool]] = {}
        self._looked_at = 0  # revision of the catalog
        self._not_had: set[str] = set()  # functions whose code nobody gave

    # ------------------------------------------------------------ registrations

    def add_own(self, function: OwnFunction, offer: Offer) -> None:
        """Offer a function of this very process."""
        self._registry.add(function)
        self._announce(self._catalog.publish(offer))
        self._on_event("function added", _named(offer.function, offer.version))

    def offer_builtins(self) -> None:
        """Offer the functions that every node has."""
        offers = []
        for name, function in BUILTINS.items():
            version = BUILTIN_VERSIONS[name]
            self._registry.add(OwnFunction(name, version, function, "inline"))
            offers.append(
                Offer(
                    function=name,
                    version=version,
                    origin=self._me,
                    isolation="inline",
                    placed=False,
                    doc=function.__doc__ or "",
                )
            )
        self._announce(self._catalog.publish(*offers))

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers of registrations."""
        return {Register: self._register}

    def node_handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages that only nodes may send."""
        return {CodePush: self._receive, CodePull: self._receive}

    async def _register(
        self, link: Connection, request: Register, parts: tuple[Buffer, ...]
    ) -> None:
        link.send(await self.register(request, parts))

    def _receive(
        self, link: Connection, message: CodePull | CodePush, parts: tuple[Buffer, ...]
    ) -> None:
        self.receive(link.peer.name, message, parts)

    async def register(
        self, request: Register, parts: tuple[Buffer, ...]
    ) -> Registered:
        """Store a function, give it to all nodes that should serve it, and answer."""
        newest = self._catalog.newest(request.function)
        offer = Offer(
            function=request.function,
            version=request.version,
            resources=request.resources,
            counter=self._catalog.next_counter(request.function),
            origin=self._me,
            idempotent=request.idempotent,
            isolation=request.isolation,
            signature=request.signature,
            doc=request.doc,
            size_bytes=sum(map(len, parts)) or len(request.payload),
            python=request.python,
        )
        if newest is not None and _same(newest, offer):
            offer = newest
        self._hold(offer, parts or (request.payload,))
        nodes = [
            node
            for node, held in self._alive().items()
            if offer.resources <= held and self._can_run(node, offer)
        ]
        others = [node for node in nodes if node != self._me]
        if others:
            await self._give(others, offer, request.payload, parts)
        return Registered(id=request.id, offer=offer, nodes=tuple(sorted(nodes)))

    async def _give(
        self,
        nodes: list[str],
        offer: Offer,
        payload: bytes,
        parts: tuple[Buffer, ...],
    ) -> None:
        given = [
            asyncio.ensure_future(
                self._peer_requests.place(
                    node,
                    CodePush(
                        id=self._peer_requests.new_id(), offer=offer, payload=payload
                    ),
                    parts,
                )
            )
            for node in nodes
        ]
        _, late = await asyncio.wait(given, timeout=PLACE_TIMEOUT_S)
        for task in late:
            task.cancel()

    def receive(
        self, sender: str, message: CodePull | CodePush, parts: tuple[Buffer, ...]
    ) -> None:
        """Take code that another node gives, or give what it asks for."""
        if isinstance(message, CodePush):
            self._hold(message.offer, parts or (message.payload,))
            self._peer_sender.send(
                sender, Reply(id=message.id, payload=b"", node=self._me)
            )
            return
        function = self._registry.get(message.version)
        offer: Offer | None = None
        if isinstance(function, ShippedFunction):
            offer = self._own_offer(function.name, message.version)
        if not isinstance(function, ShippedFunction) or offer is None:
            failure = Failure(kind="no_code", node=self._me)
            self._peer_sender.send(sender, Failed(id=message.id, failure=failure))
        elif len(function.parts) == 1 and isinstance(function.parts[0], bytes):
            payload = function.parts[0]
            push = CodePush(id=message.id, offer=offer, payload=payload)
            self._peer_sender.send(sender, push)
        else:
            push = CodePush(id=message.id, offer=offer, payload=b"")
            self._peer_sender.send(sender, push, function.parts)

    # ------------------------------------------------------------------- pulls

    def serve_missing(self) -> None:
        """Pull what this node should serve and lacks, of the names that changed.

        What nobody gave is asked for again whenever any name changes.
        """
        changed = self._catalog.changed_since(self._looked_at)
        self._looked_at = self._catalog.revision
        names, self._not_had = {*changed, *self._not_had}, set()
        for offer in self._catalog.missing(self._resources, sorted(names)):
            if self._can_run(self._me, offer):
                task = self._obtain(offer.function, offer.version, None)
                task.add_done_callback(partial(self._looked_for, offer.function))

    def _looked_for(self, function: str, task: "asyncio.Task[bool]") -> None:
        if task.cancelled() or task.exception() or not task.result():
            self._not_had.add(function)

    async def obtain(self, function: str, version: str, holder: str | None) -> bool:
        """Have the code of `version` here; False if nobody has it.

        `holder` is a node that should have it, in case the catalog knows of none.
        """
        if version in self._registry:
            return True
        return await asyncio.shield(self._obtain(function, version, holder))

    def _obtain(
        self, function: str, version: str, holder: str | None
    ) -> "asyncio.Task[bool]":
        task = self._obtaining.get(version)
        if task is None:
            task = asyncio.ensure_future(self._pull(function, version, holder))
            self._obtaining[version] = task
            task.add_done_callback(lambda _: self._obtaining.pop(version, None))
        return task

    async def _pull(self, function: str, version: str, holder: str | None) -> bool:
        asked = [holder] if holder is not None else []
        holders = self._catalog.holders(function, version)
        asked += [n for n in holders if n not in asked]
        for node in asked:
            if node == self._me:
                continue
            answer, parts = await self._peer_requests.code(node, version)
            if isinstance(answer, CodePush):
                self._hold(answer.offer, parts or (answer.payload,))
                return True
        return version in self._registry

    def _hold(self, offer: Offer, parts: tuple[Buffer, ...]) -> None:
        gone: list[ShippedFunction | OwnFunction] = []
        if offer.version not in self._registry:
            function = ShippedFunction(offer.function, offer.version, parts)
            gone = self._registry.add(function)
        known = self._own_offer(offer.function, offer.version)
        if known != offer:
            self._announce(self._catalog.publish(offer))
            # A node that only passes code on to others does not serve the function.
            serves = offer.resources <= self._resources
            is_new = known is None or not _same(known, offer)
            if is_new and serves and self._can_run(self._me, offer):
                self._on_event("function added", _named(offer.function, offer.version))
        for old in gone:
            self._on_event("function removed", _named(old.name, old.version))
            delta = self._catalog.withdraw(old.name, old.version)
            if delta is not None:
                self._announce(delta)

    def _own_offer(self, function: str, version: str) -> Offer | None:
        for owner, offer in self._catalog.offers(function):
            if owner == self._me and offer.version == version:
                return offer
        return None


def _named(function: str, version: str) -> str:
    return f"{function} {version[:6]}"


def _same(old: Offer, new: Offer) -> bool:
    renewed = msgspec.structs.replace(new, counter=old.counter, origin=old.origin)
    return renewed == old
