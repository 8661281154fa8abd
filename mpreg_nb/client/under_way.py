"""Which calls of one client run at this moment, steps of its runs included."""

from collections.abc import Iterable
from typing import NamedTuple

from mpreg_nb.client.calls import ActiveCall
from mpreg_nb.client.runs import RunRecord
from mpreg_nb.protocol.messages import SHOWN


class UnderWay(NamedTuple):
    """A call that a node runs now, as far as the client knows."""

    call_id: str  # "" for the call of a step
    function: str
    node: str
    started_at: float  # wall clock, when it left the queue
    run: str = ""
    step: str = ""


def under_way(
    calls: Iterable[ActiveCall], runs: Iterable[RunRecord], wall_offset_s: float
) -> list[UnderWay]:
    """Return what runs now, where the node that runs it is known.

    wall_offset_s: what makes a wall time of a reading of the monotonic clock. A step
    that maps over items is left out: its items are calls that are not known one by one.
    """
    found = [
        UnderWay(
            call_id=call.id.hex(),
            function=call.function,
            node=call.shown_node,
            started_at=(call.started or call.sent) + wall_offset_s,
        )
        for call in calls
        if call.is_running and call.shown_node
    ]
    for record in runs:
        for step in record.steps.values():
            if step.status != "running" or step.started_ms is None or step.items:
                continue
            found.append(
                UnderWay(
                    call_id="",
                    function=record.functions.get(step.name, step.name),
                    node=step.node,
                    started_at=record.started_at_s + step.started_ms / 1e3,
                    run=record.id.hex()[:SHOWN],
                    step=step.name,
                )
            )
    return found
