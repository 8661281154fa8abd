"""How long functions are expected to run, from how long they ran."""

OVERHEAD_S = 10e-6
"""What a job takes in its worker besides the function."""

RISE, FALL = 0.5, 0.1
"""How fast the expectation follows longer and shorter runs."""


class Expected:
    """The expected time of each version.

    Follows upward fast: to take a long call for a short one makes others wait
    behind it, the other mistake only makes a short one wait for its turn.
    """

    def __init__(self) -> None:
        self._times_s: dict[str, float] = {}

    def get(self, version: str) -> float | None:
        """Return the expected time in seconds; None before the first run."""
        return self._times_s.get(version)

    def learn(self, version: str, run_us: int) -> None:
        """Take a run into account.

        >>> expected = Expected()
        >>> expected.learn("v", 100)
        >>> round(expected.get("v") * 1e6)
        110
        """
        run_s = run_us / 1e6 + OVERHEAD_S
        before_s = self._times_s.get(version, run_s)
        weight = RISE if run_s > before_s else FALL
        self._times_s[version] = before_s + weight * (run_s - before_s)

    def forget(self, version: str) -> None:
        """Drop what is known of a version."""
        self._times_s.pop(version, None)
