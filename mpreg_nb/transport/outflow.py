"""What leaves one link: the messages of a turn in one frame, large parts between.

A turn is one round of the event loop. Small messages are written at its end,
whatever else is queued; fragments of large parts only while the transport holds
less than the high-water mark, one per turn, so that neither delays the other.

The end of a turn is one more round away, 2 us. Who asks, waits for the answer and
asks again, sends one message per turn: that one is written at once, as long as
the turn before had no more than one.
"""

import asyncio
from collections.abc import Callable

from mpreg_nb.settings import FRAGMENT_BYTES
from mpreg_nb.transport.framing import FrameWriter
from mpreg_nb.transport.streams import WHOLE, OutgoingStreams
from mpreg_nb.transport.terms import Terms
from mpreg_nb.wire.codec import Parts, join

HIGH_WATER_BYTES = 512 * 1024
"""Unsent bytes from which on fragments wait; small messages still go."""

LOW_WATER_BYTES = 128 * 1024


class Outflow:
    """Writes encoded messages to `transport`; `on_stuck` hears if none are taken."""

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        dialled: bool,
        terms: Terms,
        on_stuck: Callable[[str], None],
    ) -> None:
        self.streams = OutgoingStreams(dialled=dialled)
        self.bytes = self.frames = self.messages = 0  # written so far
        self.holds = False  # True while the caller will `flush` by itself
        self._single = False  # whether the last turn that sent had one message
        self._at_once = False  # whether the next message is written at once
        self._transport = transport
        self._writer = FrameWriter(masked=dialled)
        self._on_stuck = on_stuck
        self._backlog_bytes = terms.limits.backlog_bytes
        self._frame_bytes = terms.limits.max_frame_bytes
        self._drain_s = terms.patience.drain_s
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []  # encoded messages of this turn
        self._stopped = False
        self._paused = False  # the transport is above its high-water mark
        self._drain_timer: asyncio.TimerHandle | None = None
        self._pumping = False  # `_pump` is scheduled
        self._waiters: list[asyncio.Future[None]] = []
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the system has not taken yet."""
        return 0 if self._stopped else self._transport.get_write_buffer_size()

    def send(self, element: bytes) -> None:
        """Queue one encoded message for the end of this turn."""
        outbox = self._outbox
        outbox.append(element)
        if len(outbox) > 1 or self.holds:
            return
        if self._at_once:
            self._at_once = False
            self.flush()
        else:
            self._loop.call_soon(self.flush)

    def heard(self) -> None:
        """Begin a turn: the other end said something, most likely an answer."""
        self._at_once = self._single

    def send_stream(
        self, element: bytes, parts: Parts, key: bytes | None = None
    ) -> int:
        """Queue one encoded message with its parts; return the stream's number.

        Those of one `key` go one after the other.
        """
        if len(element) > FRAGMENT_BYTES:
            element, parts = WHOLE, (element, *parts)
        stream = self.streams.add(element, parts, key)
        self.messages += 1
        self._schedule_pump()
        return stream

    def flush(self) -> None:
        """Write the messages of this turn."""
        elements, self._outbox = self._outbox, []
        if elements and not self._stopped:
            count = len(elements)
            self._single = count == 1
            self.messages += count
            self._write(elements)
            if self._paused and self.backlog_bytes > self._backlog_bytes:
                self._on_stuck(f"{self.backlog_bytes} bytes wait to be read")

    def write(self, data: bytes) -> None:
        """Write what websockets made by itself; no bytes mean the end of all."""
        if self._transport.is_closing():
            return
        if data:
            self.bytes += len(data)
            self._transport.write(data)
        elif self._transport.can_write_eof():
            self._transport.write_eof()  # a close could cut off what went before
        else:  # TLS has no half-closed state
            self._transport.close()

    def lead_to(self, transport: asyncio.Transport) -> None:
        """Write what comes from now on to `transport`."""
        self._transport = transport

    def stop(self) -> None:
        """Write nothing any more and let go of all that waits."""
        self._stopped = True
        self._outbox.clear()
        self.streams.clear()
        self._cancel_drain_timer()
        self._wake()

    def pause(self) -> None:
        """Hold fragments back; the transport has enough."""
        self._paused = True
        if self._stopped:
            return
        self._drain_timer = self._loop.call_later(self._drain_s, self._stuck)

    def resume(self) -> None:
        """Go on; the transport has taken most of it."""
        self._paused = False
        self._cancel_drain_timer()
        if self.streams:
            self._schedule_pump()
        else:
            self._wake()

    async def drained(self) -> None:
        """Return when all parts are written and little is left, or on `stop`."""
        self.flush()
        while (self._paused or self.streams) and not self._stopped:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def _write(self, elements: list[bytes]) -> None:
        body = join(elements)
        if len(body) > self._frame_bytes and len(elements) > 1:
            half = len(elements) // 2
            self._write(elements[:half])
            self._write(elements[half:])
            return
        frame = self._writer.frame(body)
        self.frames += 1
        self.bytes += len(frame)
        self._transport.write(frame)

    def _schedule_pump(self) -> None:
        if not self._pumping and not self._paused and not self._stopped:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Write one element of a stream and come again in the next turn."""
        self._pumping = False
        if self._paused or self._stopped:
            return
        pieces = self.streams.next_element()
        if not pieces:
            self._wake()
            return
        pieces[0] = b"\x91" + pieces[0]  # an array of one, as `join` would make it
        frame = self._writer.frame_of(pieces)
        self.frames += 1
        self.bytes += sum(map(len, frame))
        # Not writelines: asyncio's does not always pause at the high-water mark
        # (Python 3.12 to 3.13.0), and all of a large part would be written ahead.
        for piece in frame:
            self._transport.write(piece)
        self._schedule_pump()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _stuck(self) -> None:
        self._drain_timer = None
        self._on_stuck(f"nothing was read for {self._drain_s:g} s")

    def _cancel_drain_timer(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
