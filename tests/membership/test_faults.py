"""What must, and what must not, be believed when something goes wrong."""

import os
import subprocess
import sys

import pytest

from mpreg_nb.membership.config import ProfileName
from mpreg_nb.membership.events import (
    Confirmed,
    Died,
    Joined,
    NameReplaced,
    NameTaken,
    Suspected,
)
from mpreg_nb.protocol.gossip import MemberState, Offer
from tests.membership.experiments import (
    BOUNDS_S,
    EXPERIMENTS,
    Split,
    Ways,
    beliefs,
    pause_again_and_again,
    quantile,
    slow_tenth,
)
from tests.support.simulation import Simulation, settled

SEEDS = range(int(os.environ.get("MPREG_NB_SEEDS", "3")))


def falsely_dead(sim: Simulation, *excused: str) -> list[str]:
    return [e.name for _, _, e in sim.told(Died) if e.name not in excused]


def suspicions_per_probe(sim: Simulation, seconds: float) -> float:
    probes = len(sim.running) * seconds / sim.settings.period_s
    return beliefs(sim).suspected / probes


# ------------------------------------------------------------- determinism


def a_life(seed: int) -> int:
    sim = settled(5, "local", seed)
    sim.loss = 0.1
    EXPERIMENTS["silent crash"](sim)
    EXPERIMENTS["catalog change"](sim)
    return sim.digest


def test_the_same_seed_lives_the_same_life() -> None:
    assert a_life(1) == a_life(1)
    assert a_life(1) != a_life(2)


def test_no_life_depends_on_the_order_of_sets() -> None:
    program = "from tests.membership.test_faults import a_life; print(a_life(3))"

    lives = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(lives) == 1


# ------------------------------------------------------------------- loss


@pytest.mark.parametrize("profile", ["lan", "local", "wan"])
@pytest.mark.parametrize("loss", [0.05, 0.1, 0.2])
def test_lost_messages_kill_nobody(loss: float, profile: ProfileName) -> None:
    sim = settled(10, profile, 1)
    sim.loss = loss

    sim.run(300.0)

    assert falsely_dead(sim) == []
    sim.loss = 0.0
    assert sim.run_until(sim.is_whole, 10.0) < 10.0


def test_a_hundred_nodes_that_lose_messages_kill_nobody() -> None:
    sim = settled(100, "lan", 1)
    sim.loss = 0.2

    sim.run(10.0)

    assert falsely_dead(sim) == []


@pytest.mark.parametrize("profile", ["lan", "local"])
def test_three_messages_in_ten_lost_kill_hardly_anybody(profile: ProfileName) -> None:
    sim = settled(10, profile, 1)
    sim.loss = 0.3

    sim.run(360.0)  # one hour of one node

    found = beliefs(sim)
    assert found.dead <= 0.1
    assert max(found.revived_s, default=0.0) <= 10.0
    assert quantile(found.refuted_s, 0.99) <= 10.0


@pytest.mark.parametrize("count", [3, 10])
@pytest.mark.parametrize("profile", ["lan", "local", "wan"])
def test_one_message_in_twenty_lost_makes_few_suspects(
    profile: ProfileName, count: int
) -> None:
    sim = settled(count, profile, 1)
    sim.loss = 0.05
    seconds = 3000 / count * sim.settings.period_s

    sim.run(seconds)

    assert suspicions_per_probe(sim, seconds) < 1 / 1000


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_segments_that_tcp_sends_again_and_again_kill_nobody(share: float) -> None:
    """Each waits 200 ms, 400 ms, 800 ms and so on, and all behind it wait too."""
    sim = settled(10, "lan", 1)
    sim.stalls = share

    sim.run(300.0)

    assert falsely_dead(sim) == []


def test_a_suspect_clears_itself_with_a_higher_incarnation() -> None:
    sim = settled(5, "lan", 1)
    node = sim.current["n003"]
    sim.pause(node, 2.9)

    sim.run(20.0)

    assert len(sim.told(Suspected)) == len(sim.told(Confirmed)) > 0
    assert node.swim.me.incarnation > 1
    assert falsely_dead(sim, "n003") == []
    assert sim.is_whole()


# ------------------------------------------------------------------ pauses


@pytest.mark.parametrize("count", [10, 30])
def test_a_node_that_is_stopped_again_and_again_kills_nobody(count: int) -> None:
    sim = settled(count, "local", 1)
    sim.loss = 0.3  # so that it often doubts somebody when it stops

    found = pause_again_and_again(sim, 60.0)

    assert found.suspected > 0
    assert found.dead == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tenth_of_slow_nodes_kills_nobody(seed: int) -> None:
    sim = settled(20, "local", seed)

    assert slow_tenth(sim, 60.0).dead == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_stopped_for_a_minute_comes_back_and_accuses_nobody(
    seed: int,
) -> None:
    sim = settled(5, "lan", seed)
    node = sim.current["n002"]
    sim.pause(node, 60.0)
    sim.run(59.0)
    assert sim.all_hold("n002", MemberState.DEAD)
    sim.run(1.0)

    took_s = sim.run_until(sim.is_whole, 30.0)

    assert took_s <= 5.0
    assert node.swim.me.incarnation > 1
    assert falsely_dead(sim, "n002") == []
    assert {event.name for _, _, event in sim.told(Suspected)} == {"n002"}


