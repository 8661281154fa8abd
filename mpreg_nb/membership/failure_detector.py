"""Failure detection: the order of probes, direct and indirect probes, their outcomes.

One round: send `Ping`. Without an `Ack` within the ack timeout, ask some other members
to ping the target (`PingReq`), and ping it again, until the round ends; in a cluster
of two or three there is nobody or hardly anybody to ask. If no answer has come by the
end of the round, the target was silent. A helper that gets no answer sends `Nack`,
which shows the asker that its own links work. The detector reports facts (`Answered`,
`Silent`); `membership.state` decides about the member.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 3.1; the Nack is from
Dadgar, Phillips, Currey, "Lifeguard", arXiv 1707.00788, 2018.
"""

import math
from collections.abc import Container, Sequence
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Effect, Notify, RttMeasured, Send
from mpreg_nb.membership.links import ControlLinks
from mpreg_nb.membership.state import MemberEntry, MembershipState
from mpreg_nb.membership.suspicion import Awareness
from mpreg_nb.protocol.gossip import (
    IndirectAck,
    MemberState,
    Nack,
    NodeName,
    Ping,
    PingReq,
)

T = TypeVar("T")


class RandomSource(Protocol):
    """The source of randomness; `random.Random` is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return a whole number in [0, stop)."""
        ...

    def shuffle(self, items: list[NodeName], /) -> None:
        """Put `items` in a random order."""
        ...

    def sample(self, items: Sequence[T], k: int, /) -> list[T]:
        """Return `k` different ones of `items`."""
        ...


class ProbeOrder:
    """A shuffled round robin: every member comes once before any comes twice.

    So a crash is detected within two rounds. A new member is inserted at a random
    place, so that nodes that joined together are not probed together.
    Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.3.
    """

    def __init__(self, rng: RandomSource) -> None:
        self._rng = rng
        self._order: list[NodeName] = []
        self._names: set[NodeName] = set()  # those in the order
        self._next = 0

    def add(self, name: NodeName) -> None:
        """Add `name`, unless it is in already."""
        if name not in self._names:
            self._names.add(name)
            place = self._rng.randrange(len(self._order) + 1)
            self._order.insert(place, name)
            if place < self._next:
                self._next += 1

    def take(self, fit: Container[NodeName]) -> NodeName | None:
        """Return the next member in `fit`; None if there is none."""
        for _ in range(2):
            while self._next < len(self._order):
                name = self._order[self._next]
                self._next += 1
                if name in fit:
                    return name
            # The round is complete: drop gone members and shuffle again.
            self._order = [name for name in self._order if name in fit]
            self._names = set(self._order)
            self._rng.shuffle(self._order)
            self._next = 0
        return None


NACK_SHARE = 0.8
"""Share of the ack timeout: a helper's Nack must arrive before the round ends."""

AGAIN_SHARE = 0.5
"""Share of the ack timeout between the further pings of a silent target."""


class Answered(msgspec.Struct, frozen=True):
    """The target answered, or a helper reached it."""

    target: NodeName
    is_direct: bool  # it said so itself
    rtt_s: float | None  # if on a link that was up when it was asked


class Silent(msgspec.Struct, frozen=True):
    """Neither this node nor a helper received an answer of the target."""

    target: NodeName
    refused: bool  # the dial was refused at every url
    helpers: int  # that were asked
    missing: int  # of them, without even a Nack


Step: TypeAlias = Send | Answered | Silent


class _Round(msgspec.Struct):
    target: NodeName
    epoch: bytes
    seq: int
    started_s: float
    ask_at_s: float  # when to ask others; infinity once they have been asked
    end_at_s: float
    patience_s: float  # for the answers of those asked after a refusal
    linked: bool  # the one ping went out at once, so that its round trip can be timed
    again_at_s: float = math.inf  # when to ping the target again
    refused: bool = False
    helpers: dict[NodeName, bool] = {}  # -> said Nack


class _Relay(msgspec.Struct):
    asker: NodeName
    asked_seq: int
    target: NodeName
    nack_at_s: float  # infinity once it was said
    end_at_s: float


