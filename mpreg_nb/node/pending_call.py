"""One call under way on this node, and the failures that can end it."""

import time
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from mpreg_nb.node.worker_pool import Crashed
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Load
from mpreg_nb.protocol.messages import Call, Failed, Failure, Reply
from mpreg_nb.protocol.worker import JobFailed
from mpreg_nb.routing.router import NoCandidate

Outcome: TypeAlias = Reply | Failed


class Sink(Protocol):
    """Where a call came from, and where all that it says goes."""

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> object:
        """Pass on what happened to the call."""
        ...


@dataclass(slots=True, eq=False)
class PendingCall:
    """One call, from its arrival to its outcome."""

    call: Call
    parts: tuple[Buffer, ...]
    source: Sink
    arrived: float  # on the monotonic clock
    node: str = ""  # where it is; "" while nothing is decided
    version: str = ""
    isolation: str = "process"  # as the function was registered
    sent: float = 0.0
    reroutes: int = 0
    waiting_told: bool = False  # the caller was told that it waits in a queue
    started: bool = False
    sought: bool = False  # its code was pulled, since the catalog did not have it
    answered: bool = False  # the caller has its outcome; the rest is clean-up
    cancelled: bool = False
    withdrawn: bool = False  # its source takes it back, unless it runs
    avoid: tuple[str, ...] = ()  # nodes that could not take it
    waited_us: int = 0  # for a node that fits
    size_bytes: int = 0  # of the arguments that are held for it

    def __post_init__(self) -> None:
        self.size_bytes = len(self.call.payload)
        if self.parts:
            self.size_bytes += sum(map(len, self.parts))

    def remaining_ms(self, now: float) -> int | None:
        """Return what is left of the time that the caller gave."""
        if self.call.remaining_ms is None:
            return None
        spent_ms = (now - self.arrived) * 1e3
        return max(0, int(self.call.remaining_ms - spent_ms))

    def failed(self, failure: Failure, load: Load | None = None) -> Failed:
        """Return the message that ends this call with `failure`."""
        queued_us = int((time.monotonic() - self.arrived) * 1e6) - self.waited_us
        return Failed(
            id=self.call.id,
            failure=failure,
            version=self.version,
            queued_us=max(0, queued_us),
            load=load,
        )


def failure_of(ended: JobFailed | Crashed, node: str) -> Failure:
    """Return why a job on `node` has no result."""
    if isinstance(ended, JobFailed):
        return Failure(
            kind=ended.kind,
            message=ended.message,
            executed=ended.executed,
            node=node,
            types=ended.types,
            size_bytes=ended.size_bytes,
            limit_bytes=ended.limit_bytes,
            argument_types=ended.argument_types,
        )
    return Failure(
        kind="worker_crashed",
        executed=ended.executed,
        node=node,
        cause=ended.cause,
        memory_mb=ended.memory_mb,
        lines=ended.last_lines,
    )


def no_route(refused: NoCandidate, node: str) -> Failure:
    """Return what `node` knows of why no live node fits a call."""
    return Failure(
        kind="no_route",
        node=node,
        offers=refused.offers,
        held=refused.held,
        similar=refused.similar,
        lines=tuple(sorted(refused.resources)),
        cause=refused.reason,
    )