@pytest.mark.parametrize("profile", ["lan", "local"])
def test_a_machine_that_slept_for_an_hour_accuses_nobody(
    profile: ProfileName,
) -> None:
    sim = settled(5, profile, 1)
    for node in sim.running:
        sim.pause(node, 3600.0)

    sim.run(3630.0)

    assert sim.told(Suspected, Died) == []
    assert sim.is_whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_late_event_loops_kill_nobody(seed: int) -> None:
    sim = settled(10, "local", seed)
    sim.late_s = 0.4

    sim.run(120.0)

    assert falsely_dead(sim) == []
    assert max(node.swim.health for node in sim.running) > 0


# -------------------------------------------------------------- partitions


@pytest.mark.parametrize("profile", ["lan", "local", "wan"])
def test_half_an_hour_of_partition_heals_by_itself(profile: ProfileName) -> None:
    sim = settled(6, profile, 1)
    sim.cut = Split(frozenset({"n000", "n003"}))
    sim.run(1800.0)
    assert len(sim.current["n000"].swim.alive) == 2
    for node in (sim.current["n000"], sim.current["n001"]):
        node.publish(Offer(function=f"of-{node.name}", version="0" * 32))
    sim.cut = None

    took_s = sim.run_until(sim.is_whole, 60.0)

    assert took_s <= BOUNDS_S["heal"][profile, 10]
    sim.run(2.0)
    catalogs = {node.catalog.entries() for node in sim.running}
    assert len(catalogs) == 1
    assert len(sim.running[0].catalog.entries()) == 2


def test_a_message_that_passes_one_way_only_changes_nothing() -> None:
    sim = settled(5, "lan", 1)
    sim.cut = Ways(frozenset({("n001", "n002")}))

    sim.run(180.0)

    assert sim.told(Suspected, Died) == []


def test_who_cannot_send_is_dead_once_and_does_not_flap() -> None:
    sim = settled(5, "lan", 1)
    others = [node.name for node in sim.running if node.name != "n001"]
    sim.cut = Ways(frozenset(("n001", name) for name in others))

    sim.run(120.0)

    at_the_others = [e for _, name, e in sim.told(Died) if name != "n001"]
    assert [event.name for event in at_the_others] == ["n001"] * 4
    assert [e for _, name, e in sim.told(Joined) if name != "n001"] == []


def test_two_that_only_a_third_can_reach_hold_each_other_for_alive() -> None:
    sim = settled(3, "lan", 1)
    sim.cut = Ways(frozenset({("n001", "n002"), ("n002", "n001")}))

    sim.run(120.0)

    assert sim.told(Suspected, Died) == []
    assert sim.is_whole()


def test_a_link_that_breaks_every_other_second_causes_no_events() -> None:
    sim = settled(3, "lan", 1)
    one, other = sim.current["n001"], sim.current["n002"]
    for _ in range(50):
        link = one.pool.links.get(other.name)
        if link is not None:
            link.end("reset by the peer", "reset by the peer")
        sim.run(2.0)

    assert falsely_dead(sim) == []
    assert sim.is_whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_round_trips_of_half_a_second_kill_nobody(seed: int) -> None:
    sim = settled(10, "lan", seed)
    sim.delay_s = (0.05, 0.25)

    sim.run(120.0)

    assert falsely_dead(sim) == []


def test_on_long_ways_the_profile_wan_suspects_nobody() -> None:
    sim = settled(10, "wan", 1)
    sim.delay_s = (0.05, 0.6)

    sim.run(600.0)

    assert sim.told(Suspected, Died) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_that_come_twice_and_late_change_nothing(seed: int) -> None:
    sim = settled(10, "lan", seed)
    sim.disorder = 0.3
    node = sim.current["n004"]
    sim.kill(node)
    sim.run(0.2)
    sim.start("n004", [sim.running[0].url], url=node.url)

    sim.run(60.0)

    assert falsely_dead(sim, "n004") == []
    assert sim.is_whole()


# ------------------------------------------------------------------- names


