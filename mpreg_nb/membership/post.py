"""The last station of every effect: what rides along, what must be dialled first."""

from collections import deque
from collections.abc import Iterable

from msgspec.structs import replace

from mpreg_nb.membership.awareness import Awareness
from mpreg_nb.membership.beliefs import Beliefs
from mpreg_nb.membership.broadcast import subject
from mpreg_nb.membership.detector import Detector
from mpreg_nb.membership.effects import (
    Died,
    Effect,
    Joined,
    Left,
    Restarted,
    Send,
    Tell,
)
from mpreg_nb.membership.knobs import SwimSettings, retransmits
from mpreg_nb.membership.links import Links
from mpreg_nb.wire.gossip import (
    Ack,
    Control,
    IndirectAck,
    Item,
    Load,
    MemberRecord,
    Nack,
    NodeName,
    Ping,
    PingReq,
    SyncDigest,
    YouAreDead,
)


class Post:
    """Turns what the parts want into what the driver must do."""

    def __init__(
        self,
        settings: SwimSettings,
        beliefs: Beliefs,
        links: Links,
        detector: Detector,
        health: Awareness,
    ) -> None:
        self.load: Load | None = None
        self._settings = settings
        self._beliefs = beliefs
        self._links = links
        self._detector = detector
        self._health = health

    def deliver(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        """Return the effects for the driver, those that follow from them included."""
        done: list[Effect] = []
        waiting = deque(effects)
        while waiting:
            effect = waiting.popleft()
            match effect:
                case Send(peer, message):
                    done += self.send(peer, message, now)
                case Tell(event):
                    done.append(effect)
                    match event:
                        case Joined(member):
                            waiting.extendleft(reversed(self._met(member.record, now)))
                        case Died(name):
                            waiting.extendleft(reversed(self._lost(name)))
                        case Left(name):
                            self._detector.probes.drop(name)
                        case Restarted(name):
                            waiting.extendleft(self._replaced(name))
                case _:
                    done.append(effect)
        return done

    def send(self, peer: NodeName, message: Control, now: float) -> list[Effect]:
        """Send `message`, or dial first where that is worth it."""
        if peer in self._links:
            self._links.touch(peer, now)
            return [Send(peer, self._with_news(peer, message))]
        if not isinstance(message, Ping | SyncDigest | YouAreDead):
            return []  # stale before a link would be up
        entry = self._beliefs.table.get(peer)
        if entry is None:
            return []
        self._links.wait(peer, message)
        return self._links.dial(peer, entry.record.urls, now)

    def items_for(self, peer: NodeName) -> tuple[Item, ...]:
        """Return the news for one message to `peer`."""
        settings = self._settings
        return self._beliefs.news.take(
            settings.gossip_bytes,
            retransmits(self._beliefs.size, settings.retransmit_mult),
            to=peer,
        )

    def _with_news(self, peer: NodeName, message: Control) -> Control:
        match message:
            case Ping():
                items = self.items_for(peer)
                entry = self._beliefs.table.get(peer)
                if entry is not None and entry.suspicion is not None:
                    # The suspect must be the first to know.
                    others = [item for item in items if subject(item) != peer]
                    items = (self._beliefs.verdict_on(entry), *others)
                return replace(message, items=items, load=self._own_load())
            case Ack():
                return replace(
                    message, items=self.items_for(peer), load=self._own_load()
                )
            case PingReq() | IndirectAck() | Nack():
                items = self.items_for(peer)
                return replace(message, items=(*message.items, *items))
            case _:
                return message

    def _own_load(self) -> Load | None:
        is_poorly = self._health.score >= self._settings.degraded_health
        if self.load is None or not is_poorly or self.load.degraded:
            return self.load
        return replace(self.load, degraded=True)

    def _met(self, record: MemberRecord, now: float) -> list[Effect]:
        self._detector.rotation.add(record.name)
        has_mesh = self._beliefs.size <= self._settings.mesh_limit
        # The smaller name dials at once; the larger only if that comes to nothing.
        if has_mesh and self._beliefs.own.record.name < record.name:
            return self._links.dial(record.name, record.urls, now)
        return []

    def _replaced(self, name: NodeName) -> list[Effect]:
        """Close a link to the process before; it may never tell that it is gone."""
        self._detector.probes.drop(name)
        epoch = self._beliefs.table.entries[name].record.epoch
        return [] if self._links.is_to(name, epoch) else self._links.close(name)

    def _lost(self, name: NodeName) -> list[Effect]:
        self._detector.probes.drop(name)
        entry = self._beliefs.table.entries[name]
        if name not in self._links:
            return []
        farewell = Send(name, YouAreDead(verdict=self._beliefs.verdict_on(entry)))
        return [farewell, *self._links.close(name)]
