"""Results that stay on nodes: the store, fetched copies, and inputs of calls.

The node never opens results. When the limit in bytes is reached, those that were not
asked for longest go first; a request for one that went is answered "gone".

Parts that are with the engine of the workers (`HeldPart`) stay there too: the store has
what stands for them, and they are brought only where bytes are needed.

The items of a map often share an argument, such as a model, so a result of another
node that several calls want is fetched once and held while they want it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.node.dispatch import Handler, without_parts
from mpreg_nb.node.peer_requests import PeerRequests
from mpreg_nb.node.pending_call import Sink
from mpreg_nb.node.worker_pool import EngineResults, brought, is_held
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import (
    Call,
    EngineRef,
    Failed,
    Failure,
    HasResults,
    HeldResults,
    Hold,
    Release,
    Reply,
    Result,
    ResultRef,
    ResultRefs,
)
from mpreg_nb.protocol.messages import Fetch as FetchRequest
from mpreg_nb.serialize.items import gather
from mpreg_nb.settings import RIDE_ALONG_BYTES
from mpreg_nb.shared_memory.segments import LEAST_BYTES, MEMORY
from mpreg_nb.transport.connection import Connection


class StoreStatistics(msgspec.Struct, frozen=True):
    """What is held, and what had to go."""

    results: int
    held_bytes: int
    evicted: int


class ResultStore:
    """Payloads by the id of the call that made them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._evicted = 0
        self._results: OrderedDict[bytes, tuple[Buffer, ...]] = OrderedDict()

    def put(self, key: bytes, parts: tuple[Buffer, ...]) -> int:
        """Hold `parts` and return their size; the newest result always stays."""
        self.release(key)
        size_bytes = sum(map(len, parts))
        self._results[key] = parts
        self._held_bytes += size_bytes
        while self._held_bytes > self._limit_bytes and len(self._results) > 1:
            _, old = self._results.popitem(last=False)
            self._held_bytes -= sum(map(len, old))
            self._evicted += 1
        return size_bytes

    def get(self, key: bytes) -> tuple[Buffer, ...] | None:
        """Return the parts of a result, or None when it is not held."""
        parts = self._results.get(key)
        if parts is not None:
            self._results.move_to_end(key)
        return parts

    def find(self, kept: ResultRef) -> tuple[Buffer, ...] | None:
        """Return the parts that `kept` names, or None when they are not held."""
        parts = self.get(kept.id)
        if parts is None or not kept.count:
            return parts
        return parts[kept.first : kept.first + kept.count]

    def hold(
        self, me: str, key: bytes, payload: bytes, parts: tuple[Buffer, ...]
    ) -> bytes | ResultRef:
        """Return a value as those get it who refer to it: itself, or where it is.

        me: the name of this node.
        """
        whole = parts or (payload,)
        if len(whole) == 1 and len(whole[0]) <= RIDE_ALONG_BYTES:
            return bytes(whole[0])
        return ResultRef(me, key, self.put(key, whole))

    def keep(
        self, me: str, call: Call, payload: bytes, parts: tuple[Buffer, ...]
    ) -> tuple[ResultRef | None, bytes, tuple[Buffer, ...]]:
        """Hold what `call` gave, if large; return where, and what is to be sent.

        Of a value that was taken apart the head is sent: to who deals out the items.
        """
        if call.split:
            if len(parts) < 2:
                return None, payload, parts
            return ResultRef(me, call.id, self.put(call.id, parts[1:])), b"", parts[:1]
        result = self.hold(me, call.id, payload, parts)
        return (
            (result, b"", ()) if isinstance(result, ResultRef) else (None, result, ())
        )

    def release(self, key: bytes) -> None:
        """Let a result go; unknown keys are no error."""
        parts = self._results.pop(key, None)
        if parts is not None:
            self._held_bytes -= sum(map(len, parts))

    def statistics(self) -> StoreStatistics:
        """Return what is held now."""
        return StoreStatistics(len(self._results), self._held_bytes, self._evicted)


HOLD_S = 5.0
"""After its last use; items of one map follow each other faster than that."""

HOLD_SHARED_S = 60.0
"""The same for what is known to be shared: items may take long."""

MOST_BYTES = 256 << 20
"""Of all that is held. Those that were not used for longest go first."""

Found: TypeAlias = bytes | tuple[Buffer, ...]
Fetch: TypeAlias = Callable[[ResultRef], Coroutine[Any, Any, Found | Failure]]


class _CachedResult(msgspec.Struct):
    found: Found
    size_bytes: int
    used_at_s: float
    hold_s: float


