"""When a call may be tried again, how soon, and how often in all.

Only the caller's side retries; nodes in between merely choose another node for
a call that has not run. Otherwise three tries at each of three hops would be 27.
"""

from collections import deque
from typing import Literal, Protocol, TypeAlias

from mpreg_nb.protocol.messages import Failure

MOST_ATTEMPTS = 3
"""Of a call that may run twice."""

MOST_TRIES = 10
"""Of a call that certainly did not run, at nodes that refused it or are gone."""

MOST_CRASHES = 2
"""Worker processes that one call may cost before it is given up as poison."""

OVERLOAD_PATIENCE_S = 30.0
"""How long a call knocks at full queues while no other call of its caller ends."""

LONGEST_BACKOFF_S = 2.0
FIRST_BACKOFF_S = 0.05
MOST_DOUBLINGS = 16
"""More change nothing, and a number is as large as a float can be after 1,023."""

Verdict: TypeAlias = Literal["give up", "again", "again later", "register first"]


class Jitter(Protocol):
    """The one thing that is asked of a source of randomness."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


def backoff_s(attempt: int, chance: Jitter) -> float:
    """Return the pause before try `attempt` (1 is the second try), full jitter.

    Uniform in [0, min(2 s, 50 ms * 2**attempt)). Source: M. Brooker, "Exponential
    Backoff and Jitter", 2015.
    """
    doublings = min(attempt, MOST_DOUBLINGS)
    return chance.random() * min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**doublings)


class RetryBudget:
    """Bounds retries to a share of recent calls, so that they never snowball.

    20 % of the calls of the last ten seconds, and ten a second in any case.
    Source: Finagle's RetryBudget.
    """

    def __init__(
        self, *, share: float = 0.2, floor_per_s: float = 10.0, window_s: float = 10.0
    ) -> None:
        self._share = share
        self._floor = floor_per_s * window_s
        self._window_s = window_s
        self._calls = 0
        self._slices: deque[tuple[float, int]] = deque()  # start, calls in it
        self._retries: deque[float] = deque()

    def count_call(self, now: float) -> None:
        """Count one first attempt."""
        if not self._slices or now - self._slices[-1][0] >= self._window_s / 10:
            self._forget(now)
            self._slices.append((now, 0))
        start, calls = self._slices[-1]
        self._slices[-1] = (start, calls + 1)
        self._calls += 1

    def take(self, now: float) -> bool:
        """Take one retry out of the budget; false when there is none left."""
        self._forget(now)
        if len(self._retries) >= self._floor + self._share * self._calls:
            return False
        self._retries.append(now)
        return True

    def _forget(self, now: float) -> None:
        edge = now - self._window_s
        while self._slices and self._slices[0][0] < edge:
            self._calls -= self._slices.popleft()[1]
        while self._retries and self._retries[0] < edge:
            self._retries.popleft()


def judge(
    failure: Failure, *, idempotent: bool, attempts: int, crashes: int
) -> Verdict:
    """Say what to do about a call that failed for the `attempts`-th time.

    `crashes` counts the workers that died under it, this one included.
    """
    match failure.kind:
        case "overloaded":
            return "again later"
        case "no_code":
            return "register first"
        case "draining":
            return "again" if attempts < MOST_TRIES else "give up"
        case "node_lost" | "worker_crashed":
            if failure.executed == "no":
                return "again" if attempts < MOST_TRIES else "give up"
            if crashes >= MOST_CRASHES or attempts >= MOST_ATTEMPTS:
                return "give up"
            return "again" if idempotent else "give up"
        case _:
            return "give up"
