"""Registers functions, once each, and remembers which code an object stands for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.card import Card, Replaced
from mpreg_nb.cluster.functions import Function
from mpreg_nb.cluster.itself import bound_to_itself

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster


class Shipping:
    """The functions that one cluster object has registered, by identity."""

    def __init__(
        self, client: Client, thread: LoopThread, cluster: "Callable[[], Cluster]"
    ) -> None:
        self._client = client
        self._thread = thread
        self._cluster = cluster
        # The function itself is kept, so that its id is not given to another.
        self._known: dict[int, tuple[Any, str, CallOptions]] = {}
        self._versions: dict[str, list[str]] = {}  # name -> as they first came
        self._newest: dict[str, str] = {}  # name -> the version registered last

    def ship(self, function: "Function[Any, Any]") -> tuple[str, CallOptions]:
        """Register the code that `function` holds; return how to call just that.

        Raises:
            NotPicklable: it captures what cannot travel.
        """
        from mpreg_nb.wire.payload import pack_function

        with bound_to_itself(function):
            shipped = pack_function(function.local)
        registered = self._thread.run(
            self._client.registrations.register(
                shipped,
                function.name,
                resources=function.resources,
                idempotent=function.idempotent,
                isolation=function.isolation,
            )
        )
        replaced = self._replaced(function.name, shipped.version)
        function.card = Card.of(shipped, registered, replaced)
        options = CallOptions(
            version=shipped.version,
            holder=registered.offer.origin,
            idempotent=function.idempotent,
        )
        self._known[id(function)] = (function, function.name, options)
        return function.name, options

    def _replaced(self, name: str, version: str) -> Replaced | None:
        """Note that `version` is the newest of `name`; return what it replaces."""
        before = self._newest.get(name, version)
        self._newest[name] = version
        versions = self._versions.setdefault(name, [])
        if version not in versions:
            versions.append(version)
        if before == version:
            return None
        return Replaced(
            before=versions.index(before) + 1,
            now=versions.index(version) + 1,
            results=self._client.journal.results.get((name, before), 0),
        )

    def registered(self, function: Any) -> tuple[str, CallOptions]:
        """Return the name and version of `function`, registering it at first use."""
        known = self._known.get(id(function))
        if known is not None:
            return known[1], known[2]
        if isinstance(function, Function):
            return self.ship(function)
        # Only the version of a lambda matters: it is called by the object.
        anonymous = getattr(function, "__name__", "") == "<lambda>"
        made = Function(
            function, name="lambda" if anonymous else None, cluster=self._cluster
        )
        name, options = self.ship(made)
        self._known[id(function)] = (function, name, options)
        return name, options
