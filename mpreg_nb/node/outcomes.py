"""What workers and the router say went wrong, as it travels to the caller."""

from mpreg_nb.node.endings import Crashed
from mpreg_nb.routing.router import Refused
from mpreg_nb.wire.jobs import JobFailed
from mpreg_nb.wire.messages import Failure


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


def no_route(refused: Refused, node: str) -> Failure:
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
