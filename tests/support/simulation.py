"""A cluster in one process and in simulated time: the same seed, the same events.

Each `SimNode` runs the real `MembershipDriver`, with the real state machine, catalog
and join gate. Only the network, the clock and the timers are simulated: messages are
delayed, lost and stalled, links are cut, processes are paused and killed, as a test
asks. Nothing sleeps: the time jumps from one event to the next.
"""

import gc
import heapq
import pickle
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from mpreg_nb.membership.config import PROFILES, ProfileName, SwimConfig
from mpreg_nb.membership.events import (
    Event,
    LeaveSpread,
    LoadChanged,
    NameFree,
    NameReplaced,
    NameTaken,
    RttMeasured,
)
from mpreg_nb.membership.swim import Swim
from mpreg_nb.node.dispatch import TAKEN, JoinGate
from mpreg_nb.node.membership import Members, MembershipDriver
from mpreg_nb.protocol.gossip import Load, MemberRecord, MemberState, Offer, SyncPush
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.transport.connection import Connection, FailureKind
from mpreg_nb.transport.pool import keeps_new_link

START_S = 1000.0
FRAME_BYTES = 40 + 4  # TCP and IP, WebSocket
DIAL_TIMEOUT_S = 2.0
RETRANSMIT_S = 0.2
"""The first retransmission timeout of TCP; each further one takes twice as long."""

IDLE = Load(slots=2)

K = TypeVar("K")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_Call = tuple[Callable[..., object], tuple[Any, ...]]
_Happening: TypeAlias = "tuple[float, int, SimNode | None, _Call]"


@dataclass(frozen=True, slots=True)
class SimPeer:
    """The process at the other end of a link, as the handshake proved it."""

    name: str
    dialled: bool

    @property
    def address(self) -> str:
        """The address that is logged."""
        return f"the address of {self.name}"


class SimLink:
    """One end of a control link; it offers what `Connection` does."""

    __slots__ = (
        "arrived_s",
        "is_open",
        "node",
        "on_lost",
        "on_message",
        "opened_s",
        "other",
        "peer",
    )

    def __init__(self, node: "SimNode", peer: SimPeer) -> None:
        self.node = node
        self.peer = peer
        self.other: SimLink
        self.is_open = True
        self.opened_s = 0.0
        self.arrived_s = 0.0  # when the last message from here arrives there
        self.on_message: Callable[..., object]
        self.on_lost: Callable[..., object]

    def send(self, message: msgspec.Struct) -> None:
        """Send `message` to the other end."""
        if self.is_open:
            self.node.sim.transmit(self, message)

    def close(self, code: int, reason: str = "") -> None:
        """Close in order; both ends report the loss a moment later."""
        self.end(f"closed ({code}): {reason}", f"closed by {self.node.name}: {reason}")

    def end(self, reason_here: str, reason_there: str) -> None:
        """End the link; the other end gets the end unless the network is cut."""
        if not self.is_open:
            return
        self.is_open = False
        sim = self.node.sim
        sim.at(sim.now + sim.latency(), self.node, self.on_lost, self, reason_here)
        other = self.other
        if not sim.is_cut(self.node, other.node):
            arrival_s = max(sim.now + sim.latency(), self.arrived_s)
            sim.at(arrival_s, other.node, other.lose, reason_there)

    def lose(self, reason: str) -> None:
        """Process the loss of the other end."""
        if self.is_open:
            self.is_open = False
            self.on_lost(self, reason)

    def deliver(self, message: msgspec.Struct) -> None:
        """Process a message from the other end."""
        if self.is_open:
            self.on_message(self, message, ())


@dataclass(slots=True, eq=False)
class Attempt:
    """A dial in progress, and the messages that wait for it."""

    to: str  # a name, or the URL of a seed
    urls: tuple[str, ...]
    queue: list[msgspec.Struct]
    is_over: bool = False


