"""One fault, one cluster, one figure: used by the tests of bounds and the table.

Each experiment takes a quiet cluster and returns the seconds until all running
nodes agree; infinity if they never do.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mpreg_nb.membership.events import Suspected
from mpreg_nb.protocol.gossip import MemberState, Offer
from tests.support.simulation import SimNode, Simulation

LIMIT_S = 120.0


@dataclass(frozen=True)
class Split:
    """Nothing passes between these nodes and the others."""

    names: frozenset[str]

    def __call__(self, source: str, target: str) -> bool:
        return (source in self.names) != (target in self.names)


@dataclass(frozen=True)
class Ways:
    """Nothing passes on these ways, from one node to another."""

    pairs: frozenset[tuple[str, str]]

    def __call__(self, source: str, target: str) -> bool:
        return (source, target) in self.pairs


def victim(sim: Simulation) -> SimNode:
    """Return any node but the one that the others joined by."""
    return sim.rng.choice(sim.running[1:])


def silent_crash(sim: Simulation) -> float:
    """Dead everywhere after a power cut."""
    node = victim(sim)
    sim.vanish(node)
    return sim.run_until(lambda: sim.all_hold(node.name, MemberState.DEAD), LIMIT_S)


def crash_with_reset(sim: Simulation) -> float:
    """Dead everywhere after kill -9."""
    node = victim(sim)
    sim.kill(node)
    return sim.run_until(lambda: sim.all_hold(node.name, MemberState.DEAD), LIMIT_S)


def leave(sim: Simulation) -> float:
    """Left everywhere after a goodbye, and suspected nowhere, then or later."""
    node = victim(sim)
    node.leave()
    took_s = sim.run_until(lambda: sim.all_hold(node.name, MemberState.LEFT), LIMIT_S)
    sim.run(5 * sim.settings.period_s)
    return took_s if not sim.told(Suspected) else float("inf")


def join(sim: Simulation) -> float:
    """Known everywhere, and knowing all, after its start."""
    sim.start("new", [sim.rng.choice(sim.running).url])
    return sim.run_until(sim.is_whole, LIMIT_S)


def catalog_change(sim: Simulation) -> float:
    """In every catalog after its registration."""
    node = sim.rng.choice(sim.running)
    node.publish(Offer(function="train", version="0" * 32))
    return sim.run_until(
        lambda: all(n.catalog.newest("train") for n in sim.running), LIMIT_S
    )


def heal(sim: Simulation) -> float:
    """All alive everywhere after the end of a partition in two halves."""
    names = [node.name for node in sim.running]
    half = sim.rng.sample(names, len(names) // 2)
    sim.cut = Split(frozenset(half))
    sim.run(40 * sim.settings.period_s)
    sim.cut = None
    return sim.run_until(sim.is_whole, LIMIT_S)


def restart(sim: Simulation) -> float:
    """The new process known everywhere, 0.2 s after kill -9 of the old one."""
    node = victim(sim)
    sim.kill(node)
    sim.run(0.2)
    again = sim.start(node.name, [sim.running[0].url], url=node.url)

    def is_known() -> bool:
        members = [n.swim.member(node.name) for n in sim.running if n is not again]
        return again.swim.joined and all(
            member is not None
            and member.record.epoch == again.epoch
            and member.state is MemberState.ALIVE
            for member in members
        )

    return sim.run_until(is_known, LIMIT_S)


EXPERIMENTS: dict[str, Callable[[Simulation], float]] = {
    "silent crash": silent_crash,
    "crash with reset": crash_with_reset,
    "leave": leave,
    "join": join,
    "catalog change": catalog_change,
    "restart": restart,
    "heal": heal,
}

BOUNDS_S: dict[str, dict[tuple[str, int], float]] = {
    "silent crash": {
        ("lan", 3): 8.0,
        ("lan", 10): 12.0,
        ("lan", 100): 18.0,
        ("local", 3): 4.0,
        ("local", 10): 6.0,
        ("local", 100): 9.0,
    },
    "crash with reset": {
        (profile, count): limit_s
        for profile, limit_s in (("lan", 3.0), ("local", 1.5))
        for count in (3, 10, 100)
    },
    "leave": {
        (profile, count): limit_s
        for profile, limit_s in (("lan", 1.5), ("local", 0.8))
        for count in (3, 10, 100)
    },
    "join": {
        (profile, count): 1.5 for profile in ("lan", "local") for count in (3, 10, 100)
    },
    "catalog change": {
        (profile, count): 1.0 for profile in ("lan", "local") for count in (3, 10, 100)
    },
    "restart": {
        (profile, count): 2.0 for profile in ("lan", "local") for count in (3, 10, 100)
    },
    "heal": {
        (profile, count): 10.0 for profile in ("lan", "local") for count in (3, 10, 100)
    },
}
"""Experiment -> profile and number of nodes -> seconds that 99 of 100 may take."""
