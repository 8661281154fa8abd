"""One fault, one cluster, one figure: used by the tests of bounds and the report.

An experiment takes a quiet cluster and returns the seconds until all running nodes
agree (infinity if they never do), or counts what was wrongly believed meanwhile.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Confirmed, Died, Joined, Suspected
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


def endless_pause(sim: Simulation) -> float:
    """Dead everywhere after SIGSTOP: the host accepts dials, nobody answers."""
    node = victim(sim)
    sim.pause(node, 1e9)
    return sim.run_until(lambda: sim.all_hold(node.name, MemberState.DEAD), LIMIT_S)


def leave(sim: Simulation) -> float:
    """Left everywhere after a goodbye, and suspected nowhere, then or later."""
    node = victim(sim)
    before = len(sim.told(Suspected))
    node.leave()
    took_s = sim.run_until(lambda: sim.all_hold(node.name, MemberState.LEFT), LIMIT_S)
    sim.run(5 * sim.settings.period_s)
    return took_s if len(sim.told(Suspected)) == before else math.inf


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
    sim.run(25 * sim.settings.period_s)
    sim.cut = None
    return sim.run_until(sim.is_whole, LIMIT_S)


def restart_of_all(sim: Simulation) -> float:
    """All known to all, 0.2 s after kill -9 of every process, under the same names."""
    before = list(sim.running)
    for node in before:
        sim.kill(node)
    sim.run(0.2)
    urls = [node.url for node in before[:3]]
    for node in before:
        sim.start(node.name, urls, url=node.url)
    return sim.run_until(
        lambda: len(sim.running) == len(before) and sim.is_whole(), LIMIT_S
    )


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
    "endless pause": endless_pause,
    "crash with reset": crash_with_reset,
    "leave": leave,
    "join": join,
    "catalog change": catalog_change,
    "restart": restart,
    "restart of all": restart_of_all,
    "heal": heal,
}

SIZES = (3, 10, 100, 1000)
_BOUNDS_S: dict[str, dict[str, tuple[float, ...]]] = {
    # For 3, 10, 100 and 1000 nodes.
    "silent crash": {
        "lan": (8.0, 12.0, 18.0, 24.0),
        "local": (4.0, 6.0, 9.0, 10.0),
        "wan": (50.0, 70.0, 110.0),
    },
    "endless pause": {
        "lan": (8.0, 12.0, 18.0, 24.0),
        "local": (4.0, 6.0, 9.0, 10.0),
        "wan": (50.0, 70.0, 110.0),
    },
    "crash with reset": {
        "lan": (3.0, 3.0, 3.0, 3.0),
        "local": (1.5, 1.5, 1.5, 1.5),
        "wan": (15.0, 15.0, 15.0),
    },
    "leave": {
        "lan": (1.5, 1.5, 1.5, 2.5),
        "local": (0.8, 0.8, 0.8, 1.5),
        "wan": (3.75, 3.75, 3.75),
    },
    "join": {
        "lan": (1.5, 1.5, 1.5, 2.5),
        "local": (1.5, 1.5, 1.5, 2.5),
        "wan": (3.75, 3.75, 3.75),
    },
    "catalog change": {
        "lan": (1.0, 1.0, 1.0, 2.0),
        "local": (1.0, 1.0, 1.0, 2.0),
        "wan": (2.5, 2.5, 2.5),
    },
    "restart": {
        "lan": (2.0, 2.0, 2.0, 2.5),
        "local": (2.0, 2.0, 2.0, 2.5),
        "wan": (5.0, 5.0, 5.0),
    },
    "restart of all": {
        "lan": (10.0, 10.0, 10.0),
        "local": (10.0, 10.0, 10.0),
        "wan": (30.0, 30.0, 30.0),
    },
    "heal": {
        "lan": (10.0, 10.0, 10.0, 30.0),
        "local": (10.0, 10.0, 10.0, 30.0),
        "wan": (30.0, 30.0, 30.0),
    },
}
BOUNDS_S: dict[str, dict[tuple[str, int], float]] = {
    experiment: {
        (profile, count): limit_s
        for profile, limits_s in by_profile.items()
        for count, limit_s in zip(SIZES, limits_s, strict=False)
    }
    for experiment, by_profile in _BOUNDS_S.items()
}
"""Experiment -> profile and number of nodes -> seconds that 99 of 100 may take."""

IDLE_BYTES_PER_S: dict[tuple[str, int], float] = {
    ("lan", 10): 500,
    ("lan", 100): 1000,
    ("lan", 1000): 3000,
    ("local", 10): 2000,
    ("local", 100): 2000,
    ("wan", 10): 250,
    ("wan", 100): 500,
}
"""What one node of a quiet cluster may send, headers of TCP and IP included."""


# ------------------------------------------------------------- false beliefs

ONE_BELIEF_S = 5.0
"""Reports of one member that follow each other within this time are one belief."""


@dataclass(frozen=True)
class FalseBeliefs:
    """What was wrongly believed of members that were alive all the time."""

    suspected: int
    dead: int
    refuted_s: tuple[float, ...]  # from a suspicion to its end, at each node
    revived_s: tuple[float, ...]  # from a wrong death to the rejoin, at each node


def beliefs(sim: Simulation, *excused: str) -> FalseBeliefs:
    """Return what was believed so far of all but the members `excused`."""
    return FalseBeliefs(
        _beliefs(e for e in sim.told(Suspected) if e[2].name not in excused),
        _beliefs(e for e in sim.told(Died) if e[2].name not in excused),
        _ended_s(sim, Suspected, Confirmed),
        _ended_s(sim, Died, Joined),
    )


def _beliefs(told: Iterable[tuple[float, str, Suspected | Died]]) -> int:
    last_s: dict[str, float] = {}
    count = 0
    for when_s, _, event in told:
        count += when_s - last_s.get(event.name, -math.inf) > ONE_BELIEF_S
        last_s[event.name] = when_s
    return count


def _ended_s(
    sim: Simulation, begins: type[Suspected | Died], ends: type[Confirmed | Joined]
) -> tuple[float, ...]:
    since_s: dict[tuple[str, str], float] = {}
    took_s: list[float] = []
    for when_s, at, event in sim.told(begins, ends):
        name = event.member.name if isinstance(event, Joined) else event.name
        if isinstance(event, begins):
            since_s[at, name] = when_s
        elif (at, name) in since_s:
            took_s.append(when_s - since_s.pop((at, name)))
    return tuple(took_s)


def pause_again_and_again(sim: Simulation, seconds: float) -> FalseBeliefs:
    """Pause one node for 5 s of every 15 s; return what was believed of the others."""
    node = victim(sim)
    end_s = sim.now + seconds
    while sim.now < end_s:
        sim.pause(node, 5.0)
        sim.run(15.0)
    return beliefs(sim, node.name)


def slow_tenth(sim: Simulation, seconds: float) -> FalseBeliefs:
    """Let a tenth of the nodes run for milliseconds between pauses of seconds.

    Returns what was believed of the other nodes.
    """
    nodes = sim.rng.sample(sim.running[1:], max(1, len(sim.running) // 10))
    for node in nodes:
        sim.stutter(node, runs_s=(0.001, 0.01), stops_s=(2.0, 6.0))
    sim.run(seconds)
    return beliefs(sim, *(node.name for node in nodes))


def without_lifeguard(settings: SwimConfig) -> SwimConfig:
    """Return settings of a node that never doubts itself: plain SWIM."""
    return replace(
        settings,
        health_max=0,
        suspicion_max_mult=1,
        pause_periods=math.inf,
        lag_share=math.inf,
    )


def completeness_s(settings: SwimConfig, count: int) -> float:
    """Return the seconds after which every seed must have found a silent crash.

    Two rounds of probes, the longest suspicion, two comparisons.
    """
    shortest_s = settings.suspicion_mult * max(1.0, math.log10(count))
    longest_s = settings.suspicion_max_mult * shortest_s * settings.period_s
    rounds_s = (2 * count - 1) * settings.period_s
    return rounds_s + longest_s + 2 * settings.sync_interval_s


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    place = max(0, math.ceil(share * len(ordered)) - 1)
    return ordered[place] if ordered else math.nan
