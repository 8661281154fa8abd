"""One link between two processes: reads, writes, keepalive, close reasons, faults.

On links that need it each frame has a MAC (see `framing`). A frame whose MAC is wrong
ends the link, and nothing of it is decoded. So does whatever else comes from somebody
between the two ends; a goodbye is believed to be of the other end only with a MAC.

Messages are written at the end of a turn, which is one round of the event loop,
whatever else is queued. Fragments of large parts are written one per turn, and only
while the transport holds less than the high-water mark, so that neither delays the
other. A link that sent no more than one message in the turn before writes at once: a
caller that sends, waits for the answer and sends again saves the wait of 2 us.

`Keepalive` notices a peer that ended without a goodbye: it looks every `ping_s`
whether anything was received; if not it pings, and if nothing has come by the next
look either, the link is dead.

`LinkFault` is a cut cable, for tests of failure: what is sent vanishes, what arrives
is dropped unread, and the other end's close is not noticed. Since messages were lost,
and maybe half of one was read, a cut link is never used again: when the fault ends,
the link is lost and its owner dials again.

`websockets`' Sans-I/O protocol object decides what the WebSocket protocol asks for;
this class moves bytes between it and an asyncio transport. The frames that make up
nearly all traffic take the short way through `framing`. Nothing here makes a task, a
timer or a log line per message.
"""

import asyncio
import hmac
import logging
import math
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import OPEN, Protocol

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.codec import (
    Abort,
    Attach,
    Buffer,
    Decoder,
    Fragment,
    Parts,
    Shared,
    SharedMemoryDoor,
    Unread,
    control_decoder,
    data_decoder,
    encode,
    join,
)
from mpreg_nb.protocol.messages import ANSWERS, REQUESTS, Failed, Failure, Notice
from mpreg_nb.protocol.shared import SegmentsGone, length
from mpreg_nb.settings import FRAGMENT_BYTES, Limits
from mpreg_nb.shared_memory.exchange import DescriptorChannel, SegmentExchange
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport.descriptors import DescriptorDoor, enter
from mpreg_nb.transport.framing import (
    MAC_BYTES,
    FrameMac,
    FrameReader,
    FrameWriter,
    Scratch,
)
from mpreg_nb.transport.streams import (
    WHOLE,
    Complete,
    IncomingStreams,
    OutgoingStreams,
    TooLarge,
)
from mpreg_nb.transport.token import Role

LOG = logging.getLogger("mpreg_nb.transport")

LONGEST_REASON = 88
"""Bytes of a close frame's reason. The protocol allows 123: a MAC takes the others."""


CLOSED_THERE = "closed by the other end:"
"""What the reason of a link's end begins with, where the other end surely said it."""

ALL_ANSWERED = "all calls are answered"
"""The goodbye of an end that answered each call it read: others did not run there."""


def short_reason(reason: str) -> str:
    """Return as much of `reason` as a close frame takes."""
    return reason.encode()[:LONGEST_REASON].decode(errors="ignore")


def with_mac(mac: FrameMac, code: int, reason: str) -> str:
    """Return the reason of a goodbye, with what shows that this end says it."""
    return reason + mac.next(code.to_bytes(2, "big"), reason.encode()).hex()


def close_reason(
    protocol: Protocol, error: Exception | None, mac: FrameMac | None = None
) -> str:
    """Return what the other end said, or else what befell the connection.

    mac: of what the other end sends, where it sends a MAC.
    """
    goodbye = protocol.close_rcvd
    broken = protocol.parser_exc
    if goodbye is not None:
        code, reason = goodbye.code, goodbye.reason
        if mac is not None:
            reason, shown = reason[: -2 * MAC_BYTES], goodbye.reason.encode()
            if not hmac.compare_digest(with_mac(mac, code, reason).encode(), shown):
                return (
                    "the connection was lost: closed by the other end or by something "
                    f"in between: {code}"
                )
        if not reason.isprintable():
            reason = ""
        return f"{CLOSED_THERE} {code} {reason}".rstrip()
    if broken is not None and not isinstance(broken, EOFError):
        return f"the other end violated the protocol: {broken}"
    return f"the connection was lost: {error or 'it ended without a goodbye'}"


