"""What has arrived of a call: noted at once, rebuilt where it is asked for.

Rebuilding a value or an exception runs code of users: imports, `__setstate__`,
whatever a pickle calls. That never happens on the loop of a client, where it could
hold up or end the calls of others.
"""

import threading
import time
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.calls import ActiveCall
from mpreg_nb.client.statistics import CallLog, CallRow, ChunkRow
from mpreg_nb.errors import NodeLost, NotPicklable, RemoteError
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import Failed, Reply
from mpreg_nb.serialize.chunks import job_failure, outcome_of_chunk
from mpreg_nb.serialize.code import BUILTINS
from mpreg_nb.serialize.exceptions import call_status, error_of
from mpreg_nb.serialize.pickle import size_bytes, unpack

Rebuilt: TypeAlias = tuple[Any, BaseException | None]
"""A value and None, or None and the error to raise."""


class Arrived:
    """The outcome of one call, as the bytes that came."""

    __slots__ = ("_call", "_outcome", "_parts", "_rebuilding", "_rebuilt", "_row")

    def __init__(
        self,
        call: ActiveCall,
        outcome: Outcome,
        parts: tuple[Buffer, ...],
        row: CallRow,
    ) -> None:
        # Somebody may hold very many results that nobody has read yet: of a plain one
        # only its bytes.
        is_plain = type(outcome) is Reply and not outcome.builtin
        self._call = None if is_plain else call
        self._outcome = None if is_plain else outcome
        self._parts = parts if parts or not is_plain else (outcome.payload,)
        self._row = row
        self._rebuilt: Rebuilt | None = None
        self._rebuilding = threading.Lock()

    @property
    def failed(self) -> bool:
        """Whether an error has arrived. Costs nothing: no byte is looked at."""
        return type(self._outcome) is Failed

    @property
    def was_cancelled(self) -> bool:
        """Whether the call ended because it was cancelled."""
        outcome = self._outcome
        return type(outcome) is Failed and outcome.failure.kind == "cancelled"

    def rebuild(self) -> Rebuilt:
        """Return the value or the error; the same objects each time.

        An error in rebuilding is the error of this call. KeyboardInterrupt alone is
        raised: it is Stop, and the next who asks rebuilds again.
        """
        if self._rebuilt is None:
            with self._rebuilding:
                if self._rebuilt is None:
                    self._rebuilt = self._rebuild()
                    self._parts = ()
        return self._rebuilt

    def value(self) -> Any:
        """Return the value, or raise the error."""
        return value_of(self.rebuild())

    def _rebuild(self) -> Rebuilt:
        outcome = self._outcome
        if type(outcome) is Failed:
            return None, self._error(outcome)
        began = time.perf_counter()
        parts = self._parts if outcome is None else self._parts or (outcome.payload,)
        value, error = rebuilt(parts, name="result")
        if error is None and outcome is not None:  # of a builtin
            value = BUILTINS[self._known.function](*value[0], **value[1])
        if error is not None:
            self._row.status = "failed"
        self._row.add_unpacking(int((time.perf_counter() - began) * 1e6))
        return value, error

    @property
    def _known(self) -> ActiveCall:
        if self._call is None:
            raise AssertionError("a plain result needs nothing of its call")
        return self._call

    def _error(self, failed: Failed) -> Exception:
        call = self._known
        error = error_of(
            failed,
            self._parts,
            function=call.shown_name,
            resources=call.options.resources,
            node=call.options.node,
            timeout_s=call.options.timeout_s or 0.0,
        )
        if isinstance(error, NodeLost) and call.prints is not None:
            return NodeLost(
                error.node,
                error.reason,
                function=error.function,
                executed=error.executed,
                last_lines=call.prints.last_lines,
            )
        return error


def value_of(found: Rebuilt) -> Any:
    """Return the value, or raise the error."""
    value, error = found
    if error is not None:
        try:
            raise error
        finally:
            del error, found  # else the traceback would hold itself
    return value


