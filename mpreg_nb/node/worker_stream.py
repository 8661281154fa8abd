"""The node's end of the socket to a worker, in the node's loop."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mpreg_nb.wire.frames import FrameReader, Received
from mpreg_nb.wire.jobs import FromWorker

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer

READS = 4
"""Receptions of a large answer before others have their turn."""

_BUFFERS = 512  # given to one sendmsg; the system takes at most 1024


class WorkerStream:
    """Frames out, messages in.

    `on_messages` gets what one reception completed. `on_broken` is called when
    nothing more will come, with the reason if it is not that the end was closed.
    """

    def __init__(
        self,
        end: socket.socket,
        on_messages: Callable[[list[Received[FromWorker]]], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._on_messages = on_messages
        self._on_broken = on_broken
        self._reader: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._unsent: deque[Buffer] = deque()
        self._is_sending = False  # a write is scheduled, or waits for room
        self._is_full = False  # it waits for room
        self._is_closed = False
        self._loop.add_reader(end.fileno(), self._receive)

    def write(self, frames: "list[Buffer]") -> None:
        """Send frames, with all else of this turn of the loop."""
        self._unsent.extend(frames)
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        if self._is_closed:
            return
        while self._unsent:
            batch = [self._unsent.popleft()]
            while self._unsent and len(batch) < _BUFFERS:
                batch.append(self._unsent.popleft())
            try:
                sent = self._end.sendmsg(batch)
            except BlockingIOError:
                sent = 0
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()
                return  # the reading side tells
            left = _after(batch, sent)
            if left:
                self._unsent.extendleft(reversed(left))
                if not self._is_full:
                    self._is_full = True
                    self._loop.add_writer(self._end.fileno(), self._send)
                return
        self._is_sending = False
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._end.fileno())

    def _receive(self) -> None:
        for _ in range(READS):
            try:
                count = self._end.recv_into(self._reader.space())
            except BlockingIOError:
                return
            except ConnectionResetError:
                count = 0
            if not count:
                self._loop.remove_reader(self._end.fileno())
                self._on_broken("")
                return
            if self._take(count) or self._is_closed:
                return

    def _take(self, count: int) -> bool:
        """Pass on what came; False while a large answer is coming in."""
        try:
            received = self._reader.received(count)
        except (ValueError, msgspec.MsgspecError):
            self._on_broken("it wrote invalid data to its channel to the node")
            return True
        if received:
            self._on_messages(received)
        return bool(received)

    def drain(self) -> None:
        """Take what a worker had written before it ended."""
        try:
            while count := self._end.recv_into(self._reader.space()):
                self._take(count)
        except (BlockingIOError, ConnectionResetError):
            return

    def close(self) -> None:
        """Neither read nor write any more."""
        self._is_closed = True
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())


def _after(batch: "list[Buffer]", sent: int) -> "list[Buffer]":
    """Return what is left of `batch` when its first `sent` bytes are gone."""
    for number, part in enumerate(batch):
        length = len(part)
        if sent < length:
            return [memoryview(part)[sent:], *batch[number + 1 :]]
        sent -= length
    return []
