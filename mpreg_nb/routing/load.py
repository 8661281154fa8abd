"""How busy each node is, as one router knows it, and which of two is better.

Three sources: what this router sent there and has no answer to yet, which is exact;
what the node last said of itself, which tells of the calls of others; and how long
its answers took. The latency follows rises at once and falls slowly (peak-EWMA of
Twitter's Finagle), so that a node that turns slow is avoided within one answer.
"""

import math

import msgspec

from mpreg_nb.protocol.gossip import Load

NEUTRAL_LATENCY_S = 0.001
"""Assumed of a node that has not answered yet; less would flood a newcomer."""

WORK_S = 0.1
"""What a call is assumed to take where it runs. So a node whose latency is well above
`LATE_S` is avoided, although it is less busy."""

LATE_S = 0.25
"""A latency up to this is also that of a healthy node on a busy machine. It decides
between nodes that are equally busy, and so leaves no slot free."""

NEAR_WEIGHT = 0.01
"""How much of a latency up to `LATE_S` counts."""

DECAY_S = 10.0
"""In this time a latency peak falls to 1/e of its distance to what is measured."""

STALE_S = 5.0
"""A report older than this says nothing any more."""


def peak_ewma_s(old_s: float, sample_s: float, elapsed_s: float) -> float:
    """Return the latency after a new sample: the peak at once, else decayed.

    Source: Finagle, PeakEwma load balancer.

    >>> peak_ewma_s(0.010, 0.500, elapsed_s=1.0)
    0.5
    >>> round(peak_ewma_s(0.500, 0.010, elapsed_s=DECAY_S), 3)
    0.19
    """
    if sample_s >= old_s:
        return sample_s
    weight = math.exp(-elapsed_s / DECAY_S)
    return old_s * weight + sample_s * (1.0 - weight)


class NodeLoad(msgspec.Struct):
    """What one router knows of one node."""

    in_flight: int = 0
    latency_s: float = NEUTRAL_LATENCY_S
    sampled_at: float = -math.inf
    reported: Load | None = None
    reported_at: float = -math.inf
    others: int = 0  # calls that the report counted besides those of this router

    @property
    def has_answered(self) -> bool:
        """Whether this router has had an answer of it."""
        return self.sampled_at > -math.inf

    def free_slots(self, now: float) -> int:
        """Return how many slots nobody is known to use."""
        report = self.reported
        if report is None:
            return max(0, 1 - self.in_flight)
        busy = self.in_flight
        if now - self.reported_at <= STALE_S:
            if report.degraded:
                return 0
            busy += self.others
        return max(0, report.slots - busy)

    def score(self, now: float) -> float:
        """Return the expected wait, in arbitrary units; the lower the better.

        Of nodes that are not late, the one with fewer calls per slot has the lower.
        """
        busy, slots, degraded = self.in_flight, 1, False
        report = self.reported
        if report is not None:
            slots = max(1, report.slots)
            if now - self.reported_at <= STALE_S:
                busy += self.others
                degraded = report.degraded
        late_s = max(0.0, self.latency_s - LATE_S)
        near_s = self.latency_s - late_s
        score = (busy + 1) / slots * (WORK_S + NEAR_WEIGHT * near_s + late_s)
        return score * 10.0 if degraded else score


class Loads:
    """The loads of all nodes; its owner tells it of calls and answers."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeLoad] = {}

    def __getitem__(self, node: str) -> NodeLoad:
        load = self._nodes.get(node)
        if load is None:
            load = self._nodes[node] = NodeLoad()
        return load

    def sent(self, node: str) -> None:
        """Count a call on its way to `node`."""
        self[node].in_flight += 1

    def answered(self, node: str, latency_s: float | None, now: float) -> None:
        """Count an answer; `latency_s` without the time that the function ran.

        `None` says that the call ended without telling anything of the node.
        """
        load = self[node]
        if load.in_flight > 0:
            load.in_flight -= 1
        if latency_s is not None:
            elapsed_s = min(now - load.sampled_at, 10 * DECAY_S)
            load.latency_s = peak_ewma_s(load.latency_s, latency_s, elapsed_s)
            load.sampled_at = now

    def report(self, node: str, load: Load, now: float) -> None:
        """Take what `node` says of itself, unless it is no newer than what is known.

        It comes by several ways: with answers, with gossip, by way of the entry.
        """
        known = self[node]
        before = known.reported
        if before is not None and load.serial <= before.serial and load.serial:
            if now - known.reported_at <= STALE_S:
                return
        known.reported = load
        known.reported_at = now
        # Ours may have come there after the report was made: these are no fewer.
        known.others = max(0, load.running + load.queued - known.in_flight)

    def reported(self, node: str) -> Load | None:
        """Return what `node` last said of itself, if it has said anything."""
        known = self._nodes.get(node)
        return None if known is None else known.reported

    def forget(self, node: str) -> None:
        """Drop what is known of a node that is gone or has started anew."""
        self._nodes.pop(node, None)

    def better(self, one: str, other: str, now: float) -> str:
        """Return the node of the two that should get the next call."""
        return one if self[one].score(now) <= self[other].score(now) else other