class ResultCache:
    """What was fetched a moment ago, by the id of the call that made it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._asked: dict[bytes, asyncio.Task[Found | Failure]] = {}
        self._askers: dict[bytes, int] = {}  # of what is on its way
        self._held: OrderedDict[bytes, _CachedResult] = OrderedDict()
        self._held_bytes = 0
        self._sweep: asyncio.TimerHandle | None = None

    async def get(self, kept: ResultRef) -> Found | Failure:
        """Return a result, or why it is not to be had."""
        loop = asyncio.get_running_loop()
        held = self._held.get(kept.id)
        if held is not None:
            held.used_at_s = loop.time()
            self._held.move_to_end(kept.id)
            return held.found
        task = self._asked.get(kept.id)
        if task is None:
            task = self._asked[kept.id] = loop.create_task(self._fetch(kept))
            task.add_done_callback(lambda done: self._came(kept, done))
        self._askers[kept.id] = self._askers.get(kept.id, 0) + 1
        # A call that is cancelled takes it away from none of the others.
        return await asyncio.shield(task)

    def stop(self) -> None:
        """Fetch and hold nothing any more."""
        for task in self._asked.values():
            task.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        self._held.clear()

    def forget(self, key: bytes) -> None:
        """Let go of a result; unknown keys are no error."""
        if key in self._held:
            self._drop(key)

    def _came(self, kept: ResultRef, task: "asyncio.Task[Found | Failure]") -> None:
        del self._asked[kept.id]
        several = self._askers.pop(kept.id) > 1 or kept.shared
        if not several or task.cancelled() or task.exception() is not None:
            return
        found = task.result()
        if isinstance(found, Failure):
            return
        size = len(found) if isinstance(found, bytes) else sum(map(len, found))
        loop = asyncio.get_running_loop()
        hold_s = HOLD_SHARED_S if kept.shared else HOLD_S
        self._held[kept.id] = _CachedResult(found, size, loop.time(), hold_s)
        self._held_bytes += size
        while self._held_bytes > MOST_BYTES and len(self._held) > 1:
            self._drop(next(iter(self._held)))
        if self._sweep is None:
            self._sweep = loop.call_later(HOLD_S, self._drop_old)

    def _drop_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        for key, held in list(self._held.items()):
            if held.used_at_s + held.hold_s <= loop.time():
                self._drop(key)
        if self._held:
            self._sweep = loop.call_later(HOLD_S, self._drop_old)

    def _drop(self, key: bytes) -> None:
        self._held_bytes -= self._held.pop(key).size_bytes


InputParts: TypeAlias = tuple[bytes | tuple[Buffer, ...], ...]


class ResultRequests:
    """Answers requests of other nodes and of clients about results held here."""

    def __init__(
        self, me: str, store: ResultStore, forget: Callable[[Sink, bytes], None]
    ) -> None:
        """forget: drops what was fetched from another node, which is released there.

        It is told who released it.
        """
        self._me = me
        self._store = store
        self._forget = forget
        self._held_for: dict[Sink, set[bytes]] = {}
        self._fetched_by: dict[bytes, set[Connection]] = {}  # of what is shared

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages about results."""
        return {
            Hold: self._hold,
            FetchRequest: without_parts(self._fetch),
            HasResults: without_parts(self._tell_held),
            Release: without_parts(self._release),
        }

    def sink_lost(self, sink: Sink) -> None:
        """Let go of what a caller that is gone had held here."""
        for key in self._held_for.pop(sink, ()):
            self._let_go(sink, key)

    def _hold(self, link: Connection, message: Hold, parts: tuple[Buffer, ...]) -> None:
        if not link.is_open:
            return  # nobody would ever release it
        self._held_for.setdefault(link, set()).add(message.id)
        size_bytes = self._store.put(message.id, parts or (message.payload,))
        kept = ResultRef(self._me, message.id, size_bytes, shared=True)
        link.send(Reply(id=message.id, payload=b"", node=self._me, kept=kept))

    def _fetch(
        self, link: Connection, message: FetchRequest
    ) -> Coroutine[Any, Any, None] | None:
        held = self._store.find(message.kept)
        if message.kept.shared and held is not None:
            self._fetched_by.setdefault(message.kept.id, set()).add(link)
        if held is not None and is_held(held):
            return self._bring(link, message, held)
        self._answer(link, message, held)
        return None

    async def _bring(
        self, link: Connection, message: FetchRequest, held: tuple[Buffer, ...]
    ) -> None:
        try:
            found: tuple[Buffer, ...] | None = await brought(held)
        except LookupError:
            found = None
        self._answer(link, message, found)

    def _answer(
        self, link: Connection, message: FetchRequest, found: tuple[Buffer, ...] | None
    ) -> None:
        if found is None:
            failure = Failure(kind="gone", node=self._me)
            link.send(Failed(id=message.id, failure=failure))
        else:
            link.send(Reply(id=message.id, payload=b"", node=self._me), found)

    def _tell_held(self, link: Connection, message: HasResults) -> None:
        held = tuple(key for key in message.ids if self._store.get(key))
        link.send(HeldResults(id=message.id, ids=held))

    def _release(self, link: Connection, message: Release) -> None:
        self._held_for.get(link, set()).difference_update(message.ids)
        for key in message.ids:
            self._let_go(link, key)

    def _let_go(self, sink: Sink, key: bytes) -> None:
        self._store.release(key)
        self._forget(sink, key)
        for link in self._fetched_by.pop(key, ()):
            if link.is_open:
                link.send(Release(ids=(key,)))


