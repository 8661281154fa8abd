"""One `map`: items go out in chunks, results come back by place.

To send a short call takes longer than to run it. So items whose calls are short travel
in chunks of some milliseconds of work, by the run times of the calls before them; see
`serialize.chunks`. The first calls go one by one, and so do those with large arguments.
Towards the end chunks get smaller, so that all workers end at about the same time.

Large arguments that all calls share go to the cluster once: a node holds them until the
map has ended, and each other node that runs items fetches them once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import msgspec

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.calls import ActiveCall, CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import ClientLoop
from mpreg_nb.client.outcome import Arrived, ArrivedChunk, rebuilt
from mpreg_nb.cluster.call_progress import MapCount
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.registration import Callee
from mpreg_nb.errors import MpregError, NodeLost
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import (
    Failed,
    Failure,
    Hold,
    Release,
    Reply,
    ResultRef,
)
from mpreg_nb.serialize.chunks import (
    CHUNK_BYTES,
    CHUNKS_AHEAD,
    LEAST_S,
    MOST_ITEMS,
    MOST_PLAIN_ITEMS,
    PROBE_S,
    ChunkSizes,
    Items,
    PlainItems,
    are_plain,
    pack_plain,
)
from mpreg_nb.serialize.pickle import pack_arguments, pack_call
from mpreg_nb.workflows.graph import Reference

WINDOW = 512
"""Calls of one `map` in progress at once; more would only wait in queues."""

BATCH = 64
"""Calls that `map` hands over to the loop in one go."""

ITEM_BYTES = 16 * 1024
"""Arguments larger than this travel by themselves."""

TAKEN = 128
"""Items that are looked at together: whether they are plain values, and how large.
More of them, while the iterator is quick and they are small."""

TAKE_S = 0.005
"""What an iterator has given until then is sent, before it is asked for more."""

SHORT_S = 50e-6
"""If items of the last map took less, the next one begins with chunks at once."""

MOST_TIMES = 1000
"""Versions of functions whose times are remembered."""


class Until(Protocol):
    """Waits until something is the case, in a thread or on an event loop."""

    async def __call__(
        self, met: Callable[[], bool], timeout_s: float | None = None
    ) -> None:
        """Return when `met` says so, or after `timeout_s`."""


Raised: TypeAlias = Callable[[BaseException], BaseException]
"""Turns the error of a call into the one to raise."""

SHARED = "what all items share"
"""Names it in references, as steps are named."""

MOST_LOST = 3
"""Times that the shared arguments are sent again, since their node was lost."""


class SharedArguments:
    """The arguments that all calls of a map have in common, if they are large.

    They are packed in the thread of the caller; the rest runs on the loop.
    """

    def __init__(
        self, client: Client, first: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._client = client
        packed: tuple[Buffer, ...] = ()
        # What Dask has to compute travels with each call, as a reference.
        if (first or kwargs) and not client.deferred.found(*first, *kwargs.values()):
            packed = pack_arguments(first, dict(kwargs))
        self.is_large = sum(map(len, packed)) > ITEM_BYTES
        self._packed = client.inline(packed) if self.is_large else (b"", ())
        self._lost = 0
        self._sending: asyncio.Task[ResultRef] | None = None

    async def send(self) -> ResultRef:
        """Have a node hold them; return where. Whoever asks meanwhile gets the same."""
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        return await asyncio.shield(self._sending)

    async def send_again(self, lost: ResultRef) -> ResultRef:
        """Have another node hold them.

        Raises:
            MpregError: they were lost too often, or no node can be reached.
        """
        sent = self._sending
        if sent is not None and sent.done() and sent.result() == lost:
            self._lost += 1
            self._sending = None
        if self._lost > MOST_LOST:
            reason = "it held the arguments that all items share"
            raise NodeLost(lost.owner, reason, executed="no")
        return await self.send()

    def release(self) -> None:
        """Let them go."""
        sent = self._sending
        if sent is None:
            return
        if not sent.done():
            sent.cancel()
        elif sent.exception() is None:
            held = sent.result()
            link = self._client.links.get(held.owner)
            if link is not None:  # else it was released with the link
                link.send(Release(ids=(held.id,)))

    async def _send(self) -> ResultRef:
        payload, parts = self._packed
        request = Hold(id=self._client.requests.new_id(), payload=payload)
        answer, _ = await self._client.requests.ask(request, parts)
        held: ResultRef = answer.kept
        return held


class MapCall:
    """One `map`: results by place, and a window of calls in progress.

    As `map` of Python, it ends with the shortest iterable. Items are taken and packed
    in the thread of the caller, and sent on the loop of the client.
    """

    def __init__(
        self,
        client: Client,
        callee: Callee,
        first: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        iterables: tuple[Iterable[Any], ...],
        changed: Callable[[], None],
    ) -> None:
        """changed: called on the loop when a wait may be over.

        first, kwargs: arguments of all calls.
        """
        sized = [len(items) for items in iterables if isinstance(items, Sized)]
        self._total = min(sized) if len(sized) == len(iterables) else None
        self._columns = [iter(each) for each in iterables]
        self._items: Iterator[tuple[Any, ...]] = zip(*self._columns, strict=False)
        self._first, self._kwargs = first, dict(kwargs)
        # What stands for these where they are an input of the calls.
        self._references = tuple(Reference(SHARED, (0, n)) for n in range(len(first)))
        self._named = {name: Reference(SHARED, (1, name)) for name in kwargs}
        self._client = client
        self._shared = SharedArguments(client, first, kwargs)
        self._repeats: set[asyncio.Task[None]] = set()  # calls whose input was lost
        self._name, options = callee
        self._options = client.registrations.newest(self._name, options)
        self._notify = changed
        self._slots = _slots(client)
        self._sizes: ChunkSizes | None = None
        chunk_s = CONFIG.map_chunk_ms / 1e3  # 0: no chunks
        if chunk_s and _can_be_chunked(client, self._name, self._options):
            known_s = client.item_times.get(self._options.version or "", SHORT_S)
            self._sizes = ChunkSizes(
                chunk_s,
                self._slots,
                MOST_PLAIN_ITEMS,
                known_s if known_s < SHORT_S else None,
                LEAST_S,
            )
        self._are_plain = are_plain((*first, *kwargs.values()))  # what all share
        self._places = 0
        self._arrivals: list[tuple[int, Arrived | ArrivedChunk]] = []  # with places
        self._active: dict[bytes, tuple[int, ActiveCall]] = {}  # place in the results
        self._first_error: Arrived | None = None
        self._cancelled = False
        self._batches = self._started = 0  # that were handed over, and are sent
        self._sent = 0
        self._ended = 0
        self._failed = 0
        self._low = 0  # so few in progress are worth a word

    async def run(self, loop: ClientLoop, until: Until) -> None:
        """Return when all calls have ended. If one fails, cancel the others.

        until: waits, and is woken by `changed`.
        """
        try:
            if self._shared.is_large:
                self._refer_to(await loop.wait_for(self._shared.send()))
            is_first = True
            while batch := self._next_batch():
                self._batches += 1
                loop.call_soon(self._start, batch)
                if is_first and self.is_probing:
                    await until(lambda: not self.is_probing, PROBE_S)
                is_first = False
                # Until the loop has sent it, too: it could not while this thread packs.
                await until(lambda: self.is_sent and self.is_down_to(self.window))
                if self._first_error is not None:
                    break
            await until(lambda: self.is_down_to(0))
            if self._first_error is not None:
                loop.call_soon(self._cancel)
        except BaseException:
            loop.call_soon(self._cancel)
            raise
        finally:
            self._remember_time()
            if self._shared.is_large:
                loop.call_soon(self._let_go)

    def _remember_time(self) -> None:
        """Keep how long items took, for the next map of this function."""
        times, version = self._client.item_times, self._options.version
        if self._sizes is None or self._sizes.item_s is None or version is None:
            return
        times.pop(version, None)
        times[version] = self._sizes.item_s
        if len(times) > MOST_TIMES:
            oldest, *_ = tuple(times)  # other threads map too
            times.pop(oldest, None)

    # ------------------------------------------------------------------ sending

    def _refer_to(self, held: ResultRef) -> None:
        self._options = replace(self._options, inputs=(held,))
        self._first, self._kwargs = (), {}  # a worker adds them

    def _let_go(self) -> None:
        """Let go of what was shared; on the loop, when no item is to be sent."""
        for repeat in self._repeats:
            repeat.cancel()
        self._shared.release()

    @property
    def window(self) -> int:
        """How many items may be in progress while more are sent."""
        if self._sizes is None:
            return WINDOW
        return max(WINDOW, CHUNKS_AHEAD * self._slots * self._sizes.next(None))

    @property
    def is_probing(self) -> bool:
        """Whether it waits for the first run time, to know how large chunks are."""
        return self._sizes is not None and self._sizes.item_s is None

    def _next_batch(self) -> list[ActiveCall]:
        """Return the next calls to start; none when all items have their call."""
        size, batch = 1, BATCH
        if self._sizes is not None:
            left = None if self._total is None else self._total - self._sent
            size = self._sizes.next(left)
            if not self._sent:
                batch = 2 * self._slots  # the first run times are known soon
        if size > 1:
            calls = self._chunks(size)
        else:
            calls = [self._single(args) for args in islice(self._items, batch)]
        items = sum(len(call.items) or 1 for call in calls)
        self._sent += items
        self._low = max(0, self.window - items)
        return calls

    def _single(self, args: tuple[Any, ...]) -> ActiveCall:
        began = time.perf_counter()
        client, options = self._client, self._options
        if client.deferred.found(*self._first, *args, *self._kwargs.values()):
            shared = (SHARED,) if options.inputs else ()
            first = self._references if shared else self._first
            kwargs = self._named if shared else self._kwargs
            call = client.prepare_deferred(
                self._name, (*first, *args), kwargs, options, self._done, began, shared
            )
            return self._placed(call, 1)
        if options.inputs:
            packed, _ = pack_call((*self._references, *args), self._named, (SHARED,))
        else:
            packed = pack_arguments((*self._first, *args), self._kwargs)
        call = self._client.prepare_packed(
            self._name, packed, self._options, self._done, began
        )
        return self._placed(call, 1)

    def _chunks(self, size: int) -> list[ActiveCall]:
        """Return one call of the next items, or several: see `_pickled`."""
        others = islice(self._items, min(size, MOST_ITEMS))
        if not self._are_plain:
            return self._pickled(others)
        began = time.perf_counter()
        plain, taken = self._take_plain(size, began)
        calls = self._close(plain, began)
        return calls + self._pickled(taken) if taken else calls

    def _take_plain(
        self, size: int, began: float
    ) -> tuple[PlainItems, list[tuple[Any, ...]]]:
        """Take items that are plain values; and the next ones, if they are not.

        began: when taking them did, by perf_counter.
        """
        width = len(self._columns)
        plain = PlainItems(width, self._first, self._kwargs)
        count, size_bytes = TAKEN, 0
        while (left := size - len(plain)) > 0 and size_bytes <= CHUNK_BYTES:
            values = self._take(min(left, count))
            packed = pack_plain(values) if are_plain(values) else b""
            if not packed or len(packed) > ITEM_BYTES:  # one of them may be large
                return plain, list(zip(*[iter(values)] * width, strict=True))
            if not values:
                break
            plain.add(values, packed)
            size_bytes += len(packed)
            took_s = time.perf_counter() - began
            if took_s > TAKE_S:
                break
            if 4 * took_s < TAKE_S and 4 * len(packed) < ITEM_BYTES:
                count *= 2
        return plain, []

    def _take(self, count: int) -> list[Any]:
        """Return the values of the next items, one after the other."""
        if len(self._columns) == 1:
            return list(islice(self._columns[0], count))
        return list(chain.from_iterable(islice(self._items, count)))

    def _pickled(self, taken: Iterable[tuple[Any, ...]]) -> list[ActiveCall]:
        """Return one call of these items; those with large arguments by themselves.

        They cut the chunk in two: results have the places of their items.
        """
        calls: list[ActiveCall] = []
        packed: list[bytes] = []
        size_bytes, began = 0, time.perf_counter()
        first, kwargs = self._first, self._kwargs
        deferred = self._client.deferred
        for args in taken:
            if deferred.found(*first, *args, *kwargs.values()):
                calls += self._close(tuple(packed), began)
                calls.append(self._single(args))
                packed, began = [], time.perf_counter()
                continue
            parts = pack_arguments((*first, *args), kwargs)
            head = parts[0]
            if len(parts) > 1 or type(head) is not bytes or len(head) > ITEM_BYTES:
                calls += self._close(tuple(packed), began)
                calls.append(self._single(args))
                packed, began = [], time.perf_counter()
                continue
            packed.append(head)
            size_bytes += len(head)
            if size_bytes > CHUNK_BYTES:
                calls += self._close(tuple(packed), began)
                packed, size_bytes, began = [], 0, time.perf_counter()
        return calls + self._close(tuple(packed), began)

    def _close(self, items: Items, began: float) -> list[ActiveCall]:
        if not items:
            return []
        call = self._client.prepare_chunk(
            self._name, items, self._options, self._done, began
        )
        return [self._placed(call, len(items))]

    def _placed(self, call: ActiveCall, items: int) -> ActiveCall:
        self._active[call.id] = self._places, call
        self._places += items
        return call

    def _start(self, batch: list[ActiveCall]) -> None:
        for call in batch:
            self._client.calls.start(call)
        self._started += 1
        self._notify()

    def _cancel(self) -> None:
        self._cancelled = True
        for call_id in list(self._active):
            self._client.calls.cancel(call_id)

    # ------------------------------------------------------------------ waiting

    @property
    def is_sent(self) -> bool:
        """Whether the loop has taken all that was handed over, or a call has failed."""
        return self._first_error is not None or self._started == self._batches

    def is_down_to(self, most: int) -> bool:
        """Whether at most `most` calls are in progress, or one has failed."""
        return self._first_error is not None or self._sent - self._ended <= most

    def count(self) -> MapCount:
        """Return how many calls have ended, for the progress."""
        active = [call for _, call in list(self._active.values())]
        return MapCount(
            ended=self._ended, failed=self._failed, total=self._total, active=active
        )

    def results(self, raised: Raised = lambda error: error) -> list[Any]:
        """Return the results of all calls, or raise the error of the first that failed.

        To be called after `run`.
        """
        if self._first_error is not None:
            _value(self._first_error, raised)
        found: list[Any] = []
        for _, arrived in sorted(self._arrivals, key=itemgetter(0)):
            if isinstance(arrived, Arrived):
                found.append(_value(arrived, raised))
            else:
                _add_values(found, arrived, raised)
        return found

    # ----------------------------------------------------------------- outcomes

    def _done(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        if _has_lost_input(outcome) and not self._cancelled:
            given = call.parts or (call.payload,)
            repeat = asyncio.ensure_future(
                self._repeat(call, given, call.items, call.holds, outcome)
            )
            self._repeats.add(repeat)
            repeat.add_done_callback(self._repeats.discard)
        else:
            self._over(call, outcome, parts)

    async def _repeat(
        self,
        call: ActiveCall,
        given: tuple[Buffer, ...],
        items: Items,
        holds: object,
        outcome: Outcome,
    ) -> None:
        """Send a call again that did not run, since nobody held what all share."""
        try:
            lost, *others = call.options.inputs
            assert isinstance(lost, ResultRef)  # noqa: S101 - see `_refer_to`
            held = await self._shared.send_again(lost)
        except MpregError:
            self._over(call, outcome, ())
            return
        self._refer_to(held)
        place, _ = self._active.pop(call.id)
        if items:
            self._send_again(call, items, place)
        else:
            options = replace(self._options, inputs=(held, *others))
            again = self._client.prepare_packed(
                self._name, given, options, self._done, time.perf_counter()
            )
            again.holds = holds
            self._start_again(call, again, place)

    def _over(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        place, _ = self._active.pop(call.id)
        was_probing = self.is_probing
        if call.items and type(outcome) is Reply:
            ended = self._chunk_done(call, outcome, parts, place)
        else:
            arrived = self._client.arrive(call, outcome, parts)
            self._arrived(arrived, place)
            ended = len(call.items) or 1
            if self._sizes is not None and type(outcome) is Reply:
                self._sizes.took(1, outcome.run_us / 1e6)
        before = self._sent - self._ended
        self._ended += ended
        left = before - ended
        if self._low > self.window:  # chunks get smaller, and who sends waits for less
            self._low = self.window
        if (
            left == 0
            or before > self._low >= left
            or was_probing
            or self._first_error is not None
        ):
            self._notify()

    def _arrived(self, arrived: Arrived, place: int) -> None:
        self._arrivals.append((place, arrived))
        if arrived.failed:
            self._failed += 1
            if self._first_error is None:
                self._first_error = arrived

    def _chunk_done(
        self, call: ActiveCall, reply: Reply, parts: tuple[Buffer, ...], place: int
    ) -> int:
        """Take what arrived of a chunk, and send what did not run again."""
        count = len(call.items)
        try:
            chunk = self._client.arrive_chunk(call, reply, parts)
        except msgspec.DecodeError as error:
            text = f"its answer to a chunk of a map cannot be read: {error}"
            return self._unusable(call, reply, text, place)
        done = chunk.done
        if not done and chunk.failed is None and not self._cancelled:
            # To send them again would go on for ever, as with a node of another build.
            text = "its answer to a chunk of a map has neither a result nor an error"
            return self._unusable(call, reply, text, place)
        self._arrivals.append((place, chunk))
        if chunk.failed is not None:
            self._arrived(chunk.failed, place + done)
        if self._sizes is not None and done:
            self._sizes.took(done, chunk.run_s)
        rest = call.items[done:]
        if not rest or chunk.failed is not None or self._cancelled:
            return count
        self._send_again(call, rest, place + done)
        return done

    def _unusable(self, call: ActiveCall, reply: Reply, text: str, place: int) -> int:
        """Have the first item of a chunk fail whose answer is of no use."""
        failure = Failure(kind="bad_request", message=text, node=reply.node)
        failed = Failed(id=call.id, failure=failure)
        self._arrived(self._client.arrive(call, failed, ()), place)
        return len(call.items)

    def _send_again(self, call: ActiveCall, rest: Items, place: int) -> None:
        """Send items that a chunk did not come to, in parts for several workers."""
        size = len(rest) if self._sizes is None else self._sizes.next(len(rest))
        for start in range(0, len(rest), size):
            again = self._client.prepare_chunk(
                self._name,
                rest[start : start + size],
                self._options,
                self._done,
                time.perf_counter(),
            )
            self._start_again(call, again, place + start)

    def _start_again(self, call: ActiveCall, again: ActiveCall, place: int) -> None:
        again.writer, again.folder = call.writer, call.folder
        self._active[again.id] = place, again
        self._client.calls.start(again)


def _has_lost_input(outcome: Outcome) -> bool:
    return (
        type(outcome) is Failed
        and outcome.failure.kind == "gone"
        and bool(outcome.failure.lost)
    )


def _slots(client: Client) -> int:
    """Return how many calls all nodes that are alive run at once."""
    slots = 0
    for snapshot in client.state.nodes:
        if snapshot.record.state is MemberState.ALIVE:
            slots += 1 if snapshot.load is None else max(1, snapshot.load.slots)
    return max(1, slots)


def _can_be_chunked(client: Client, name: str, options: CallOptions) -> bool:
    """Whether several calls can be one: a deadline and a space are of one call each.

    So is a function of one node, or one that runs in the process of the node.
    """
    if options.version is None or options.timeout_s is not None or options.space:
        return False
    return any(
        offer.version == options.version
        and offer.placed
        and offer.isolation == "process"
        for _, offer in client.state.offers(name)
    )


def _add_values(found: list[Any], chunk: ArrivedChunk, raised: Raised) -> None:
    """Add the values of the items of a chunk, or raise the error of one."""
    counts = chunk.counts or [0] * len(chunk.results)
    for result, count in zip(chunk.results, counts, strict=True):
        value = _value(result, raised)
        if count:
            found += value
        else:
            found.append(value)


def _value(arrived: Arrived | bytes, raised: Raised) -> Any:
    """Return the value of one item, or raise its error."""
    value, error = (
        rebuilt((arrived,), name="result")
        if isinstance(arrived, bytes)
        else arrived.rebuild()
    )
    if error is not None:
        try:
            raise raised(error)
        finally:
            del error, arrived  # else the traceback would hold itself
    return value