@pytest.mark.parametrize("count", [3, 10])
def test_a_name_that_somebody_lives_under_is_refused(count: int) -> None:
    sim = settled(count, "lan", 1)
    old = sim.current["n001"]

    new = sim.start("n001", [sim.running[0].url])
    sim.run(5.0)

    assert old.is_running
    assert not new.is_running
    assert sim.told(NameTaken) != []
    assert sim.told(Suspected, Died, Joined, NameReplaced) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_name_is_free_at_once_when_its_process_was_killed(seed: int) -> None:
    sim = settled(10, "lan", seed)
    sim.kill(sim.current["n001"])
    sim.run(0.2)

    sim.start("n001", [sim.running[0].url])  # on another port
    took_s = sim.run_until(sim.is_whole, 30.0)

    assert took_s <= 2.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_name_is_free_soon_when_its_host_lost_power(seed: int) -> None:
    sim = settled(10, "lan", seed)
    sim.vanish(sim.current["n001"])
    sim.run(0.2)

    new = sim.start("n001", [sim.running[0].url])
    took_s = sim.run_until(lambda: new.swim.joined and sim.is_whole(), 30.0)

    assert took_s <= 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_two_of_one_name_that_a_partition_made_become_one(seed: int) -> None:
    sim = settled(5, "lan", seed)
    old = sim.current["n001"]
    sim.is_apart = frozenset({old.number})
    sim.run(30.0)
    new = sim.start("n001", [sim.running[0].url])
    sim.run(20.0)
    assert old.is_running
    assert new.is_running
    sim.is_apart = frozenset()

    took_s = sim.run_until(
        lambda: old.is_running != new.is_running and sim.is_whole(), 60.0
    )

    assert took_s <= 10.0


@pytest.mark.parametrize("spared", [0, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_all_nodes_restarted_at_once_find_each_other(seed: int, spared: int) -> None:
    sim = settled(10, "lan", seed)
    before = list(sim.running)
    for node in before[spared:]:
        sim.kill(node)
    sim.run(0.2)
    urls = [node.url for node in before[:3]]

    for node in before[spared:]:
        sim.start(node.name, urls, url=node.url)
    took_s = sim.run_until(lambda: len(sim.running) == 10 and sim.is_whole(), 30.0)

    assert took_s <= 10.0
    assert sim.told(NameReplaced, NameTaken) == []


# ------------------------------------------------------------------- churn


def churned(seed: int, profile: ProfileName) -> Simulation:
    """Return a cluster of seven after 60 random faults, at the end of all of them."""
    sim = settled(7, profile, seed)
    dice = sim.rng
    down: list[str] = []

    def restart(name: str) -> None:
        last = sim.current[name]
        seeds = [node.url for node in sim.running if node.name != name]
        same_port = last.url if dice.random() < 0.5 else ""
        sim.start(name, dice.sample(seeds, min(3, len(seeds))), url=same_port)

    for _ in range(60):
        node = dice.choice([n for n in sim.running if n.name not in down])
        match dice.randrange(9):
            case 0 | 1 | 2 as how if len(down) < 3:
                (sim.kill, sim.vanish, type(node).leave)[how](node)
                down.append(node.name)
            case 3 | 4 if down and not sim.current[down[0]].is_running:
                restart(down.pop(0))
            case 5:
                sim.pause(node, 8 * dice.random())
            case 6:
                apart = dice.sample(sorted(sim.current), dice.randrange(1, 7))
                sim.cut = Split(frozenset(apart)) if sim.cut is None else None
            case 7:
                sim.loss = dice.choice([0.0, 0.05, 0.2])
                sim.late_s = dice.choice([0.0, 0.05, 0.3])
            case 8:
                version = f"{sim.now:032.6f}"
                node.publish(Offer(function="train", version=version))
        sim.run(3 * dice.random())
    sim.cut, sim.loss, sim.late_s = None, 0.0, 0.0
    sim.run(10.0)
    for name in down:
        restart(name)
    return sim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("profile", ["lan", "local"])
def test_after_any_row_of_faults_all_agree_again(
    profile: ProfileName, seed: int
) -> None:
    sim = churned(seed, profile)

    took_s = sim.run_until(lambda: len(sim.running) == 7 and sim.is_whole(), 60.0)

    assert took_s <= 30.0
    assert sim.told(NameReplaced, NameTaken) == []
    sim.run(2 * sim.settings.sync_interval_s)
    assert sim.is_whole()
    assert len({node.catalog.entries() for node in sim.running}) == 1
    for node in sim.running:
        records = {n.swim.member(node.name) for n in sim.running if n is not node}
        assert {m.record for m in records if m is not None} == {node.swim.me}


@pytest.mark.parametrize("seed", range(10))
def test_nodes_that_start_together_meet_although_the_one_that_lets_them_in_dies(
    seed: int,
) -> None:
    sim = settled(1, "local", seed)
    first = sim.running[0]
    one = sim.start("one", [first.url])
    other = sim.start("other", [first.url, one.url])
    sim.run_until(
        lambda: one.swim.joined and other.swim.joined, limit_s=5.0, step_s=0.001
    )

    sim.kill(first)
    took_s = sim.run_until(sim.is_whole, 30.0)

    assert took_s <= 4.0
