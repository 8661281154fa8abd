"""The result of a call that may still be on its way."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, TypeVar

from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.running import waiting_elsewhere

T = TypeVar("T")

Over: TypeAlias = Callable[[float | None], bool]
"""Waits at most so many seconds, None: without end, and says whether it is over."""


class Waiting(Protocol):
    """Waits for a call, and shows how far it is once that takes long."""

    @property
    def after_s(self) -> float | None:
        """From so many seconds on; None: never."""
        ...

    def wait(self, call: Any, over: Over, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds more; say whether it is over."""
        ...


class Undecoded:
    """A large result whose bytes have come and that nobody has looked at yet."""

    __slots__ = ("parts",)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts


@public
class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` that can also be awaited.

    A large result is unpickled by whoever asks for it first. Interrupting
    `result()` cancels the call; dropping the future does not.
    """

    def __init__(
        self,
        cancel_call: Callable[[], None],
        waiting: Waiting | None = None,
        call: Any = None,
    ) -> None:
        """call: what `waiting` is told to wait for."""
        super().__init__()
        self._cancel_call = cancel_call
        self._waiting = waiting
        self._call = call
        self._decoding = threading.Lock()

    def result(self, timeout: float | None = None) -> T:
        """Return what the function returned, waiting at most `timeout` seconds.

        Raises what the call raised; TimeoutError when there is no outcome yet,
        and then the call goes on.
        """
        try:
            with waiting_elsewhere():
                value: Any = self._outcome(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if type(value) is Undecoded:
            value = self._decode(value)
        result: T = value
        return result

    def _outcome(self, timeout: float | None) -> Any:
        waiting = self._waiting
        after_s = None if waiting is None else waiting.after_s
        is_short = timeout is not None and after_s is not None and timeout <= after_s
        if waiting is None or after_s is None or is_short:
            return super().result(timeout)
        try:
            return super().result(after_s)
        except TimeoutError:  # of the wait, or the outcome
            pass
        if not self.done():
            rest_s = None if timeout is None else timeout - after_s
            waiting.wait(self._call, self._over, rest_s)
        return super().result(0)

    def _over(self, seconds: float | None) -> bool:
        try:
            super().exception(seconds)
        except concurrent.futures.CancelledError:
            return True
        except TimeoutError:
            return self.done()
        return True

    def cancel(self) -> bool:
        """Give the call up and tell the cluster to end it; False if it has ended."""
        cancelled = super().cancel()
        if cancelled:
            self._cancel_call()
        return cancelled

    def __await__(self) -> Generator[Any, None, T]:
        # A frame of ours, by which tracebacks know what only waits.
        return (yield from asyncio.wrap_future(self).__await__())

    def _decode(self, undecoded: Undecoded) -> Any:
        from mpreg_nb.wire.payload import unpack

        with self._decoding:
            value = self._result  # another thread may have been faster
            if value is undecoded:
                value = self._result = unpack(undecoded.parts, name="result")
        return value
