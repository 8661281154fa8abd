"""The asynchronous client: links, calls, registrations, runs and snapshots.

All of it belongs to one event loop. `prepare` alone may be called on any thread:
it pickles the arguments where the caller is.
"""

import asyncio
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpreg_nb.call_context import depth_of_calls, time_left_s
from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.calls import (
    PLAIN,
    ActiveCall,
    CallOptions,
    ClientCalls,
    inline,
)
from mpreg_nb.client.cluster_view import ClusterState, ClusterView
from mpreg_nb.client.connections import Connections, Requests, addressed
from mpreg_nb.client.deferred import DeferredArguments
from mpreg_nb.client.future import Future
from mpreg_nb.client.outcome import (
    Arrived,
    ArrivedChunk,
    arrive,
    arrive_chunk,
    awaited,
)
from mpreg_nb.client.output import current_writer, say
from mpreg_nb.client.registrations import Registrations
from mpreg_nb.client.runs import ClientRuns
from mpreg_nb.client.statistics import CallLog
from mpreg_nb.errors import MpregError, NodeLost
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import MemberState, Offer
from mpreg_nb.protocol.messages import (
    CodePush,
    EngineRef,
    Failed,
    Failure,
    LoadsReport,
    Notice,
    Reply,
    Snapshot,
    SpaceClose,
    SpaceOpen,
    Watch,
)
from mpreg_nb.serialize.chunks import Chunk, Items, pack_chunk
from mpreg_nb.serialize.pickle import pack_arguments, pack_call
from mpreg_nb.settings import Limits
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.token import Token
from mpreg_nb.working_folder import here

FIRST_LINK_S = 2.0
"""How long a first link is tried for: a node may be starting at this moment."""

NODE_ANSWERS_S = 1.0
"""What a single node knows is not waited for longer; it may hang."""

_number = itertools.count(1)

_LOG = logging.getLogger(__name__)


