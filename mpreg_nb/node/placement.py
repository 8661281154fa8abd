"""Gets code to where it may run.

Code travels like the catalog: the node where a function is registered gives it
to every node that holds its resources before it answers; a node that comes
later, or was out of reach, pulls what it should serve and lacks. A call that
names a version which is not here makes it be pulled at once.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from mpreg_nb.node.asks import Asks
from mpreg_nb.node.lane import DataLane
from mpreg_nb.node.registry import OwnFunction, Registry, ShippedFunction
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.wire.builtins import BUILTIN_VERSIONS, BUILTINS
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.gossip import Offer
from mpreg_nb.wire.messages import (
    CodePull,
    CodePush,
    Failed,
    Failure,
    Register,
    Registered,
    Reply,
)

PLACE_TIMEOUT_S = 1.0
"""How long a registration waits for nodes that do not confirm; they pull later."""


class Placement:
    """The code that this node holds, and what it tells others about it."""

    def __init__(
        self,
        me: str,
        resources: frozenset[str],
        *,
        registry: Registry,
        catalog: Catalog,
        asks: Asks,
        lane: DataLane,
        alive: Callable[[], Mapping[str, frozenset[str]]],
        can_run: Callable[[str, Offer], bool],
        announce: Callable[[tuple[Offer, ...]], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        self._me = me
        self._resources = resources
        self._registry = registry
        self._catalog = catalog
        self._asks = asks
        self._lane = lane
        self._alive = alive
        self._can_run = can_run
        self._announce = announce
        self._on_event = on_event
        self._obtaining: dict[str, asyncio.Task[bool]] = {}

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
                self._asks.place(
                    node,
                    CodePush(id=self._asks.new_id(), offer=offer, payload=payload),
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
            self._lane.send(sender, Reply(id=message.id, payload=b"", node=self._me))
            return
        function = self._registry.get(message.version)
        offer: Offer | None = None
        if isinstance(function, ShippedFunction):
            offer = self._own_offer(function.name, message.version)
        if not isinstance(function, ShippedFunction) or offer is None:
            failure = Failure(kind="no_code", node=self._me)
            self._lane.send(sender, Failed(id=message.id, failure=failure))
        elif len(function.parts) == 1 and isinstance(function.parts[0], bytes):
            payload = function.parts[0]
            push = CodePush(id=message.id, offer=offer, payload=payload)
            self._lane.send(sender, push)
        else:
            push = CodePush(id=message.id, offer=offer, payload=b"")
            self._lane.send(sender, push, function.parts)

    # ------------------------------------------------------------------- pulls

    def serve_missing(self) -> None:
        """Pull what this node should serve and lacks."""
        for offer in self._catalog.missing(self._resources):
            mine = self._can_run(self._me, offer)
            if mine and offer.version not in self._obtaining:
                self._obtain(offer.version, None)

    async def obtain(self, version: str, holder: str | None) -> bool:
        """Have the code of `version` here; False if nobody has it.

        `holder` is a node that should have it, in case the catalog knows of none.
        """
        if version in self._registry:
            return True
        return await asyncio.shield(self._obtain(version, holder))

    def _obtain(self, version: str, holder: str | None) -> "asyncio.Task[bool]":
        task = self._obtaining.get(version)
        if task is None:
            task = asyncio.ensure_future(self._pull(version, holder))
            self._obtaining[version] = task
            task.add_done_callback(lambda _: self._obtaining.pop(version, None))
        return task

    async def _pull(self, version: str, holder: str | None) -> bool:
        asked = [holder] if holder is not None else []
        asked += [n for n in self._catalog.holders(version) if n not in asked]
        for node in asked:
            if node == self._me:
                continue
            answer, parts = await self._asks.code(node, version)
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