Carrier: TypeAlias = Literal["unix", "tcp", "tls"]
"""What carries a link: a Unix socket, TCP with a MAC on each message, or TLS."""

CARRIERS: dict[Carrier, str] = {"unix": "Unix socket", "tcp": "TCP", "tls": "TLS"}
"""What people call them."""

Lane: TypeAlias = Literal["control", "data", "json"]
"""What may travel: `protocol.gossip`, `protocol.messages`, or JSON text."""

FailureKind: TypeAlias = Literal[
    "refused", "timed_out", "not_trusted", "wrong_cluster", "wrong_node", "mismatch"
]
"""Why a dial led to no link. Mismatch: the other end speaks otherwise; without TLS, or
as another version of this package does."""

FINAL: frozenset[FailureKind] = frozenset(
    ("not_trusted", "wrong_cluster", "wrong_node", "mismatch")
)
"""Those that do not pass when the same is dialled again a moment later."""


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a link; all of it was part of the proof.

    For a JSON client, which only shows its token, `name` is empty.
    """

    role: Role
    """What the other end is. The side that was dialled is always a node."""

    name: str
    cluster_id: str
    lane: Lane
    address: str
    """Host and port of the socket's other end; no name to rely on."""

    carrier: Carrier

    dialled: bool
    """Whether this side opened the link."""

    expires_s: float = 0.0
    """When the certificate of the other end ends, on the wall clock; 0: it has none."""


class LinkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What went through one link since it opened."""

    bytes_in: int
    bytes_out: int
    frames_in: int
    frames_out: int
    messages_in: int
    messages_out: int
    strikes: int
    """Batches or messages that could not be understood."""

    unknown: int
    """Messages of a kind that this version does not know; they are ignored."""

    backlog_bytes: int
    """Handed to the transport and not yet taken by the system."""

    streams_in: int
    streams_out: int
    """Payloads under way that are too large to travel inside their message."""


StreamElement: TypeAlias = Attach | Fragment | Abort

STREAM_ELEMENTS = frozenset((Attach, Fragment, Abort))
"""Types that `MessageReader.batch` returns among messages, for `place`."""

MemoryElement: TypeAlias = Shared | SegmentsGone | SharedMemoryDoor

MEMORY_ELEMENTS = frozenset((Shared, SegmentsGone, SharedMemoryDoor))
"""Those for `LinkMemory`."""

ELEMENTS = STREAM_ELEMENTS | MEMORY_ELEMENTS

_DECODERS: dict[Lane, Decoder[Any]] = {
    "control": control_decoder(),
    "data": data_decoder(),
    "json": data_decoder(),  # never asked: its messages are text
}
_WHOLE = msgspec.Raw(WHOLE)

replace: Callable[..., Any] = msgspec.structs.replace


class MessageReader:
    """Decodes what a peer sent, counts it, and completes its large payloads."""

    def __init__(self, lane: Lane, *, max_payload_bytes: int) -> None:
        self.streams = IncomingStreams(max_bytes=max_payload_bytes)
        self.frames = self.messages = 0
        self.unknown = 0  # messages of a kind that only newer versions know
        self.wrong: list[Unread] = []  # not yet heeded
        self._decoder = _DECODERS[lane]
        self._text: list[bytes] = []  # of a text message that came in part

    def batch(self, payload: Buffer) -> list[Any]:
        """Return the messages in `payload`; what was bad is left in `wrong`."""
        self.frames += 1
        try:
            batch = self._decoder.batch(payload)
        except BadRequest:
            batch, unknown, wrong = self._decoder.salvage(payload)
            self.unknown += unknown
            self.wrong += wrong
        self.messages += len(batch)
        return batch

    def place(self, element: StreamElement) -> Complete | TooLarge | Unread | None:
        """Return the message that `element` completed, or that is refused for it.

        Raises:
            BadRequest: the element belongs to nothing.
        """
        self.messages -= 1  # its message counts, when it is complete
        done: Complete | TooLarge | Unread | None
        match element:
            case Fragment():
                done = self.streams.fragment(element.stream, element.data)
            case Attach():
                done = self._attach(element)
            case Abort():
                self.streams.abort(element.stream)
                return None
        if isinstance(done, TooLarge) and done.message is None:
            return Unread(BadRequest(f"a message of {done.size_bytes} bytes"))
        if not isinstance(done, Complete):
            return done
        self.messages += 1
        if done.message is None:
            message = self._decoder.one_or_unread(done.parts[0])
            if isinstance(message, Unread):
                return message
            return Complete(message, done.parts[1:])
        return done

    def _attach(self, element: Attach) -> Complete | TooLarge | Unread | None:
        whole = element.message == _WHOLE
        message = None if whole else self._decoder.one_or_unread(element.message)
        if isinstance(message, Unread):
            self.streams.refuse(element.stream, element.sizes)
            return message
        if type(message) in STREAM_ELEMENTS or (whole and not element.sizes):
            raise BadRequest("an attachment without a message")
        return self.streams.attach(element.stream, element.sizes, message)

    def message_of(self, shared: Shared) -> Any:
        """Return the message whose parts are in shared memory, or that it is unread."""
        return self._decoder.one_or_unread(shared.message)

    def text(self, frame: Frame) -> str | None:
        """Return the text message that `frame` completed.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        self.frames += 1
        if frame.data:  # of empty ones there may be any number
            self._text.append(bytes(frame.data))
        if not frame.fin:
            return None
        received, self._text = b"".join(self._text), []
        self.messages += 1
        return received.decode()


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a link waits for its other end before it acts."""

    ping_s: float = 20.0
    """Silence before a ping, and again before the link is given up. A dead
    machine sends no goodbye: this bounds how long its links seem alive."""

    drain_s: float = 10.0
    """A peer that reads too slowly for so long is cut off with code 1013."""

    close_s: float = 2.0
    """From our goodbye to the peer's; then the socket is dropped."""


class LinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one side of a link holds the other to."""

    limits: Limits = msgspec.field(default_factory=Limits)
    patience: Timeouts = msgspec.field(default_factory=Timeouts)


HIGH_WATER_BYTES = 512 * 1024
"""Unsent bytes from which on fragments wait; small messages still go."""

LOW_WATER_BYTES = 128 * 1024


SLOW_BYTES_PER_S = 64 * 1024
"""Who reads less than this, while more waits, is cut off after `Timeouts.drain_s`."""

FAST_BYTES_PER_S = 1024 * 1024
"""Who reads less than this, while more waits than `Limits.backlog_bytes`, is cut off
within two looks: what waits is in memory."""

LOOKS = 10
"""How often a peer that reads slowly is looked at in `Timeouts.drain_s`."""


class SlowReaderWatch:
    """Tells when a peer reads too slowly; looks only while something waits for it.

    Whether bytes are taken says little: a peer that reads a little now and then takes
    some of them, and holds all others up in our memory.
    """

    def __init__(
        self,
        drain_s: float,
        *,
        taken: Callable[[], int],
        waiting: Callable[[], int],
        allowed: Callable[[], int],
        on_slow: Callable[[str], None],
    ) -> None:
        """taken, waiting: bytes the system took so far, and those it did not take yet.

        allowed: how many may wait for a peer that does not read fast.
        """
        self._look_s = drain_s / LOOKS
        self._drain_s = drain_s
        self._taken = taken
        self._waiting = waiting
        self._allowed = allowed
        self._on_slow = on_slow
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looks: deque[int] = deque(maxlen=LOOKS + 1)  # what was taken by then
        self._too_much = False  # waited at the last look

    def start(self) -> None:
        """Begin to look, unless it has begun."""
        if self._timer is None:
            self._looks.append(self._taken())
            self._timer = self._loop.call_later(self._look_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looks.clear()
        self._too_much = False

    def _look(self) -> None:
        waiting = self._waiting()
        if not waiting:
            self.stop()
            return
        taken = self._taken()
        looks = self._looks
        last = looks[-1]
        looks.append(taken)
        was_too_much, self._too_much = self._too_much, waiting > self._allowed()
        self._timer = self._loop.call_later(self._look_s, self._look)
        if len(looks) > LOOKS and taken - looks[0] < SLOW_BYTES_PER_S * self._drain_s:
            self._on_slow(
                f"less than {SLOW_BYTES_PER_S // 1024} kB a second for "
                f"{self._drain_s:g} s"
            )
        elif (
            was_too_much
            and self._too_much
            and taken - last < FAST_BYTES_PER_S * self._look_s
        ):
            self._on_slow(f"{waiting} bytes wait to be read")


class MessageWriter:
    """Writes encoded messages to `transport`; `on_stuck` hears if none are taken."""

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        dialled: bool,
        terms: LinkConfig,
        mac: FrameMac | None,
        direct: socket.socket | None,
        on_stuck: Callable[[str], None],
    ) -> None:
        """direct: the Unix socket of `transport`, if it is one.

        A Unix socket takes nothing for a process that has ended, and says so when it is
        written to; a transport would not tell which of its writes that was. It also
        says whether the process left anything unread: then it was the last frame.
        """
        self.refused_from = math.inf
        """Where in all that was written begins what the other end cannot have read."""
        self._direct = direct
        self._last_taken = 0  # where the last frame begins that the system took
        self.streams = OutgoingStreams(dialled=dialled)
        self.bytes = self.frames = self.messages = 0  # written so far
        self.holds = False  # True while the caller will `flush` by itself
        self._single = False  # whether the last turn that sent had one message
        self._at_once = False  # whether the next message is written at once
        self._transport = transport
        self._writer = FrameWriter(masked=dialled)
        self._mac = mac
        self._on_stuck = on_stuck
        self._backlog_bytes = terms.limits.backlog_bytes
        self._frame_bytes = terms.limits.max_frame_bytes - MAC_BYTES
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []  # encoded messages of this turn
        self._stopped = False
        self._paused = False  # the transport is above its high-water mark
        self._largest = 0  # bytes of the largest message that waits
        self._watch = SlowReaderWatch(
            terms.patience.drain_s,
            taken=lambda: self.bytes - self.backlog_bytes,
            waiting=lambda: self.backlog_bytes + self.streams.waiting_bytes,
            allowed=lambda: max(self._backlog_bytes, self._largest),
            on_slow=on_stuck,
        )
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

    def heard_nothing(self) -> None:
        """Let the turn go on as if nothing had come: it was no answer."""
        self._at_once = False

    def send_stream(
        self, element: bytes, parts: Parts, key: bytes | None = None
    ) -> int:
        """Queue one encoded message with its parts; return the stream's number.

        Those of one `key` go one after the other.
        """
        if len(element) > FRAGMENT_BYTES:
            element, parts = WHOLE, (element, *parts)
        before = self.streams.waiting_bytes
        stream = self.streams.add(element, parts, key)
        self._largest = max(self._largest, self.streams.waiting_bytes - before)
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
            backlog = self.backlog_bytes if self._paused else 0
            if backlog > max(self._backlog_bytes, self._largest):
                self._on_stuck(f"{backlog} bytes wait to be read")

    def write(self, data: bytes) -> None:
        """Write what websockets made by itself; no bytes mean the end of all."""
        if self._transport.is_closing():
            return
        if data:
            self._largest = max(self._largest, len(data))
            self._put(data)
        elif self._transport.can_write_eof():
            self._transport.write_eof()  # a close could cut off what went before
        else:  # TLS has no half-closed state
            self._transport.close()

    def ended_with(self, error: Exception | None) -> None:
        """Note how the link ended, by what the system says."""
        if self._direct is not None and isinstance(error, ConnectionResetError):
            self.refused_from = min(self._last_taken, self.refused_from)

    def lead_to(self, transport: asyncio.Transport) -> None:
        """Write what comes from now on to `transport`."""
        self._transport = transport
        self._direct = None

    def stop(self) -> None:
        """Write nothing any more and let go of all that waits."""
        self._stopped = True
        self._outbox.clear()
        self.streams.clear()
        self._watch.stop()
        self._wake()

    def pause(self) -> None:
        """Hold fragments back; the transport has enough."""
        self._paused = True
        if not self._stopped:
            self._watch.start()

    def resume(self) -> None:
        """Go on; the transport has taken most of it."""
        self._paused = False
        if self.streams:
            self._schedule_pump()
        else:
            self._largest = 0
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
        if self._mac is not None:
            body += self._mac.next(body)
        frame = self._writer.frame(body)
        self.frames += 1
        self._put(frame)

    def _put(self, data: Buffer) -> None:
        begin = self.bytes
        self.bytes += len(data)
        if self.refused_from <= begin:
            return
        if self._direct is not None and not self._transport.get_write_buffer_size():
            try:
                sent = self._direct.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:  # the loop tells of the end, after what came
                self.refused_from = begin
                self.ended_with(error)
                return
            self._last_taken = begin
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._transport.write(data)

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
        self._last_taken = self.bytes
        pieces[0] = b"\x91" + pieces[0]  # an array of one, as `join` would make it
        if self._mac is not None:
            pieces.append(self._mac.next(*pieces))
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


class Keepalive:
    """Watches one link from `start` to `stop`."""

    def __init__(
        self,
        ping_s: float,
        *,
        bytes_in: Callable[[], int],
        ping: Callable[[], None],
        on_dead: Callable[[str], None],
    ) -> None:
        self._ping_s = ping_s
        self._bytes_in = bytes_in
        self._ping = ping
        self._on_dead = on_dead
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self._pinged = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._seen = self._bytes_in()
        self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        seen, self._seen = self._seen, self._bytes_in()
        silent = seen == self._seen
        if self._loop.time() - self._due > self._ping_s / 2:
            silent = False  # this process stood still: what came is not read yet
        if silent and self._pinged:
            self._on_dead(f"no sign of life for {2 * self._ping_s:.2g} s")
            return
        if silent:
            self._ping()
        self._pinged = silent
        self._look_later()

    def _look_later(self) -> None:
        self._due = self._loop.time() + self._ping_s
        self._timer = self._loop.call_at(self._due, self._look)


class LinkMemory:
    """The shared memory of one link: none until both ends have a way for descriptors.

    The end that accepted the link offers one, where both are of one machine and user.
    """

    def __init__(self, tell: Callable[[msgspec.Struct], None]) -> None:
        """tell: sends to the other end; not called once `close` was."""
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._exchange: SegmentExchange | None = None
        self._door: DescriptorDoor | None = None
        self._is_closed = False

    def offer(self) -> None:
        """Tell the other end where a way for descriptors may be opened."""
        if not MEMORY.limit_bytes:
            return
        try:
            self._door = DescriptorDoor(self._open)
        except OSError as error:
            LOG.info("large values go through sockets: %s", error)
        else:
            self._tell(SharedMemoryDoor(address=self._door.address))

    def enter(self, door: SharedMemoryDoor) -> None:
        """Open the way that the other end offers."""
        if MEMORY.limit_bytes and self._exchange is None:
            channel = enter(door.address)
            if channel is not None:
                self._open(channel)

    def export(self, parts: Parts) -> Shared | None:
        """Return an element without its message; None: send the bytes of `parts`."""
        exported = None if self._exchange is None else self._exchange.export(parts)
        return None if exported is None else Shared(parts=exported, message=_NOTHING)

    def accept(self, shared: Shared) -> tuple[Buffer, ...]:
        """Return the parts of a message.

        Raises:
            ValueError, OSError: they are not in memory that both ends have.
        """
        if self._exchange is None and self._door is not None:
            self._door.look()
        if self._exchange is None:
            raise ValueError("there is no way for descriptors")
        return self._exchange.accept(shared.parts)

    def told(self, gone: SegmentsGone) -> None:
        """Take in what the other end does not use any more."""
        if self._exchange is not None:
            self._exchange.told(gone)

    def close(self) -> None:
        """End with the link."""
        self._is_closed = True
        if self._door is not None:
            self._door.close()
        if self._exchange is not None:
            self._exchange.close()

    def _open(self, channel: DescriptorChannel) -> None:
        self._exchange = SegmentExchange(MEMORY, channel, self._wake)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._tell_news)
        except RuntimeError:  # the loop was closed, and its links with it
            return

    def _tell_news(self) -> None:
        if self._exchange is not None and not self._is_closed:
            news = self._exchange.news()
            if news is not None:
                self._tell(news)


_NOTHING = msgspec.Raw(WHOLE)


class LinkFault(asyncio.BufferedProtocol):
    """Stands between the transport and the link from the cut until `mend`."""

    def __init__(
        self,
        link: asyncio.BufferedProtocol,
        *,
        is_open: Callable[[], bool],
        give_up: Callable[[str], None],
    ) -> None:
        """`is_open` tells whether the owner has not ended the link itself."""
        self._link = link
        self._is_open = is_open
        self._give_up = give_up
        self._room = memoryview(bytearray(64 * 1024))
        self._lost = False  # the transport is gone, and the link was not told
        self._over = False

    def mend(self) -> None:
        """End the link as one that was lost; again does nothing."""
        if self._over:
            return
        self._over = True
        if self._is_open():
            self._give_up("the connection was lost: it had been cut off")
        if self._lost:
            self._link.connection_lost(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what nobody will read."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Drop what came."""

    def eof_received(self) -> None:
        """Let the transport close."""

    def pause_writing(self) -> None:
        """Pass on what concerns writes from before the cut."""
        self._link.pause_writing()

    def resume_writing(self) -> None:
        """Pass on what concerns writes from before the cut."""
        self._link.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the link, unless only the other end can have ended it."""
        if self._over or not self._is_open():
            self._over = True
            self._link.connection_lost(exc)
        else:
            self._lost = True


class BlackholeTransport(asyncio.Transport):
    """Takes what is written and passes nothing on."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop `data`."""

    def get_write_buffer_size(self) -> int:
        """Return that nothing waits."""
        return 0

    def is_closing(self) -> bool:
        """Return that it can be written to."""
        return False

    def can_write_eof(self) -> bool:
        """Return that an end may be told; it is dropped too."""
        return True

    def write_eof(self) -> None:
        """Drop the end."""


