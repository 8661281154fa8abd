"""One call under way on this node, and the failures that can end it."""

import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from mpreg_nb.calls.pending import CallState, Outcome
from mpreg_nb.node.worker_pool import Crashed
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Load
from mpreg_nb.protocol.messages import Call, Failed, Failure
from mpreg_nb.protocol.worker import JobFailed
from mpreg_nb.routing.router import NoCandidate, Wanted
from mpreg_nb.serialize.chunks import job_failure


class Sink(Protocol):
    """Where a call came from, and where all that it says goes."""

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> object:
        """Pass on what happened to the call."""
        ...


class CallOwner(Protocol):
    """Who keeps a call that runs here, and hears what becomes of it."""

    def began(self, pending: "PendingCall") -> None:
        """Note that it has left the queue and runs."""
        ...

    def given_back(self, pending: "PendingCall") -> None:
        """Note that it has not begun after all, and is in the queue again."""
        ...

    def finish(
        self, pending: "PendingCall", outcome: Outcome, parts: tuple[Buffer, ...] = ()
    ) -> None:
        """Take its outcome."""
        ...

    def retry_elsewhere(self, pending: "PendingCall") -> None:
        """Find another node for it: it cannot begin here after all."""
        ...

    def news(self) -> Load | None:
        """Return the load of this node for its answer, where that says anything new."""
        ...


class Followers(NamedTuple):
    """Calls of a run that its worker can go on with, see `Job.then`."""

    calls: tuple[Call, ...]
    limit_s: float  # of the expected time of all, the call before them included


@dataclass(eq=False)
class PendingCall(CallState):
    """One call on this node, from its arrival to its outcome."""

    call: Call
    parts: tuple[Buffer, ...]
    sink: Sink
    owner: CallOwner
    version: str = field(default="", init=False)
    # As the function was registered.
    isolation: str = field(default="process", init=False)
    # Its code was pulled, since the catalog did not have it.
    sought: bool = field(default=False, init=False)
    waited_us: int = field(default=0, init=False)  # for a node that fits
    # Of the arguments that are held for it.
    size_bytes: int = field(default=0, init=False)
    # Its client has it among the calls that it may have on its way over this link.
    credited: Sink | None = field(default=None, init=False)
    # What its worker can go on with.
    then: "Followers | None" = field(default=None, init=False)
    # The same call, which came once more.
    again: "PendingCall | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.id = self.call.id
        self.size_bytes = len(self.call.payload)
        if self.parts:
            self.size_bytes += sum(map(len, self.parts))

    @property
    def wanted(self) -> Wanted:
        """What it asks of a node, wherever its caller wants it to run."""
        return Wanted(self.call.function, self.call.version, self.call.resources)

    @property
    def is_movable(self) -> bool:
        """Whether this node may send it to another one."""
        return self.call.hops_left > 0 and self.call.node is None

    @property
    def is_own(self) -> bool:
        """Whether it is a step of a run that this node coordinates."""
        return self.call.keep and self.call.hops_left > 0

    def remaining_ms(self, now: float) -> int | None:
        """Return what is left of the time that the caller gave."""
        if self.call.remaining_ms is None:
            return None
        spent_ms = (now - self.began) * 1e3
        return max(0, int(self.call.remaining_ms - spent_ms))

    def failed(self, failure: Failure, load: Load | None = None) -> Failed:
        """Return the message that ends this call with `failure`."""
        queued_us = int((time.monotonic() - self.began) * 1e6) - self.waited_us
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
        return job_failure(ended, node)
    return Failure(
        kind="worker_crashed",
        executed=ended.executed,
        node=node,
        cause=ended.cause,
        memory_mb=ended.memory_mb,
        lines=ended.last_lines,
        ran=ended.ran,
    )


def broken(error: BaseException, node: str) -> Failure:
    """Return why a request has no result whose handling raised."""
    text = f"node {node} could not handle it: {type(error).__name__}: {error}"
    return Failure(kind="bad_request", message=text, node=node, executed="unknown")


def no_route(refused: NoCandidate, node: str, engine: str) -> Failure:
    """Return what `node` knows of why no live node fits a call.

    engine: URL of what runs the calls; "": nodes do.
    """
    return Failure(
        kind="no_route",
        node=node,
        offers=refused.offers,
        held=refused.held,
        similar=refused.similar,
        lines=tuple(sorted(refused.resources)),
        cause=refused.reason_on(engine),
        engine=engine,
    )