class Probes:
    """The probes in progress, and those that this node makes for others.

    Invariant: at most one round for each target.
    """

    def __init__(self, settings: SwimConfig, rng: RandomSource) -> None:
        self._settings = settings
        self._rng = rng
        self._seq = 0
        self._rounds: dict[NodeName, _Round] = {}
        self._relays: dict[int, _Relay] = {}  # by the seq of our ping

    @property
    def deadline(self) -> float:
        """When the next probe or relayed ping is due; infinity if there is none."""
        due_s = math.inf
        for probe in self._rounds.values():
            due_s = min(due_s, probe.ask_at_s, probe.again_at_s, probe.end_at_s)
        for relay in self._relays.values():
            due_s = min(due_s, relay.nack_at_s, relay.end_at_s)
        return due_s

    def is_probing(self, target: NodeName) -> bool:
        """Whether a probe of `target` is in progress."""
        return target in self._rounds

    def start(
        self,
        target: NodeName,
        epoch: bytes,
        now: float,
        *,
        ack_timeout_s: float,
        period_s: float,
        linked: bool,
    ) -> list[Step]:
        """Ping `target`, unless a probe of it is in progress.

        linked: False if it has to be dialled first; then the dial is the probe.
        """
        if target in self._rounds:
            return []
        self._seq += 1
        self._rounds[target] = _Round(
            target,
            epoch,
            self._seq,
            started_s=now,
            ask_at_s=now + ack_timeout_s,
            end_at_s=now + period_s,
            patience_s=ack_timeout_s,
            linked=linked,
        )
        return [Send(target, Ping(seq=self._seq, epoch=epoch))]

    def help(self, request: PingReq, asker: NodeName, now: float) -> list[Step]:
        """Ping the target of `request` for `asker`."""
        self._seq += 1
        timeout_s = self._settings.ack_timeout_s
        self._relays[self._seq] = _Relay(
            asker,
            request.seq,
            request.target,
            nack_at_s=now + NACK_SHARE * timeout_s,
            end_at_s=now + 2 * timeout_s,
        )
        return [Send(request.target, Ping(seq=self._seq, epoch=request.epoch))]

    def ack(self, seq: int, sender: NodeName, now: float) -> list[Step]:
        """Handle an `Ack`; ignore one without a matching ping."""
        relay = self._relays.get(seq)
        if relay is not None and relay.target == sender:
            del self._relays[seq]
            return [Send(relay.asker, IndirectAck(seq=relay.asked_seq))]
        probe = self._rounds.get(sender)
        if probe is None or probe.seq != seq:
            return []
        del self._rounds[sender]
        rtt_s = now - probe.started_s if probe.linked else None
        return [Answered(sender, True, rtt_s)]

    def indirect_ack(self, seq: int, sender: NodeName) -> list[Step]:
        """Handle the `IndirectAck` of a helper."""
        probe = self._round_of(seq, sender)
        if probe is None:
            return []
        del self._rounds[probe.target]
        return [Answered(probe.target, False, None)]

    def nack(self, seq: int, sender: NodeName) -> list[Step]:
        """Handle the `Nack` of a helper."""
        probe = self._round_of(seq, sender)
        if probe is None:
            return []
        probe.helpers[sender] = True
        return self._end_if_refused_by_all(probe)

    def unreachable(
        self, target: NodeName, now: float, pool: Sequence[NodeName], *, refused: bool
    ) -> list[Step]:
        """Handle a failed dial of `target`; other nodes may still reach it."""
        steps: list[Step] = []
        if refused:
            for relay in self._relays.values():
                if relay.target == target and relay.nack_at_s < math.inf:
                    relay.nack_at_s = math.inf
                    steps.append(Send(relay.asker, Nack(seq=relay.asked_seq)))
        probe = self._rounds.get(target)
        if probe is not None and refused and not probe.refused:
            probe.refused = True
            probe.again_at_s = math.inf
            probe.end_at_s = min(probe.end_at_s, now + probe.patience_s)
            if probe.ask_at_s < math.inf:
                steps += self._ask_others(probe, pool)
            steps += self._end_if_refused_by_all(probe)
        return steps

    def tick(self, now: float, pool: Sequence[NodeName]) -> list[Step]:
        """Send the requests, pings and Nacks that are due; end probes in time.

        pool: the members to choose helpers from.
        """
        steps: list[Step] = []
        for probe in list(self._rounds.values()):
            if probe.end_at_s <= now:
                steps.append(self._end(probe))
                continue
            if probe.ask_at_s <= now:
                steps += self._ask_others(probe, pool)
                probe.again_at_s = now
            if probe.again_at_s <= now:
                steps.append(self._ping_again(probe, now))
        for seq, relay in list(self._relays.items()):
            if relay.nack_at_s <= now:
                relay.nack_at_s = math.inf
                steps.append(Send(relay.asker, Nack(seq=relay.asked_seq)))
            if relay.end_at_s <= now:
                del self._relays[seq]
        return steps

    def drop(self, target: NodeName) -> None:
        """End the probe of a process that is known to be gone."""
        self._rounds.pop(target, None)

    def clear(self) -> None:
        """End all probes without a result, after a pause of this process."""
        self._rounds.clear()
        self._relays.clear()

    def postpone(self, until: float) -> None:
        """Let no timeout expire before `until`: answers may wait unread."""
        for probe in self._rounds.values():
            if probe.ask_at_s < math.inf:
                probe.ask_at_s = max(probe.ask_at_s, until)
            if probe.again_at_s < math.inf:
                probe.again_at_s = max(probe.again_at_s, until)
            probe.end_at_s = max(probe.end_at_s, until)

    def _round_of(self, seq: int, helper: NodeName) -> _Round | None:
        for probe in self._rounds.values():
            if probe.seq == seq and helper in probe.helpers:
                return probe
        return None

    def _ask_others(self, probe: _Round, pool: Sequence[NodeName]) -> list[Step]:
        probe.ask_at_s = math.inf
        others = [name for name in pool if name != probe.target]
        count = min(self._settings.indirect_probes, len(others))
        chosen = self._rng.sample(others, count)
        probe.helpers = dict.fromkeys(chosen, False)
        request = PingReq(seq=probe.seq, target=probe.target, epoch=probe.epoch)
        return [Send(helper, request) for helper in chosen]

    def _ping_again(self, probe: _Round, now: float) -> Step:
        probe.again_at_s = now + AGAIN_SHARE * probe.patience_s
        probe.linked = False
        return Send(probe.target, Ping(seq=probe.seq, epoch=probe.epoch))

    def _end_if_refused_by_all(self, probe: _Round) -> list[Step]:
        if probe.refused and all(probe.helpers.values()):
            return [self._end(probe)]
        return []

    def _end(self, probe: _Round) -> Silent:
        del self._rounds[probe.target]
        asked = len(probe.helpers)
        missing = asked - sum(probe.helpers.values())
        return Silent(probe.target, probe.refused, asked, missing)


