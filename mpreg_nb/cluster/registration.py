"""Registers functions, and knows the registered version of a function object.

A registration is remembered for as long as the object lives, together with witnesses
of everything that the function reads. A call checks the witnesses, which takes
microseconds; if one has changed, the function is packed again. The same content has
the same version, and a version is not registered twice.

A decorated function is packed before its name is bound to it. `recursive_reference`
binds the name while the function is packed, so that the function can call itself.
"""

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mpreg_nb.client.calls import PLAIN, CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import ClientLoop
from mpreg_nb.client.output import write_at_once
from mpreg_nb.client.registrations import Card, ReplacedVersion
from mpreg_nb.cluster.current import CallingCluster
from mpreg_nb.cluster.function import Function, declared
from mpreg_nb.names import ANONYMOUS, check_name, name_of

if TYPE_CHECKING:
    from mpreg_nb.serialize.change_detection import Witnesses
    from mpreg_nb.serialize.code import Shipped


_NOTHING: Any = object()


@contextmanager
def recursive_reference(function: Function[..., Any]) -> Iterator[None]:
    """Bind the own name of `function` to it inside the block.

    The name is left alone if it is bound to anything but an older registered function.
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


Callee: TypeAlias = tuple[str, CallOptions]
"""The name of a registered function, and the options that call one version of it."""


class _Registered(msgspec.Struct, eq=False):
    """The registration of one object."""

    references: tuple[weakref.ref[Any], ...]  # valid while all of these live
    witnesses: "Witnesses"
    name: str
    options: CallOptions
    declared: dict[str, Any]  # the options of the registration
    narrowed: tuple[CallOptions, CallOptions] | None = None  # of the last call

    def options_of(self, asked: CallOptions) -> CallOptions:
        """Return the options of a call of this version; the same for the same ones."""
        last = self.narrowed
        if last is None or last[0] is not asked:
            last = self.narrowed = asked, narrowed(asked, self.options)
        return last[1]


class FunctionRegistry:
    """The functions that one client has registered, by object."""

    def __init__(
        self, client: Client, loop: ClientLoop, cluster: Callable[[], CallingCluster]
    ) -> None:
        self._client = client
        self._loop = loop
        self._cluster = cluster
        # By id, or by the ids of object and function for a method.
        self._registered: dict[object, _Registered] = {}
        self._versions: dict[str, list[str]] = {}  # name -> versions, oldest first
        self._newest: dict[str, str] = {}  # name -> the version registered last

    # ------------------------------------------------------------- what is called

    def callee(self, function: Any, options: CallOptions) -> Callee | None:
        """Return how to call `function` as it is now; None: register it first."""
        if isinstance(function, str):
            return check_name("function", function), options
        known = self._registered.get(_key(function))
        if known is None:
            return None
        local = function.local if isinstance(function, Function) else function
        if not known.witnesses.hold(local):
            return None
        return known.name, known.options_of(options)

    def needs(self, function: Any) -> frozenset[str]:
        """Return the resources that a function, or a name, was registered with."""
        function, _, _ = unwrapped(function, (), {})
        if isinstance(function, str):
            return self._client.resources(function)
        if isinstance(function, Function):
            return function.resources
        known = self._registered.get(_key(function))
        return frozenset() if known is None else known.declared["resources"]

    # --------------------------------------------------------------- registration

    # Functions are packed in the thread of the caller, and sent on the client's loop.

    async def register(self, function: Any, **options: Any) -> "Function[Any, Any]":
        """Register a function with the options of `Cluster.register`; return it.

        Raises:
            NotPicklable: the function captures what cannot travel.
        """
        made = declared(function, self._cluster, **options)
        await self._loop.wait_for(self._send(made, self._pack(made), None, PLAIN))
        return made

    async def register_called(self, function: Any, options: CallOptions) -> Callee:
        """Register the object that a call names, and return how to call it.

        It needs no registration of its own if the newest version of its name has the
        same code.

        Raises:
            NotPicklable: the function captures what cannot travel.
        """
        named = self._named(function)
        sending = self._send(named, self._pack(named), function, options)
        return await self._loop.wait_for(sending)

    async def callees(self, functions: Iterable[Any]) -> dict[int, Callee]:
        """Return how to call each function as it is now, by the id of the object."""
        return {
            id(each): self.callee(each, PLAIN)
            or await self.register_called(each, PLAIN)
            for each in {id(each): each for each in functions}.values()
        }

    def _named(self, function: Any) -> "Function[Any, Any]":
        """Return `function` with a name, and as it was registered before."""
        if isinstance(function, Function):
            return function
        known = self._registered.get(_key(function))
        if known is not None:
            return Function(function, cluster=self._cluster, **known.declared)
        name = name_of(function)
        return Function(function, name=name, cluster=self._cluster)

    def _pack(self, function: "Function[Any, Any]") -> "Shipped":
        from mpreg_nb.serialize.pickle import pack_function

        for known in tuple(self._registered.values()):
            known.witnesses.let_go()
        with recursive_reference(function):
            return pack_function(function.local)

    async def _send(
        self,
        function: "Function[Any, Any]",
        shipped: "Shipped",
        called: Any,
        narrowing: CallOptions,
    ) -> Callee:
        """Register `shipped`; return how to call this version of it.

        called: the object that a call names, None for a registration by itself.
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
        if called is not None:
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
        for each in (function, function.local) if called is None else (called,):
            self._remember(each, shipped.witnesses, options, function._declared_options)
        return function.name, narrowed(narrowing, options)

    def _remember(
        self,
        function: Any,
        witnesses: "Witnesses",
        options: CallOptions,
        declared: dict[str, Any],
    ) -> None:
        key = _key(function)

        def gone(_: weakref.ref[Any]) -> None:
            if self._registered.get(key) is known:
                del self._registered[key]

        parts: tuple[Any, ...] = (function,)
        if isinstance(function, types.MethodType):
            parts = (function.__self__, function.__func__)
        try:
            references = tuple(weakref.ref(part, gone) for part in parts)
        except TypeError:  # its end cannot be noticed: packed at each call
            return
        name = declared["name"]
        known = _Registered(references, witnesses, name, options, declared)
        self._registered[key] = known

    def _replaced(self, name: str, version: str) -> ReplacedVersion | None:
        """Note the newest version of `name`; return the version that it replaces."""
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
            results=self._client.call_log.results.get((name, before), 0),
        )


def _key(function: Any) -> object:
    if type(function) is types.MethodType:
        return id(function.__self__), id(function.__func__)
    return id(function)


def unwrapped(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """Return the function inside a partial, and all arguments of the call.

    So partials that are created for each call share one registered function.
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
    """Return `options` for a call of the version that `known` names."""
    return replace(
        options,
        version=known.version,
        holder=known.holder,
        idempotent=known.idempotent,
        shipment=known.shipment,
    )


def warn_stale_results(function: Function[Any, Any]) -> None:
    """Print one line if a version is replaced that has already produced results.

    A cell that ends in a `def` shows no card that would tell.
    """
    card = function.card
    if card is not None and card.replaces is not None and card.replaces.results:
        write_at_once(sys.stdout, f"{card.notice}\n")
