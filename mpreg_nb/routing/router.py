"""Chooses the node for a call, and can say why.

A call fits a node that serves the function and holds every resource asked for.
A function that was *placed* is served by every live node that holds the
resources it was registered with, whether its code is there yet or not: a node
fetches what it lacks. A function that a program registered in its own process
is served by that process alone. Code that was shipped runs only on nodes with
the minor version of Python that compiled it, and a function that runs in a worker
process only on nodes that have any.

Among the nodes that fit the best one is taken, where they are few; of many two are
drawn and the better one is taken (power of two choices, Mitzenmacher 2001), unless the
one that was taken last for such a call is as good: its processes are awake, and have
the code. The node that asks takes itself when it has a free slot. Suspected nodes are
used only where no other fits, and open breakers are passed over unless all are open.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from mpreg_nb.names import nearest
from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.routing.catalog import Offers
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads

FEW = 8
"""So many nodes that fit are all compared, so that no idle one is passed over."""

AS_GOOD = 1.001
"""A node is as good as one with so much less of a score: some ms of latency."""


class RandomChoice(Protocol):
    """The one thing that is asked of a source of randomness."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


class Wanted(NamedTuple):
    """What a call asks of a node. A tuple, since each call looks one up."""

    function: str
    version: str | None = None  # None: the newest registration
    resources: frozenset[str] = frozenset()
    node: str | None = None


class Chosen(msgspec.Struct, frozen=True):
    """Send the call to `node`, asking for `version`."""

    node: str
    version: str
    offer: Offer


class UnknownVersion(msgspec.Struct, frozen=True):
    """The version that was asked for is not in the catalog (yet)."""


class NoCandidate(msgspec.Struct, frozen=True):
    """No live node fits. `resources` includes those of the registration."""

    resources: frozenset[str]
    offers: tuple[tuple[str, frozenset[str]], ...]  # node, what it offers
    held: tuple[tuple[str, frozenset[str]], ...]  # live node, what it holds
    similar: str  # the nearest name that is offered, or ""
    python: str = ""  # the minor version of the code, if all depends on that
    pythons: tuple[tuple[str, str], ...] = ()  # node that would fit, its version
    workerless: tuple[str, ...] = ()  # nodes that would fit if they had workers

    @property
    def reason(self) -> str:
        """What is in the way besides resources, and what to do about it."""
        reasons = []
        if self.pythons:
            theirs = ", ".join(f"{node} runs {python}" for node, python in self.pythons)
            reasons.append(
                f"its code was compiled by Python {self.python}, and {theirs}. Start a "
                f"node with Python {self.python}, or register the function from the "
                "Python of the nodes"
            )
        if self.workerless:
            have = "has" if len(self.workerless) == 1 else "have"
            reasons.append(
                f"it runs in a worker process, and {', '.join(self.workerless)} {have} "
                "none (workers=0). Start a node with workers=1, or register the "
                "function with isolation='thread'"
            )
        return "; also, ".join(reasons)

    def reason_on(self, engine: str) -> str:
        """Return the same where an engine runs the calls: gateways have no workers."""
        return "" if engine and not self.pythons else self.reason


Choice: TypeAlias = Chosen | UnknownVersion | NoCandidate


class CandidateVerdict(msgspec.Struct, frozen=True):
    """One node's chances, as `explain` tells them; `reason` is "" if it fits."""

    node: str
    reason: str
    in_flight: int
    score: float
    reported: Load | None = None  # what the node last said of itself


class _Fit(msgspec.Struct, frozen=True):
    alive: tuple[Chosen, ...]
    suspect: tuple[Chosen, ...]
    unknown: bool


