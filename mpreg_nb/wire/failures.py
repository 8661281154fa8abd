"""What a node says went wrong, as the error that a user sees."""

from mpreg_nb.errors import (
    BadRequest,
    CallCancelled,
    CallTimeout,
    NodeLost,
    NoRoute,
    NotPicklable,
    Overloaded,
    PayloadTooLarge,
    WorkerCrashed,
)
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.messages import Failed


def error_of(
    failed: Failed,
    parts: Parts,
    *,
    function: str,
    resources: frozenset[str] = frozenset(),
    node: str | None = None,
    timeout_s: float = 0.0,
) -> Exception:
    """Return the error to raise for `failed`, an answer to a call of `function`.

    `node` is where the call was narrowed to, `timeout_s` what it was given.
    """
    failure = failed.failure
    match failure.kind:
        case "application":
            from mpreg_nb.wire.payload import remote_error

            whole = parts or (failed.payload,)
            error = remote_error(whole, function=function, node=failure.node)
            vars(error)["argument_types"] = failure.argument_types
            return error
        case "no_route":
            return NoRoute(
                function,
                frozenset(failure.lines) or resources,
                dict(failure.offers),
                held=dict(failure.held),
                pinned=node,
                similar=failure.similar or None,
            )
        case "no_code":
            return NoRoute(function, resources, {})
        case "overloaded":
            return Overloaded(function, failure.size_bytes)
        case "deadline":
            return CallTimeout(function, timeout_s, executed=failure.executed)
        case "cancelled":
            return CallCancelled(function, executed=failure.executed)
        case "draining":
            return NodeLost(
                failure.node, "it is leaving", function=function, executed="no"
            )
        case "node_lost":
            return NodeLost(
                failure.node or "of the link",
                failure.message or "the link was lost",
                function=function,
                executed=failure.executed,
            )
        case "gone":
            return NodeLost(
                failure.node or "that made it",
                failure.message or "it no longer holds the result",
                function=function,
                executed="yes",
            )
        case "worker_crashed":
            return WorkerCrashed(
                function,
                failure.node,
                failure.cause,
                memory_mb=failure.memory_mb,
                last_lines=failure.lines,
                executed=failure.executed,
            )
        case "too_large":
            return PayloadTooLarge(
                f"the arguments or the result of {function}",
                failure.size_bytes,
                failure.limit_bytes,
            )
        case "not_picklable":
            return NotPicklable(f"the result of {function}", failure.message)
        case "bad_request":
            return BadRequest(failure.message)