class DeliveryCount:
    """Knows how much of what a link wrote its other end can have read.

    Linux counts the bytes that the other end's system has acknowledged. On loopback
    none of these acknowledgements is lost, and what was written to a process that had
    closed its end was not taken. After a reset nothing is known: it comes instead of
    the acknowledgement of the last bytes, which the process may have read. Nothing is
    known either on other interfaces and through TLS. Of a Unix socket `MessageWriter`
    knows it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._before: int | None = None  # written by others, such as the handshake

    def begin(self, written: int) -> None:
        """Note that `written` bytes are written by now."""
        taken = self._taken()
        if taken is not None:
            waiting = self._transport.get_write_buffer_size()
            self._before = taken[0] + waiting - written

    def end(self, error: Exception | None) -> float:
        """Return how much was read at most; infinity where that is not known.

        error: that ended the link, if one did.
        """
        if isinstance(error, ConnectionResetError):
            return math.inf
        taken = self._taken()
        if taken is None or self._before is None:
            return math.inf
        # Linux counts the opening and the end of the connection as one byte each. A
        # message of which only so few bytes came was not read.
        return taken[1] - self._before - _LESS_THAN_A_MESSAGE

    def _taken(self) -> tuple[int, int] | None:
        """Return the bytes that the system has, and of these what the other took."""
        info = self._transport.get_extra_info
        sock, peer = info("socket"), info("peername")
        if not hasattr(socket, "TCP_INFO") or info("ssl_object") is not None:
            return None
        if sock is None or not isinstance(peer, tuple) or sock.fileno() < 0:
            return None
        if not (peer[0].startswith("127.") or peer[0] == "::1"):
            return None
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(told) < _TCP_INFO_BYTES:  # an older kernel
            return None
        (taken,) = struct.unpack_from("Q", told, 120)
        (unsent,) = struct.unpack_from("I", told, 144)
        sent, again = struct.unpack_from("QQ", told, 200)
        return sent - again + unsent, taken


_LESS_THAN_A_MESSAGE = 8
"""Bytes; each request is longer, since it has an id."""

_TCP_INFO_BYTES = 216
"""Of Linux' struct tcp_info: up to the bytes that were sent again (since 4.19)."""
KERNEL_BUFFER_BYTES = 512 * 1024
"""What the system may hold at each end of a TCP link with MACs. Small messages wait
behind it, and each part of a large one takes the receiver time to check."""


