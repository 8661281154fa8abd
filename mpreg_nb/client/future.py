"""The result of a call that may still be on its way."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from mpreg_nb.boundary import public
from mpreg_nb.call_context import BlockedOnCluster
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.client.loop_thread import is_loop_thread
from mpreg_nb.client.outcome import Arrived, awaited

T = TypeVar("T")

Over: TypeAlias = Callable[[float | None], bool]
"""Waits at most so many seconds, None: without end, and says whether it is over."""


class WaitsForCalls(Protocol):
    """Waits for a call, and shows how far it is once that takes long."""

    @property
    def after_s(self) -> float | None:
        """From so many seconds on; None: never."""
        ...

    def check(self) -> None:
        """Raise what a wait here could only end in: after a fork, for one."""

    def wait(self, call: Any, over: Over, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds more; say whether it is over."""
        ...


class _Unread(Exception):
    """Stands for an error that nobody has asked for yet."""


_UNREAD = _Unread()


class LeanCondition:
    """A `threading.Condition` that takes a tenth of its memory until somebody waits.

    A notebook may hold a hundred thousand futures.
    """

    __slots__ = ("_lock", "_waited_on")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waited_on: threading.Condition | None = None

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified; the lock must be held."""
        if self._waited_on is None:
            self._waited_on = threading.Condition(self._lock)
        return self._waited_on.wait(timeout)

    def notify_all(self) -> None:
        """Wake all that wait; the lock must be held."""
        if self._waited_on is not None:
            self._waited_on.notify_all()


def _over() -> None:
    """Stand for the cancelling of a call that has ended."""


class EndedCall(NamedTuple):
    """What a future keeps of a call that has ended: somebody may hold very many."""

    id: bytes
    shown_name: str


@public
class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` that can also be awaited.

    The result is unpickled in the thread that first asks for it. Interrupting
    `result()` cancels the call; dropping the future does not.
    """

    def __init__(
        self,
        cancel_call: Callable[[], None],
        waiting: WaitsForCalls | None = None,
        call: Any = None,
    ) -> None:
        """call: what `waiting` is told to wait for."""
        super().__init__()
        self._condition = LeanCondition()  # type: ignore[assignment]  # as good as one
        self._cancel_call = cancel_call
        self._waiting = waiting
        self._call = call
        self._arrived: Arrived | None = None
        self._owner: object = None  # the executor that waits for its callbacks too

    # -------------------------------------------------------------- its outcome

    def result(self, timeout: float | None = None) -> T:
        """Return the result of the call, or raise its error.

        timeout: seconds to wait; then TimeoutError is raised and the call continues.
        """
        error = self._wait(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # else the traceback would hold itself
        result: T = super().result(0)
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that `result` would raise, or None if there is none."""
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> BaseException | None:
        """Wait for the end, rebuild what has arrived, return the error if it is one."""
        try:
            if not self.done():
                with BlockedOnCluster():
                    self._wait_for_end(timeout)
            if self._arrived is not None:
                self._rebuild(self._arrived)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return super().exception(0)

    def _rebuild(self, arrived: Arrived) -> None:
        self._result, self._exception = arrived.rebuild()
        self._arrived = None

    def _wait_for_end(self, timeout: float | None) -> None:
        waiting, call = self._waiting, self._call
        after_s = None
        if waiting is not None:
            waiting.check()
            after_s = waiting.after_s
        is_short = timeout is not None and after_s is not None and timeout <= after_s
        if waiting is None or after_s is None or is_short:
            super().exception(timeout)
            return
        if not self._over(after_s):
            rest_s = None if timeout is None else timeout - after_s
            waiting.wait(call, self._over, rest_s)
            super().exception(0)

    def _over(self, seconds: float | None) -> bool:
        try:
            super().exception(seconds)
        except concurrent.futures.CancelledError:
            return True
        except TimeoutError:
            return self.done()
        return True

    def __await__(self) -> Generator[Any, None, T]:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def ended(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        def wake() -> None:
            if not over.done():
                over.set_result(None)

        when_over(self, ended)
        with BlockedOnCluster():
            try:
                yield from over
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.cancelled():
            raise asyncio.CancelledError
        error = self._wait(0)
        if error is not None:
            try:
                raise awaited(error)
            finally:
                del error
        result: T = super().result(0)
        return result

    # --------------------------------------------------------------- callbacks

    def add_done_callback(
        self, fn: Callable[[concurrent.futures.Future[T]], object]
    ) -> None:
        """Call `fn` with this future when it is done; at once if it is done already.

        Callbacks run one after another on a separate thread. They may submit, call and
        wait, as code in a cell may.
        """
        super().add_done_callback(partial(_hand_over, fn))

    # ------------------------------------------------------------------- ending

    def cancel(self) -> bool:
        """Cancel the call, also while it runs; False if it has ended."""
        cancelled = super().cancel()
        if cancelled:
            self._cancel_call()
        return cancelled

    @property
    def call_id(self) -> str:
        """The id of the call, as in `cluster.calls()`."""
        call_id: bytes = self._call.id
        return call_id.hex()

    def running(self) -> bool:
        """Return whether a node runs the call, as far as the client knows."""
        call = self._call
        return not self.done() and call is not None and call.is_running

    def _arrive(self, arrived: Arrived) -> None:
        """Set the outcome; called once, by the client."""
        if arrived.was_cancelled and self._call.withdrawn:
            super().cancel()
        if self.set_running_or_notify_cancel():
            self._arrived = arrived
            self._cancel_call = _over
            if arrived.failed:
                self.set_exception(_UNREAD)
            else:
                self.set_result(None)  # type: ignore[arg-type]
        # Last: whoever finds it gone must find that the future is done.
        if self._call is not None:
            self._call = EndedCall(self._call.id, self._call.shown_name)

    def __repr__(self) -> str:
        name = "" if self._call is None else f" {self._call.shown_name}"
        return f"<Future{name}: {self._state_text()}>"

    def _state_text(self) -> str:
        call = self._call
        if self.cancelled():
            return "cancelled"
        if self.done():
            arrived = self._arrived
            failed = self._exception is not None if arrived is None else arrived.failed
            return "failed" if failed else "done"
        if not self.running():
            return "waiting"
        node = call.shown_node
        return f"running on {node}" if node else "running"


def when_over(future: Future[Any], fn: Callable[[Any], object]) -> None:
    """Call `fn` on the client's own thread; for what neither waits nor fails."""
    concurrent.futures.Future.add_done_callback(future, fn)


def set_owner(future: Future[Any], owner: object) -> None:
    """Have `owner`, an executor, wait for the callbacks of `future` too."""
    future._owner = owner


def _hand_over(
    fn: Callable[[concurrent.futures.Future[T]], object],
    future: Any,
) -> None:
    if is_loop_thread():
        CALLBACKS.hand_over(partial(fn, future), future._owner)
    else:
        fn(future)
