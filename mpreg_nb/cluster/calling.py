"""The verbs `call`, `submit` and `map` of both faces of a cluster.

`Calling` serves code that blocks, on any thread; `AsyncCalling` serves coroutines on
the event loop of the client. Which function is called, how and with which arguments is
decided by the same code. Arguments are pickled in the thread of the caller.

A call that blocks is no coroutine that is run, as other verbs are: it goes from the
thread of the caller straight to the client, and is waited for by its future.
"""

import asyncio
import contextlib
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from mpreg_nb.call_context import BlockedOnCluster, CallContext, running_call
from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.client.calls import ActiveCall, CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.future import Future, Over, when_over
from mpreg_nb.client.loop_thread import ClientLoop, LoopThread, run_blocking
from mpreg_nb.client.outcome import awaited
from mpreg_nb.cluster.call_progress import CallProgress, MapProgress
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.function import Function
from mpreg_nb.cluster.map_call import MapCall
from mpreg_nb.cluster.progress import ProgressReporter
from mpreg_nb.cluster.registration import Callee, FunctionRegistry, unwrapped
from mpreg_nb.errors import ClusterDown
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.gossip import Offer

Called: TypeAlias = "Function[Any, Any] | Callable[..., Any] | str"
"""What can be called: a function, or the name of a registered one."""

MOST_OUTSTANDING = 10_000
"""Submitted calls without an outcome; then `submit`, or its task, waits for one."""

GIVE_UP_SLOT_S = 0.2
"""So long after a function has made a call, another one may have its slot."""


