"""Registers functions, and knows which code an object stands for at this moment.

What was registered is remembered for as long as the object lives, together with
witnesses of everything that it reaches. A call checks them, which takes microseconds;
where something has changed, the object is packed again. The same content is the same
version, which is not registered twice.

A decorated function is packed before its name is bound to it. `recursive_reference`
lets the name stand for the function meanwhile, so that it can call itself.
"""

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.output import write_at_once
from mpreg_nb.client.registrations import Card, ReplacedVersion
from mpreg_nb.cluster.current import OpenCluster
from mpreg_nb.cluster.function import Function
from mpreg_nb.serialize.code import name_of

if TYPE_CHECKING:
    from mpreg_nb.serialize.change_detection import Witnesses
    from mpreg_nb.serialize.code import Shipped


_NOTHING: Any = object()


@contextmanager
def recursive_reference(function: Function[..., Any]) -> Iterator[None]:
    """Let the own name of `function` stand for it in the block.

    Where the name stands for something else than an older registered function, that
    is what it means, and it is left alone.
    """
    local = function.local
    if not isinstance(local, types.FunctionType):
        yield
        return
    name = local.__name__
    cell = _cell(local, name)
    if cell is not None:
        before = _content(cell)
        replaced = before is _NOTHING or isinstance(before, Function)
        if replaced:
            cell.cell_contents = function
        try:
            yield
        finally:
            if replaced and before is _NOTHING:
                del cell.cell_contents
            elif replaced:
                cell.cell_contents = before
        return
    variables = local.__globals__
    before = variables.get(name, _NOTHING)
    replaced = _uses(local.__code__, name) and (
        before is _NOTHING or isinstance(before, Function)
    )
    if replaced:
        variables[name] = function
    try:
        yield
    finally:
        if replaced and before is _NOTHING:
            variables.pop(name, None)
        elif replaced:
            variables[name] = before


