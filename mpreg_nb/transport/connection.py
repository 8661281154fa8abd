"""One link between two processes: messages in, messages out.

`websockets`' Sans-I/O protocol object decides what the WebSocket protocol asks
for; this class moves bytes between it and an asyncio transport. The frames that
make up nearly all traffic take the short way through `framing`. Nothing here
makes a task, a timer or a log line per message.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import OPEN, Protocol

from mpreg_nb.errors import BadRequest
from mpreg_nb.settings import FRAGMENT_BYTES
from mpreg_nb.transport.cut import Cut, Nowhere
from mpreg_nb.transport.facts import LinkStatistics, PeerFacts
from mpreg_nb.transport.framing import FrameReader, Scratch
from mpreg_nb.transport.goodbye import short_reason, why_ended
from mpreg_nb.transport.inflow import STREAM_ELEMENTS, Inflow, StreamElement
from mpreg_nb.transport.outflow import Outflow
from mpreg_nb.transport.pulse import Pulse
from mpreg_nb.transport.streams import TooLarge
from mpreg_nb.transport.terms import Terms
from mpreg_nb.wire.codec import Abort, Buffer, Parts, encode
from mpreg_nb.wire.messages import Notice

_RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: end the link with a reset, without TIME_WAIT."""

STRIKES = 10
"""Messages that make no sense before a peer is cut off with code 1008."""


