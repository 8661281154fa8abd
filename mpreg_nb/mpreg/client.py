"""`MPREGClientAPI`, the commands of a request, and the errors that it raises.

An error that a function raised is still an instance of its class; its text names the
command, the error and the types of the arguments. `.original` has the text before.
"""

import asyncio
import copy
import weakref
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from mpreg_nb.boundary import public
from mpreg_nb.call_context import depth_of_calls
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.output import current_writer
from mpreg_nb.client.runs import RunRecord
from mpreg_nb.errors import (
    CallCancelled,
    CallTimeout,
    MpregError,
    NoCluster,
    NoRoute,
    RemoteError,
)
from mpreg_nb.names import check_name, check_resources
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import RunStart, StepPlan
from mpreg_nb.routing.router import NoCandidate, Wanted
from mpreg_nb.serialize.classes import make
from mpreg_nb.serialize.exceptions import execution_failed, message_of
from mpreg_nb.serialize.json_rpc import Others, mention
from mpreg_nb.serialize.pickle import pack_call
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import load_token
from mpreg_nb.workflows.graph import check_order
from mpreg_nb.working_folder import here


@dataclass(frozen=True, slots=True)
class RPCCommand:
    """Run the function `fun`, and name the result `name`.

    In `args` and `kwargs`, at any depth of lists, tuples, sets and values of dicts,
    a string that equals the name of another command of the request is replaced by
    its result, and "name.field.sub" by that field of the result. If the field does
    not exist, the string stays, and the command still waits for the other one.
    `args` that is neither a tuple nor a list is one argument. `locs` are resources:
    the command runs on a node where the function and the node have all of them.
    """

    name: str
    fun: str
    args: Any = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    locs: Iterable[str] = frozenset()

    def __post_init__(self) -> None:
        check_name("command", self.name)
        check_name("function", self.fun)
        object.__setattr__(self, "locs", check_resources(self.locs))
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(
                f"kwargs of command {self.name!r} must be a dict of keyword "
                f"arguments, not {type(self.kwargs).__name__}"
            )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments."""
        args = self.args
        return tuple(args) if isinstance(args, tuple | list) else (args,)

    @property
    def resources(self) -> frozenset[str]:
        """The `locs`, checked."""
        return frozenset(self.locs)


@dataclass(frozen=True, slots=True)
class PackedCommand:
    """A command with pickled arguments."""

    command: RPCCommand
    parts: tuple[Buffer, ...]
    inputs: tuple[str, ...]  # commands whose results the parts refer to


def pack_commands(commands: Sequence[RPCCommand]) -> list[PackedCommand]:
    """Find the references between commands, and pickle their arguments.

    Raises:
        InvalidWorkflow: two commands have one name, or they wait for each other.
        NotPicklable: an argument cannot travel.
    """
    names = [command.name for command in commands]
    check_order("of commands", [(name, frozenset()) for name in names])
    known = frozenset(names)
    packed = [_packed(command, Others(known, command.name)) for command in commands]
    waits = [(one.command.name, frozenset(one.inputs)) for one in packed]
    check_order("of commands", waits)
    return packed


def last_commands(packed: Iterable[PackedCommand]) -> list[str]:
    """Return the names of the commands whose results no other command uses."""
    used = {name for one in packed for name in one.inputs}
    return [one.command.name for one in packed if one.command.name not in used]


def _packed(command: RPCCommand, others: Container[str]) -> PackedCommand:
    put = _References(others)
    args = tuple(map(put, command.arguments))
    kwargs = {key: put(value) for key, value in command.kwargs.items()}
    parts, inputs = pack_call(args, kwargs)
    return PackedCommand(command, parts, inputs)


@dataclass(frozen=True, slots=True)
class ResultOf:
    """A reference to the result of command `step`, or to the field at `path`."""

    step: str
    path: tuple[str, ...]
    literal: str  # meant where there is no such field

    def __mpreg_reference__(self) -> "ResultOf":
        """Return itself: it has all that a worker must know."""
        return self


class _References:
    """Replaces strings that name results by references.

    Containers without any are passed on as they are.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self._inside: set[int] = set()  # ids of the containers around a value

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            found = mention(value, self._names)
            return value if found is None else ResultOf(*found, str(value))
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return value
        if id(value) in self._inside:
            return value  # a container that holds itself
        self._inside.add(id(value))
        filled = self._filled(value)
        self._inside.discard(id(value))
        return filled

    def _filled(self, value: Any) -> Any:
        before = list(value.values() if isinstance(value, dict) else value)
        after = list(map(self, before))
        if all(one is other for one, other in zip(before, after, strict=True)):
            return value
        if isinstance(value, tuple):
            named = getattr(value, "_make", tuple)  # of a named tuple
            return named(after)
        if isinstance(value, set | frozenset):
            return type(value)(after)
        twin = copy.copy(value)  # keeps the order, the default, the class
        if isinstance(value, dict):
            twin.update(zip(value, after, strict=True))
        else:
            twin[:] = after
        return twin


