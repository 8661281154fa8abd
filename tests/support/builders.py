"""Snapshots of a cluster, for tests of frames, views and tables."""

from typing import Any

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.client.under_way import UnderWay
from mpreg_nb.protocol.gossip import Load, MemberRecord, MemberState, Offer
from mpreg_nb.protocol.messages import EventSnapshot, NodeSnapshot, Snapshot

V1, V2 = "1" * 32, "2" * 32
NOW = 1_750_000_000.0


def node(
    name: str,
    *resources: str,
    state: MemberState = MemberState.ALIVE,
    load: Load | None = None,
    rtt_ms: float | None = None,
) -> NodeSnapshot:
    record = MemberRecord(
        name=name,
        generation=1,
        epoch=b"e" * 16,
        state=state,
        resources=frozenset(resources),
        host="lab",
        python="3.11.7",
        workers=2,
        slots=3,
    )
    return NodeSnapshot(record=record, load=load, rtt_ms=rtt_ms)


def offer(
    function: str, version: str = V1, *resources: str, counter: int = 1, **more: Any
) -> Offer:
    return Offer(
        function=function,
        version=version,
        resources=frozenset(resources),
        counter=counter,
        origin="cpu-1",
        signature=more.pop("signature", "(x)"),
        **more,
    )


def snapshot(
    *nodes: NodeSnapshot,
    offers: tuple[tuple[str, Offer], ...] = (),
    events: tuple[EventSnapshot, ...] = (),
) -> Snapshot:
    return Snapshot(
        id=b"i" * 16, node="cpu-1", nodes=nodes, offers=offers, events=events
    )


def call(function: str, node: str, total_us: int = 1000, **more: Any) -> CallRow:
    values: dict[str, Any] = {
        "call_id": "00",
        "via": "",
        "status": "done",
        "queued_us": 100,
        "run_us": 500,
        "serialize_us": 50,
        "sent_bytes": 120,
        "received_bytes": 80,
        "started_at": 1_750_000_000.5,
    }
    return CallRow(function=function, node=node, total_us=total_us, **(values | more))


def ran(
    begin: float, end: float, function: str = "f", node: str = "n1", **more: Any
) -> CallRow:
    """Return the row of a call that ran from `begin` to `end`, in seconds from NOW."""
    run_us = round((end - begin) * 1e6)
    values: dict[str, Any] = {
        "run_us": run_us,
        "queued_us": 0,
        "serialize_us": 0,
        "started_at": NOW + begin,
    }
    return call(function, node, run_us, **(values | more))


def runs(call_id: str, begin: float, function: str = "f", **more: str) -> UnderWay:
    return UnderWay(call_id, function, "n1", NOW + begin, **more)
