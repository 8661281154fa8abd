"""The catalog: which node offers which version of which function.

Each node writes only its own offers (`OfferLog`) and announces each change. A follower
applies the change after its own version and pulls what it missed. The catalog knows
no time: offers go when membership reports that their node is gone (`forget`).

A *registration* is the act of a user; every copy of the code that is placed on a
node repeats the (counter, origin) of its registration. The newest registration of
a name is the one with the highest pair.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Protocol

import msgspec
from msgspec.structs import replace

from mpreg_nb.protocol.gossip import (
    CatalogPull,
    CatalogPush,
    FunctionName,
    NodeName,
    Offer,
    Version,
)

RETRY_S = 1.0
"""Before an unanswered pull is sent again."""

HISTORY = 1024
"""Deltas that a writer keeps; who is further behind gets all entries."""

PART_BYTES = 32 * 1024
"""Of offers in one push, so that pings need not wait behind it."""

_encode = msgspec.msgpack.Encoder().encode


class OfferLog:
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
        if self._history and self._history[0][0] <= pull.from_version + 1:
            since, offers = pull.from_version, self._since(pull.from_version)
        else:
            since, offers = 0, self.all()
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

    def _since(self, version: int) -> tuple[Offer, ...]:
        """Return the entries that changed after `version`, as they are now."""
        newer = takewhile(lambda step: step[0] > version, reversed(self._history))
        changed: dict[tuple[FunctionName, Version], Offer] = {}
        for _, delta in newer:  # the newest first
            for offer in reversed(delta):
                changed.setdefault((offer.function, offer.version), offer)
        return tuple(reversed(changed.values()))

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


class Offers(Protocol):
    """What a router asks of a catalog."""

    def offers(self, function: str) -> Iterable[tuple[str, Offer]]:
        """Yield (owner, offer) of every version of `function`."""
        ...

    def entries(self) -> Iterable[tuple[str, Offer]]:
        """Yield (owner, offer) of all that is offered."""
        ...


class Catalog:
    """All offers that one node knows, its own among them."""

    def __init__(self, me: NodeName) -> None:
        self.me = me
        self._own = OfferLog()
        self._logs: dict[NodeName, OfferLog] = {me: self._own}
        # function -> (owner, version) -> offer: what is valid in the logs
        self._index: dict[FunctionName, dict[tuple[NodeName, Version], Offer]] = {}
        self.revision = 0
        """Rises with every change; what was matched before may be out of date."""
        self._changed_at: dict[FunctionName, int] = {}  # revision, the newest last
        self.deadline = math.inf
        """When `pulls` has something to send; infinity while nothing is missing."""

    # ------------------------------------------------------------- own entries

    @property
    def version(self) -> int:
        """Version of the own log, to be announced with each delta."""
        return self._own.version

    def publish(self, *offers: Offer) -> tuple[Offer, ...]:
        """Add `offers` to the own log; return the delta to announce."""
        self._own.publish(offers)
        self._reindex(offer.function for offer in offers)
        return offers

    def withdraw(
        self, function: FunctionName, version: Version
    ) -> tuple[Offer, ...] | None:
        """Stop offering one version here; return the delta, None if not offered."""
        known = self._own.offers.get(function, {}).get(version)
        return None if known is None else self.publish(replace(known, removed=True))

    def remove(self, function: FunctionName) -> tuple[Offer, ...]:
        """Unregister the name everywhere; return the delta to announce.

        Voids all registrations known here; one made elsewhere at the same moment
        may survive it.
        """
        own = self._own.offers.get(function, {}).values()
        gone = [replace(offer, removed=True) for offer in own if offer.version]
        stone = Offer(
            function=function,
            version="",
            counter=self.next_counter(function),
            origin=self.me,
            removed=True,
        )
        return self.publish(*gone, stone)

    def next_counter(self, function: FunctionName) -> int:
        """Return the counter of a registration of `function` made here and now."""
        logs = [log.offers.get(function, {}) for log in self._logs.values()]
        known = [offer.counter for versions in logs for offer in versions.values()]
        return 1 + max(known, default=0)

    # ---------------------------------------------------------- others' entries

    def heard(
        self,
        owner: NodeName,
        *,
        generation: int,
        version: int,
        heard_from: NodeName = "",
    ) -> None:
        """Note that the log of `owner` has reached `version`."""
        if owner == self.me:
            return
        log = self._logs.get(owner)
        if log is None or generation > log.generation:
            self.forget(owner)
            log = self._logs[owner] = OfferLog(generation)
        if generation == log.generation:
            log.hear(version, heard_from)
            self._set_deadline()

    def apply(
        self,
        owner: NodeName,
        *,
        generation: int,
        version: int,
        from_version: int,
        offers: tuple[Offer, ...],
        heard_from: NodeName = "",
    ) -> bool:
        """Bring the log of `owner` from `from_version` to `version`; 0: replace all.

        Returns whether it was taken in. What skips a version is not; the owner is
        then among those that are `behind`.
        """
        if owner == self.me:
            return False
        self.heard(owner, generation=generation, version=version, heard_from=heard_from)
        log = self._logs[owner]
        if generation != log.generation:
            return False
        touched = log.apply(version, from_version, offers)
        if touched is None:
            return False
        self._set_deadline()
        self._reindex(touched)
        return True

    def receive(self, push: CatalogPush) -> bool:
        """Take in one part of an answer; True once all parts have been applied."""
        log = self._logs.get(push.owner)
        if log is None or push.generation != log.generation:
            return False  # nobody asked, or the asker has learnt better since
        offers = log.gather(push)
        return offers is not None and self.apply(
            push.owner,
            generation=push.generation,
            version=push.version,
            from_version=push.from_version,
            offers=offers,
        )

    def answer(self, pull: CatalogPull) -> tuple[CatalogPush, ...]:
        """Return what leads to the version known here; nothing where none is."""
        log = self._logs.get(pull.owner)
        if log is None or log.version <= pull.from_version:
            return ()
        # The own generation is membership's; the owner answers under the one asked.
        known = pull.owner == self.me or log.generation == pull.generation
        return log.answer(pull) if known else ()

    def forget(self, owner: NodeName) -> None:
        """Drop all entries of a node that is gone."""
        if owner != self.me and owner in self._logs:
            self._reindex(self._logs.pop(owner).offers)
            self._set_deadline()

    @property
    def behind(self) -> tuple[NodeName, ...]:
        """Nodes whose log is known to have reached further than is known here."""
        return tuple(o for o, log in self._logs.items() if log.version < log.announced)

    def pulls(self, now: float) -> tuple[tuple[NodeName, CatalogPull], ...]:
        """Return (to whom, what) to ask now; unanswered pulls come again.

        Every second try goes to the node that knew of the version, for the case
        that the owner cannot be reached from here.
        """
        if self.deadline > now:
            return ()
        due = [owner for owner in self.behind if self._logs[owner].ask_at <= now]
        pulls = tuple(self._logs[owner].ask(owner, now) for owner in due)
        self._set_deadline()
        return pulls

    # ------------------------------------------------------------------- reads

    def entries(
        self, functions: Iterable[FunctionName] | None = None
    ) -> tuple[tuple[NodeName, Offer], ...]:
        """Return (node, offer) of these functions, or of all, by function and node."""
        names = sorted(self._index) if functions is None else functions
        return tuple(pair for function in names for pair in self.offers(function))

    def offers(self, function: FunctionName) -> tuple[tuple[NodeName, Offer], ...]:
        """Return (node, offer) of one name, all versions of it."""
        known = self._index.get(function, {})
        return tuple((owner, known[owner, of]) for owner, of in sorted(known))

    def newest(
        self, function: FunctionName, version: Version | None = None
    ) -> Offer | None:
        """Return the newest registration of the name, or of one version of it."""
        known = self._index.get(function, {}).values()
        wanted = [offer for offer in known if version in (None, offer.version)]
        return max(wanted, key=_rank, default=None)

    def holders(self, function: FunctionName, version: Version) -> tuple[NodeName, ...]:
        """Return the nodes that have the code of `version`, served or merely kept."""
        return tuple(
            owner
            for owner, log in sorted(self._logs.items())
            if version in log.offers.get(function, {})
        )

    def changed_since(self, revision: int) -> tuple[FunctionName, ...]:
        """Return the names that changed after `revision`, sorted.

        It takes as long as there are such names, however many others there are.
        """
        newest_first = reversed(self._changed_at.items())
        newer = takewhile(lambda change: change[1] > revision, newest_first)
        return tuple(sorted(function for function, _ in newer))

    def missing(
        self, resources: frozenset[str], among: Iterable[FunctionName]
    ) -> tuple[Offer, ...]:
        """Return which of these names a node with `resources` should serve, and lacks.

        Only the newest registration of each name: older ones are pulled by need.
        """
        newest = map(self.newest, among)
        return tuple(
            offer
            for offer in newest
            if offer is not None
            and offer.placed
            and offer.resources <= resources
            and offer.version not in self._own.offers.get(offer.function, {})
        )

    def _set_deadline(self) -> None:
        # Read after every message of the control lane, changed seldom.
        self.deadline = min(log.ask_at for log in self._logs.values())

    def _reindex(self, functions: Iterable[FunctionName]) -> None:
        self.revision += 1
        for function in dict.fromkeys(functions):
            self._changed_at.pop(function, None)
            self._changed_at[function] = self.revision
            known = [
                (owner, offer)
                for owner, log in self._logs.items()
                for offer in log.offers.get(function, {}).values()
            ]
            stones = [_rank(offer) for _, offer in known if offer.removed]
            void = max(stones, default=(-1, ""))
            valid = {
                (owner, offer.version): offer
                for owner, offer in known
                if _rank(offer) > void
            }
            if valid:
                self._index[function] = valid
            else:
                self._index.pop(function, None)


def _rank(offer: Offer) -> tuple[int, NodeName]:
    return offer.counter, offer.origin
