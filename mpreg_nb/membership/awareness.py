"""How far a node trusts its own ears: the local health of Lifeguard."""


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
