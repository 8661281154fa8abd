"""Prints and displays of functions that run in threads of a node's own process."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from time import monotonic

import msgspec

from mpreg_nb.call_context import running_call
from mpreg_nb.output.capture import OutputCapture, PrintingCall
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.worker import JobPrinted

Printed = Callable[[JobPrinted, Parts], None]
"""Sends what a call wrote or displayed to its caller; called on the event loop."""


class ThreadOutput:
    """Captures what functions print and display in this process, from the first on.

    To be made on the event loop of the node, in a process that is a node and no more:
    the streams and the `display` of the whole process are replaced.
    """

    def __init__(self, printed: Printed, max_payload_bytes: int) -> None:
        self._outbox = _LoopOutbox(printed)
        self._max_payload_bytes = max_payload_bytes
        self._installing = threading.Lock()

    @contextmanager
    def of(self, call_id: bytes, function: str) -> Iterator[None]:
        """Send what is printed and displayed inside, in this thread or task."""
        with self._installing:
            capture = self._capture
        call = PrintingCall(call_id, function)
        before = running_call.set(call)
        try:
            try:
                yield
            except BaseException:
                _end_figures(call, are_shown=False)
                raise
            _end_figures(call, are_shown=True)
        finally:
            running_call.reset(before)
            self._outbox.send((), partial(capture.finish, call))

    @cached_property
    def _capture(self) -> OutputCapture:
        # Nodes that run no functions in threads need none of it.
        from mpreg_nb.output.display import install

        capture = OutputCapture(self._outbox, self._outbox)
        capture.install()
        install(capture, self._max_payload_bytes)
        return capture


def _end_figures(call: PrintingCall, *, are_shown: bool) -> None:
    if call.has_figures:
        from mpreg_nb.output.figures import end_figures  # brings matplotlib

        end_figures(call, are_shown=are_shown)


class _LoopOutbox:
    """Passes output on, on the event loop of the node."""

    def __init__(self, printed: Printed) -> None:
        self._printed = printed
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        self._sending = threading.Lock()

    def send(
        self,
        frames: Sequence[Buffer],
        before: Callable[[], Sequence[Buffer]] | None = None,
    ) -> None:
        """Send what `before` returns, then `frames`. Safe on any thread."""
        with self._sending:
            if before is not None:
                frames = (*before(), *frames)
            if threading.current_thread() is self._thread:
                self._pass_on(frames)  # at once: the outcome of the call may be next
            elif frames:
                self._loop.call_soon_threadsafe(self._pass_on, frames)

    def call_by(self, when: float, tick: Callable[[float], float]) -> None:
        """Call `tick(now)` on the loop by `when`; it returns when to call it again."""
        self._loop.call_soon_threadsafe(self._wait, when, tick)

    def note(self, text: str) -> None:
        """Keep nothing: the log of a node has what it printed last."""

    def _wait(self, when: float, tick: Callable[[float], float]) -> None:
        def due() -> None:
            again = tick(monotonic())
            if again < float("inf"):
                self._wait(again, tick)

        self._loop.call_later(max(0.0, when - monotonic()), due)

    def _pass_on(self, frames: Sequence[Buffer]) -> None:
        waiting = iter(frames)
        for head in waiting:
            message = _decode(memoryview(head)[4:])
            self._printed(message, tuple(next(waiting) for _ in message.sizes))


_decode = msgspec.msgpack.Decoder(JobPrinted).decode