class Calling:
    """Calls of one cluster for code that blocks. Safe on any thread."""

    def __init__(
        self, client: Client, thread: LoopThread, registry: FunctionRegistry
    ) -> None:
        self._client = client
        self._thread = thread
        self._registry = registry
        # Counted without a lock, on many threads.
        self._count, self._count_ended = itertools.count(1), itertools.count(1)
        self._submitted = self._ended = 0
        self._room = threading.Condition()
        self._on_over = self._over  # one for all futures
        self._wait_for_it = 0  # threads
        self._to_start: deque[ActiveCall] = deque()
        self._is_starting = False  # the loop was told to

    # -------------------------------------------------------------------- verbs

    def call(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Call a function, wait, and return its result. Stop cancels the call."""
        self._thread.check()
        active = self._prepare(function, args, kwargs, options, blocks=True)
        calls = self._client.calls
        future: Future[Any] | None = None

        def hand_over() -> Future[Any]:
            nonlocal future
            future = self._future(active)
            begin = calls.start if active.asked is None else calls.adopt
            self._thread.call_soon(begin, active)
            return future

        try:
            reply = None
            if running_call.get() is None:
                reply = calls.ask(active, hand_over)
            if reply is not None:
                return self._client.arrive(active, reply, ()).value()
            return (future or hand_over()).result()
        except KeyboardInterrupt:
            if future is not None:
                future.cancel()  # Stop may have come before the wait
            self._thread.call_soon(calls.tear, active)
            raise

    def submit(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Future[Any]:
        """Send a call and return its future at once.

        With very many calls without an outcome, it waits until some have one: their
        arguments would fill the memory.

        Raises:
            NotPicklable, PayloadTooLarge: before anything is sent.
        """
        if self._submitted - self._ended >= MOST_OUTSTANDING:
            self._wait_for_room()
        active = self._prepare(function, args, kwargs, options)
        future = self._future(active)
        when_over(future, self._on_over)
        self._submitted = next(self._count)
        try:
            self._to_start.append(active)
            if not self._is_starting or self._thread.is_closed:
                self._is_starting = True
                self._thread.call_soon(self._start_all)
        except BaseException:  # Stop may come anywhere
            self._is_starting = False
            with contextlib.suppress(ValueError):
                self._to_start.remove(active)
            raise
        return future

    def _start_all(self) -> None:
        """Start what was submitted until now; on the loop, and once for all of it."""
        self._is_starting = False  # first: what comes from now on says so itself
        calls: list[ActiveCall] = []
        while self._to_start:
            calls.append(self._to_start.popleft())
        self._client.calls.start_all(calls)

    def map(
        self,
        function: Called,
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
    ) -> list[Any]:
        """Call a function for each tuple of items; return the results in order.

        The first error cancels the calls in progress and is raised. So does Stop.
        """
        changed = threading.Condition()

        def notify() -> None:
            with changed:
                changed.notify_all()

        async def until(
            met: Callable[[], bool], timeout_s: float | None = None
        ) -> None:
            def over(seconds: float | None) -> bool:
                with changed:
                    return changed.wait_for(met, seconds)

            with BlockedOnCluster():
                reporter.wait(over, timeout_s)

        function, first, kwargs = map_arguments(function, iterables)
        callee = self.callee(function, options)
        mapping = MapCall(self._client, callee, first, kwargs, iterables, notify)
        with ProgressReporter(MapProgress(callee[0], mapping.count)) as reporter:
            run_blocking(mapping.run(self._thread, until))
            return mapping.results()

    # ---------------------------------------------------------------- functions

    def callee(self, function: Called, options: CallOptions) -> Callee:
        """Return how to call `function` as it is now; register it if needed.

        Raises:
            NotPicklable: the function captures what cannot travel.
        """
        return self._registry.callee(function, options) or run_blocking(
            self._registry.register_called(function, options)
        )

    @property
    def functions(self) -> set[str]:
        """The names of all registered functions."""
        return self._client.state.functions

    def offer(self, function: str) -> Offer | None:
        """Return the newest registration of a name; asks the cluster if it is new."""
        if self._client.offer(function) is None:
            self._thread.run(self._client.snapshot())
        return self._client.offer(function)

    # ----------------------------------------------------- for futures, executors

    @property
    def after_s(self) -> float | None:
        """Seconds after which a wait shows its progress; None: never."""
        after_s = CONFIG.progress_after_s
        return None if after_s == math.inf else after_s

    def check(self) -> None:
        """Raise ForkedProcess where no outcome would ever arrive."""
        self._thread.check()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that makes the calls."""
        return self._thread.is_of_parent

    def wait(self, call: ActiveCall, over: Over, timeout: float | None) -> bool:
        """Wait for a call that takes long, and show its progress."""
        with ProgressReporter(
            CallProgress(self._client, call), after_s=0.0
        ) as reporter:
            return reporter.wait(over, timeout)

    def wait_for_callbacks(self, owner: object) -> None:
        """Wait for all callbacks of those futures of `owner` that have ended."""
        try:
            # A future has ended a moment before its callbacks are handed over.
            self._thread.run(asyncio.sleep(0))
        except ClusterDown:  # then all have been
            pass
        CALLBACKS.wait_for(owner)

    def withdraw(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel the calls that no node runs yet; the others continue."""
        ids = [bytes.fromhex(future.call_id) for future in futures]
        self._thread.call_soon(self._client.calls.withdraw, ids)

    def open_space(self, node: str) -> bytes:
        """Start a worker on `node` for calls that share names; return its id.

        Raises:
            NodeLost: the node cannot be reached, or is leaving.
        """
        return self._thread.run(self._client.open_space(node))

    def close_space(self, node: str, space: bytes) -> None:
        """End such a worker, and with it the names.

        Raises:
            NodeLost: the node cannot be reached.
        """
        self._thread.run(self._client.close_space(node, space))

    def _over(self, future: object) -> None:
        self._ended = next(self._count_ended)
        if self._wait_for_it:
            with self._room:
                self._room.notify_all()

    def _wait_for_room(self) -> None:
        with BlockedOnCluster(), self._room:
            self._wait_for_it += 1
            try:
                while self._submitted - self._ended >= MOST_OUTSTANDING:
                    self._room.wait(0.1)  # two that ended at once may be counted late
            finally:
                self._wait_for_it -= 1

    def _prepare(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        *,
        blocks: bool = False,
    ) -> ActiveCall:
        function, args, given = unwrapped(function, args, kwargs)
        name, options = self.callee(function, options)
        client = self._client
        return client.prepare(name, args, given, options, client.noted, blocks=blocks)

    def _future(self, active: ActiveCall) -> Future[Any]:
        """Return what gets the outcome of a call that the loop does not have yet."""
        client = self._client

        def done(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
            client.deliver(future, call, outcome, parts)

        def cancel() -> None:
            self._thread.call_soon(client.calls.cancel, active.id)

        active.done = done
        future: Future[Any] = Future(cancel, self, active)
        running = running_call.get()
        if running is not None:
            self._thread.call_soon(self._give_up_slot_later, running, future)
        return future

    def _give_up_slot_later(self, running: CallContext, future: Future[Any]) -> None:
        """Count a call as one that waits, once a call that it has made takes long.

        It may wait in ways that nobody sees: `concurrent.futures.wait`, a callback
        that sets an event, a loop that looks at `done()`.
        """

        def give_up() -> None:
            if not future.done():
                running.wait(1)
                when_over(future, lambda _: running.wait(-1))

        self._thread.loop.call_later(GIVE_UP_SLOT_S, give_up)


class AsyncCalling:
    """Calls of one cluster for coroutines, on the event loop of the client."""

    def __init__(
        self, client: Client, loop: ClientLoop, registry: FunctionRegistry
    ) -> None:
        self._client = client
        self._loop = loop
        self._registry = registry
        self._room = asyncio.Semaphore(MOST_OUTSTANDING)

    async def call(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Call a function and return its result. Cancelling cancels the call."""
        function, args, given = unwrapped(function, args, kwargs)
        name, options = await self._callee(function, options)
        with BlockedOnCluster():
            return await self._client.call(name, args, given, options)

    def submit(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> "asyncio.Task[Any]":
        """Start a call and return its task at once.

        With very many calls without an outcome, the task waits until some have one
        before it packs its arguments.
        """
        return asyncio.ensure_future(self._in_turn(function, args, kwargs, options))

    async def _in_turn(
        self,
        function: Called,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        async with self._room:
            return await self.call(function, args, kwargs, options)

    async def map(
        self,
        function: Called,
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
    ) -> list[Any]:
        """Call a function for each tuple of items; return the results in order.

        The first error, and cancelling, cancel the calls in progress.
        """
        changed = asyncio.Event()

        async def until(
            met: Callable[[], bool],
            timeout_s: float | None = None,
        ) -> None:
            with BlockedOnCluster(), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while not met():
                        changed.clear()
                        await changed.wait()

        function, first, kwargs = map_arguments(function, iterables)
        callee = await self._callee(function, options)
        mapping = MapCall(self._client, callee, first, kwargs, iterables, changed.set)
        await mapping.run(self._loop, until)
        return mapping.results(awaited)

    async def _callee(self, function: Called, options: CallOptions) -> Callee:
        return self._registry.callee(
            function, options
        ) or await self._registry.register_called(function, options)

    @property
    def functions(self) -> set[str]:
        """The names of all registered functions."""
        return self._client.state.functions

    def offer(self, function: str) -> Offer | None:
        """Return the newest registration of a name that this client knows of."""
        return self._client.offer(function)


def map_arguments(
    function: Called, iterables: tuple[Iterable[Any], ...]
) -> tuple[Called, tuple[Any, ...], Mapping[str, Any]]:
    """Return the function of a `map`, and the arguments that all its calls share.

    Raises:
        TypeError: there is nothing to map over.
    """
    if not iterables:
        raise TypeError("map needs at least one iterable: f.map(items)")
    check_iterables(iterables)
    return unwrapped(function, (), {})


def check_iterables(iterables: Iterable[object]) -> None:
    """Refuse what `map` cannot take items from, before it tries.

    Raises:
        TypeError: one of them is not iterable.
    """
    for position, items in enumerate(iterables, 1):
        cls = type(items)
        if not hasattr(cls, "__iter__") and not hasattr(cls, "__getitem__"):
            raise TypeError(
                f"map takes iterables, one for each argument of the function; number "
                f"{position} is of type {cls.__name__}. For one item, put it in a list"
            )