class Client:
    """One caller's view of a cluster. Make it on the loop that it shall live on."""

    def __init__(
        self,
        urls: Sequence[str],
        token: Token,
        *,
        direct: bool = True,
        ca: str = "",
        to_workers: Callable[[], bool] = lambda: True,
        limits: Limits | None = None,
    ) -> None:
        """direct: open links to other nodes, and to workers of this machine.

        to_workers: whether calls may go straight to those workers at this moment.
        """
        self.urls = tuple(urls)
        self.direct = direct
        self.call_log = CallLog()
        self.state = ClusterState()
        self.deferred = DeferredArguments()
        """What becomes of arguments that stand for values of Dask."""
        self.item_times: dict[str, float] = {}
        """Version of a function -> seconds that an item of its last map took."""
        self._limits = limits or Limits()
        self.links = Connections(
            token,
            name=f"client-{os.getpid()}-{next(_number)}",
            limits=self._limits,
            ca=ca,
            on_open=self._opened,
            on_lost=self._lost,
            on_entry=self._entered,
            on_cut_off=self._cut_off,
            known_urls=self._known_urls,
            standing=self.state.standing,
            is_busy=self._is_busy,
        )
        self.requests = Requests(self.links, self.state.urls_of if direct else None)
        self.calls = ClientCalls(
            self.links,
            self.state,
            direct=direct,
            reregister=self._register_again,
            new_id=self.requests.new_id,
            to_workers=to_workers,
            calls_per_link=self._limits.calls_per_link,
        )
        self.view = ClusterView(
            self.links,
            self.requests,
            self.state,
            routes_changed=self.calls.routes_changed,
            loads_changed=self.calls.loads_told,
        )
        self.registrations = Registrations(
            self.requests,
            self.state,
            self._limits,
            snapshot=self.view.ask,
            routes_changed=self.calls.routes_changed,
            say=say,
        )
        self.view.listen(self.registrations.look)
        self._recovering: asyncio.Task[None] | None = None
        self.runs = ClientRuns(
            self.links,
            self.requests,
            self.state,
            self.call_log,
            snapshot=self.view.ask,
        )

    # --------------------------------------------------------------- life cycle

    async def open(self, timeout_s: float = FIRST_LINK_S) -> None:
        """Open the first link and learn who is there.

        Raises:
            NotTrusted: the token is not that of the cluster.
            NodeLost: nobody listens at any of the URLs.
        """
        await self.links.open(self.urls, timeout_s)
        await self.view.first.wait()

    async def close(self) -> None:
        """End all calls and close all links."""
        self.view.stop()
        self.registrations.stop()
        if self._recovering is not None:
            self._recovering.cancel()
        self.calls.stop()
        self.runs.stop()
        await self.links.close()
        await self.deferred.close()

    # -------------------------------------------------------------------- calls

    def prepare(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        done: Callable[[ActiveCall, Outcome, tuple[Buffer, ...]], None],
        *,
        blocks: bool = False,
    ) -> ActiveCall:
        """Return a call that `calls.start` can send. May run on any thread.

        blocks: a thread waits for it, and for nothing else.

        Raises:
            NotPicklable: an argument cannot travel; its path is named.
            PayloadTooLarge: the arguments are larger than one call may carry.
            NotComputed: an argument stands for a value that Dask has to compute.
        """
        began = time.perf_counter()
        if self.deferred.found(*args, *kwargs.values()):
            call = self.prepare_deferred(function, args, kwargs, options, done, began)
        else:
            packed = pack_arguments(args, dict(kwargs))
            call = self.prepare_packed(function, packed, options, done, began)
        call.blocks = blocks
        return call

    def prepare_deferred(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        done: Callable[[ActiveCall, Outcome, tuple[Buffer, ...]], None],
        began: float,
        inputs: tuple[str, ...] = (),
    ) -> ActiveCall:
        """Return a call some of whose arguments stand for values of Dask.

        inputs: names of the inputs that the options have already.

        Raises:
            NotComputed: no Dask cluster runs the calls.
        """
        made = self.deferred.replaced(args, kwargs)
        packed, names = pack_call(made.args, made.kwargs, inputs)
        values = [EngineRef(made.keys[name]) for name in names[len(inputs) :]]
        options = replace(options, inputs=(*options.inputs, *values))
        call = self.prepare_packed(function, packed, options, done, began)
        call.holds = made.holds
        return call

    def prepare_chunk(
        self,
        function: str,
        items: Items,
        options: CallOptions,
        done: Callable[[ActiveCall, Outcome, tuple[Buffer, ...]], None],
        began: float,
    ) -> ActiveCall:
        """Return a call of all `items`, the arguments of one call each.

        began: when packing them did, by perf_counter.
        """
        chunk = Chunk(list(items)) if isinstance(items, tuple) else items.chunk
        packed = (pack_chunk(chunk),)
        return self.prepare_packed(function, packed, options, done, began, items)

    def prepare_packed(
        self,
        function: str,
        packed: Parts,
        options: CallOptions,
        done: Callable[[ActiveCall, Outcome, tuple[Buffer, ...]], None],
        began: float,
        items: Items = (),
    ) -> ActiveCall:
        """Return a call whose arguments are packed. May run on any thread."""
        payload, parts = inline(packed, self._limits)
        if parts:
            parts = MEMORY.place(parts)
        options = self.registrations.newest(function, options)
        depth = depth_of_calls()
        left_s = time_left_s() if depth else None
        if left_s is not None and left_s < (options.timeout_s or math.inf):
            options = replace(options, timeout_s=left_s)
        call = ActiveCall(
            id=self.requests.new_id(),
            function=function,
            payload=payload,
            parts=parts,
            done=done,
            idempotent=options.idempotent,
            writer=current_writer(),
            options=options,
            folder=here(),
            pack_us=int((time.perf_counter() - began) * 1e6),
            items=items,
        )
        if depth:
            call.depth = depth
        return call

    async def call(
        self,
        function: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions = PLAIN,
    ) -> Any:
        """Run `function` on the cluster and return what it returned.

        Raises what the function raised as a `RemoteError` that is also of its
        class, and the errors of `mpreg_nb.errors` for all else. Cancelling the
        await cancels the call.
        """
        future: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()

        def done(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
            arrived = self.arrive(call, outcome, parts, stopped=future.done())
            if not future.done():
                future.set_result(arrived)

        call = self.prepare(function, args, kwargs or {}, options, done)
        self.calls.start(call)
        try:
            arrived = await future
        except asyncio.CancelledError:
            self.calls.cancel(call.id)
            raise
        value, error = arrived.rebuild()
        if error is not None:
            try:
                raise awaited(error)
            finally:
                del error, future  # else the traceback would hold itself
        return value

    def noted(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        """Note the end of a call that nobody waits for; a `done` of `prepare`."""
        self.arrive(call, outcome, parts, stopped=True)

    def deliver(
        self,
        future: Future[Any],
        call: ActiveCall,
        outcome: Outcome,
        parts: tuple[Buffer, ...],
    ) -> None:
        """Resolve `future` with the outcome of its call; a `done` of `prepare`."""
        stopped = future.cancelled()
        future._arrive(self.arrive(call, outcome, parts, stopped=stopped))

    def arrive(
        self,
        call: ActiveCall,
        outcome: Outcome,
        parts: tuple[Buffer, ...],
        *,
        stopped: bool = False,
    ) -> Arrived:
        """Note a call that has ended in the call log; return what arrived of it.

        stopped: its caller no longer waits for it.
        """
        return arrive(self.call_log, call, outcome, parts, stopped=stopped)

    def arrive_chunk(
        self, call: ActiveCall, reply: Reply, parts: tuple[Buffer, ...]
    ) -> ArrivedChunk:
        """Do the same for a chunk of calls that was answered."""
        return arrive_chunk(self.call_log, call, reply, parts)

    def inline(self, parts: Parts) -> tuple[bytes, tuple[Buffer, ...]]:
        """Return (payload, ()) for what travels inside a message, else (b"", parts).

        Raises:
            PayloadTooLarge: the parts are larger than this client sends.
        """
        payload, parts = inline(parts, self._limits)
        return payload, MEMORY.place(parts) if parts else ()

    # ---------------------------------------------------------------- questions

    async def _register_again(self, version: str) -> bool:
        return await self.registrations.renew(version)

    def offer(self, function: str) -> Offer | None:
        """Return the newest registration of a name that this client knows of."""
        return self.state.newest(function)

    def resources(self, function: str) -> frozenset[str]:
        """Return the resources that a name was registered with, as far as known."""
        offer = self.offer(function)
        return frozenset() if offer is None else offer.resources

    async def snapshot(self) -> Snapshot:
        """Return what the node of the entry knows now."""
        return await self.view.ask()

    async def snapshot_of(self, node: str) -> Snapshot | None:
        """Return what `node` itself knows; None where it does not answer directly."""
        record = self.state.record(node)
        is_there = record is not None and record.state <= MemberState.SUSPECT
        urls = record.urls if record is not None and is_there and self.direct else ()

        async def ask() -> Snapshot | None:
            link = await self.links.reach(node, urls)
            if link is None:
                return None
            request = Watch(id=self.requests.new_id())
            snapshot: Snapshot = (await self.requests.ask(request, link=link))[0]
            return snapshot

        try:
            return await asyncio.wait_for(ask(), NODE_ANSWERS_S)
        except (TimeoutError, NodeLost):
            return None

    async def open_space(self, node: str) -> bytes:
        """Have `node` start a worker for calls that keep something; return its id.

        Raises:
            NodeLost: the node cannot be reached, or is leaving.
        """
        request = SpaceOpen(id=self.requests.new_id())
        await self.requests.ask_node(
            node, request, function="the worker that keeps names"
        )
        return request.id

    async def close_space(self, node: str, space: bytes) -> None:
        """End such a worker with all that it keeps.

        Raises:
            NodeLost: the node cannot be reached.
        """
        link = await self.requests.link_to(node)
        link.send(addressed(SpaceClose(id=space), node, link))

    def on_snapshot(self, listener: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Call `listener` with each new snapshot; returns what ends that."""
        return self.view.listen(listener)

    def now(self) -> float:
        """Return the clock that loads and breakers are kept by."""
        return time.monotonic()

    # -------------------------------------------------------------------- links

    def _opened(self, link: Connection) -> None:
        link.on_message = self._receive
        link.on_refused = self._refused

    def _entered(self, link: Connection, after_none: bool) -> None:
        self.view.entered(link)
        self.requests.entered(link)
        if after_none:
            self._recovering = asyncio.ensure_future(self._recover())
        else:
            self.calls.entry_found()

    async def _recover(self) -> None:
        """Go on where there was no link: all nodes may have been started again."""
        try:
            await self.registrations.mend()
        finally:
            self.calls.entry_found()

    def _receive(
        self, link: Connection, message: Any, parts: tuple[Buffer, ...]
    ) -> None:
        if type(message) is Notice:
            if message.kind == "draining":
                self.view.leaves(link)
            else:
                why = message.text or message.kind
                _LOG.warning("%s says: %s", link.peer.name, why)
                link.close(1008, f"a message was lost: {why}")
            return
        if self.calls.receive(link, message, parts):
            return
        if type(message) is Snapshot and not self.requests.is_open(message.id):
            self.view.receive(message)
            return
        if type(message) is LoadsReport:
            self.view.loads_told(message)
            return
        if self.runs.receive(message, parts):
            return
        self.requests.receive(message, parts)

    def _refused(self, link: Connection, message: Any, size: int) -> None:
        """End a call whose result is larger than this client takes."""
        if not isinstance(message, Reply | Failed | CodePush):
            return
        limit = self._limits.max_payload_bytes
        failure = Failure(
            kind="too_large", executed="yes", size_bytes=size, limit_bytes=limit
        )
        self._receive(link, Failed(id=message.id, failure=failure), ())

    def _lost(self, link: Connection, reason: str) -> None:
        self.view.lost(link)
        self.calls.link_lost(link, reason)
        self.runs.link_lost(link, reason)
        self.requests.link_lost(link, reason)

    def _is_busy(self, link: Connection) -> bool:
        calls = any(call.link is link for call in self.calls.active)
        return calls or self.requests.is_asked(link)

    def _cut_off(self, reason: str) -> None:
        self.requests.cut_off(reason)
        self.calls.cut_off(reason)

    def _known_urls(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.state.urls, *self.urls)))

    def reach_also(self, urls: Sequence[str]) -> None:
        """Look for the cluster at these URLs too, at once if there is no link."""
        self.urls = tuple(dict.fromkeys((*urls, *self.urls)))
        self.links.look_again()

    @property
    def entry_node(self) -> str:
        """Name of the node that this client entered by."""
        if self.links.entry is None:
            raise MpregError("there is no connection to the cluster now; try again")
        return self.links.entry.peer.name
