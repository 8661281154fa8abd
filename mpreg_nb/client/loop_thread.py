"""An event loop in a thread of its own, for callers that block."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mpreg_nb.errors import ClusterDown

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads. A notebook's own loop stays free.

    Waiting can be interrupted: Stop raises KeyboardInterrupt in the waiting
    thread, and the coroutine that it waited for is cancelled.
    """

    def __init__(self, name: str = "mpreg-client") -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run `work` on the loop and return its result.

        Raises what it raises; TimeoutError after `timeout_s`, and it is cancelled.
        """
        if self.loop.is_closed():
            work.close()
            raise ClusterDown
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "this would wait for itself: use the asynchronous client in callbacks"
            )
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except (KeyboardInterrupt, concurrent.futures.TimeoutError):
            future.cancel()
            raise

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop; returns at once. Safe on any thread."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError as error:
            raise ClusterDown from error

    def stop(self) -> None:
        """End the loop and the thread; again changes nothing."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        rest = asyncio.all_tasks(self.loop)
        for task in rest:
            task.cancel()
        if rest:
            self.loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