class InputResolver:
    """Takes inputs from the message, from the store here, or from their owner.

    What several calls want at about the same time is fetched once for all, if
    `shares`; then `stop` is to be called at the end. With `engine`, values that the
    engine has are given as what stands for them.
    """

    def __init__(
        self,
        me: str,
        store: ResultStore,
        peer_requests: PeerRequests,
        *,
        shares: bool = False,
        engine: EngineResults | None = None,
    ) -> None:
        self._me = me
        self._store = store
        self._peer_requests = peer_requests
        self._engine = engine
        self._recent = ResultCache(self._fetch_to_share) if shares else None

    def stop(self) -> None:
        """Fetch nothing any more."""
        if self._recent is not None:
            self._recent.stop()

    def forget(self, key: bytes) -> None:
        """Let go of what was fetched, if it is held."""
        if self._recent is not None:
            self._recent.forget(key)

    def at_hand(self, wanted: tuple[Result, ...]) -> InputParts | None:
        """Return all of `wanted` if none has to be fetched; costs no task."""
        found: list[Found] = []
        for one in wanted:
            if isinstance(one, bytes):
                found.append(one)
                continue
            if not isinstance(one, ResultRef) or one.owner != self._me:
                return None
            held = self._store.find(one)
            if held is None:
                return None
            found.append(held)
        return tuple(found)

    async def gather(self, wanted: tuple[Result, ...]) -> InputParts | Failure:
        """Return all of `wanted` in their order, or why they are not to be had.

        Those of other nodes are fetched at the same time.
        """
        found = await asyncio.gather(*map(self.one, wanted))
        inputs = tuple(one for one in found if not isinstance(one, Failure))
        if len(inputs) == len(found):
            return inputs
        failures = [one for one in found if isinstance(one, Failure)]
        lost = {key: None for failure in failures for key in failure.lost}
        return msgspec.structs.replace(failures[0], lost=tuple(lost))

    async def one(self, wanted: Result) -> Found | Failure:
        """Return one result, or why it is not to be had."""
        if isinstance(wanted, bytes):
            return wanted
        if isinstance(wanted, ResultRefs):
            return await self._list(wanted)
        held = self._engine.find(wanted) if self._engine is not None else None
        if held is not None:
            return held
        if isinstance(wanted, EngineRef):
            text = (
                "an argument is a value of Dask, and it runs where Dask has no worker. "
                "Choose the node of a Dask worker by on(...)"
            )
            return Failure(kind="bad_request", message=text, node=self._me)
        if wanted.owner == self._me:
            held = self._store.find(wanted)
            return self._lost(wanted) if held is None else held
        if self._recent is not None and not wanted.count:
            return await self._recent.get(wanted)
        return await self._fetch(wanted)

    async def _fetch_to_share(self, wanted: ResultRef) -> Found | Failure:
        """Fetch what several workers may read; once here, it is copied no more."""
        found = await self._fetch(wanted)
        if isinstance(found, tuple) and wanted.size_bytes >= LEAST_BYTES:
            return await asyncio.to_thread(MEMORY.place, found)
        return found

    async def _fetch(self, wanted: ResultRef) -> Found | Failure:
        answer, parts = await self._peer_requests.result(wanted)
        if not isinstance(answer, Failed):
            return parts or (answer.payload,)
        if answer.failure.kind in ("gone", "node_lost"):
            return self._lost(wanted, answer.failure.message)
        return answer.failure

    def _lost(self, wanted: ResultRef, reason: str = "") -> Failure:
        lost = (wanted.id,)
        return Failure(kind="gone", node=wanted.owner, message=reason, lost=lost)

    async def _list(self, wanted: ResultRefs) -> Found | Failure:
        """Return the list of results, those that are held together fetched as one."""
        wholes: dict[bytes, ResultRef] = {}
        for item in wanted.items:
            if isinstance(item, ResultRef):
                whole = msgspec.structs.replace(item, first=0, count=0)
                wholes[item.id] = whole if item.count else item
        found = await self.gather(tuple(wholes.values()))
        if isinstance(found, Failure):
            return found
        held = dict(zip(wholes, map(_parts, found), strict=True))
        return gather(
            [
                (item,)
                if isinstance(item, bytes)
                else held[item.id][item.first : item.first + item.count]
                if item.count
                else held[item.id]
                for item in wanted.items
            ]
        )


def _parts(found: Found) -> tuple[Buffer, ...]:
    return (found,) if isinstance(found, bytes) else found
