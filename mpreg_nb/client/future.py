"""The result of a call that may still be on its way."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.running import waiting_elsewhere

T = TypeVar("T")


class Undecoded:
    """A large result whose bytes have come and that nobody has looked at yet."""

    __slots__ = ("parts",)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` that can also be awaited.

    A large result is unpickled by whoever asks for it first. Interrupting
    `result()` cancels the call; dropping the future does not.
    """

    def __init__(self, cancel_call: Callable[[], None]) -> None:
        super().__init__()
        self._cancel_call = cancel_call
        self._decoding = threading.Lock()

    def result(self, timeout: float | None = None) -> T:
        """Return what the function returned, waiting at most `timeout` seconds.

        Raises what the call raised; TimeoutError when there is no outcome yet,
        and then the call goes on.
        """
        try:
            with waiting_elsewhere():
                value: Any = super().result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if type(value) is Undecoded:
            value = self._decode(value)
        result: T = value
        return result

    def cancel(self) -> bool:
        """Give the call up and tell the cluster to end it; False if it has ended."""
        cancelled = super().cancel()
        if cancelled:
            self._cancel_call()
        return cancelled

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()

    def _decode(self, undecoded: Undecoded) -> Any:
        from mpreg_nb.wire.payload import unpack

        with self._decoding:
            value = self._result  # another thread may have been faster
            if value is undecoded:
                value = self._result = unpack(undecoded.parts, name="result")
        return value