DEAF_ROUNDS = 3
"""Probes in a row that only helpers answered: then the link is half open."""


class Detector:
    """The failure detector of one node: a probe each period, more on evidence."""

    def __init__(
        self,
        settings: SwimConfig,
        state: MembershipState,
        links: ControlLinks,
        health: Awareness,
        rng: RandomSource,
        now: float,
    ) -> None:
        self.probes = Probes(settings, rng)
        self.rotation = ProbeOrder(rng)
        self._settings = settings
        self._state = state
        self._links = links
        self._health = health
        self._next_at_s = now + settings.period_s * rng.random()

    @property
    def deadline(self) -> float:
        """When the next step of a probe is due."""
        return min(self._next_at_s, self.probes.deadline)

    def tick(self, now: float) -> list[Effect]:
        """Continue the probes in progress; start the next one once per period."""
        effects: list[Effect] = []
        if self.probes.deadline <= now:
            effects = self.follow(self.probes.tick(now, self._helpers()), now)
        if self._next_at_s <= now:
            self._next_at_s = now + self._health.stretched_s(self._settings.period_s)
            table = self._state.table
            target = self.rotation.take(table.active)
            if target is not None:
                effects += self.follow(self._start(table.entries[target], now), now)
        return effects

    def restart(self, now: float) -> None:
        """Drop all probes in progress; start again after one period."""
        self.probes.clear()
        self._next_at_s = now + self._settings.period_s

    def lost(self, name: NodeName, now: float) -> list[Effect]:
        """Probe a member at once, since its link broke without a Leave."""
        entry = self._state.table.get(name)
        if entry is None or self._is_doubted_enough(entry):
            return []  # gone, or one more accuser would change nothing
        return self.follow(self._start(entry, now), now)

    def reached(self, name: NodeName) -> None:
        """Handle a new link to `name`: earlier refusals no longer count."""
        entry = self._state.table.get(name)
        if entry is not None:
            entry.refused = None

    def is_refused(self, entry: MemberEntry) -> bool:
        """Whether this process refused a dial from here, and has not refuted since."""
        return entry.refused == (entry.record.epoch, entry.record.incarnation)

    def unreachable(self, name: NodeName, now: float, *, refused: bool) -> list[Effect]:
        """Handle a failed dial of `name`; a refusal is evidence of a crash."""
        entry = self._state.table.get(name)
        if refused and entry is not None and not self.is_refused(entry):
            entry.refused = entry.record.epoch, entry.record.incarnation
            if not self._is_doubted_enough(entry):
                # A ping would be refused too: ask the helpers at once.
                self._start(entry, now)
        steps = self.probes.unreachable(name, now, self._helpers(), refused=refused)
        return self.follow(steps, now)

    def help(self, request: PingReq, asker: NodeName, now: float) -> list[Effect]:
        """Ping the target of `request` for `asker`."""
        return self.follow(self.probes.help(request, asker, now), now)

    def follow(self, steps: Sequence[Step], now: float) -> list[Effect]:
        """Turn the results of probes into effects."""
        effects: list[Effect] = []
        for step in steps:
            match step:
                case Send():
                    effects.append(step)
                case Answered(target, is_direct, rtt_s):
                    self._health.improve()
                    effects += self._answered(target, is_direct, rtt_s)
                case Silent(target, refused, helpers, missing):
                    if helpers or not refused:
                        self._health.worsen(missing if helpers else 1)
                    effects += self._state.accuse(target, now, refused=refused)
        return effects

    def _answered(
        self, target: NodeName, is_direct: bool, rtt_s: float | None
    ) -> list[Effect]:
        entry = self._state.table.get(target)
        if entry is None:
            return []
        entry.deaf_rounds = 0 if is_direct else entry.deaf_rounds + 1
        if entry.deaf_rounds == DEAF_ROUNDS:
            entry.deaf_rounds = 0
            return self._links.close(target)  # the next probe dials
        if rtt_s is None:
            return []
        entry.rtt_s = rtt_s
        return [Notify(RttMeasured(target, rtt_s))]

    def _start(self, entry: MemberEntry, now: float) -> list[Step]:
        return self.probes.start(
            entry.record.name,
            entry.record.epoch,
            now,
            ack_timeout_s=self._health.stretched_s(self._settings.ack_timeout_s),
            period_s=self._health.stretched_s(self._settings.period_s),
            linked=entry.record.name in self._links,
        )

    def _is_doubted_enough(self, entry: MemberEntry) -> bool:
        """Whether it is no longer a member, or will be declared dead soon."""
        if entry.record.state > MemberState.SUSPECT:
            return True
        return entry.suspicion is not None and entry.suspicion.is_near_its_end

    def _helpers(self) -> Sequence[NodeName]:
        table = self._state.table
        linked = [name for name in self._links.up if name in table.alive_names]
        return linked if len(linked) > self._settings.indirect_probes else table.alive