class SimPool:
    """The control links of one process; it offers what `ConnectionPool` does."""

    def __init__(self, node: "SimNode") -> None:
        self._node = node
        self._attempts: dict[str, Attempt] = {}
        self.links: dict[str, SimLink] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "links"}

    # ------------------------------------------------------ used by the driver

    def send(self, node: str, lane: str, message: msgspec.Struct) -> None:
        link = self.links.get(node)
        if link is not None and link.is_open:
            self._node.sim.transmit(link, message)
        elif node in self._attempts:
            self._attempts[node].queue.append(message)

    def reach(self, node: str, urls: tuple[str, ...], lane: str) -> None:
        link = self.links.get(node)
        if node not in self._attempts and (link is None or not link.is_open):
            attempt = self._attempts[node] = Attempt(node, urls, [])
            self._node.sim.dial(self._node, attempt, 0)

    def close_link(self, node: str, *, lane: str) -> None:
        link = self.links.get(node)
        if link is not None:
            link.close(1000)

    def dial_seed(self, url: str) -> None:
        self._node.sim.dial(self._node, Attempt(url, (url,), []), 0)

    # --------------------------------------------------- used by the network

    def failed(self, attempt: Attempt, kind: FailureKind) -> None:
        if not attempt.is_over:
            attempt.is_over = True
            self._attempts.pop(attempt.to, None)
            self._node.driver.dial_failed(attempt.to, kind)

    def dialled(self, attempt: Attempt, link: SimLink) -> None:
        """Use the link that a dial from here led to."""
        attempt.is_over = True
        if link.is_open:
            self.accept(link)

    def accept(self, link: Any) -> None:
        """Use a link that is open at both ends, or close it as a duplicate."""
        node, name = self._node, link.peer.name
        if not link.is_open:
            return
        link.opened_s = node.sim.now
        link.on_message, link.on_lost = node.on_message, self._lost
        old = self.links.get(name)
        attempt = self._attempts.pop(name, None)
        if attempt is not None:
            attempt.is_over = True
        if old is not None and old.is_open:
            if not keeps_new_link(
                node.name,
                name,
                new_dialled_here=link.peer.dialled,
                old_dialled_here=old.peer.dialled,
                old_age_s=node.sim.now - old.opened_s,
            ):
                link.close(1000, "another connection is used")
                return
        self.links[name] = link
        node.driver.link_up(name)
        if old is not None:
            old.close(1000, "another connection is used")
        if attempt is not None:
            for message in attempt.queue:
                link.send(message)

    def drop(self, reason_here: str, reason_there: str) -> None:
        """End all links of a process that ends."""
        for link in self.links.values():
            link.end(reason_here, reason_there)

    def _lost(self, link: SimLink, reason: str) -> None:
        node, name = self._node, link.peer.name
        if TAKEN in reason:
            node.refused()
        if self.links.get(name) is link:
            del self.links[name]
            node.driver.link_lost(name, reason.startswith("closed"))


class SimTimer:
    """The timer of one driver, on the simulated clock."""

    def __init__(self, node: "SimNode", ring: Callable[[float], None]) -> None:
        self._node = node
        self._ring = ring
        self._due = float("inf")

    def set(self, due: float) -> None:
        if due < self._due:
            self._due = due
            sim = self._node.sim
            late_s = sim.rng.random() * sim.late_s if sim.late_s else 0.0
            sim.at(max(due, sim.now) + late_s, self._node, self.rang, due)

    def rang(self, due: float) -> None:
        if due == self._due:
            self._due = float("inf")
            self._ring(self._node.sim.now)

    def stop(self) -> None:
        self._due = -float("inf")