def _cell(function: types.FunctionType, name: str) -> types.CellType | None:
    if name not in function.__code__.co_freevars or function.__closure__ is None:
        return None
    return function.__closure__[function.__code__.co_freevars.index(name)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _NOTHING


def _uses(code: types.CodeType, name: str) -> bool:
    return name in code.co_names or any(
        _uses(inner, name)
        for inner in code.co_consts
        if isinstance(inner, types.CodeType)
    )


ANONYMOUS = "lambda"
"""The name of lambdas; only their versions matter, as they are called by object."""


@dataclass(slots=True, eq=False)
class _Known:
    """What one object was registered as."""

    references: tuple[weakref.ref[Any], ...]  # while all of these live
    witnesses: "Witnesses"
    name: str
    options: CallOptions
    registered: dict[str, Any]  # with these options


class FunctionRegistry:
    """The functions that one cluster object has registered, by object."""

    def __init__(self, client: Client, cluster: Callable[[], OpenCluster]) -> None:
        self._client = client
        self._cluster = cluster
        # By id, or by the ids of object and function for a method.
        self._known: dict[object, _Known] = {}
        self._versions: dict[str, list[str]] = {}  # name -> as they first came
        self._newest: dict[str, str] = {}  # name -> the version registered last

    def registered(self, function: Any) -> tuple[str, CallOptions] | None:
        """Return how to call what `function` is now; None: it must be sent first."""
        known = self._known.get(_key(function))
        if known is None:
            return None
        local = function.local if isinstance(function, Function) else function
        if not known.witnesses.hold(local):
            return None
        return known.name, known.options

    def function(self, function: Any) -> "Function[Any, Any]":
        """Return `function` as one that has a name; as it was registered, if so."""
        if isinstance(function, Function):
            return function
        known = self._known.get(_key(function))
        if known is not None:
            return Function(function, cluster=self._cluster, **known.registered)
        name = name_of(function)
        if name == "<lambda>":
            name = ANONYMOUS
        return Function(function, name=name, cluster=self._cluster)

    def needs(self, function: Any) -> frozenset[str]:
        """Return the resources that a function, or a name, was declared with."""
        function, _, _ = unwrapped(function, (), {})
        if isinstance(function, str):
            return self._client.resources(function)
        if isinstance(function, Function):
            return function.resources
        known = self._known.get(_key(function))
        return frozenset() if known is None else known.registered["resources"]

    def pack(self, function: "Function[Any, Any]") -> "Shipped":
        """Return the code that `function` holds. May run on any thread.

        Raises:
            NotPicklable: it captures what cannot travel.
        """
        from mpreg_nb.serialize.pickle import pack_function

        for known in tuple(self._known.values()):
            known.witnesses.let_go()
        with recursive_reference(function):
            return pack_function(function.local)

    async def send(
        self,
        function: "Function[Any, Any]",
        shipped: "Shipped",
        *,
        stands_for: Any = None,
    ) -> tuple[str, CallOptions]:
        """Register `shipped`; return how to call just that.

        stands_for: the object that a call has named, where it needs no registration
            of its own if this code is what its name means already.
        """
        registrations = self._client.registrations
        request = registrations.request(
            shipped,
            function.name,
            resources=function.resources,
            idempotent=function.idempotent,
            isolation=function.isolation,
        )
        shipment = None
        if stands_for is not None:
            is_newest = self._newest.get(function.name) == request.version
            if is_newest or function.name == ANONYMOUS:
                shipment = registrations.again(request)
        if shipment is None:
            shipment = await registrations.register(request, shipped.parts)
            replaced = self._replaced(function.name, request.version)
            function.card = Card.of(shipped, shipment.registered, replaced)
        options = CallOptions(
            version=request.version,
            holder=shipment.registered.offer.origin,
            idempotent=function.idempotent,
            shipment=shipment,
        )
        registered = {
            "name": function.name,
            "resources": function.resources,
            "idempotent": function.idempotent,
            "isolation": function.isolation,
        }
        called = (function, function.local) if stands_for is None else (stands_for,)
        for each in called:
            self._remember(each, shipped.witnesses, options, registered)
        return function.name, options

    def _remember(
        self,
        function: Any,
        witnesses: "Witnesses",
        options: CallOptions,
        registered: dict[str, Any],
    ) -> None:
        key = _key(function)

        def gone(_: weakref.ref[Any]) -> None:
            if self._known.get(key) is known:
                del self._known[key]

        parts: tuple[Any, ...] = (function,)
        if isinstance(function, types.MethodType):
            parts = (function.__self__, function.__func__)
        try:
            references = tuple(weakref.ref(part, gone) for part in parts)
        except TypeError:  # nothing would say that it is gone: packed each time
            return
        name = registered["name"]
        known = _Known(references, witnesses, name, options, registered)
        self._known[key] = known

    def _replaced(self, name: str, version: str) -> ReplacedVersion | None:
        """Note that `version` is the newest of `name`; return what it replaces."""
        before = self._newest.get(name, version)
        self._newest[name] = version
        versions = self._versions.setdefault(name, [])
        if version not in versions:
            versions.append(version)
        if before == version:
            return None
        return ReplacedVersion(
            before=versions.index(before) + 1,
            now=versions.index(version) + 1,
            results=self._client.journal.results.get((name, before), 0),
        )


def _key(function: Any) -> object:
    if type(function) is types.MethodType:
        return id(function.__self__), id(function.__func__)
    return id(function)


def unwrapped(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """Return what calling a partial comes to: its function, and all the arguments.

    So partials that are made anew for each call are one function of the cluster.
    """
    while type(function) is functools.partial and _is_simple(function):
        args = (*function.args, *args)
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    return function, args, kwargs


def _is_simple(made: "functools.partial[Any]") -> bool:
    """Whether its arguments come before all others: 3.14 has places for later ones."""
    place = getattr(functools, "Placeholder", None)
    return place is None or all(arg is not place for arg in made.args)


def narrowed(options: CallOptions, known: CallOptions) -> CallOptions:
    """Return `options` for a call of just the version that is `known`."""
    return replace(
        options,
        version=known.version,
        holder=known.holder,
        idempotent=known.idempotent,
        shipment=known.shipment,
    )


def warn_stale_results(function: Function[Any, Any]) -> None:
    """Write one line where results of an older version are about: nothing else does.

    A cell that ends in a `def` shows no card.
    """
    card = function.card
    if card is not None and card.replaces is not None and card.replaces.results:
        write_at_once(sys.stdout, f"{card.notice}\n")