_classes: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()


def report(error: RemoteError) -> None:
    """Give `error` the text that MPREG has for a failed function."""
    if "_line" in vars(error):
        return
    told = message_of(error)
    name = error.type_name.removeprefix("builtins.")
    if not told.startswith(name):  # else its class is not here, and it says so itself
        told = f"{name.rpartition('.')[2]}: {told}"
    line = execution_failed(error.function, told, error.argument_types)
    _speaking(error, line)


def _speaking(error: RemoteError, line: str) -> RemoteError:
    vars(error)["_line"] = line
    error.__class__ = _class(type(error))
    return error


def _class(cls: type[RemoteError]) -> type[RemoteError]:
    speaking = _classes.get(cls)
    if speaking is None:
        body = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__str__": _line,
            "__reduce__": _reduce,
            "__reduce_ex__": lambda self, _protocol: _reduce(self),
        }
        speaking = _classes[cls] = make(type(cls), cls.__name__, (cls,), body)
    return speaking


def _line(error: RemoteError) -> str:
    return str(vars(error)["_line"])


def _reduce(error: RemoteError) -> tuple[Any, ...]:
    """Pickle as the original error, whose class the receiver can import or rebuild."""
    cls: Any = type(error).__bases__[0]
    make, args = cls.__reduce__(error)
    args = tuple(cls if arg is type(error) else arg for arg in args)
    return _again, (make, args, _line(error))


def _again(make: Callable[..., RemoteError], args: Any, line: str) -> RemoteError:
    return _speaking(make(*args), line)


CONNECT_S = 5.0
"""How long `connect` looks for a server that may just be starting."""