class SimNode:
    """One process of one node."""

    def __init__(self, sim: "Simulation", name: str, url: str) -> None:
        self.sim = sim
        self.number = len(sim.processes)
        self.name = name
        self.url = url
        self.rng = random.Random(sim.rng.random())
        self.epoch = self.rng.randbytes(16)
        record = MemberRecord(name=name, generation=1, epoch=self.epoch, urls=(url,))
        self.swim = Swim(sim.settings, record, self.rng, sim.now)
        self.catalog = Catalog(name)
        self.pool = SimPool(self)
        self.driver = MembershipDriver(
            self.swim,
            self.catalog,
            self.pool,
            dial_seed=self.pool.dial_seed,
            on_event=self.on_event,
            on_catalog=sim.changed,
            measure=self.load,
            clock=sim.clock,
            timer=self._timer,
        )
        members = Members(self.swim)
        self.gate = JoinGate(members.holder, self.driver.claim, self.pool.accept)
        self.is_running = True  # False: has ended
        self.runs = True  # False: has ended, or is paused
        self.missed: list[_Call] = []  # while paused
        self.sent_bytes = 0
        self.sent_frames = 0

    # ------------------------------------------------------------- its commands

    def leave(self) -> None:
        """Announce the leave; the process ends once the others know of it."""
        self.driver.leave(0.0, "bye")

    def publish(self, *offers: Offer) -> None:
        """Offer functions."""
        self.driver.announce(self.catalog.publish(*offers))

    # ------------------------------------------------------------- its callbacks

    def load(self) -> Load:
        return IDLE

    def on_message(self, link: SimLink, message: Any, parts: object) -> None:
        self.driver.receive(message, link.peer.name)

    def on_event(self, event: Event) -> None:
        match event:
            case RttMeasured() | LoadChanged():
                return
            case NameFree(name, epoch):
                self.gate.free(name, epoch)
            case NameTaken(name, epoch):
                self.gate.taken(name, epoch)
        self.sim.note(self, event)
        if isinstance(event, LeaveSpread | NameReplaced):
            self.sim.stop(self)

    def refused(self) -> None:
        """End: another process has taken the name of this one."""
        self.sim.note(self, NameTaken(self.name, self.epoch))
        self.sim.stop(self)

    def _timer(self, ring: Callable[[float], None]) -> SimTimer:
        return SimTimer(self, ring)


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
        self.digest = 0  # of all messages and events so far, in their order
        self.delivered = 0  # messages
        self.delay_s = (0.0002, 0.002)
        self.loss = 0.0  # share of messages that are lost
        self.stalls = 0.0  # share of segments that TCP has to send again
        self.disorder = 0.0  # share of messages that come again, late
        self.late_s = 0.0  # timers are up to so much late
        self.cut: Callable[[str, str], bool] | None = None  # from, to: nothing passes
        self.is_apart: frozenset[int] = frozenset()  # processes that are cut off
        self._heap: list[_Happening] = []
        self._serial = 0
        self._changes = 0
        self._is_noting = True
        self._listening: dict[str, SimNode] = {}
        self._ports = 7400

    # Links lead from process to process: pickled on their own, lest the recursion of
    # pickle goes as deep as there are processes.

    def __getstate__(self) -> dict[str, Any]:
        links = [(node.pool, tuple(node.pool.links.items())) for node in self.processes]
        return {**self.__dict__, "links": links}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for pool, links in state.pop("links"):
            pool.links = dict(links)
        self.__dict__.update(state)

    def reseed(self, seed: int) -> None:
        """Use the random numbers of another seed from now on."""
        self.seed = seed
        self.rng.seed(seed)
        for node in self.processes:
            node.rng.seed(self.rng.random())

    # ------------------------------------------------------------------ time

    def clock(self) -> float:
        return self.now

    def at(
        self,
        when_s: float,
        node: SimNode | None,
        call: Callable[..., object],
        *values: Any,
    ) -> None:
        """Call later; a paused `node` is called after its pause, an ended one never."""
        self._serial += 1
        heapq.heappush(self._heap, (when_s, self._serial, node, (call, values)))

    def run(self, seconds: float) -> None:
        end_s = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end_s:
            self.now, _, node, (call, values) = pop(heap)
            if node is None or node.runs:
                call(*values)
            elif node.is_running:
                node.missed.append((call, values))
        self.now = end_s

    def run_next(self) -> None:
        """Run up to the next thing that happens."""
        if self._heap:
            self.run(max(0.0, self._heap[0][0] - self.now))

    def run_until(
        self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.02
    ) -> float:
        """Run until `condition` holds; return the seconds that took (inf: never)."""
        started_s, seen = self.now, -1
        while True:
            if self._changes != seen:
                seen = self._changes
                if condition():
                    return self.now - started_s
            if self.now - started_s >= limit_s:
                return float("inf")
            self.run(step_s)

    # ---------------------------------------------------------------- processes

    def start(self, name: str, seeds: Iterable[str] = (), *, url: str = "") -> SimNode:
        """Start a process that joins through the URLs `seeds`."""
        node = self._process(name, url)
        node.driver.start(tuple(seeds))
        return node

    def start_together(self, count: int) -> None:
        """Start processes that know each other already, as some time after a start."""
        nodes = [self._process(f"n{number:03}") for number in range(count)]
        everybody = SyncPush(records=tuple(node.swim.me for node in nodes))
        self._is_noting = False  # a million of joins, in a cluster of a thousand
        gc.disable()  # the simulation frees no object before its end
        for node in nodes:
            node.driver.start((nodes[0].url,))  # its own URL is passed over
            node.driver.receive(everybody, nodes[0].name)
        gc.enable()
        self._is_noting = True

    def stop(self, node: SimNode, reason: str = "closed by the peer") -> None:
        """End a process whose host lives on: its links break at the other end."""
        node.is_running = node.runs = False
        self._changes += 1
        node.driver.stop()
        if self._listening.get(node.url) is node:
            del self._listening[node.url]
        node.pool.drop("", reason)

    def kill(self, node: SimNode) -> None:
        """As kill -9: links are reset, dials refused."""
        self.stop(node, "reset by the peer")

    def vanish(self, node: SimNode) -> None:
        """As a power cut: silence, and nobody to refuse a dial."""
        node.is_running = node.runs = False
        self._changes += 1

    def pause(self, node: SimNode, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT `seconds` later."""
        node.runs = False
        self.at(self.now + seconds, None, self._resume, node)

    def stutter(
        self,
        node: SimNode,
        runs_s: tuple[float, float],
        stops_s: tuple[float, float],
    ) -> None:
        """Pause and resume a process for ever, for random times in these ranges."""
        if not node.is_running:
            return
        stop_s = self.rng.uniform(*stops_s)
        self.pause(node, stop_s)
        next_s = self.now + stop_s + self.rng.uniform(*runs_s)
        self.at(next_s, None, self.stutter, node, runs_s, stops_s)

    @property
    def running(self) -> list[SimNode]:
        return [node for node in self.processes if node.is_running]

    def _process(self, name: str, url: str = "") -> SimNode:
        if not url:
            self._ports += 1
            url = f"ws://host:{self._ports}"
        node = SimNode(self, name, url)
        self.processes.append(node)
        self.current[name] = node
        self._listening[url] = node
        self._changes += 1
        return node

    def _resume(self, node: SimNode) -> None:
        if not node.is_running or node.runs:
            return
        node.runs = True
        missed, node.missed = node.missed, []
        timers = [one for one in missed if one[0].__name__ == SimTimer.rang.__name__]
        reads = [one for one in missed if one[0].__name__ != SimTimer.rang.__name__]
        # Timers before reads, or after them: event loops differ.
        order = timers + reads if self.rng.random() < 0.5 else reads + timers
        for call, values in order:
            if node.runs:
                call(*values)

    # ------------------------------------------------------------------ network

    def latency(self) -> float:
        low_s, high_s = self.delay_s
        return low_s + (high_s - low_s) * self.rng.random()

    def is_cut(self, source: SimNode, target: SimNode) -> bool:
        """Whether nothing passes from one process to another."""
        if self.is_apart:
            if (source.number in self.is_apart) != (target.number in self.is_apart):
                return True
        return self.cut is not None and self.cut(source.name, target.name)

    def dial(self, node: SimNode, attempt: Attempt, place: int) -> None:
        """Dial the URL of `attempt` at `place`, then the next one."""
        if attempt.is_over:
            return
        target = self._listening.get(attempt.urls[place])
        failed: tuple[float, FailureKind]
        if target is None:
            failed = self.now + self.latency() + self.latency(), "refused"
        elif not target.is_running or self.is_cut(node, target):
            failed = self.now + DIAL_TIMEOUT_S, "timed_out"
        elif attempt.to not in (target.name, target.url):
            failed = self.now + self.latency() + self.latency(), "wrong_node"
        else:
            # TCP takes one round trip, the proofs of both sides another.
            there_s = self.now + 3 * self.latency() + self._retransmissions_s()
            self.at(there_s, target, self._handshake, node, target, attempt)
            failed = self.now + DIAL_TIMEOUT_S, "timed_out"
        if place + 1 < len(attempt.urls):
            self.at(failed[0], node, self.dial, node, attempt, place + 1)
        else:
            self.at(failed[0], node, node.pool.failed, attempt, failed[1])

    def _handshake(self, node: SimNode, target: SimNode, attempt: Attempt) -> None:
        """Open the link at both ends, at the dialled one first."""
        if attempt.is_over or self.is_cut(target, node) or not node.is_running:
            return
        attempt.is_over = True
        mine = SimLink(node, SimPeer(target.name, dialled=True))
        theirs = SimLink(target, SimPeer(node.name, dialled=False))
        mine.other, theirs.other = theirs, mine
        mine.on_lost = node.pool._lost
        theirs.arrived_s = self.now + self.latency()
        self.at(theirs.arrived_s, node, node.pool.dialled, attempt, mine)
        target.gate.arrived(cast("Connection", theirs))

    def _retransmissions_s(self) -> float:
        took_s, wait_s = 0.0, RETRANSMIT_S
        while self.rng.random() < max(self.loss, self.stalls):
            took_s += wait_s
            wait_s *= 2
        return took_s

    def transmit(self, link: SimLink, message: msgspec.Struct) -> None:
        """Deliver `message` at the other end, later and in order, or lose it."""
        data = _encode(message)
        source, there = link.node, link.other
        target = there.node
        source.sent_bytes += len(data) + FRAME_BYTES
        source.sent_frames += 1
        now, rng = self.now, self.rng
        if (self.cut is not None or self.is_apart) and self.is_cut(source, target):
            return
        if not there.is_open and target.url in self._listening:
            # The host is up, and no longer has this connection.
            self.at(now + 2 * self.latency(), source, link.lose, "reset by the peer")
            return
        if self.loss and rng.random() < self.loss:
            return
        low_s, high_s = self.delay_s
        arrival_s = now + low_s + (high_s - low_s) * rng.random()
        if self.stalls:
            arrival_s += self._retransmissions_s()
        if arrival_s < link.arrived_s:
            arrival_s = link.arrived_s
        link.arrived_s = arrival_s
        self.delivered += 1
        self.digest = zlib.crc32(data, zlib.crc32(target.name.encode(), self.digest))
        self.at(arrival_s, target, there.deliver, message)
        if self.disorder and rng.random() < self.disorder:
            again_s = arrival_s + rng.random()
            self.at(again_s, target, there.deliver, message)

    def in_flight(self) -> list[_Happening]:
        """Return the messages under way, the first to arrive first."""
        return sorted(
            one
            for one in self._heap
            if getattr(one[3][0], "__func__", None) is SimLink.deliver
        )

    def drop(self, message: _Happening) -> None:
        """Lose a message that is under way."""
        self._heap.remove(message)
        heapq.heapify(self._heap)

    def repeat(self, message: _Happening, later_s: float) -> None:
        """Deliver a message that is under way once more, later."""
        when_s, _, node, (call, values) = message
        self.at(when_s + later_s, node, call, *values)

    # ---------------------------------------------------------------- observing

    def changed(self) -> None:
        """Note that a node knows something new."""
        self._changes += 1

    def note(self, node: SimNode, event: Event) -> None:
        self._changes += 1
        if not self._is_noting:
            return
        self.events.append((self.now, node.name, event))
        line = f"{self.now:.9f} {node.name} {type(event).__name__}"
        self.digest = zlib.crc32(line.encode(), self.digest)

    def told(self, *kinds: type[K], since_s: float = 0.0) -> list[tuple[float, str, K]]:
        """Return (when, at which node, event) of the events of these kinds."""
        return [
            (when_s, name, event)
            for when_s, name, event in self.events
            if when_s >= since_s and isinstance(event, kinds)
        ]

    def states_of(self, name: str) -> list[MemberState | None]:
        """Return what all other running nodes hold of `name`."""
        members = [n.swim.member(name) for n in self.running if n.name != name]
        return [None if member is None else member.state for member in members]

    def all_hold(self, name: str, *states: MemberState) -> bool:
        return all(
            (member := node.swim.member(name)) is not None and member.state in states
            for node in self.running
            if node.name != name
        )

    def is_whole(self) -> bool:
        """Whether every running node holds every other for alive."""
        names = {node.name for node in self.running}
        return all(set(node.swim.alive) == names for node in self.running)


def quiet_cluster(count: int, settings: SwimConfig) -> Simulation:
    """Return a cluster that has no news left to gossip."""
    sim = Simulation(0, settings)
    sim.start_together(count)
    sim.run(10 * settings.period_s)  # all gossip is delivered, all dials have ended
    took_s = sim.run_until(sim.is_whole, 60.0)
    assert took_s < 60.0, "the cluster does not become whole"
    sim.events.clear()
    return sim


@cache
def _snapshot(count: int, settings: SwimConfig) -> bytes:
    return pickle.dumps(quiet_cluster(count, settings), protocol=5)


def settled(
    count: int, profile: ProfileName | SwimConfig = "lan", seed: int = 0
) -> Simulation:
    """Return a quiet cluster of `count` nodes with the random numbers of `seed`."""
    settings = PROFILES[profile] if isinstance(profile, str) else profile
    sim: Simulation = pickle.loads(_snapshot(count, settings))
    sim.reseed(seed)
    sim.run(sim.rng.random() * settings.period_s)
    return sim