class Router:
    """Routes by a catalog, the live members and their loads.

    `me` is the node that asks, or None for a caller that runs nothing itself.
    """

    def __init__(
        self,
        me: str | None,
        catalog: Offers,
        loads: Loads,
        breakers: Breakers,
        chance: RandomChoice,
    ) -> None:
        self._me = me
        self._catalog = catalog
        self._loads = loads
        self._breakers = breakers
        self._chance = chance
        self._alive: dict[str, frozenset[str]] = {}
        self._suspect: dict[str, frozenset[str]] = {}
        self._pythons: Mapping[str, str] = {}
        self._workerless: Collection[str] = ()
        self._fits: dict[Wanted, _Fit] = {}
        self._last: dict[Wanted, str] = {}  # the node that was taken, where many fit
        self._reasons: dict[Wanted, tuple[tuple[str, str], ...]] = {}  # node, reason

    def update(
        self,
        alive: Mapping[str, frozenset[str]],
        suspect: Mapping[str, frozenset[str]],
        pythons: Mapping[str, str] | None = None,
        workerless: Collection[str] = (),
    ) -> None:
        """Take the members anew: node -> resources. Call it when any changed.

        pythons: node -> minor version; one that is not in it runs any code.
        workerless: nodes without worker processes.
        """
        self._pythons = pythons or {}
        self._workerless = workerless
        self._alive = dict(alive)
        self._suspect = dict(suspect)
        self._fits.clear()
        self._reasons.clear()

    def catalog_changed(self) -> None:
        """Forget what was worked out from the catalog as it was."""
        self._fits.clear()
        self._reasons.clear()

    def choose(
        self, wanted: Wanted, now: float, *, avoid: Collection[str] = ()
    ) -> Choice:
        """Return where the call should go; nodes in `avoid` only if none else fits."""
        fit = self._fits.get(wanted)
        if fit is None:
            if len(self._fits) > 4096:
                self._fits.clear()
            fit = self._fits[wanted] = self._fit(wanted)
        candidates: Iterable[Chosen] = fit.alive or fit.suspect
        if len(fit.alive) == 1 and not avoid and not self._breakers:
            return fit.alive[0]
        if fit.unknown:
            return UnknownVersion()
        if avoid:
            candidates = [c for c in candidates if c.node not in avoid] or candidates
        if self._breakers:
            nodes = [c.node for c in candidates]
            allowed = self._breakers.allowed(nodes, wanted.function, now)
            candidates = [c for c in candidates if c.node in allowed]
        pool = tuple(candidates)
        if len(pool) > FEW:
            return self._of_many(wanted, pool, now)
        if len(pool) > 1:
            return self._own(pool) or self._of_few(pool, now)
        return pool[0] if pool else self._refuse(wanted)

    def fitting(self, wanted: Wanted, now: float) -> tuple[Chosen, ...]:
        """Return all live nodes that the call could go to, in no order."""
        fit = self._fits.get(wanted)
        if fit is None:
            fit = self._fits[wanted] = self._fit(wanted)
        if not self._breakers:
            return fit.alive
        allows = self._breakers.allows
        return tuple(c for c in fit.alive if allows(c.node, wanted.function, now))

    def explain(self, wanted: Wanted, now: float) -> tuple[CandidateVerdict, ...]:
        """Return every known node with what it lacks, the fitting ones first."""
        verdicts = []
        for node, reason in self.reasons(wanted, now):
            load = self._loads[node]
            score = load.score(now)
            verdicts.append(
                CandidateVerdict(node, reason, load.in_flight, score, load.reported)
            )
        return tuple(verdicts)

    def reasons(self, wanted: Wanted, now: float) -> tuple[tuple[str, str], ...]:
        """Return every known node with what it lacks, "" where it fits; these first."""
        reasons = self._reasons.get(wanted)
        if reasons is None:
            if len(self._reasons) > 4096:
                self._reasons.clear()
            reasons = self._reasons[wanted] = self._explained(wanted)
        if self._breakers:
            allows = self._breakers.allows
            reasons = tuple(
                (node, reason)
                if reason not in ("", "suspect") or allows(node, wanted.function, now)
                else (node, "breaker open")
                for node, reason in reasons
            )
            reasons = tuple(sorted(reasons, key=_fitting_first))
        return reasons

    def _explained(self, wanted: Wanted) -> tuple[tuple[str, str], ...]:
        """Return each node with what speaks against it, as long as nothing changes."""
        fit = self._fit(wanted)
        fits = {chosen.node for chosen in (*fit.alive, *fit.suspect)}
        needed = self.needed(wanted)
        own = {
            owner: offer.resources
            for owner, offer in self._catalog.offers(wanted.function)
            if not offer.placed
        }
        placed = any(offer.placed for _, offer in self._matching(wanted))
        python, other_python, workerless = self._only_unable(wanted)
        reasons: list[tuple[str, str]] = []
        for node, held in {**self._suspect, **self._alive}.items():
            lacks = needed - held - own.get(node, frozenset())
            if wanted.node is not None and node != wanted.node:
                reason = f"restricted to {wanted.node}"
            elif lacks:
                reason = "lacks " + ", ".join(sorted(lacks))
            elif node in other_python:
                reason = f"runs Python {self._pythons[node]}, not {python}"
            elif node in workerless:
                reason = "has no worker processes"
            elif node not in fits:
                reason = "another version" if placed else "has no such function"
            elif node in self._suspect and fit.alive:
                reason = "suspect"
            else:
                reason = ""
            reasons.append((node, reason))
        return tuple(sorted(reasons, key=_fitting_first))

    def _own(self, pool: tuple[Chosen, ...]) -> Chosen | None:
        """Return the node that asks, if it fits and has a free slot."""
        if self._me is not None:
            for chosen in pool:
                if chosen.node == self._me:
                    mine = self._loads[self._me]
                    slots = mine.reported.slots if mine.reported else 1
                    if mine.in_flight < slots:
                        return chosen
        return None

    def _of_few(self, pool: tuple[Chosen, ...], now: float) -> Chosen:
        # The first of equals is drawn: callers must not agree on one.
        first = int(self._chance.random() * len(pool))
        best, least = pool[first], math.inf
        for chosen in (*pool[first:], *pool[:first]):
            score = self._loads[chosen.node].score(now)
            if score < least:
                best, least = chosen, score
        return best

    def _of_many(self, wanted: Wanted, pool: tuple[Chosen, ...], now: float) -> Chosen:
        own = self._own(pool)
        if own is not None:
            return own
        loads, count = self._loads, len(pool)
        first = int(self._chance.random() * count)
        second = int(self._chance.random() * (count - 1))
        if second >= first:
            second += 1
        one, other = pool[first], pool[second]
        best = one if loads.better(one.node, other.node, now) == one.node else other
        last = self._last.get(wanted)
        if last is not None and loads[last].has_answered:
            if loads[last].score(now) <= AS_GOOD * loads[best.node].score(now):
                best = next((one for one in pool if one.node == last), best)
        if len(self._last) > 4096:
            self._last.clear()
        self._last[wanted] = best.node
        return best

    def _fit(self, wanted: Wanted) -> _Fit:
        offers = self._matching(wanted)
        unknown = wanted.version is not None and not offers
        alive: dict[str, Chosen] = {}
        suspect: dict[str, Chosen] = {}
        for owner, offer in offers:
            for members, found in ((self._alive, alive), (self._suspect, suspect)):
                for node in members if offer.placed else (owner,):
                    held = members.get(node)
                    if held is None or wanted.node not in (None, node):
                        continue
                    needed = wanted.resources | offer.resources
                    if not offer.placed:
                        needed = wanted.resources - offer.resources
                    if needed <= held and self.can_run(node, offer):
                        found[node] = Chosen(node, offer.version, offer)
        return _Fit(tuple(alive.values()), tuple(suspect.values()), unknown)

    def can_run(self, node: str, offer: Offer) -> bool:
        """Whether `node` has the Python that the code needs, and a worker for it."""
        return self._has_python(node, offer) and self._has_worker(node, offer)

    def _has_python(self, node: str, offer: Offer) -> bool:
        return offer.python in ("", self._pythons.get(node, offer.python))

    def _has_worker(self, node: str, offer: Offer) -> bool:
        return not (offer.needs_worker and node in self._workerless)

    def _matching(self, wanted: Wanted) -> list[tuple[str, Offer]]:
        """Return the offers of the version that is meant; one of a placed version."""
        live = [
            (owner, offer)
            for owner, offer in self._catalog.offers(wanted.function)
            if offer.placed or owner in self._alive or owner in self._suspect
        ]
        if wanted.version is not None:
            live = [pair for pair in live if pair[1].version == wanted.version]
        placed = max(
            (pair for pair in live if pair[1].placed),
            key=lambda pair: (pair[1].counter, pair[1].origin),
            default=None,
        )
        if wanted.version is not None:
            return live if placed is None else [placed]
        own = [pair for pair in live if not pair[1].placed]
        newest_own = max((offer.counter for _, offer in own), default=-1)
        if placed is not None and placed[1].counter >= newest_own:
            return [placed]
        return own

    def needed(self, wanted: Wanted) -> frozenset[str]:
        """Return what a node must hold, with what the registration asks for."""
        for _, offer in self._matching(wanted):
            if offer.placed:
                return wanted.resources | offer.resources
        return wanted.resources

    def _refuse(self, wanted: Wanted) -> NoCandidate:
        held = tuple(sorted({**self._suspect, **self._alive}.items()))
        matching = self._matching(wanted)
        if any(offer.placed for _, offer in matching):
            offers = held
        else:
            known = dict(held)
            offers = tuple(
                sorted((o, known[o] | f.resources) for o, f in matching if o in known)
            )
        similar = ""
        if not matching:
            names = {offer.function for _, offer in self._catalog.entries()}
            similar = nearest(wanted.function, names) or ""
        python, nodes, workerless = self._only_unable(wanted)
        pythons = tuple((node, self._pythons[node]) for node in nodes)
        return NoCandidate(
            self.needed(wanted),
            offers,
            held,
            similar,
            python if nodes else "",
            pythons,
            tuple(workerless),
        )

    def _only_unable(self, wanted: Wanted) -> tuple[str, list[str], list[str]]:
        """Return the nodes that hold all that is asked for, and cannot run the code.

        First the Python of the code, then the nodes with another one, then those of
        the others that have no worker for it.
        """
        for _, offer in self._matching(wanted):
            if offer.placed:
                needed = wanted.resources | offer.resources
                members = {**self._suspect, **self._alive}
                holding = [
                    node
                    for node, held in sorted(members.items())
                    if needed <= held and wanted.node in (None, node)
                ]
                of_python = [n for n in holding if self._has_python(n, offer)]
                return (
                    offer.python,
                    [n for n in holding if n not in of_python],
                    [n for n in of_python if not self._has_worker(n, offer)],
                )
        return "", [], []


def _fitting_first(pair: tuple[str, str]) -> tuple[bool, str]:
    node, reason = pair
    return bool(reason), node
