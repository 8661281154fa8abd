"""A cluster in one process and in simulated time: same seed, same events.

`SimNode` does with `Swim` and `Catalog` what the shell of a real node does; the
network between them delays, loses, partitions and resets as it is told. Nothing
sleeps: time jumps from one event to the next.

`python -m tests.simulation` measures detection, spread, heal and idle traffic.
"""

import argparse
import hashlib
import heapq
import itertools
import math
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from mpreg_nb.membership.config import PROFILES, ProfileName, SwimConfig
from mpreg_nb.membership.events import (
    CatalogAnnounced,
    Close,
    Dial,
    Died,
    Effect,
    Event,
    LeaveSpread,
    Left,
    LinkEvent,
    LoadChanged,
    NameFree,
    NameReplaced,
    NameTaken,
    Notify,
    Restarted,
    RttMeasured,
    Send,
    Suspected,
)
from mpreg_nb.membership.swim import Swim
from mpreg_nb.protocol.gossip import (
    CatalogPull,
    CatalogPush,
    Control,
    Load,
    MemberRecord,
    MemberState,
    Offer,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.transport.pool import keeps_new_link

START_S = 1000.0
FRAME_BYTES = 40 + 4  # TCP and IP, WebSocket
DIAL_TIMEOUT_S = 2.0
PROFILE_NAMES: tuple[ProfileName, ...] = ("lan", "local")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(Control).decode


@dataclass(slots=True, eq=False)
class Link:
    """One connection; `ends` are numbers of processes, the dialler's first."""

    ends: tuple[int, int]
    opened_s: float
    is_open: bool = True
    busy_until_s: list[float] = field(default_factory=lambda: [0.0, 0.0])


@dataclass(slots=True)
class Held:
    """An inbound link whose process claims a name that somebody has."""

    link: Link
    newcomer: int


class SimNode:
    """One process of one node: the machines, and what a shell does for them."""

    def __init__(
        self,
        sim: "Simulation",
        name: str,
        url: str,
        settings: SwimConfig,
        resources: frozenset[str],
    ) -> None:
        self.sim = sim
        self.number = len(sim.processes)
        self.name = name
        self.url = url
        self.rng = random.Random(sim.rng.random())
        self.epoch = self.rng.randbytes(16)
        record = MemberRecord(
            name=name, generation=1, epoch=self.epoch, urls=(url,), resources=resources
        )
        self.swim = Swim(settings, record, self.rng, sim.now)
        self.swim.set_load(Load(slots=2))
        self.catalog = Catalog(name)
        self.links: dict[str, Link] = {}
        self.held: dict[bytes, list[Held]] = {}
        self.is_running = True
        self.paused_until_s: float | None = None
        self.missed: list[tuple[str, tuple[Any, ...]]] = []
        self.tick_at_s = float("inf")
        self.sent_bytes = 0
        self.sent_frames = 0

    # ------------------------------------------------- what comes from outside

    def handle(self, what: str, *args: Any) -> None:
        """Run one callback of the event loop, or queue it while stopped."""
        if not self.is_running:
            return
        if self.paused_until_s is not None:
            if what != "on_tick":
                self.missed.append((what, args))
            return
        getattr(self, what)(*args)
        self._schedule()

    def resume(self) -> None:
        self.paused_until_s = None
        missed, self.missed = self.missed, []
        # Timers before reads, or after them: event loops differ.
        timer = [("on_tick", ())]
        order = timer + missed if self.rng.random() < 0.5 else missed + timer
        for what, args in order:
            self.handle(what, *args)

    def on_tick(self) -> None:
        now = self.sim.now
        self.perform(self.swim.tick(now))
        self._pull(now)

    def on_message(self, link: Link, data: bytes) -> None:
        sender = self.sim.other(link, self).name
        if self.links.get(sender) is not link:
            return
        message = _decode(data)
        match message:
            case CatalogPull():
                for push in self.catalog.answer(message):
                    self.send(sender, push)
            case CatalogPush():
                self.catalog.receive(message)
            case _:
                self.perform(self.swim.receive(message, sender, self.sim.now))
        self._pull(self.sim.now)

    def on_dial_failed(self, to: str, event: LinkEvent) -> None:
        self.perform(self.swim.link(to, event, self.sim.now))

    def on_link(self, link: Link) -> None:
        """A handshake succeeded; a second link to one name needs a decision."""
        peer = self.sim.other(link, self)
        if not link.is_open:
            return
        known = self.swim.member(peer.name)
        old = self.links.get(peer.name)
        is_other = old is not None and self.sim.other(old, self) is not peer
        if is_other or (known is not None and known.record.epoch != peer.epoch):
            self.held.setdefault(peer.epoch, []).append(Held(link, peer.number))
            self.perform(self.swim.claim(peer.name, peer.epoch, self.sim.now))
        else:
            self._register(link)

    def on_link_gone(self, link: Link, event: LinkEvent) -> None:
        peer = self.sim.other(link, self).name
        if self.links.get(peer) is link:
            del self.links[peer]
            self.perform(self.swim.link(peer, event, self.sim.now))

    def on_name_taken(self) -> None:
        self.sim.note(self, NameTaken(self.name, self.epoch))
        self.sim.stop(self)

    # -------------------------------------------------------- what it is told

    def join(self, seeds: Iterable[str]) -> None:
        self.perform(self.swim.join(tuple(seeds), self.sim.now))
        self._schedule()

    def leave(self) -> None:
        self.perform(self.swim.leave(self.sim.now))
        self._schedule()

    def publish(self, *offers: Offer) -> None:
        delta = self.catalog.publish(*offers)
        self.perform(self.swim.announce(self.catalog.version, delta, self.sim.now))
        self._schedule()

    # ------------------------------------------------------------ what it does

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self.send(peer, message)
                case Dial(to, urls):
                    self.sim.dial(self, to, urls[0])
                case Close(peer):
                    link = self.links.pop(peer, None)
                    if link is not None:
                        self.sim.close(link, self, LinkEvent.CLOSED)
                case Notify(event):
                    self._on_event(event)

    def send(self, peer: str, message: Control) -> None:
        link = self.links.get(peer)
        if link is not None:
            self.sim.transmit(link, self, message)

    def _on_event(self, event: Event) -> None:
        now = self.sim.now
        match event:
            case RttMeasured() | LoadChanged():
                return
            case CatalogAnnounced(owner, generation, version, delta, heard_from):
                if delta is None:
                    self.catalog.heard(
                        owner,
                        generation=generation,
                        version=version,
                        heard_from=heard_from,
                    )
                else:
                    self.catalog.apply(
                        owner,
                        generation=generation,
                        version=version,
                        from_version=version - 1,
                        offers=delta,
                        heard_from=heard_from,
                    )
                return
            case Died(name) | Left(name) | Restarted(name):
                self.catalog.forget(name)
            case NameFree(_, epoch):
                for held in self.held.pop(epoch, []):
                    self._register(held.link)
            case NameTaken(_, epoch):
                for held in self.held.pop(epoch, []):
                    held.link.is_open = False
                    newcomer = self.sim.processes[held.newcomer]
                    self.sim.at(now + self.sim.latency(), newcomer, "on_name_taken")
            case LeaveSpread() | NameReplaced():
                self.sim.stop(self)
        self.sim.note(self, event)

    def _register(self, link: Link) -> None:
        peer = self.sim.other(link, self)
        old = self.links.get(peer.name)
        if old is not None and old.is_open and self.sim.other(old, self) is peer:
            if not keeps_new_link(
                self.name,
                peer.name,
                new_dialled_here=link.ends[0] == self.number,
                old_dialled_here=old.ends[0] == self.number,
                old_age_s=self.sim.now - old.opened_s,
            ):
                self.sim.close(link, self, LinkEvent.CLOSED)
                return
        self.links[peer.name] = link
        if old is not None and old.is_open:
            self.sim.close(old, self, LinkEvent.CLOSED)
        self.perform(self.swim.link(peer.name, LinkEvent.UP, self.sim.now))

    def _pull(self, now: float) -> None:
        if self.catalog.deadline <= now:
            for to, pull in self.catalog.pulls(now):
                self.send(to, pull)

    def _schedule(self) -> None:
        due_s = min(self.swim.deadline, self.catalog.deadline)
        due_s = max(due_s, self.sim.now)
        if due_s != self.tick_at_s and self.is_running:
            self.tick_at_s = due_s
            late_s = self.sim.lateness(self)
            self.sim.at(due_s + late_s, self, "on_due", due_s)

    def on_due(self, due_s: float) -> None:
        if due_s == self.tick_at_s:
            self.tick_at_s = float("inf")
            self.on_tick()


class Simulation:
    """Processes, the network between them, and the clock."""

    def __init__(self, seed: int, settings: SwimConfig) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings
        self.now = START_S
        self.processes: list[SimNode] = []
        self.current: dict[str, SimNode] = {}  # name -> its latest process
        self.events: list[tuple[float, str, Event]] = []
        self.digest = b""  # of all that was delivered and told, in order
        self.delay_s = (0.0002, 0.002)
        self.loss = 0.0
        self.disorder = 0.0  # share of messages that come again, late
        self.late_s = 0.0  # ticks are up to so much late
        self.cut: Callable[[str, str], bool] | None = None  # from, to: nothing passes
        self.is_apart: frozenset[int] = frozenset()  # processes that are cut off
        self._heap: list[tuple[float, int, int, str, tuple[Any, ...]]] = []
        self._serial = 0
        self._listening: dict[str, SimNode] = {}
        self._ports = 7400

    def reseed(self, seed: int) -> None:
        """Go on with other dice."""
        self.seed = seed
        self.rng.seed(seed)
        for node in self.processes:
            node.rng.seed(self.rng.random())

    # ------------------------------------------------------------------ time

    def at(self, when_s: float, node: SimNode | None, what: str, *args: Any) -> None:
        number = -1 if node is None else node.number
        self._serial += 1
        heapq.heappush(self._heap, (when_s, self._serial, number, what, args))

    def run(self, seconds: float) -> None:
        end_s = self.now + seconds
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            self.now, _, number, what, args = heapq.heappop(heap)
            if number < 0:
                getattr(self, what)(*args)
            else:
                self.processes[number].handle(what, *args)
        self.now = end_s

    def run_until(
        self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.02
    ) -> float:
        """Run until `condition` holds; return the seconds that took (inf: never)."""
        started_s = self.now
        while not condition():
            if self.now - started_s >= limit_s:
                return float("inf")
            self.run(step_s)
        return self.now - started_s

    # ---------------------------------------------------------------- processes

    def start(
        self,
        name: str,
        seeds: Iterable[str] = (),
        *,
        url: str = "",
        resources: frozenset[str] = frozenset(),
    ) -> SimNode:
        if not url:
            self._ports += 1
            url = f"ws://host:{self._ports}"
        node = SimNode(self, name, url, self.settings, resources)
        self.processes.append(node)
        self.current[name] = node
        self._listening[url] = node
        node.join(seeds)
        return node

    def stop(self, node: SimNode, event: LinkEvent = LinkEvent.CLOSED) -> None:
        """End a process whose host lives on: its links break at the other end."""
        node.is_running = False
        if self._listening.get(node.url) is node:
            del self._listening[node.url]
        for link in list(node.links.values()):
            self.close(link, node, event)

    def kill(self, node: SimNode) -> None:
        """As kill -9: links are reset, dials refused."""
        self.stop(node, LinkEvent.DOWN)

    def vanish(self, node: SimNode) -> None:
        """As a power cut: silence, and nobody to refuse a dial."""
        node.is_running = False

    def pause(self, node: SimNode, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT `seconds` later."""
        node.paused_until_s = self.now + seconds
        self.at(self.now + seconds, None, "_resume", node.number)

    def _resume(self, number: int) -> None:
        node = self.processes[number]
        if node.is_running:
            node.resume()

    @property
    def running(self) -> list[SimNode]:
        return [node for node in self.processes if node.is_running]

    # ------------------------------------------------------------------ network

    def other(self, link: Link, node: SimNode) -> SimNode:
        first, second = link.ends
        return self.processes[second if node.number == first else first]

    def latency(self) -> float:
        low_s, high_s = self.delay_s
        return low_s + (high_s - low_s) * self.rng.random()

    def lateness(self, node: SimNode) -> float:
        return self.rng.random() * self.late_s if self.late_s else 0.0

    def is_cut(self, source: SimNode, target: SimNode) -> bool:
        if (source.number in self.is_apart) != (target.number in self.is_apart):
            return True
        return self.cut is not None and self.cut(source.name, target.name)

    def dial(self, node: SimNode, to: str, url: str) -> None:
        target = self._listening.get(url)
        round_trip_s = self.latency() + self.latency()
        if target is None:
            answer_s = self.now + round_trip_s
            self.at(answer_s, node, "on_dial_failed", to, LinkEvent.REFUSED)
            return
        if (
            not target.is_running
            or target.paused_until_s is not None
            or self.is_cut(node, target)
            or self.is_cut(target, node)
        ):
            self.at(
                self.now + DIAL_TIMEOUT_S,
                node,
                "on_dial_failed",
                to,
                LinkEvent.TIMED_OUT,
            )
            return
        while self.rng.random() < self.loss:
            round_trip_s += 0.2  # the first retransmission timeout
        link = Link((node.number, target.number), self.now + round_trip_s)
        self.at(link.opened_s, node, "on_link", link)
        self.at(link.opened_s, target, "on_link", link)

    def transmit(self, link: Link, source: SimNode, message: Control) -> None:
        data = _encode(message)
        source.sent_bytes += len(data) + FRAME_BYTES
        source.sent_frames += 1
        target = self.other(link, source)
        if not link.is_open or self.is_cut(source, target):
            return
        if self.loss and self.rng.random() < self.loss:
            return
        way = link.ends.index(source.number)
        arrival_s = max(self.now + self.latency(), link.busy_until_s[way])
        link.busy_until_s[way] = arrival_s
        self._hash(f"{self.now:.9f} {source.name} {target.name}".encode(), data)
        self.at(arrival_s, target, "on_message", link, data)
        if self.disorder and self.rng.random() < self.disorder:
            again_s = arrival_s + self.rng.random()
            self.at(again_s, target, "on_message", link, data)

    def close(self, link: Link, source: SimNode, event: LinkEvent) -> None:
        if link.is_open:
            link.is_open = False
            target = self.other(link, source)
            if not self.is_cut(source, target):
                self.at(self.now + self.latency(), target, "on_link_gone", link, event)

    # ---------------------------------------------------------------- observing

    def note(self, node: SimNode, event: Event) -> None:
        self.events.append((self.now, node.name, event))
        self._hash(f"{self.now:.9f} {node.name} {type(event).__name__}".encode())

    def _hash(self, *parts: bytes) -> None:
        self.digest = hashlib.blake2b(
            b"".join((self.digest, *parts)), digest_size=16
        ).digest()

    def told(self, *kinds: type, since_s: float = 0.0) -> list[tuple[float, str, Any]]:
        return [
            (when_s, name, event)
            for when_s, name, event in self.events
            if when_s >= since_s and isinstance(event, kinds)
        ]

    def states_of(self, name: str) -> list[MemberState | None]:
        """What all other running nodes hold of `name`."""
        members = [n.swim.member(name) for n in self.running if n.name != name]
        return [None if member is None else member.state for member in members]

    def all_hold(self, name: str, *states: MemberState) -> bool:
        return all(state in states for state in self.states_of(name))

    def is_whole(self) -> bool:
        """Whether every running node holds every other for alive."""
        names = {node.name for node in self.running}
        return all(set(node.swim.alive) == names for node in self.running)


@cache
def _settled(count: int, settings: SwimConfig) -> bytes:
    sim = Simulation(0, settings)
    seed_url = sim.start("n000").url
    for number in range(1, count):
        sim.run(0.02)
        sim.start(f"n{number:03}", [seed_url])
    took_s = sim.run_until(sim.is_whole, 60.0)
    assert took_s < 60.0
    sim.run(40 * settings.period_s)  # all news told, all dials made
    sim.events.clear()
    return pickle.dumps(sim)


def settled(
    count: int, profile: ProfileName | SwimConfig = "lan", seed: int = 0
) -> Simulation:
    """Return a quiet cluster of `count` nodes, whose dice are those of `seed`."""
    settings = PROFILES[profile] if isinstance(profile, str) else profile
    sim: Simulation = pickle.loads(_settled(count, settings))
    sim.reseed(seed)
    sim.run(sim.rng.random() * settings.period_s)
    return sim


# ------------------------------------------------------------------- a report


def quantile(values: list[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def idle_traffic(sim: Simulation, seconds: float = 120.0) -> tuple[float, float]:
    """Return bytes (headers included) and frames that a node sends in a second."""
    before = [(node.sent_bytes, node.sent_frames) for node in sim.running]
    sim.run(seconds)
    after = [(node.sent_bytes, node.sent_frames) for node in sim.running]
    sums = [
        sum(a[i] - b[i] for a, b in zip(after, before, strict=True)) for i in (0, 1)
    ]
    return sums[0] / seconds / len(before), sums[1] / seconds / len(before)


def doubts(sim: Simulation, loss: float, seconds: float) -> tuple[float, float]:
    """Return false suspicions and false deaths per node and hour at this loss."""
    sim.loss = loss
    sim.run(seconds)
    node_hours = len(sim.running) * seconds / 3600.0
    accused = {(e.name, round(t, 0)) for t, _, e in sim.told(Suspected)}
    dead = {(e.name, round(t, 0)) for t, _, e in sim.told(Died)}
    return len(accused) / node_hours, len(dead) / node_hours


def main() -> None:
    """Measure and print, for every profile and size."""
    from tests.membership.experiments import BOUNDS_S, EXPERIMENTS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each")
    parser.add_argument("--nodes", default="3,10,100", help="sizes, by commas")
    parser.add_argument("--only", default="", help="experiments, by commas")
    asked = parser.parse_args()
    sizes = [int(size) for size in asked.nodes.split(",")]
    names = asked.only.split(",") if asked.only else list(EXPERIMENTS)
    say = sys.stdout.write
    say(f"{'seconds until all agree':24}{'':6}{'N':>5}")
    say(f"{'p50':>8}{'p99':>8}{'max':>8}{'bound':>8}\n")
    for name, profile, count in itertools.product(names, PROFILE_NAMES, sizes):
        took_s = [
            EXPERIMENTS[name](settled(count, profile, seed))
            for seed in range(asked.seeds)
        ]
        bound_s = BOUNDS_S[name].get((profile, count), float("nan"))
        figures = (quantile(took_s, 0.5), quantile(took_s, 0.99), max(took_s), bound_s)
        say(f"{name:24}{profile:6}{count:5}")
        say("".join(f"{figure:8.2f}" for figure in figures) + "\n")
        sys.stdout.flush()
    say(f"\n{'idle':24}{'':6}{'N':>5}{'bytes/s':>9}{'frames/s':>9}\n")
    for profile, count in itertools.product(PROFILE_NAMES, sizes):
        sent_bytes, frames = idle_traffic(settled(count, profile, 1))
        say(f"{'':24}{profile:6}{count:5}{sent_bytes:9.0f}{frames:9.2f}\n")
    say(f"\n{'per node and hour':24}{'':6}{'N':>5}{'loss':>6}")
    say(f"{'suspected':>11}{'dead':>7}\n")
    for profile, count, loss in itertools.product(
        PROFILE_NAMES, sizes, (0.05, 0.1, 0.2, 0.3)
    ):
        seconds = 120.0 if count > 30 else 1200.0
        suspected, dead = doubts(settled(count, profile, 1), loss, seconds)
        say(f"{'':24}{profile:6}{count:5}{loss:6.2f}{suspected:11.1f}{dead:7.2f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
