"""What this client registered, so that none of its calls runs anything older."""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from mpreg_nb.client.options import CallOptions
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.digest import VERSION_DIGITS
from mpreg_nb.wire.messages import Register, Registered

if TYPE_CHECKING:
    from mpreg_nb.client.client import Client
    from mpreg_nb.wire.payload import Shipped

_replace: Any = msgspec.structs.replace


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Shipment:
    """A function that this client shipped, and what the cluster said to it."""

    request: Register
    parts: Parts
    registered: Registered


class Registrations:
    """The functions that this client shipped, by version, kept to ship them again.

    What a name means by this client is kept; other versions for as long as the
    function lives that they were made from, or a call of them is under way.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._newest: dict[str, Shipment] = {}  # by name
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
            id=self._client.new_id(),
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
        payload, more = self._client.inline(parts)
        return await self._send(_replace(request, payload=payload), more)

    async def renew(self, version: str) -> bool:
        """Register again what no node has any more; False if it was not ours."""
        known = self._shipped.get(version)
        if known is None:
            return False
        await self._send(_replace(known.request, id=self._client.new_id()), known.parts)
        return True

    async def restore(self, *, without: frozenset[str]) -> None:
        """Register again the functions of which the cluster has lost the code.

        without: nodes that were started again; what they held is gone.
        """
        snapshot = await self._client.snapshot()
        held = {
            offer.function
            for owner, offer in snapshot.offers
            if owner not in without and offer.placed
        }
        for name, shipment in tuple(self._newest.items()):
            if name not in held:
                await self.renew(shipment.request.version)

    def newest(self, function: str, options: CallOptions) -> CallOptions:
        """Name the version for a call by name, where it was registered from here.

        What others registered stays unnamed: the nodes know better than this client
        which is the newest. So do functions that belong to one node each.
        """
        if options.version is not None or not self._newest:
            return options
        newest = self._client.mirror.newest(function)
        shipment = None if newest is None else self._shipped.get(newest.version)
        if newest is None or shipment is None:
            return options
        return replace(
            options,
            version=newest.version,
            holder=newest.origin,
            idempotent=newest.idempotent,
            shipment=shipment,
        )

    async def _send(self, request: Register, parts: Parts) -> Shipment:
        answer, _ = await self._client.ask(request, parts)
        registered: Registered = answer
        shipment = Shipment(request, parts, registered)
        self._shipped[request.version] = shipment
        self._newest[request.function] = shipment
        self._client.mirror.registered(registered.offer)
        self._client.calls.routes_changed()
        return shipment


def named_version(content: str, name: str) -> str:
    """Return the version of code with this digest when it is called `name`.

    The same code under two names is two functions of the cluster.

    >>> len(named_version("3f2a" * 8, "train"))
    32
    """
    return sha256(f"{content}\0{name}".encode()).hexdigest()[:VERSION_DIGITS]
