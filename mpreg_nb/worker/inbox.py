"""What the node sends: code, jobs, and ids of jobs to interrupt."""

import os
import socket
from collections import deque
from typing import Any, TypeAlias

from mpreg_nb.wire.frames import FrameReader, Received
from mpreg_nb.wire.items import take_apart
from mpreg_nb.wire.jobs import ID_BYTES, Job, Setup, ToWorker
from mpreg_nb.wire.room import Room
from mpreg_nb.worker.code import Codes, KeptCode

TAKE_APART = KeptCode.of(take_apart)
"""What runs in place of a function whose argument is to be taken apart."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Task:
    """A job with its parts and its code."""

    __slots__ = ("code", "given", "job", "number", "parts")

    def __init__(
        self, job: Job, parts: tuple[Room, ...], code: KeptCode, number: int
    ) -> None:
        self.job = job
        self.parts = parts
        self.code = code
        self.number = number
        self.given: Arguments = ((), {})  # once they are unpacked


class Inbox:
    """Tasks in the order in which they came. Only the main thread reads."""

    def __init__(self, stream: socket.socket, cancels: int) -> None:
        self._receive = stream.recv_into
        self._cancels = cancels
        self._reader: FrameReader[ToWorker] = FrameReader(ToWorker)
        self._codes = Codes()
        self._tasks = 0  # that have come so far
        self.waiting: deque[Task] = deque()

    def first(self) -> ToWorker:
        """Return the first message; what came with it waits."""
        while True:
            received = self._read()
            if received:
                first, *others = received
                self._sort(others)
                return first[0]

    def wait(self) -> None:
        """Read until there is a task.

        Raises:
            ConnectionAbortedError: the node has closed its end.
        """
        while not self.waiting:
            self.read()

    def read(self) -> None:
        """Read once: what comes may be no task, or several.

        Raises:
            ConnectionAbortedError: the node has closed its end.
        """
        self._sort(self._read())

    def _read(self) -> list[Received[ToWorker]]:
        count = self._receive(self._reader.space())
        if not count:
            raise ConnectionAbortedError("the node has closed its end")
        return self._reader.received(count)

    def _sort(self, received: list[Received[ToWorker]]) -> None:
        for message, parts in received:
            if isinstance(message, Job):
                code = self._codes.used(message.version)
                if message.split:
                    code = TAKE_APART
                self._tasks += 1
                self.waiting.append(Task(message, parts, code, self._tasks))
            elif not isinstance(message, Setup):
                self._codes.add(message, parts)

    def cancels(self) -> list[bytes]:
        """Return ids of jobs to interrupt; may be called in a signal handler."""
        try:
            data = os.read(self._cancels, 4096)
        except BlockingIOError:
            return []
        return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]
