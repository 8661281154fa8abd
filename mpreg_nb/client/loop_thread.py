"""The event loop of a client: its caller's own, or one in a thread.

A verb of a cluster is written once, as a coroutine that reaches the client by the
`wait_for` of its loop alone. Async code awaits it. Code that blocks runs it with
`run_blocking` in its own thread, where it never suspends.
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mpreg_nb.errors import ClusterDown, ForkedProcess

T = TypeVar("T")

_serving = threading.local()


def is_loop_thread() -> bool:
    """Return whether this is the thread of a client, which must never wait."""
    return getattr(_serving, "yes", False)


class ClientLoop(Protocol):
    """The event loop that a client lives on, as the code of its caller needs it."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop; return at once. Safe on any thread."""

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result."""


class OwnLoop:
    """The event loop of code that awaits; to be made on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop; return at once. Safe on any thread.

        On the loop itself that is now: the client may be closed in the next turn.
        """
        if threading.get_ident() == self._thread:
            function(*args)
        else:
            self._loop.call_soon_threadsafe(function, *args)

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result."""
        return await work

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do nothing: other threads cannot wait for this loop."""
        work.close()


def run_blocking(verb: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this thread; it reaches its client by `LoopThread.wait_for`.

    So its packing, its tables and its errors are those of the thread that calls.
    """
    try:
        verb.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    verb.close()
    raise AssertionError("a verb that blocks has awaited something of another loop")


class LoopThread:
    """Runs coroutines for other threads. A notebook's own loop stays free.

    Waiting can be interrupted: Stop raises KeyboardInterrupt in the waiting
    thread, and the coroutine that it waited for is cancelled.
    """

    def __init__(self, name: str = "mpreg-client") -> None:
        self.loop = _new_loop()
        self._process = os.getpid()
        # Of what is given to the loop at its end; the collector may give it more.
        self._giving = threading.RLock()
        self._has_ended = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked after the thread was started."""
        return os.getpid() != self._process

    @property
    def is_closed(self) -> bool:
        """Whether it runs nothing any more, as `call_soon` would say."""
        return self._has_ended or self.is_of_parent

    def check(self) -> None:
        """Raise ForkedProcess where the thread does not exist."""
        if self.is_of_parent:
            raise ForkedProcess

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run `work` on the loop and return its result.

        Raises what it raises; TimeoutError after `timeout_s`, and it is cancelled;
        ClusterDown after `stop`, ForkedProcess in a forked child.
        """
        try:
            self.check()
            if threading.current_thread() is self._thread:
                raise RuntimeError("the client's own thread would wait for itself")
            with self._giving:
                self._check_runs()
                future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result(timeout_s)
        except (KeyboardInterrupt, concurrent.futures.TimeoutError):
            future.cancel()
            raise
        except concurrent.futures.CancelledError:
            if not self._has_ended:
                raise
            raise ClusterDown from None  # another thread has ended the cluster

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the same for a verb that `run_blocking` runs."""
        return self.run(work)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop; returns at once. Safe on any thread."""
        self.check()
        with self._giving:
            self._check_runs()
            self.loop.call_soon_threadsafe(function, *args)

    def stop(self) -> None:
        """End the loop and the thread; again changes nothing."""
        if self.is_of_parent:
            return
        with self._giving:  # what comes later would wait for a loop that stands still
            if not self._has_ended:
                self._has_ended = True
                self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _check_runs(self) -> None:
        if self._has_ended:
            raise ClusterDown

    def _serve(self) -> None:
        _serving.yes = True
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        rest = asyncio.all_tasks(self.loop)
        for task in rest:
            task.cancel()
        if rest:
            self.loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        # Who waits for work that ended in the last turn hears of it in the next one.
        self.loop.run_until_complete(asyncio.sleep(0))


class LoopThreadOnDemand:
    """A `LoopThread` that starts when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None

    def get(self) -> LoopThread:
        """Return the thread; start it if it does not run."""
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread(self._name)
            return self._thread

    @property
    def runs_here(self) -> bool:
        """Whether it was started, by this process."""
        return self._thread is not None and not self._thread.is_of_parent

    def end_with(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, and stop the thread."""
        thread = self.get()
        try:
            thread.run(last)
        finally:
            thread.stop()
            self._thread = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
