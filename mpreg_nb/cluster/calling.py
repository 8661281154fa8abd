"""The three verbs: `call`, `submit`, `map`, for callers that block."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Sized
from typing import Any, TypeAlias

from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.client.calls import ActiveCall, Outcome
from mpreg_nb.client.client import Client
from mpreg_nb.client.future import Future, Over
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.options import CallOptions
from mpreg_nb.client.output import limit_lines
from mpreg_nb.client.settling import Arrived
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.functions import Function
from mpreg_nb.cluster.progress import Patience
from mpreg_nb.cluster.shipping import Shipping, narrowed, unwrapped
from mpreg_nb.cluster.watched import CallWatched, MapCount, MapWatched
from mpreg_nb.errors import ClusterDown
from mpreg_nb.names import check_name
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.running import waiting_elsewhere

Callee: TypeAlias = "Function[Any, Any] | Callable[..., Any] | str"

WINDOW = 512
"""Calls of one `map` that are under way at once; more would only wait in queues."""

BATCH = 64
"""Calls that `map` hands over to the loop in one go."""


class Calling:
    """Calls of one cluster. Arguments are pickled in the thread of the caller."""

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        shipping: Shipping,
    ) -> None:
        self._client = client
        self._thread = thread
        self._shipping = shipping
        limit_lines(lambda: CONFIG.output_lines)

    def call(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Run it, wait, and return what it returned. Stop cancels it."""
        future, active = self._prepare(function, args, kwargs, options)
        try:
            self._thread.call_soon(self._client.calls.start, active)
            return future.result()
        except KeyboardInterrupt:
            future.cancel()  # wherever Stop came
            raise

    def submit(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Future[Any]:
        """Send it and return a future at once.

        Raises:
            NotPicklable, PayloadTooLarge: before anything is sent.
        """
        future, active = self._prepare(function, args, kwargs, options)
        self._thread.call_soon(self._client.calls.start, active)
        return future

    @property
    def after_s(self) -> float | None:
        """From when on a future shows how far it is; None: never."""
        after_s = CONFIG.progress_after_s
        return None if after_s == math.inf else after_s

    def open_space(self, node: str) -> bytes:
        """Start a worker on `node` for calls that keep something; return its id.

        Raises:
            NodeLost: the node cannot be reached, or is leaving.
        """
        return self._thread.run(self._client.open_space(node))

    def close_space(self, node: str, space: bytes) -> None:
        """End such a worker with all that it keeps.

        Raises:
            NodeLost: the node cannot be reached.
        """
        self._thread.run(self._client.close_space(node, space))

    def check(self) -> None:
        """Raise ForkedProcess where nothing would ever come."""
        self._thread.check()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that makes the calls."""
        return self._thread.is_of_parent

    def wait_for_callbacks(self, owner: object) -> None:
        """Wait for all callbacks of those futures of `owner` that have ended."""
        try:
            # A future has ended a moment before its callbacks are handed over.
            self._thread.run(asyncio.sleep(0))
        except ClusterDown:  # then all have been
            pass
        CALLBACKS.wait_for(owner)

    def withdraw(self, futures: Iterable[Future[Any]]) -> None:
        """End those calls that no node runs yet; the others go on."""
        ids = [bytes.fromhex(future.call_id) for future in futures]
        self._thread.call_soon(self._client.calls.withdraw, ids)

    def wait(self, call: ActiveCall, over: Over, timeout: float | None) -> bool:
        """Wait for a call that takes long, and show where it is."""
        with Patience(CallWatched(self._client, call), after_s=0.0) as patience:
            return patience.wait(over, timeout)

    def _prepare(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> tuple[Future[Any], ActiveCall]:
        function, args, given = unwrapped(function, args, kwargs)
        name, options = self._callee(function, options)
        client = self._client

        def done(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
            client.deliver(future, call, outcome, parts)

        def cancel() -> None:
            self._thread.call_soon(client.calls.cancel, active.id)

        active = client.prepare(name, args, given, options, done)
        future: Future[Any] = Future(cancel, self, active)
        return future, active

    def map(
        self,
        function: Callee,
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
    ) -> list[Any]:
        """Run it for each tuple of items; return the results in order.

        As `map` of Python, it ends with the shortest iterable. The first error ends
        it: calls that are under way are cancelled. So does Stop.
        """
        if not iterables:
            raise TypeError("map needs at least one iterable: f.map(items)")
        function, first, kwargs = unwrapped(function, (), {})
        name, options = self._callee(function, options)
        sized = [len(items) for items in iterables if isinstance(items, Sized)]
        given = first, dict(kwargs)
        return _Mapping(self._client, self._thread, name, options, given).run(
            zip(*iterables, strict=False),  # as map of Python
            total=min(sized) if len(sized) == len(iterables) else None,
        )

    def _callee(
        self, function: Callee, options: CallOptions
    ) -> tuple[str, CallOptions]:
        if isinstance(function, str):
            return check_name("function", function), options
        name, known = self.registered(function)
        return name, narrowed(options, known)

    def registered(self, function: Any) -> tuple[str, CallOptions]:
        """Return name and version of what `function` is now; register it if needed.

        Raises:
            NotPicklable: it captures what cannot travel.
        """
        return self._shipping.registered(function) or self.ship(
            self._shipping.function(function), stands_for=function
        )

    def ship(
        self, function: "Function[Any, Any]", *, stands_for: Any = None
    ) -> tuple[str, CallOptions]:
        """Register the code that `function` holds now; see `Shipping.send`."""
        shipped = self._shipping.pack(function)  # in the thread of the caller
        sending = self._shipping.send(function, shipped, stands_for=stands_for)
        return self._thread.run(sending)


_PENDING: Any = None
"""In the place of a result that has not come."""


class _Mapping:
    """One `map`: results by place, a window of calls under way."""

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        name: str,
        options: CallOptions,
        given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        self._first, self._kwargs = given  # arguments that all calls have
        self._client = client
        self._thread = thread
        self._name = name
        self._options = options
        self._results: list[Arrived] = []
        self._active: dict[bytes, tuple[int, ActiveCall]] = {}  # place in the results
        self._first_error: Arrived | None = None
        self._changed = threading.Condition()
        self._sent = 0
        self._ended = 0
        self._failed = 0

    def run(self, items: Iterable[tuple[Any, ...]], total: int | None) -> list[Any]:
        """total: how many items there are, None where they do not say."""
        watched = MapWatched(self._name, lambda: self._count(total))
        try:
            with Patience(watched) as patience:
                self._send_all(items, patience)
        except BaseException:
            self._thread.call_soon(self._cancel)
            raise
        return list(map(_value, self._results))

    def _send_all(self, items: Iterable[tuple[Any, ...]], patience: Patience) -> None:
        batch: list[ActiveCall] = []
        for args in items:
            batch.append(self._prepare(args))
            if len(batch) >= BATCH:
                self._send(batch)
                batch = []
                self._wait(WINDOW, patience)
        self._send(batch)
        self._wait(0, patience)

    def _count(self, total: int | None) -> MapCount:
        active = [call for _, call in list(self._active.values())]
        return MapCount(
            ended=self._ended, failed=self._failed, total=total, active=active
        )

    def _prepare(self, args: tuple[Any, ...]) -> ActiveCall:
        call = self._client.prepare(
            self._name,
            (*self._first, *args),
            self._kwargs,
            self._options,
            self._done,
        )
        self._active[call.id] = len(self._results), call
        self._results.append(_PENDING)
        return call

    def _send(self, batch: list[ActiveCall]) -> None:
        self._sent += len(batch)
        self._thread.call_soon(self._start, batch)

    def _start(self, batch: list[ActiveCall]) -> None:
        for call in batch:
            self._client.calls.start(call)

    def _wait(self, most: int, patience: Patience) -> None:
        """Return when at most `most` calls are under way; raise the first error."""

        def is_over() -> bool:
            return self._first_error is not None or self._sent - self._ended <= most

        def over(seconds: float | None) -> bool:
            with self._changed:
                return self._changed.wait_for(is_over, seconds)

        with waiting_elsewhere():
            patience.wait(over)
        if self._first_error is not None:
            _value(self._first_error)

    def _done(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        place, _ = self._active.pop(call.id)
        arrived = self._client.arrive(call, outcome, parts)
        self._results[place] = arrived
        self._ended += 1
        self._failed += arrived.failed
        first_error = arrived.failed and self._first_error is None
        if first_error:
            self._first_error = arrived
        left = self._sent - self._ended
        if first_error or left == 0 or left == WINDOW - BATCH:
            with self._changed:
                self._changed.notify_all()

    def _cancel(self) -> None:
        for call_id in list(self._active):
            self._client.calls.cancel(call_id)


def _value(arrived: Arrived) -> Any:
    """Return the value of one item, or raise its error."""
    value, error = arrived.rebuild()
    if error is not None:
        try:
            raise error
        finally:
            del error, arrived  # else the traceback would hold itself
    return value