def rebuilt(parts: Parts, *, name: str) -> Rebuilt:
    """Return what `parts` hold, or the error that rebuilding it ended in.

    Raises KeyboardInterrupt, which is Stop, and nothing else.
    """
    try:
        return unpack(parts, name=name), None
    except NotPicklable as error:
        return None, error


def awaited(error: BaseException) -> BaseException:
    """Return `error` as an await can raise it.

    It would take a StopIteration for the end of the coroutine, and return.
    """
    if not isinstance(error, StopIteration):
        return error
    plain = RemoteError(f"StopIteration: {error}")
    plain.__dict__.update(error.__dict__)
    return plain


def arrive(
    call_log: CallLog,
    call: ActiveCall,
    outcome: Outcome,
    parts: tuple[Buffer, ...],
    *,
    stopped: bool = False,
) -> Arrived:
    """Note in the call log what a call took, and return what has arrived of it.

    What went by before it was last sent is a wait. stopped: its caller no longer
    waits for it.
    """
    status, node = "done", ""
    if type(outcome) is Reply:
        node = call.to if outcome.node == call.to else outcome.node  # one for all
        if outcome.version and not stopped:
            call_log.add_result(call.function, outcome.version)
    else:
        failed: Failed = outcome  # type: ignore[assignment]
        status = call_status(failed.failure)
        # Who says that nobody fits has not taken the call.
        node = "" if failed.failure.kind == "no_route" else failed.failure.node
    row = _row(call, outcome, parts, node, "cancelled" if stopped else status)
    call_log.add(row)
    return Arrived(call, outcome, parts, row)


class ArrivedChunk(msgspec.Struct, frozen=True):
    """What became of the calls of a chunk: the results of the first, as bytes.

    counts: as in `ChunkOutcome`. failed: the one after them, if it failed. What is left
    has not run.
    """

    done: int
    results: list[bytes]
    counts: list[int]
    failed: Arrived | None
    run_s: float  # of all that ran


def arrive_chunk(
    call_log: CallLog, call: ActiveCall, reply: Reply, parts: tuple[Buffer, ...]
) -> ArrivedChunk:
    """Note in the call log what each call of a chunk took; return what has arrived.

    Raises:
        msgspec.DecodeError: a node answered something else.
    """
    outcome = outcome_of_chunk(parts[0] if parts else reply.payload)
    if outcome.run_us:
        whole = _row(call, reply, parts, reply.node, "done")
        call_log.add_chunk(ChunkRow(whole, outcome.run_us))
        call_log.add_result(call.function, reply.version, len(outcome.run_us))
    failed: Arrived | None = None
    if outcome.failed is not None:
        failure = Failed(
            id=call.id,
            failure=job_failure(outcome.failed, reply.node),
            payload=outcome.failed.payload,
            version=reply.version,
            queued_us=reply.queued_us,
            run_us=outcome.failed.run_us,
        )
        failed = arrive(call_log, call, failure, ())
    done, counts = len(outcome.run_us), outcome.counts
    return ArrivedChunk(done, outcome.results, counts, failed, reply.run_us / 1e6)


def _row(
    call: ActiveCall,
    outcome: Outcome,
    parts: tuple[Buffer, ...],
    node: str,
    status: str,
) -> CallRow:
    total_us = int((time.monotonic() - call.began) * 1e6) + call.pack_us
    entry = "" if call.to or call.link is None else call.link.peer.name
    return CallRow(
        call_id=call.id.hex(),
        function=call.function,
        node=node,
        via="" if entry == node else entry,
        status=status,
        waited_us=outcome.waited_us + max(0, int((call.sent - call.began) * 1e6)),
        queued_us=outcome.queued_us,
        run_us=outcome.run_us,
        serialize_us=call.pack_us,
        total_us=total_us,
        sent_bytes=len(call.payload) + size_bytes(call.parts),
        received_bytes=len(outcome.payload) + size_bytes(parts),
        started_at=time.time() - total_us / 1e6,
    )
