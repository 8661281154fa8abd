"""How long a member is suspect before it is declared dead, by Lifeguard."""

import math

from mpreg_nb.protocol.gossip import NodeName

MOST_ACCUSERS = 16
"""Names that one verdict carries; more accusers would change nothing."""


def suspicion_timeout_s(
    confirmations: int, expected: int, *, shortest_s: float, longest_s: float
) -> float:
    """Return the seconds from first suspicion to death, so many having confirmed.

    longest - (longest - shortest) * log(c + 1) / log(k + 1), never below shortest.
    Source: Dadgar, Phillips, Currey, "Lifeguard", arXiv 1707.00788, 2018, under
    "Local Health Aware Suspicion"; with k = 0 there is nobody to wait for.

    >>> suspicion_timeout_s(0, 3, shortest_s=2.0, longest_s=30.0)
    30.0
    >>> suspicion_timeout_s(1, 3, shortest_s=2.0, longest_s=30.0)
    16.0
    >>> suspicion_timeout_s(3, 3, shortest_s=2.0, longest_s=30.0)
    2.0
    >>> suspicion_timeout_s(0, 0, shortest_s=2.0, longest_s=30.0)
    2.0
    """
    if expected < 1:
        return shortest_s
    share = math.log(confirmations + 1) / math.log(expected + 1)
    return max(shortest_s, longest_s - share * (longest_s - shortest_s))


def shortest_suspicion_s(members: int, *, mult: float, period_s: float) -> float:
    """Return the suspicion that enough members have confirmed.

    mult * max(1, log10(members)) * period: time for the accusation to reach the
    suspect, and for its answer to come back. Source: memberlist, `suspicionTimeout`.

    >>> [shortest_suspicion_s(n, mult=4, period_s=1.0) for n in (3, 10, 100, 1000)]
    [4.0, 4.0, 8.0, 12.0]
    """
    return mult * max(1.0, math.log10(members)) * period_s


def expected_confirmations(members: int, mult: int) -> int:
    """Return how many besides the first accuser must agree for the shortest time.

    mult - 2, or 0 where there are not so many: the accuser and the accused cannot
    confirm. Source: memberlist, `suspectNode`.

    >>> [expected_confirmations(members, 4) for members in (2, 3, 4, 100)]
    [0, 0, 2, 2]
    """
    wanted = max(0, mult - 2)
    return wanted if members - 2 >= wanted else 0


class Suspicion:
    """The doubt about one process at one incarnation.

    It ends at `deadline`, which each independent accuser brings nearer. Where
    enough of them were refused at every url (nobody listens there, which silence
    does not prove), it is at most one period away.
    """

    def __init__(
        self, members: int, now: float, *, mult: int, max_mult: int, period_s: float
    ) -> None:
        self._shortest_s = shortest_suspicion_s(members, mult=mult, period_s=period_s)
        self._longest_s = max_mult * self._shortest_s
        self._expected = expected_confirmations(members, mult)
        self._refusals_needed = 1 if members <= 3 else 2
        self._period_s = period_s
        self._started_s = now
        self._refused_by_s = math.inf  # when enough had been refused
        self._not_before_s = -math.inf
        self._accusers: dict[NodeName, bool] = {}  # name -> was refused
        self.deadline = now + self._longest_s
        """When the suspect is dead unless it has refuted."""
        self._reckon()

    @property
    def accusers(self) -> tuple[NodeName, ...]:
        """Who accused, the first one first."""
        return tuple(self._accusers)

    @property
    def refused(self) -> tuple[NodeName, ...]:
        """Those of the accusers who were refused."""
        return tuple(name for name, refused in self._accusers.items() if refused)

    @property
    def is_near_its_end(self) -> bool:
        """Whether so many have been refused that more accusers change nothing."""
        return self._refused_by_s < math.inf

    def _reckon(self) -> None:
        timeout_s = suspicion_timeout_s(
            max(0, len(self._accusers) - 1),
            self._expected,
            shortest_s=self._shortest_s,
            longest_s=self._longest_s,
        )
        at_s = min(self._started_s + timeout_s, self._refused_by_s + self._period_s)
        self.deadline = max(at_s, self._not_before_s)

    def accuse(self, by: NodeName, now: float, *, refused: bool) -> bool:
        """Add an accuser; return whether that was news worth passing on."""
        known = self._accusers.get(by)
        needs_refusal = refused and len(self.refused) < self._refusals_needed
        if known is None:
            if len(self._accusers) > self._expected and not needs_refusal:
                return False
            if len(self._accusers) >= MOST_ACCUSERS:
                return False
        elif known or not refused:
            return False
        self._accusers[by] = refused
        if self._refused_by_s == math.inf:
            if len(self.refused) >= self._refusals_needed:
                self._refused_by_s = now
        self._reckon()
        return True

    def postpone(self, until: float) -> None:
        """Do not end before `until`: what is in our own buffers may be a refutation."""
        self._not_before_s = max(self._not_before_s, until)
        self._reckon()


class Awareness:
    """A count of signs that this node itself is slow, from 0 (well) upwards.

    A node that hears nothing because it is itself too slow to listen would call
    the others dead. So signs of slowness (a helper that did not even say no, an
    accusation to refute, an event loop that is late) stretch its periods and
    timeouts by 1 + the count, and each answered probe takes one off.

    Source: Dadgar, Phillips, Currey, "Lifeguard", arXiv 1707.00788, 2018, under
    "Local Health Aware Probe".
    """

    def __init__(self, worst: int) -> None:
        self._worst = worst
        self.score = 0

    def worsen(self, by: int = 1) -> None:
        """Count `by` signs of slowness."""
        self.score = min(self._worst, self.score + by)

    def improve(self) -> None:
        """Count one sign of health."""
        self.score = max(0, self.score - 1)

    def stretched_s(self, duration_s: float) -> float:
        """Return `duration_s` as a node in this condition should wait it.

        >>> slow = Awareness(worst=8)
        >>> slow.worsen(2)
        >>> slow.stretched_s(0.5)
        1.5
        """
        return duration_s * (1 + self.score)
