"""Functions that this client registered, and the card that describes each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from mpreg_nb.client.calls import CallOptions, inline
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.client.connections import Requests
from mpreg_nb.errors import NodeLost
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.messages import Register, Registered, Snapshot
from mpreg_nb.serialize.code import VERSION_DIGITS
from mpreg_nb.settings import Limits
from mpreg_nb.units import count, size

if TYPE_CHECKING:
    from mpreg_nb.serialize.code import Capture, Shipped


_replace: Any = msgspec.structs.replace

MISSED_S = 1.0
"""So long no node may hold a function before it is registered again: nodes that were
started a moment ago get what others hold from those."""


class Shipment(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A function that this client shipped, and what the cluster said to it."""

    request: Register
    parts: Parts
    registered: Registered


class Registrations:
    """The functions that this client shipped, by version, kept to ship them again.

    What a name means by this client is kept; other versions for as long as the
    function lives that they were made from, or a call of them is under way.

    A function that no node holds any more, since all that did were started again, is
    registered again.
    """

    def __init__(
        self,
        requests: Requests,
        state: ClusterState,
        limits: Limits,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        routes_changed: Callable[[], object],
        say: Callable[[str], object],
    ) -> None:
        """Know of no function yet.

        snapshot: asks the cluster. routes_changed: called after a registration. say:
        tells the user that functions were registered again.
        """
        self._requests = requests
        self._state = state
        self._limits = limits
        self._snapshot = snapshot
        self._routes_changed = routes_changed
        self._say = say
        self._newest: dict[str, Shipment] = {}  # by name
        self._held: set[str] = set()  # those of them that nodes were seen to hold
        self._gone: set[str] = set()  # those of these that no node holds any more
        self._mending: asyncio.Task[None] | None = None
        self._shipped: WeakValueDictionary[str, Shipment] = WeakValueDictionary()

    def request(
        self,
        shipped: "Shipped",
        name: str,
        *,
        resources: frozenset[str] = frozenset(),
        idempotent: bool = False,
        isolation: str = "process",
    ) -> Register:
        """Return what registers a function. Its payload is still to be filled in."""
        return Register(
            id=self._requests.new_id(),
            function=name,
            version=named_version(shipped.version, name),
            payload=b"",
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,  # type: ignore[arg-type]  # checked by Function
            signature=shipped.signature,
            doc=shipped.doc,
            python=shipped.python,
        )

    def again(self, request: Register) -> Shipment | None:
        """Return the shipment that `request` would repeat, if there is one."""
        known = self._shipped.get(request.version)
        if known is None:
            return None
        same = _replace(known.request, id=request.id, payload=request.payload)
        return known if same == request else None

    async def register(self, request: Register, parts: Parts) -> Shipment:
        """Place a function on every node that holds its resources.

        When this returns, no later call of this client runs an older version.
        """
        payload, more = inline(parts, self._limits)
        return await self._send(_replace(request, payload=payload), more)

    async def renew(self, version: str) -> bool:
        """Register again what no node has any more; False if it was not ours."""
        known = self._shipped.get(version)
        if known is None:
            return False
        await self._send(
            _replace(known.request, id=self._requests.new_id()), known.parts
        )
        return True

    async def restore(self, *, without: frozenset[str]) -> tuple[str, ...]:
        """Register again the functions of which the cluster has lost the code.

        without: nodes that were started again; what they held is gone.
        """
        lost = self._lost(await self._snapshot(), without)
        for name in lost:
            await self.renew(self._newest[name].request.version)
        return lost

    def look(self, snapshot: Snapshot) -> None:
        """Register again in a while what nodes held, and no node holds any more."""
        changed = self._newest if snapshot.changed is None else snapshot.changed
        for name in changed:
            if name not in self._newest:
                continue
            if self._state.is_told_of(name):
                self._held.add(name)
                self._gone.discard(name)
            elif name in self._held:
                self._gone.add(name)
        if self._gone and (self._mending is None or self._mending.done()):
            self._mending = asyncio.ensure_future(self._mend(MISSED_S))

    async def mend(self) -> None:
        """Register again what was lost with all nodes, and say so."""
        if self._mending is not None:
            self._mending.cancel()
        await self._mend(0.0)

    def stop(self) -> None:
        """Register nothing again any more."""
        if self._mending is not None:
            self._mending.cancel()

    async def _mend(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            names = await self.restore(without=frozenset())
        except NodeLost:
            return  # the link is gone again: the next one leads here anew
        self._held.update(names)
        if names:
            it = "it" if len(names) == 1 else "them"
            self._say(
                f"registered {count(len(names), 'function')} again "
                f"({', '.join(sorted(names))}): all nodes that held {it} had been "
                "started again"
            )

    def _lost(
        self, snapshot: Snapshot, without: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        held = {
            offer.function
            for owner, offer in snapshot.offers
            if owner not in without and offer.placed
        }
        return tuple(name for name in self._newest if name not in held)

    def newest(self, function: str, options: CallOptions) -> CallOptions:
        """Name the version for a call by name, where it was registered from here.

        What others registered stays unnamed: the nodes know better than this client
        which is the newest. So do functions that belong to one node each. Whether a
        function may run twice, who registered it has said for all callers.
        """
        if options.version is not None:
            return options
        newest = self._state.newest(function)
        if newest is None:
            return options
        shipment = self._shipped.get(newest.version)
        if shipment is None:
            if newest.idempotent == options.idempotent:
                return options
            return replace(options, idempotent=newest.idempotent)
        return replace(
            options,
            version=newest.version,
            holder=newest.origin,
            idempotent=newest.idempotent,
            shipment=shipment,
        )

    async def _send(self, request: Register, parts: Parts) -> Shipment:
        answer, _ = await self._requests.ask(request, parts)
        registered: Registered = answer
        shipment = Shipment(request, parts, registered)
        self._shipped[request.version] = shipment
        self._newest[request.function] = shipment
        self._state.registered(registered.offer)
        self._routes_changed()
        return shipment


def named_version(content: str, name: str) -> str:
    """Return the version of code with this digest when it is called `name`.

    The same code under two names is two functions of the cluster.

    >>> len(named_version("3f2a" * 8, "train"))
    32
    """
    return sha256(f"{content}\0{name}".encode()).hexdigest()[:VERSION_DIGITS]


LARGE_BYTES = 1_000_000
"""From here on a capture is worth a warning: it travels to every node."""

SHOWN_CAPTURES = 6


class ReplacedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that another took the place of, both numbered as they came here."""

    before: int
    now: int
    results: int  # that this process got of the version before

    def __str__(self) -> str:
        text = f"v{self.before} → v{self.now}"
        if self.results:
            stale = "is" if self.results == 1 else "are"
            text += f", {count(self.results, 'result')} {stale} now stale"
        return text


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one registration; its `str` is what a cell shows."""

    function: str
    version: str
    nodes: tuple[str, ...]
    resources: tuple[str, ...]
    size_bytes: int
    captures: "tuple[Capture, ...]"
    replaces: "ReplacedVersion | None" = None
    python: str = ""  # the only one that runs it, such as "Python 3.11"
    needs_worker: bool = False

    @classmethod
    def of(
        cls,
        shipped: "Shipped",
        registered: "Registered",
        replaces: "ReplacedVersion | None" = None,
    ) -> "Card":
        """Put the card together from what was sent and what was answered."""
        offer = registered.offer
        return cls(
            function=offer.function,
            version=offer.version,
            nodes=registered.nodes,
            resources=tuple(sorted(offer.resources)),
            size_bytes=shipped.size_bytes,
            captures=shipped.captures,
            replaces=replaces,
            python=f"Python {offer.python}" if offer.python else "",
            needs_worker=offer.needs_worker,
        )

    @property
    def needs(self) -> str:
        """What a node must have to serve the function."""
        worker = "a worker process" if self.needs_worker else ""
        return ", ".join(self.resources) or " and ".join(
            need for need in (self.python, worker) if need
        )

    @property
    def notice(self) -> str:
        """The change against the version before, "" for a first registration."""
        return "" if self.replaces is None else f"{self.function} {self.replaces}"

    def __str__(self) -> str:
        where = ", ".join(self.nodes) or (f"no node yet (needs {self.needs})")
        parts = [f"{self.function} {self.version[:6]} → {where}", size(self.size_bytes)]
        if self.captures:
            shown = [f"{c.name} ({c.type_name})" for c in self.captures]
            more = len(shown) - SHOWN_CAPTURES
            text = ", ".join(shown[:SHOWN_CAPTURES])
            parts.append(f"captures: {text}{f', {more} more' if more > 0 else ''}")
        lines = [" · ".join(parts)]
        if self.notice:
            lines.append(f"  {self.notice}")
        lines += [
            f"  {capture.name} is {size(capture.size_bytes)} and is sent to every "
            f"node that serves {self.function}: pass it as an argument, or load it "
            "inside the function"
            for capture in self.captures
            if capture.size_bytes > LARGE_BYTES
        ]
        return "\n".join(lines)
