"""Whom to probe and when, and what follows from an answer or from silence."""

from collections.abc import Sequence

from mpreg_nb.membership.awareness import Awareness
from mpreg_nb.membership.beliefs import Beliefs
from mpreg_nb.membership.effects import Effect, RttMeasured, Send, Tell
from mpreg_nb.membership.knobs import SwimSettings
from mpreg_nb.membership.links import Links
from mpreg_nb.membership.probe import Answered, Probes, Silent, Step
from mpreg_nb.membership.rotation import Dice, Rotation
from mpreg_nb.membership.table import Entry
from mpreg_nb.wire.gossip import MemberState, NodeName, PingReq

DEAF_ROUNDS = 3
"""Rounds in a row in which only others had an answer: the link is half open."""


class Detector:
    """The failure detector of one node: a probe each period, more on evidence."""

    def __init__(
        self,
        settings: SwimSettings,
        beliefs: Beliefs,
        links: Links,
        health: Awareness,
        dice: Dice,
        now: float,
    ) -> None:
        self.probes = Probes(settings, dice)
        self.rotation = Rotation(dice)
        self._settings = settings
        self._beliefs = beliefs
        self._links = links
        self._health = health
        self._next_at_s = now + settings.period_s * dice.random()

    @property
    def deadline(self) -> float:
        """When a probe begins, goes on or ends."""
        return min(self._next_at_s, self.probes.deadline)

    def tick(self, now: float) -> list[Effect]:
        """Go on with the probes under way; begin the next if its time has come."""
        effects = self.follow(self.probes.tick(now, self._helpers()), now)
        if self._next_at_s <= now:
            self._next_at_s = now + self._health.stretched_s(self._settings.period_s)
            table = self._beliefs.table
            target = self.rotation.take(table.active)
            if target is not None:
                effects += self.follow(self._start(table.entries[target], now), now)
        return effects

    def restart(self, now: float) -> None:
        """Forget what is under way; begin anew after one period."""
        self.probes.clear()
        self._next_at_s = now + self._settings.period_s

    def lost(self, name: NodeName, now: float) -> list[Effect]:
        """Probe a member at once: its link broke without a goodbye."""
        entry = self._beliefs.table.get(name)
        if entry is None or self._is_doubted_enough(entry):
            return []  # gone, or accused by so many that one more changes nothing
        return self.follow(self._start(entry, now), now)

    def reached(self, name: NodeName) -> None:
        """Take in that a link to `name` is up: refusals are a thing of the past."""
        entry = self._beliefs.table.get(name)
        if entry is not None:
            entry.refused = None

    def is_refused(self, entry: Entry) -> bool:
        """Whether this process refused a dial from here, and has not refuted since."""
        return entry.refused == (entry.record.epoch, entry.record.incarnation)

    def unreachable(self, name: NodeName, now: float, *, refused: bool) -> list[Effect]:
        """Take in that a dial of `name` failed; a refusal is evidence."""
        entry = self._beliefs.table.get(name)
        if refused and entry is not None and not self.is_refused(entry):
            entry.refused = entry.record.epoch, entry.record.incarnation
            if not self._is_doubted_enough(entry):
                # A ping would be refused as well: the round begins with the others.
                self._start(entry, now)
        steps = self.probes.unreachable(name, now, self._helpers(), refused=refused)
        return self.follow(steps, now)

    def help(self, request: PingReq, asker: NodeName, now: float) -> list[Effect]:
        """Ping the target of `request` for `asker`."""
        return self.follow(self.probes.help(request, asker, now), now)

    def follow(self, steps: Sequence[Step], now: float) -> list[Effect]:
        """Turn what the probes found out into effects."""
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
                    effects += self._beliefs.accuse(target, now, refused=refused)
        return effects

    def _answered(
        self, target: NodeName, is_direct: bool, rtt_s: float | None
    ) -> list[Effect]:
        entry = self._beliefs.table.get(target)
        if entry is None:
            return []
        entry.deaf_rounds = 0 if is_direct else entry.deaf_rounds + 1
        if entry.deaf_rounds == DEAF_ROUNDS:
            entry.deaf_rounds = 0
            return self._links.close(target)  # the next probe dials
        if rtt_s is None:
            return []
        entry.rtt_s = rtt_s
        return [Tell(RttMeasured(target, rtt_s))]

    def _start(self, entry: Entry, now: float) -> list[Step]:
        return self.probes.start(
            entry.record.name,
            entry.record.epoch,
            now,
            ack_timeout_s=self._health.stretched_s(self._settings.ack_timeout_s),
            period_s=self._health.stretched_s(self._settings.period_s),
            linked=entry.record.name in self._links,
        )

    def _is_doubted_enough(self, entry: Entry) -> bool:
        """Whether it is no member any more, or nearly so."""
        if entry.record.state > MemberState.SUSPECT:
            return True
        return entry.suspicion is not None and entry.suspicion.is_near_its_end

    def _helpers(self) -> Sequence[NodeName]:
        alive = self._beliefs.table.alive
        linked = [name for name in alive if name in self._links]
        return linked if len(linked) > self._settings.indirect_probes else alive