def limit_kernel_buffers(link: socket.socket) -> None:
    """Let the system hold no more of a link than helps."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        link.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER_BYTES)


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
        peer: PeerInfo,
        terms: LinkConfig,
        scratch: Scratch,
        keys: tuple[bytes, bytes] | None = None,
        direct: socket.socket | None = None,
    ) -> None:
        """keys: for the MACs of what is sent, and of what is received.

        direct: the Unix socket that `transport` was made of.
        """
        self.peer = peer
        self.on_message = self.on_refused = self.on_text = self.on_lost = _ignore
        self.on_gone: Callable[[Connection], None] = _ignore  # for who made it
        self._transport = transport
        self._protocol = protocol
        self._close_s = terms.patience.close_s
        limits = terms.limits
        self._max_payload_bytes = limits.max_payload_bytes
        self._mac_out = FrameMac(keys[0]) if keys else None
        self._mac_in = FrameMac(keys[1]) if keys else None
        self._reader = FrameReader(
            protocol,
            scratch,
            masked=not peer.dialled,
            max_bytes=limits.max_frame_bytes,
        )
        self._inflow = MessageReader(
            peer.lane, max_payload_bytes=limits.max_payload_bytes
        )
        self._outflow = MessageWriter(
            transport,
            dialled=peer.dialled,
            terms=terms,
            mac=self._mac_out,
            direct=direct,
            on_stuck=self._cut_off,
        )
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._open = True
        self._is_cut = False
        self._reason = ""  # why this side ended the link, if it did
        self._end_timer: asyncio.TimerHandle | None = None
        self._bytes_in = self._strikes = 0
        self._delivery = DeliveryCount(transport)
        self.received = math.inf
        """How much of what was `written` can have come to the other end.

        Known once the link is lost, if then: infinite elsewhere.
        """
        # WebSocket has the accepting side close TCP first, which would occupy its
        # port for another minute (TIME_WAIT). Between our own ends the other does.
        self._leaves_first_close = not peer.dialled and peer.lane != "json"
        self._pulse = self.pulse(terms.patience.ping_s, self.give_up)
        self._memory: LinkMemory | None = None
        if peer.carrier == "unix" and peer.lane == "data" and peer.role != "viewer":
            self._memory = LinkMemory(self._tell)
        if peer.lane == "json":
            self._reader.pass_all()

    def begin(self, received: bytes = b"") -> None:
        """Take over the transport; `received` is what came after the proof."""
        if self._is_cut:
            return
        self._transport.set_protocol(self)
        if self.peer.carrier == "tcp":
            self._delivery.begin(self._outflow.bytes)
        if self._open:  # the owner may have closed it already
            self._pulse.start()
            if self._memory is not None and not self.peer.dialled:
                self._memory.offer()
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
        if outflow.streams.is_behind(message):
            return outflow.send_stream(element, parts, message.id)  # type: ignore[attr-defined]
        if self._memory is not None and len(element) <= FRAGMENT_BYTES:
            shared = self._memory.export(parts)
            if shared is not None:
                outflow.send(encode(replace(shared, message=msgspec.Raw(element))))
                return 0
        return outflow.send_stream(element, parts)

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
            said = short_reason(reason)
            if self._mac_out is not None:
                said = with_mac(self._mac_out, code, said)
            self._protocol.send_close(code, said)
        self._end()

    def give_up(self, reason: str) -> None:
        """End the link as one that is lost; nothing more is sent."""
        if not self._open:
            return
        self._reason = reason
        self._open = False
        self._outflow.stop()
        self._abort()

    def pulse(self, ping_s: float, on_silent: Callable[[str], None]) -> Keepalive:
        """Return a pulse of this link to `start`; its maker stops it in `on_lost`."""
        return Keepalive(
            ping_s, bytes_in=lambda: self._bytes_in, ping=self._ping, on_dead=on_silent
        )

    def cut(self) -> LinkFault:
        """Hear and say nothing from now on, as if the cable were cut."""
        self._is_cut = True
        cut = LinkFault(self, is_open=lambda: self._open, give_up=self.give_up)
        self._outflow.lead_to(BlackholeTransport())
        self._transport.set_protocol(cut)
        return cut

    @property
    def is_open(self) -> bool:
        """Whether `send` still leads anywhere."""
        return self._open

    @property
    def written(self) -> int:
        """Where in all that is written the next message comes, at the earliest."""
        return self._outflow.bytes

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
        if self._gone.is_set():
            return
        self._open = False
        self._outflow.stop()
        self._pulse.stop()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._inflow.streams.clear()
        if self._memory is not None:
            self._memory.close()
        said = close_reason(self._protocol, exc, self._mac_in)
        self._outflow.ended_with(exc)
        known = self._delivery.end(exc) if self.peer.carrier == "tcp" else math.inf
        # What waited to be written when the link was lost never was.
        written = self._outflow.bytes
        self.received = min(known, self._outflow.refused_from, written)
        if said.startswith(CLOSED_THERE) and ALL_ANSWERED in said:
            self.received = -1.0
        reason = self._reason or said
        self._call(self.on_lost, reason)
        self.on_gone(self)
        self._gone.set()

    def _deliver(self, payload: Buffer) -> None:
        if self._mac_in is not None:
            genuine = self._mac_in.checked(payload)
            if genuine is None:
                self._changed_on_the_way()
                return
            payload = genuine
        batch = self._inflow.batch(payload)
        on_message = self.on_message
        for message in batch:
            if not self._open:
                return
            if type(message) in ELEMENTS:
                self._receive_element(message)
                continue
            try:
                on_message(self, message, ())
            except Exception as error:  # noqa: BLE001 - see `_report`
                self._report(error)
        while self._inflow.wrong and self._open:
            self._strike(self._inflow.wrong.pop())

    def _changed_on_the_way(self) -> None:
        LOG.warning(
            "the connection to %s (%s) was ended: a message was changed on its way, or "
            "is not from there. Another program passes it on; nothing of it was used",
            self.peer.name,
            self.peer.address,
        )
        self.give_up("the connection was lost: a message was changed on its way")

    def _tell(self, element: msgspec.Struct) -> None:
        if self._open:
            self._outflow.send(encode(element))

    def _receive_element(self, element: StreamElement | MemoryElement) -> None:
        if isinstance(element, Attach | Fragment | Abort):
            self._receive_stream(element)
        elif self._memory is None:
            self._strike(Unread(BadRequest("this link has no shared memory")))
        elif isinstance(element, Shared):
            self._receive_shared(element, self._memory)
        else:
            self._outflow.heard_nothing()
            self._inflow.messages -= 1
            if isinstance(element, SegmentsGone):
                self._memory.told(element)
            elif self.peer.dialled:
                self._memory.enter(element)

    def _receive_shared(self, shared: Shared, memory: LinkMemory) -> None:
        try:
            parts = memory.accept(shared)
        except (ValueError, OSError) as error:
            self.give_up(f"the connection was lost: a value did not come: {error}")
            return
        message = self._inflow.message_of(shared)
        size = sum(map(length, shared.parts))
        if isinstance(message, Unread):
            self._strike(message)
        elif size > self._max_payload_bytes:
            self._call(self.on_refused, message, size)
        else:
            self._call(self.on_message, message, parts)

    def _receive_stream(self, element: StreamElement) -> None:
        begun_here = element.stream % 2 != self.peer.dialled
        if begun_here and isinstance(element, Abort):
            self.abort(element.stream)  # the other end wants no more of it
        try:
            done = self._inflow.place(element)
        except BadRequest as error:
            done = Unread(error)
        if isinstance(done, Unread):
            self._strike(done)
        elif isinstance(done, TooLarge):
            self._outflow.send(encode(Abort(stream=element.stream)))
            self._call(self.on_refused, done.message, done.size_bytes)
        elif done is not None:
            self._call(self.on_message, done.message, done.parts)

    def _strike(self, unread: Unread) -> None:
        """Let whoever waits for a message that could not be read know of it.

        Where that cannot be told, a `Notice` says that something was lost. Our own
        ends then end the link, and with it all that might be waited for in vain.
        """
        self._strikes += 1
        kind, why = unread.kind, str(unread.error)
        name = "a message" if kind is None else kind.__name__
        LOG.warning("%s of %s could not be read: %s", name, self.peer.name, why)
        if self._strikes >= STRIKES:
            self.close(1008, "too many invalid messages")
            return
        if self.peer.lane != "data":
            return
        if unread.id and kind in ANSWERS:
            text = f"the answer of {self.peer.name} could not be read: {why}"
            failure = Failure(kind="bad_request", message=text, executed="unknown")
            self._call(self.on_message, Failed(id=unread.id, failure=failure), ())
        if unread.id and kind in REQUESTS:
            text = f"the node could not read it, and did nothing: {why}"
            failure = Failure(kind="bad_request", message=text)
            self.send(Failed(id=unread.id, failure=failure))
        elif not (unread.id and kind in ANSWERS):
            self.send(Notice(kind="strike", text=why))

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
