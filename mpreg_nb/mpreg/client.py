"""Calls functions of a cluster by MPREG's names, on the caller's event loop."""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.client.output import current_writer
from mpreg_nb.client.run_record import RunRecord
from mpreg_nb.errors import (
    CallCancelled,
    CallTimeout,
    MpregError,
    NoCluster,
    NoRoute,
    RemoteError,
)
from mpreg_nb.mpreg.commands import Packed, RPCCommand, last_commands, pack_commands
from mpreg_nb.mpreg.reported import report
from mpreg_nb.names import check_name, check_resources
from mpreg_nb.routing.router import Refused, Wanted
from mpreg_nb.transport.token import load_token
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.runs import RunStart, StepPlan
from mpreg_nb.wire.working_folder import here

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
        caller = Client((self.url,), load_token(self._token), direct=False)
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

        Raises the errors of `call` as soon as one command fails; the other commands are
        then cancelled. Also:
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
        """Itself: MPREG's examples write `client._client.request(...)`."""
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


async def _check(caller: Client, packed: Sequence[Packed]) -> None:
    """Raise NoRoute, before anything runs, for what no live node could run."""
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
    caller: Client, packed: Sequence[Packed]
) -> tuple[str, Refused] | None:
    for one in packed:
        wanted = Wanted(one.command.fun, resources=one.command.resources)
        choice = caller.calls.router.choose(wanted, caller.now())
        if isinstance(choice, Refused):
            return one.command.fun, choice
    return None


def _run_start(
    caller: Client, packed: Sequence[Packed]
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
        id=caller.new_id(), workflow="commands", steps=tuple(plans), folder=here()
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
