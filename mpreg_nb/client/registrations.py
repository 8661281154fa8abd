"""What this client registered, so that none of its calls runs anything older."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from mpreg_nb.client.options import CallOptions
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.messages import Register, Registered

if TYPE_CHECKING:
    from mpreg_nb.client.client import Client
    from mpreg_nb.wire.payload import Shipped

_replace: Any = msgspec.structs.replace


class Registrations:
    """The functions that this client shipped, by version, kept to ship them again."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._shipped: dict[str, tuple[Register, Parts]] = {}

    async def register(
        self,
        shipped: "Shipped",
        name: str,
        *,
        resources: frozenset[str] = frozenset(),
        idempotent: bool = False,
        isolation: str = "process",
    ) -> Registered:
        """Place a function on every node that holds `resources`.

        When this returns, no later call of this client runs an older version.
        """
        payload, parts = self._client.inline(shipped.parts)
        request = Register(
            id=self._client.new_id(),
            function=name,
            version=shipped.version,
            payload=payload,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,  # type: ignore[arg-type]  # checked by Function
            signature=shipped.signature,
            doc=shipped.doc,
            python=shipped.python,
        )
        return await self._send(request, parts)

    async def renew(self, version: str) -> bool:
        """Register again what no node has any more; False if it was not ours."""
        known = self._shipped.get(version)
        if known is None:
            return False
        request, parts = known
        await self._send(_replace(request, id=self._client.new_id()), parts)
        return True

    def newest(self, function: str, options: CallOptions) -> CallOptions:
        """Name the version for a call by name, where it was registered from here.

        What others registered stays unnamed: the nodes know better than this client
        which is the newest. So do functions that belong to one node each.
        """
        if options.version is not None or not self._shipped:
            return options
        newest = self._client.mirror.newest(function)
        if newest is None or newest.version not in self._shipped:
            return options
        return replace(
            options,
            version=newest.version,
            holder=newest.origin,
            idempotent=newest.idempotent,
        )

    async def _send(self, request: Register, parts: Parts) -> Registered:
        self._shipped[request.version] = (request, parts)
        answer, _ = await self._client.ask(request, parts)
        registered: Registered = answer
        self._client.mirror.registered(registered.offer)
        self._client.calls.routes_changed()
        return registered
