"""The entries that one node publishes: a log with a version, written by it alone.

The writer announces each delta; a follower applies the one after its own version
and pulls whatever else leads to the version that it heard of.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from mpreg_nb.wire.gossip import (
    CatalogPull,
    CatalogPush,
    FunctionName,
    NodeName,
    Offer,
    Version,
)

RETRY_S = 1.0
"""Before an unanswered pull is sent again."""

HISTORY = 64
"""Deltas that a writer keeps; who is further behind gets all entries."""

PART_BYTES = 32 * 1024
"""Of offers in one push, so that pings need not wait behind it."""

_encode = msgspec.msgpack.Encoder().encode


class Log:
    """What is known here of the entries of one node.

    Invariant: `version` is at most `announced`; below it, something is missing.
    """

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.version = 0  # taken in
        self.announced = 0  # heard of
        self.offers: dict[FunctionName, dict[Version, Offer]] = {}
        self.ask_at = math.inf  # when to pull, while something is missing
        self._heard_from: NodeName = ""
        self._asked = 0
        self._history: deque[tuple[int, tuple[Offer, ...]]] = deque(maxlen=HISTORY)
        self._row = (0, 0, 0)  # version, from_version and parts of what is gathered
        self._parts: dict[int, tuple[Offer, ...]] = {}

    def all(self) -> tuple[Offer, ...]:
        """Return every entry."""
        return tuple(o for versions in self.offers.values() for o in versions.values())

    # ------------------------------------------------------------- the writer's

    def publish(self, offers: tuple[Offer, ...]) -> None:
        """Add `offers` as the next version."""
        self.version += 1
        self.announced = self.version
        self._history.append((self.version, offers))
        self._enter(offers)

    def answer(self, pull: CatalogPull) -> tuple[CatalogPush, ...]:
        """Return what leads from the version in `pull` to the one known here.

        A delta where the history reaches back so far, else all entries.
        """
        since, offers = 0, self.all()
        if self._history and self._history[0][0] <= pull.from_version + 1:
            since = pull.from_version
            changed = {
                (offer.function, offer.version): offer
                for version, delta in self._history
                for offer in delta
                if version > since
            }
            offers = tuple(changed.values())
        parts = tuple(_parts(offers))
        return tuple(
            CatalogPush(
                owner=pull.owner,
                generation=pull.generation,
                version=self.version,
                from_version=since,
                offers=part,
                part=number,
                parts=len(parts),
            )
            for number, part in enumerate(parts)
        )

    # ------------------------------------------------------------ a follower's

    def hear(self, version: int, heard_from: NodeName) -> None:
        """Note that the writer has reached `version`."""
        if version > self.announced:
            self.announced = version
            self._heard_from = heard_from
            self._asked, self.ask_at = 0, -math.inf

    def apply(
        self, version: int, from_version: int, offers: tuple[Offer, ...]
    ) -> tuple[FunctionName, ...] | None:
        """Go from `from_version` to `version`; from 0, `offers` replace all.

        Returns the functions that were touched; None where it does not follow on
        what is known.
        """
        if version <= self.version or from_version > self.version:
            return None
        touched = {offer.function: None for offer in offers}
        if from_version == 0:
            touched |= dict.fromkeys(self.offers)
            self.offers = {}
        self._enter(offers)
        self.version = version
        self._asked = 0
        self.ask_at = math.inf if self.version >= self.announced else -math.inf
        return tuple(touched)

    def gather(self, push: CatalogPush) -> tuple[Offer, ...] | None:
        """Take in one part; return the offers of all parts once they are there."""
        row = (push.version, push.from_version, push.parts)
        if self._row != row:
            self._row, self._parts = row, {}
        self._parts[push.part] = push.offers
        if len(self._parts) < push.parts:
            return None
        parts = [self._parts[number] for number in sorted(self._parts)]
        self._row, self._parts = (0, 0, 0), {}
        return tuple(offer for part in parts for offer in part)

    def ask(self, owner: NodeName, now: float) -> tuple[NodeName, CatalogPull]:
        """Return (to whom, what) to ask; every second try goes to who told of it."""
        to = self._heard_from if self._asked % 2 and self._heard_from else owner
        self._asked += 1
        self.ask_at = now + RETRY_S
        return to, CatalogPull(
            owner=owner, generation=self.generation, from_version=self.version
        )

    def _enter(self, offers: Iterable[Offer]) -> None:
        for offer in offers:
            versions = self.offers.setdefault(offer.function, {})
            if offer.removed and offer.version:
                versions.pop(offer.version, None)
            else:
                versions[offer.version] = offer
            if not versions:
                del self.offers[offer.function]


def _parts(offers: tuple[Offer, ...]) -> Iterator[tuple[Offer, ...]]:
    """Cut `offers` into pieces of about `PART_BYTES`; one piece if there are none."""
    part: list[Offer] = []
    size_bytes = 0
    for offer in offers:
        offer_bytes = len(_encode(offer))
        if part and size_bytes + offer_bytes > PART_BYTES:
            yield tuple(part)
            part, size_bytes = [], 0
        part.append(offer)
        size_bytes += offer_bytes
    yield tuple(part)