class Connection(asyncio.BufferedProtocol):
    """One proven link. Made by `listen` and `dial`, never by hand.

    The callbacks are set in `on_connection` (listener) or `on_open` (dial) and
    called on the loop's thread. What they raise goes to the loop's exception
    handler; the link and the other messages of a batch go on.
    """

    on_message: Callable[["Connection", Any, tuple[Buffer, ...]], None]
    """Called with each message; parts are () where the payload is inline."""

    on_refused: Callable[["Connection", Any, int], None]
    """Called with a message whose parts are more than `max_payload_bytes`.

    The last argument is their size. They are dropped; the link goes on.
    """

    on_text: Callable[["Connection", str], None]
    """Called with each text message; links of JSON clients only."""

    on_lost: Callable[["Connection", str], None]
    """Called exactly once, with the reason, after the last message."""

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: Protocol,
        peer: PeerFacts,
        terms: Terms,
        scratch: Scratch,
    ) -> None:
        self.peer = peer
        self.on_message = self.on_refused = self.on_text = self.on_lost = _ignore
        self.on_gone: Callable[[Connection], None] = _ignore  # for who made it
        self._transport = transport
        self._protocol = protocol
        self._close_s = terms.patience.close_s
        limits = terms.limits
        self._reader = FrameReader(
            protocol,
            scratch,
            masked=not peer.dialled,
            max_bytes=limits.max_frame_bytes,
        )
        self._inflow = Inflow(peer.lane, max_payload_bytes=limits.max_payload_bytes)
        self._outflow = Outflow(
            transport, dialled=peer.dialled, terms=terms, on_stuck=self._cut_off
        )
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._open = True
        self._is_cut = False
        self._reason = ""  # why this side ended the link, if it did
        self._end_timer: asyncio.TimerHandle | None = None
        self._bytes_in = self._strikes = 0
        # WebSocket has the accepting side close TCP first, which would occupy its
        # port for another minute (TIME_WAIT). Between our own ends the other does.
        self._leaves_first_close = not peer.dialled and peer.lane != "json"
        self._pulse = self.pulse(terms.patience.ping_s, self.give_up)
        if peer.lane == "json":
            self._reader.pass_all()

    def begin(self, received: bytes = b"") -> None:
        """Take over the transport; `received` is what came after the proof."""
        if self._is_cut:
            return
        self._transport.set_protocol(self)
        if self._open:  # the owner may have closed it already
            self._pulse.start()
        while received:
            size = self._reader.put(received)
            received = received[size:]
            self.buffer_updated(size)

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> int:
        """Send `message`; never blocks.

        Returns 0, or the number of the stream that carries the parts, which
        `abort` takes. Parts are not copied: leave them as they are until
        `drained` returns. On a closing or lost link nothing happens: `on_lost`
        tells.
        """
        if not self._open:
            return 0
        element = encode(message)
        outflow = self._outflow
        if not parts and len(element) <= FRAGMENT_BYTES:
            if not outflow.streams.is_behind(message):
                outflow.send(element)
                return 0
            return outflow.send_stream(element, parts, message.id)  # type: ignore[attr-defined]
        if getattr(message, "before_others", False):
            outflow.flush()  # what was sent before it comes before it
            return outflow.send_stream(element, parts, message.id)  # type: ignore[attr-defined]
        key = message.id if outflow.streams.is_behind(message) else None  # type: ignore[attr-defined]
        return outflow.send_stream(element, parts, key)

    def send_text(self, text: str) -> None:
        """Send one text message to a JSON client."""
        if self._open:
            self._protocol.send_text(text.encode())
            self._write_protocol()

    def abort(self, stream: int) -> None:
        """Give up what is left of `stream`; the other side forgets its message."""
        if element := self._outflow.streams.abort(stream):
            self._outflow.send(element)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send the small messages that wait, then end the link."""
        if not self._open:
            return
        self._outflow.flush()
        if not self.is_open:  # cut off, since even that was too much
            return
        self._reason = f"closed here: {code} {reason}".rstrip()
        self._reader.pass_all()
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, short_reason(reason))
        self._end()

    def give_up(self, reason: str) -> None:
        """End the link as one that is lost; nothing more is sent."""
        if not self._open:
            return
        self._reason = reason
        self._open = False
        self._outflow.stop()
        self._abort()

    def pulse(self, ping_s: float, on_silent: Callable[[str], None]) -> Pulse:
        """Return a pulse of this link to `start`; its maker stops it in `on_lost`."""
        return Pulse(
            ping_s, bytes_in=lambda: self._bytes_in, ping=self._ping, on_dead=on_silent
        )

    def cut(self) -> Cut:
        """Hear and say nothing from now on, as if the cable were cut."""
        self._is_cut = True
        cut = Cut(self, is_open=lambda: self._open, give_up=self.give_up)
        self._outflow.lead_to(Nowhere())
        self._transport.set_protocol(cut)
        return cut

    @property
    def is_open(self) -> bool:
        """Whether `send` still leads anywhere."""
        return self._open

    async def drained(self) -> None:
        """Return when all parts are written and little else waits, or the link ends.

        Safe to cancel.
        """
        await self._outflow.drained()

    async def wait_closed(self) -> None:
        """Return when the link is gone and `on_lost` was called. Safe to cancel."""
        await self._gone.wait()

    def statistics(self) -> LinkStatistics:
        """Return what went through so far."""
        into, out = self._inflow, self._outflow
        return LinkStatistics(
            bytes_in=self._bytes_in,
            bytes_out=out.bytes,
            frames_in=into.frames,
            frames_out=out.frames,
            messages_in=into.messages,
            messages_out=out.messages,
            strikes=self._strikes,
            unknown=into.unknown,
            backlog_bytes=out.backlog_bytes,
            streams_in=len(into.streams),
            streams_out=len(out.streams),
        )

    def __repr__(self) -> str:
        state = "open" if self._open else "ended"
        return f"<Connection {self.peer.lane} {self.peer.name or 'json'} {state}>"

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport reads to."""
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Deliver the messages that the read completed; answer them in one write."""
        self._bytes_in += nbytes
        reader = self._reader
        payloads = reader.received(nbytes)
        if payloads:
            outflow = self._outflow
            outflow.heard()
            outflow.holds = True
            try:
                for payload in payloads:
                    if self._open:
                        self._deliver(payload)
            finally:
                outflow.holds = False
                outflow.flush()
        if reader.noticed:
            reader.noticed = False
            self._heed_protocol()

    def eof_received(self) -> None:
        """Let the transport close: the other end will send nothing more."""
        self._reader.pass_all()
        self._protocol.receive_eof()
        self._heed_protocol()

    def pause_writing(self) -> None:
        """Hold large parts back."""
        self._outflow.pause()

    def resume_writing(self) -> None:
        """Go on with large parts."""
        self._outflow.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._open = False
        self._outflow.stop()
        self._pulse.stop()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._inflow.streams.clear()
        self._call(self.on_lost, self._reason or why_ended(self._protocol, exc))
        self.on_gone(self)
        self._gone.set()

    def _deliver(self, payload: Buffer) -> None:
        batch = self._inflow.batch(payload)
        on_message = self.on_message
        for message in batch:
            if not self._open:
                return
            if type(message) in STREAM_ELEMENTS:
                self._receive_stream(message)
                continue
            try:
                on_message(self, message, ())
            except Exception as error:  # noqa: BLE001 - see `_report`
                self._report(error)
        while self._inflow.wrong and self._open:
            self._strike(self._inflow.wrong.pop())

    def _receive_stream(self, element: StreamElement) -> None:
        begun_here = element.stream % 2 != self.peer.dialled
        if begun_here and isinstance(element, Abort):
            self.abort(element.stream)  # the other end wants no more of it
        try:
            done = self._inflow.place(element)
        except BadRequest as error:
            self._strike(error)
            return
        if isinstance(done, TooLarge):
            self._outflow.send(encode(Abort(stream=element.stream)))
            self._call(self.on_refused, done.message, done.size_bytes)
        elif done is not None:
            self._call(self.on_message, done.message, done.parts)

    def _strike(self, error: BadRequest) -> None:
        self._strikes += 1
        if self._strikes >= STRIKES:
            self.close(1008, "too many invalid messages")
        elif self.peer.lane == "data":
            self.send(Notice(kind="strike", text=str(error)))

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(self, *arguments)
        except Exception as error:  # noqa: BLE001 - see `_report`
            self._report(error)

    def _report(self, error: Exception) -> None:
        # The border between the loop and its owner: what a callback raises must
        # cost neither the link nor the other messages that came with this one.
        self._loop.call_exception_handler(
            {"message": f"a callback of {self!r} failed", "exception": error}
        )

    def _heed_protocol(self) -> None:
        for event in self._protocol.events_received():
            if self._open and isinstance(event, Frame):
                self._heed_frame(event)
        self._write_protocol()
        if self._open and self._protocol.state is not OPEN:
            self._end()
        if self.peer.dialled and self._protocol.close_rcvd is not None:
            self._transport.close()

    def _heed_frame(self, frame: Frame) -> None:
        if frame.opcode not in DATA_OPCODES:
            return
        if self.peer.lane != "json" or frame.opcode is Opcode.BINARY:
            self.close(1003, "wrong kind of frame for this lane")
            return
        try:
            text = self._inflow.text(frame)
        except UnicodeDecodeError:
            self.close(1007, "text that is not UTF-8")
            return
        if text is not None:
            self._call(self.on_text, text)

    def _write_protocol(self) -> None:
        for data in self._protocol.data_to_send():
            if data or not self._leaves_first_close:
                self._outflow.write(data)

    def _end(self) -> None:
        self._open = False
        self._outflow.stop()
        self._reader.pass_all()
        self._write_protocol()
        self._pulse.stop()
        self._end_timer = self._loop.call_later(self._close_s, self._abort)

    def _abort(self) -> None:
        """End the link without the other side.

        Without SO_LINGER an accepted link would occupy the port of its node for
        another minute, in the state TIME_WAIT of TCP.
        """
        if self._leaves_first_close and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET
            )
        self._transport.abort()

    def _cut_off(self, detail: str) -> None:
        self.close(1013, f"the other end reads too slowly: {detail}")

    def _ping(self) -> None:
        self._protocol.send_ping(b"")
        self._write_protocol()


def _ignore(*arguments: object) -> None:
    """Stand in for a callback that was not set."""
