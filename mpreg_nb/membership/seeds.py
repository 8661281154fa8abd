"""The urls that a node was told to join by, and when to dial each of them."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from mpreg_nb.membership.knobs import SwimSettings

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
"""Between dials of a seed before the join is complete: nodes that are started
together find each other soon, a wrong url costs little."""

LOST_S = 10.0
"""A dial whose outcome was not reported for so long is tried again."""


@dataclass(slots=True)
class _Seed:
    url: str
    dial_at_s: float
    failures: int = 0


class Seeds:
    """Seeds of one node; all are tried until the join is complete.

    Later one that is no member is dialled now and then: two halves of a cluster
    that have forgotten each other meet again.
    """

    def __init__(self, settings: SwimSettings) -> None:
        self._settings = settings
        self._seeds: list[_Seed] = []
        self._again_at_s = math.inf  # once the join is complete
        self._dialled_at_s = -math.inf  # after the join
        self._turn = 0

    def __len__(self) -> int:
        return len(self._seeds)

    def start(self, urls: Sequence[str], now: float) -> None:
        """Dial `urls`, one after the other."""
        stagger_s = self._settings.seed_stagger_s
        self._seeds = [
            _Seed(url, now + place * stagger_s)
            for place, url in enumerate(dict.fromkeys(urls))
        ]
        self._again_at_s = math.inf

    def settle(self, now: float) -> None:
        """Slow down: the join is complete."""
        if self._seeds:
            self._again_at_s = now + self._settings.seed_redial_s

    def failed(self, url: str, now: float) -> bool:
        """Note that a dial failed; return whether `url` is a seed at all."""
        for seed in self._seeds:
            if seed.url == url:
                pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0**seed.failures)
                seed.failures = min(seed.failures + 1, 10)
                seed.dial_at_s = now + pause_s
                return True
        return False

    @property
    def deadline(self) -> float:
        """When to ask for `due` again."""
        if self._again_at_s < math.inf:
            return self._again_at_s
        return min((seed.dial_at_s for seed in self._seeds), default=math.inf)

    def due(self, now: float, members: Container[str]) -> list[str]:
        """Return the urls to dial now; `members`: urls of members that need none."""
        if self._again_at_s < math.inf:
            if now < self._again_at_s:
                return []
            self._again_at_s = now + self._settings.seed_redial_s
            self._turn = (self._turn + 1) % len(self._seeds)
            url = self._seeds[self._turn].url
            if url in members:
                return []
            self._dialled_at_s = now
            return [url]
        due = [seed for seed in self._seeds if seed.dial_at_s <= now]
        for seed in due:
            seed.dial_at_s = now + LOST_S
        return [seed.url for seed in due]

    def just_dialled(self, now: float) -> bool:
        """Whether a stranger who comes up now may be a seed, found again."""
        return now - self._dialled_at_s < LOST_S
