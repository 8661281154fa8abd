"""Turns the outcome of a call into a value or an error, and notes what it took."""

import time
from typing import Any

from mpreg_nb.client.calls import ActiveCall, Outcome
from mpreg_nb.client.future import Undecoded
from mpreg_nb.client.journal import CallRow, Journal
from mpreg_nb.errors import NodeLost, RemoteError
from mpreg_nb.wire.builtins import BUILTINS
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.failures import call_status, error_of
from mpreg_nb.wire.messages import Failed, Reply
from mpreg_nb.wire.payload import size_bytes, unpack


def settle(
    journal: Journal,
    future: Any,
    call: ActiveCall,
    outcome: Outcome,
    parts: tuple[Buffer, ...],
) -> None:
    """Set the result or the exception of `future`.

    A small result is unpickled here, a large one by whoever asks for it.
    """
    total_us = int((time.monotonic() - call.began) * 1e6) + call.pack_us
    began = time.perf_counter()
    status, node = "done", ""
    value: Any = None
    error: Exception | None = None
    if type(outcome) is Reply:
        node = outcome.node
        try:
            if parts and not outcome.builtin:
                value = Undecoded(parts)
            else:
                value = unpack(parts or (outcome.payload,), name="result")
            if outcome.builtin:
                value = BUILTINS[call.function](*value[0], **value[1])
        except Exception as failed:  # noqa: BLE001 - unpickling runs user code
            status, error = "failed", failed
    else:
        failed_outcome: Failed = outcome  # type: ignore[assignment]
        failure = failed_outcome.failure
        status = call_status(failure)
        # Who says that nobody fits has not taken the call.
        node = "" if failure.kind == "no_route" else failure.node
        error = error_of(
            failed_outcome,
            parts,
            function=call.function,
            resources=call.resources,
            node=call.node,
            timeout_s=call.timeout_s or 0.0,
        )
        if isinstance(error, NodeLost) and call.prints is not None:
            error = NodeLost(
                error.node,
                error.reason,
                function=error.function,
                executed=error.executed,
                last_lines=call.prints.last_lines,
            )
        if isinstance(error, StopIteration):
            error = _plain(error)
    unpack_us = int((time.perf_counter() - began) * 1e6)
    note(journal, call, outcome, parts, status, node, total_us, unpack_us)
    if error is None:
        if outcome.version:
            journal.add_result(call.function, outcome.version)
        future.set_result(value)
    else:
        future.set_exception(error)


def note_stopped(
    journal: Journal, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
) -> None:
    """Note the end of a call that its caller had stopped waiting for."""
    total_us = int((time.monotonic() - call.began) * 1e6) + call.pack_us
    node = outcome.node if type(outcome) is Reply else ""
    if type(outcome) is Failed:
        node = outcome.failure.node
    note(journal, call, outcome, parts, "cancelled", node, total_us, 0)


def note(
    journal: Journal,
    call: ActiveCall,
    outcome: Outcome,
    parts: tuple[Buffer, ...],
    status: str,
    node: str,
    total_us: int,
    unpack_us: int,
) -> None:
    """Note a call that has ended. What went by before it was last sent is a wait."""
    entry = "" if call.to or call.link is None else call.link.peer.name
    journal.add(
        CallRow(
            call_id=call.id.hex(),
            function=call.function,
            node=node,
            via="" if entry == node else entry,
            status=status,
            waited_us=outcome.waited_us + max(0, int((call.sent - call.began) * 1e6)),
            queued_us=outcome.queued_us,
            run_us=outcome.run_us,
            serialize_us=call.pack_us + unpack_us,
            total_us=total_us + unpack_us,
            sent_bytes=len(call.payload) + size_bytes(call.parts),
            received_bytes=len(outcome.payload) + size_bytes(parts),
            started_at=time.time() - total_us / 1e6,
        )
    )


def _plain(error: Exception) -> RemoteError:
    """Return a RemoteError that is no StopIteration: an await would take that for
    the end of the coroutine, and return instead of raising.
    """
    plain = RemoteError(f"StopIteration: {error}")
    plain.__dict__.update(error.__dict__)
    return plain