@public
class MPREGClientAPI:
    """A connection to one node, through which its whole cluster can be called.

    `async with` connects and disconnects; so do the methods of these names. Any
    number of calls may run at once.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token
        self._caller: Client | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.disconnect()

    def __repr__(self) -> str:
        state = "connected" if self._caller is not None else "not connected"
        return f"<MPREGClientAPI {self.url} {state}>"

    async def connect(self) -> None:
        """Connect; does nothing if connected.

        Raises:
            NotTrusted: the server has another token than this user.
            NodeLost: no server answers at the URL.
        """
        if self._caller is not None:
            return
        token, ca = load_token(self._token), load_ca()
        caller = Client((self.url,), token, direct=False, ca=ca)
        try:
            await caller.open(CONNECT_S)
        except BaseException:
            await caller.close()
            raise
        self._caller = caller

    async def disconnect(self) -> None:
        """Disconnect and cancel running calls; does nothing if not connected."""
        caller, self._caller = self._caller, None
        if caller is not None:
            await caller.close()

    async def call(
        self,
        function: str,
        /,
        *args: Any,
        locs: str | Iterable[str] = frozenset(),
        timeout: float | None = None,  # noqa: ASYNC109 - MPREG's name, also of its twin
        **kwargs: Any,
    ) -> Any:
        """Run `function` on a node that holds all of `locs`, and return its result.

        timeout: seconds from now to the result; None waits without limit.

        Raises:
            RemoteError: the function raised; also an instance of the class it raised.
                The message names the command, the error and the types of the arguments.
            NoRoute: no live node has the function together with `locs`.
            CallTimeout: there was no result in time.

        Cancelling the await cancels the call.
        """
        options = CallOptions(resources=check_resources(locs), timeout_s=timeout)
        return await self._call(check_name("function", function), args, kwargs, options)

    async def request(
        self,
        commands: Sequence[RPCCommand],
        timeout: float | None = None,  # noqa: ASYNC109 - MPREG's name
    ) -> dict[str, Any]:
        """Run commands that refer to each other's results; see `RPCCommand`.

        Each command starts as soon as the results that it uses are there. Returns, by
        name, the results that no other command uses.

        timeout: seconds from now to the last result; None waits without limit.

        The errors of `call` are raised as soon as one command fails; the other
        commands are then cancelled.

        Raises:
            InvalidWorkflow: two commands have one name, or they wait for each other.
        """
        caller = self._connected()
        if not commands:
            return {}
        packed = pack_commands(list(commands))
        if len(packed) == 1:
            command = packed[0].command
            options = CallOptions(resources=command.resources, timeout_s=timeout)
            kwargs = dict(command.kwargs)
            value = await self._call(command.fun, command.arguments, kwargs, options)
            return {command.name: value}
        await _check(caller, packed)
        changed = asyncio.Event()
        start, parts = _run_start(caller, packed)
        record = caller.runs.start(
            start,
            parts,
            writer=current_writer(),
            on_change=lambda _: changed.set(),
        )
        try:
            async with asyncio.timeout(timeout) as limit:
                await _until_told(record, changed)
                return await _results(caller, record, last_commands(packed))
        except RemoteError as error:
            report(error)
            raise
        except TimeoutError as error:
            if isinstance(error, MpregError) or not limit.expired():
                raise
            names = ", ".join(_open(record))
            raise CallTimeout(f"the request ({names})", timeout or 0.0) from None
        finally:
            caller.runs.cancel(record)

    @property
    def _client(self) -> Self:
        """This client: examples of MPREG write `client._client.request(...)`."""
        return self

    def _connected(self) -> Client:
        if self._caller is None:
            raise NoCluster(
                f"not connected to {self.url}. Connect first: await client.connect(), "
                "or use it as: async with MPREGClientAPI(url) as client"
            )
        return self._caller

    async def _call(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        try:
            return await self._connected().call(function, args, kwargs, options)
        except RemoteError as error:
            report(error)
            raise


def caller_of(client: MPREGClientAPI) -> Client:
    """Return what a connected client calls by, with its view of the cluster."""
    return client._connected()


async def _check(caller: Client, packed: Sequence[PackedCommand]) -> None:
    """Raise NoRoute, before any command runs, for one that no live node can run."""
    if _nowhere_to_go(caller, packed) is not None:
        await caller.snapshot()  # what this client knew may be old
    refused = _nowhere_to_go(caller, packed)
    if refused is not None:
        function, why = refused
        raise NoRoute(
            function,
            why.resources,
            dict(why.offers),
            held=dict(why.held),
            similar=why.similar or None,
            reason=why.reason,
        )


def _nowhere_to_go(
    caller: Client, packed: Sequence[PackedCommand]
) -> tuple[str, NoCandidate] | None:
    for one in packed:
        wanted = Wanted(one.command.fun, resources=one.command.resources)
        choice = caller.calls.router.choose(wanted, caller.now())
        if isinstance(choice, NoCandidate):
            return one.command.fun, choice
    return None


def _run_start(
    caller: Client, packed: Sequence[PackedCommand]
) -> tuple[RunStart, tuple[Buffer, ...]]:
    plans: list[StepPlan] = []
    beside: list[Buffer] = []
    for one in packed:
        payload, parts = caller.inline(one.parts)
        offer = caller.offer(one.command.fun)
        plan = StepPlan(
            name=one.command.name,
            function=one.command.fun,
            payload=payload,
            parts=len(parts),
            resources=one.command.resources,
            inputs=one.inputs,
            idempotent=offer is not None and offer.idempotent,
        )
        plans.append(plan)
        beside.extend(parts)
    start = RunStart(
        id=caller.requests.new_id(),
        workflow="commands",
        steps=tuple(plans),
        folder=here(),
        depth=depth_of_calls(),
    )
    return start, tuple(beside)


async def _until_told(record: RunRecord, changed: asyncio.Event) -> None:
    """Return when all commands have ended, or one has failed."""
    while not record.ended and not _failed(record):
        await changed.wait()
        changed.clear()


async def _results(
    caller: Client, record: RunRecord, names: Iterable[str]
) -> dict[str, Any]:
    if record.lost is not None:
        raise record.lost
    for name in _failed(record):
        (await caller.runs.fetch(record, name))()  # raises what the command failed with
    if record.status == "cancelled":
        raise CallCancelled("the request")
    return {name: (await caller.runs.fetch(record, name))() for name in names}


def _failed(record: RunRecord) -> list[str]:
    return [state.name for state in record.steps.values() if state.status == "failed"]


def _open(record: RunRecord) -> list[str]:
    ended = ("done", "failed", "skipped", "cancelled")
    return [name for name, state in record.steps.items() if state.status not in ended]
