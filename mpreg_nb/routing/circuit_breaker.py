"""Stops sending to a node that keeps failing one function, for a while.

Counts only what the infrastructure did: lost nodes, timeouts before the start,
crashed workers. An exception of the function is an answer, and a full queue is
load; neither opens a breaker. Sources: Envoy's outlier detection (consecutive
failures, success rate, growing ejection time, at most a share is ejected), Hystrix
(half-open probes).
"""

from collections.abc import Sequence

import msgspec

FAILURES_TO_OPEN = 5
"""In a row. Fewer would eject a node for a single burst."""

LEAST_SUCCESS = 0.8
WINDOW_S = 30.0
LEAST_CALLS = 20
"""It opens too if a smaller share than `LEAST_SUCCESS` of the calls since the first
failure, within the window, went well; of fewer calls that says nothing."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

SUCCESSES_TO_CLOSE = 2
"""Probes that must pass, one at a time, before all calls may go there again."""


def pause_s(times_opened: int) -> float:
    """Return how long the breaker stays open the `times_opened`-th time.

    >>> [pause_s(n) for n in (1, 2, 3, 9, 2000)]
    [1.0, 2.0, 4.0, 60.0, 60.0]
    """
    doublings = min(times_opened - 1, 16)  # more change nothing, and may be too many
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**doublings)


class Breaker(msgspec.Struct):
    """One (node, function) pair."""

    failures: int = 0  # in a row
    since: float = 0.0  # begin of the window
    calls: int = 0  # that ended in the window
    lost: int = 0  # of these
    times_opened: int = 0
    open_until: float | None = None  # None: closed
    successes: int = 0  # of probes, while half-open
    probing: bool = False

    def allows(self, now: float) -> bool:
        """Say whether a call may go there now."""
        if self.open_until is None:
            return True
        return now >= self.open_until and not self.probing

    def count(self, now: float, *, lost: bool) -> bool:
        """Count the end of a call; return whether too many of the last were lost."""
        if now - self.since >= WINDOW_S:
            self.since, self.calls, self.lost = now, 0, 0
        self.calls += 1
        self.lost += lost
        enough = self.calls >= LEAST_CALLS
        return enough and self.calls - self.lost < LEAST_SUCCESS * self.calls


class Breakers:
    """All breakers of one router; only pairs that failed lately have one."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], Breaker] = {}

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def allows(self, node: str, function: str, now: float) -> bool:
        """Say whether `function` may be called on `node` now."""
        breaker = self._pairs.get((node, function))
        return breaker is None or breaker.allows(now)

    def allowed(
        self, nodes: Sequence[str], function: str, now: float
    ) -> frozenset[str]:
        """Return those of `nodes` that may be called, at least half of them.

        A node with an open breaker serves better than none, and than one alone.
        """
        allowed = [node for node in nodes if self.allows(node, function, now)]
        least = (len(nodes) + 1) // 2
        if len(allowed) >= least:
            return frozenset(allowed)
        badness = {node: self._badness(node, function) for node in nodes}
        limit = sorted(badness.values())[least - 1]
        return frozenset((*allowed, *(n for n in nodes if badness[n] <= limit)))

    def _badness(self, node: str, function: str) -> tuple[int, float]:
        breaker = self._pairs.get((node, function))
        if breaker is None or breaker.open_until is None:
            return 0, 0.0
        return breaker.times_opened, breaker.open_until

    def sent(self, node: str, function: str, now: float) -> None:
        """Mark a call to a half-open pair as its one probe."""
        breaker = self._pairs.get((node, function))
        if breaker is not None and breaker.open_until is not None:
            breaker.probing = True

    def succeeded(self, node: str, function: str, now: float) -> bool:
        """Count an answer; return whether this closed the breaker."""
        pair = (node, function)
        breaker = self._pairs.get(pair)
        if breaker is None:
            return False
        breaker.failures = 0
        if breaker.open_until is None:
            breaker.count(now, lost=False)
            if not breaker.lost:
                del self._pairs[pair]
            return False
        breaker.probing = False
        breaker.successes += 1
        if breaker.successes < SUCCESSES_TO_CLOSE:
            return False
        del self._pairs[pair]
        return True

    def failed(self, node: str, function: str, now: float) -> bool:
        """Count a failure of the infrastructure; return whether this opened it."""
        breaker = self._pairs.setdefault((node, function), Breaker(since=now))
        breaker.failures += 1
        half_open = breaker.open_until is not None
        too_many = breaker.count(now, lost=True)
        if not half_open and breaker.failures < FAILURES_TO_OPEN and not too_many:
            return False
        breaker.times_opened += 1
        breaker.successes = 0
        breaker.probing = False
        breaker.open_until = now + pause_s(breaker.times_opened)
        return not half_open

    def forget(self, node: str) -> None:
        """Close all breakers of a node that has started anew."""
        for pair in [pair for pair in self._pairs if pair[0] == node]:
            del self._pairs[pair]
