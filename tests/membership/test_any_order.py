"""Whatever happens to messages and processes, all nodes end with the same table."""

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mpreg_nb.membership.events import NameReplaced, NameTaken
from mpreg_nb.membership.member import precedence
from mpreg_nb.protocol.gossip import MemberRecord, MemberState, Offer
from tests.membership.experiments import Split
from tests.support.simulation import SimNode, Simulation, settled

EXAMPLES = int(os.environ.get("MPREG_NB_SEEDS", "12"))
NODES = 4

places = st.integers(0, 7)
seconds = st.floats(0.01, 3.0)


class Cluster(RuleBasedStateMachine):
    """Four nodes; messages are dropped, repeated and reordered one by one."""

    sim: Simulation

    @initialize(seed=st.integers(0, 3))
    def start(self, seed: int) -> None:
        self.sim = settled(NODES, "local", seed)
        self.left: dict[tuple[int, str], bytes] = {}
        self.held: dict[tuple[int, str], MemberRecord] = {}

    def node(self, place: int) -> SimNode:
        able = [node for node in self.sim.running if node.runs]
        return able[place % len(able)]

    @property
    def down(self) -> list[str]:
        current = self.sim.current
        return [name for name in sorted(current) if not current[name].is_running]

    # ---------------------------------------------------------------- messages

    @rule(duration=seconds)
    def tick(self, duration: float) -> None:
        self.sim.run(duration)

    @rule()
    def deliver_next(self) -> None:
        self.sim.run_next()

    @precondition(lambda self: self.sim.in_flight())
    @rule(place=places)
    def drop(self, place: int) -> None:
        in_flight = self.sim.in_flight()
        self.sim.drop(in_flight[place % len(in_flight)])

    @precondition(lambda self: self.sim.in_flight())
    @rule(place=places, later_s=seconds)
    def repeat(self, place: int, later_s: float) -> None:
        in_flight = self.sim.in_flight()
        self.sim.repeat(in_flight[place % len(in_flight)], later_s)

    @precondition(lambda self: self.sim.in_flight())
    @rule(place=places, later_s=seconds)
    def reorder(self, place: int, later_s: float) -> None:
        in_flight = self.sim.in_flight()
        message = in_flight[place % len(in_flight)]
        self.sim.repeat(message, later_s)
        self.sim.drop(message)

    @rule(share=st.sampled_from([0.0, 0.1, 0.3]))
    def lose(self, share: float) -> None:
        self.sim.loss = share

    @rule(half=st.sets(st.sampled_from(["n000", "n001", "n002", "n003"])))
    def cut(self, half: set[str]) -> None:
        self.sim.cut = Split(frozenset(half)) if half else None

    # --------------------------------------------------------------- processes

    @precondition(lambda self: len(self.down) < NODES - 1)
    @rule(place=places, how=st.sampled_from(["kill", "vanish", "leave"]))
    def end(self, place: int, how: str) -> None:
        if sum(node.runs for node in self.sim.running) < 2:
            return
        node = self.node(place)
        match how:
            case "kill":
                self.sim.kill(node)
            case "vanish":
                self.sim.vanish(node)
            case _:
                node.leave()

    @precondition(lambda self: self.down)
    @rule(place=places, same_port=st.booleans())
    def restart(self, place: int, same_port: bool) -> None:
        self.restarted(self.down[place % len(self.down)], same_port)

    def restarted(self, name: str, same_port: bool) -> None:
        last = self.sim.current[name]
        urls = [node.url for node in self.sim.running]
        self.sim.start(name, urls, url=last.url if same_port else "")

    @rule(place=places, duration=st.floats(0.1, 8.0))
    def pause(self, place: int, duration: float) -> None:
        if sum(node.runs for node in self.sim.running) > 1:
            self.sim.pause(self.node(place), duration)

    @rule(place=places)
    def register(self, place: int) -> None:
        node = self.node(place)
        if not node.swim.me.state:
            node.publish(Offer(function="train", version=f"{self.sim.now:032.6f}"))

    # ---------------------------------------------------------------- promises

    @invariant()
    def no_node_believes_that_it_is_dead(self) -> None:
        for node in self.sim.running:
            assert node.swim.me.state in (MemberState.ALIVE, MemberState.LEFT)

    @invariant()
    def no_record_goes_back(self) -> None:
        for node in self.sim.running:
            for member in node.swim.members:
                key = (node.number, member.name)
                before = self.held.get(key)
                self.held[key] = member.record
                if before is not None:
                    assert precedence(member.record) >= precedence(before)

    @invariant()
    def who_has_left_stays_so_in_its_generation(self) -> None:
        for node in self.sim.running:
            for member in node.swim.members:
                key = (node.number, member.name)
                if member.record.epoch == self.left.get(key):
                    assert member.state is MemberState.LEFT
                elif member.state is MemberState.LEFT:
                    self.left[key] = member.record.epoch

    def teardown(self) -> None:
        sim = self.sim
        sim.cut, sim.loss = None, 0.0
        sim.run(12.0)  # the last pause and the last goodbye are over
        for name in self.down:
            self.restarted(name, True)

        took_s = sim.run_until(
            lambda: len(sim.running) == NODES and sim.is_whole(), 90.0
        )

        assert took_s <= 45.0
        assert sim.told(NameReplaced, NameTaken) == []
        sim.run(2 * sim.settings.sync_interval_s)
        for node in sim.running:
            held = [n.swim.member(node.name) for n in sim.running if n is not node]
            assert {m.record for m in held if m} == {node.swim.me}
        assert len({node.catalog.entries() for node in sim.running}) == 1


Cluster.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    derandomize=True,
)
TestWhateverHappens = Cluster.TestCase
