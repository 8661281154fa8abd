"""What a node does now and then without being asked: pass on, compare, redial."""

import math
from collections.abc import Sequence

from mpreg_nb.membership import sync
from mpreg_nb.membership.beliefs import Beliefs
from mpreg_nb.membership.effects import Dial, Effect, Send
from mpreg_nb.membership.knobs import SwimSettings, stretched_sync_s
from mpreg_nb.membership.links import Links
from mpreg_nb.membership.post import Post
from mpreg_nb.membership.rotation import Dice
from mpreg_nb.membership.seeds import Seeds
from mpreg_nb.wire.gossip import (
    Digest,
    Gossip,
    Load,
    LoadNews,
    MemberRecord,
    NodeName,
    SyncDigest,
)

EARLY_SYNCS = 3
"""Comparisons soon after the join: its first partner may have been as new."""


class Duties:
    """The clockwork of one node, apart from probes and suspicions."""

    def __init__(
        self,
        settings: SwimSettings,
        beliefs: Beliefs,
        links: Links,
        post: Post,
        seeds: Seeds,
        dice: Dice,
        now: float,
    ) -> None:
        self._settings = settings
        self._beliefs = beliefs
        self._links = links
        self._post = post
        self._seeds = seeds
        self._dice = dice
        self._gossip_at_s = now
        self._sync_at_s = now + settings.sync_interval_s * dice.random()
        self._early_syncs = 0
        self._redial_at_s = now + settings.dead_redial_s * dice.random()
        self._house_at_s = now + settings.period_s * dice.random()
        self._told_load: Load | None = None
        self._told_load_at_s = -math.inf
        self._load_serial = 0
        self._root: tuple[int, MemberRecord, bytes] | None = None

    @property
    def deadline(self) -> float:
        """When something is due."""
        due_s = self._house_at_s
        if not self._beliefs.own.is_leaving:
            due_s = min(due_s, self._sync_at_s, self._redial_at_s, self._seeds.deadline)
        if len(self._links) and len(self._beliefs.news):
            return min(due_s, self._gossip_at_s)
        return due_s

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if self._house_at_s <= now:
            self._house_at_s = now + self._settings.period_s
            self._tell_load(now)
            if not self._beliefs.own.is_leaving:
                effects += self._keep_links(now)
                effects += self._beliefs.remind_suspects(now)
                effects += self._keep_joining()
        if self._gossip_at_s <= now and len(self._beliefs.news):
            effects += self._gossip(now)
        if self._beliefs.own.is_leaving:
            return effects
        if self._sync_at_s <= now:
            effects += self.compare(now)
        if self._redial_at_s <= now:
            effects += self._redial(now)
        if self._seeds.deadline <= now:
            effects += self.dial_seeds(now)
        return effects

    def settle(self, now: float) -> None:
        """Compare with some others soon: the join is complete, and may be partial."""
        self._early_syncs = EARLY_SYNCS
        self._sync_at_s = now + self._settings.period_s

    # ----------------------------------------------------------------- compare

    def records(self, now: float) -> Sequence[MemberRecord]:
        """Return all records that others should have, the own one first."""
        memory_s = self._settings.dead_memory_s
        told = self._beliefs.table.told(now, memory_s)
        return (self._beliefs.own.record, *told)

    def lines(self, now: float) -> tuple[Digest, ...]:
        """Return one line for each of the records."""
        return tuple(sync.digest(record) for record in self.records(now))

    def root(self, now: float) -> bytes:
        """Return the hash of all lines, worked out anew only when one changed."""
        revision, me = self._beliefs.table.revision, self._beliefs.own.record
        if self._root is None or self._root[:2] != (revision, me):
            self._root = (revision, me, sync.root(self.lines(now)))
        return self._root[2]

    def digest(self, now: float, *, whole: bool) -> SyncDigest:
        """Return what starts a comparison (the root) or goes on with it (whole)."""
        entries = self.lines(now) if whole else None
        return SyncDigest(root=self.root(now), entries=entries)

    def compare(self, now: float) -> list[Effect]:
        """Compare tables with a random member."""
        settings, table = self._settings, self._beliefs.table
        pause_s = stretched_sync_s(self._beliefs.size, settings.sync_interval_s)
        if self._early_syncs:
            self._early_syncs -= 1
            pause_s = 2 * settings.period_s
        self._sync_at_s = now + pause_s
        for name in table.forget_old(
            now, memory_s=settings.dead_memory_s, mult=settings.dead_memory_mult
        ):
            self._links.forget(name)
        peers = [peer for peer in table.alive if peer in self._links] or table.alive
        if not peers:
            return []
        peer = peers[self._dice.randrange(len(peers))]
        return [Send(peer, self.digest(now, whole=False))]

    def _keep_joining(self) -> list[Effect]:
        """Ask again for the first exchange, should its answer have been lost."""
        if self._beliefs.own.joined:
            return []
        me = sync.digest(self._beliefs.own.record)
        digest = SyncDigest(root=sync.root([me]), entries=(me,))
        return [Send(peer, digest) for peer in self._links.peers[:1]]

    # ----------------------------------------------------------------- pass on

    def _gossip(self, now: float) -> list[Effect]:
        self._gossip_at_s = now + self._settings.gossip_interval_s
        active = self._beliefs.table.active
        peers = [peer for peer in self._links.peers if peer in active]
        count = min(self._settings.gossip_fanout, len(peers))
        effects: list[Effect] = []
        for peer in self._dice.sample(peers, count):
            items = self._post.items_for(peer)
            if items:
                effects.append(Send(peer, Gossip(items=items)))
        return effects

    def _tell_load(self, now: float) -> None:
        load = self._post.load
        least_s = max(self._settings.load_interval_s, self._beliefs.size / 50)
        if load is None or now - self._told_load_at_s < least_s:
            return
        told = self._told_load
        if told is not None and not _differs(load, told, self._settings.load_change):
            return
        self._told_load, self._told_load_at_s = load, now
        me = self._beliefs.own.record
        if told is not None and self._beliefs.own.joined:
            self._load_serial += 1
            news = LoadNews(
                name=me.name,
                generation=me.generation,
                serial=self._load_serial,
                load=load,
            )
            self._beliefs.news.put(news)

    # ------------------------------------------------------------------ redial

    def _keep_links(self, now: float) -> list[Effect]:
        settings, table, links = self._settings, self._beliefs.table, self._links
        me = self._beliefs.own.record.name
        if self._beliefs.size <= settings.mesh_limit:
            wanted = [
                name
                for name in table.alive
                if links.may_dial(name, now)
                and (
                    me < name or now - table.entries[name].since_s >= settings.period_s
                )
            ]
            return self._dial(wanted, now)
        free = [name for name in table.alive if links.may_dial(name, now)]
        count = min(max(0, settings.kept_links - len(links)), len(free))
        return [
            *self._dial(self._dice.sample(free, count), now),
            *links.close_idle(now),
        ]

    def _dial(self, names: Sequence[NodeName], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for name in names:
            urls = self._beliefs.table.entries[name].record.urls
            effects += self._links.dial(name, urls, now)
        return effects

    def _redial(self, now: float) -> list[Effect]:
        """Dial one of the dead: that a partition has healed shows nowhere else."""
        self._redial_at_s = now + self._settings.dead_redial_s
        dead = self._beliefs.table.dead()
        if not dead:
            return []
        longest_ago_s = min(entry.dialled_at_s for entry in dead)
        due = [entry for entry in dead if entry.dialled_at_s == longest_ago_s]
        entry = due[self._dice.randrange(len(due))]
        entry.dialled_at_s = now
        return self._links.dial(entry.record.name, entry.record.urls, now)

    def dial_seeds(self, now: float) -> list[Effect]:
        """Dial the seeds that are due and not represented by a member."""
        table = self._beliefs.table
        known = dict.fromkeys(
            url
            for record in (
                self._beliefs.own.record,
                *(table.entries[name].record for name in table.active),
            )
            for url in record.urls
        )
        return [Dial(url, (url,)) for url in self._seeds.due(now, known)]


def _differs(load: Load, told: Load, share: float) -> bool:
    change = abs(load.running + load.queued - told.running - told.queued)
    return load.degraded != told.degraded or change >= share * max(1, told.slots)
