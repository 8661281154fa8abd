"""Negative controls: with one protection switched off, what it prevents happens."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from mpreg_nb.membership.config import PROFILES, SwimConfig
from mpreg_nb.membership.events import Died, Send, Suspected
from mpreg_nb.membership.failure_detector import Detector
from mpreg_nb.membership.state import LocalMember, MembershipState
from mpreg_nb.protocol.gossip import YouAreDead
from tests.membership.experiments import (
    BOUNDS_S,
    Split,
    beliefs,
    crash_with_reset,
    endless_pause,
    pause_again_and_again,
    quantile,
    slow_tenth,
    without_lifeguard,
)
from tests.support.simulation import settled

LAN, LOCAL = PROFILES["lan"], PROFILES["local"]

Switch = Callable[[], Any]


@pytest.fixture
def no_refutation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalMember, "receive", lambda *args: [])


@contextmanager
def no_buddy() -> Iterator[None]:
    """Nobody tells a suspect that it is one: it has to hear that by gossip."""
    accuse = MembershipState.accuse

    def accuse_behind_its_back(*args: Any, **options: Any) -> list[Any]:
        return [
            effect
            for effect in accuse(*args, **options)
            if not (isinstance(effect, Send) and isinstance(effect.message, YouAreDead))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MembershipState, "accuse", accuse_behind_its_back)
        patch.setattr(MembershipState, "send_verdict", lambda *args: [])
        yield


@pytest.fixture
def no_evidence_of_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset link and a refused dial mean nothing."""
    monkeypatch.setattr(Detector, "lost", lambda *args: [])
    monkeypatch.setattr(Detector, "unreachable", lambda *args, **options: [])


@pytest.mark.usefixtures("no_refutation")
def test_without_refutation_lost_messages_kill() -> None:
    sim = settled(10, "local", 1)
    sim.loss = 0.2

    sim.run(120.0)

    assert beliefs(sim).dead > 0


def test_without_suspicion_lost_messages_kill() -> None:
    sim = settled(10, replace(LOCAL, suspicion_mult=0), 1)
    sim.loss = 0.2

    sim.run(120.0)

    assert beliefs(sim).dead > 0


def test_without_independent_accusers_a_lone_one_kills_as_fast_as_many() -> None:
    def death_in_the_eyes_of_one_that_is_cut_off(settings: SwimConfig) -> float:
        sim = settled(10, settings, 1)
        sim.cut = Split(frozenset({"n001"}))
        return sim.run_until(
            lambda: any(at == "n001" for _, at, _ in sim.told(Died)), 120.0
        )

    alone_s = death_in_the_eyes_of_one_that_is_cut_off(LAN)
    off_s = death_in_the_eyes_of_one_that_is_cut_off(replace(LAN, suspicion_max_mult=1))

    assert alone_s > BOUNDS_S["silent crash"]["lan", 10]
    assert off_s < alone_s / 2


def test_without_lifeguard_slow_nodes_kill_others() -> None:
    off = without_lifeguard(LOCAL)

    # With it nobody dies, on the same seeds: see the tests of faults.
    assert any(slow_tenth(settled(20, off, seed), 60.0).dead for seed in range(3))


def test_without_lifeguard_a_stopped_node_kills_others() -> None:
    off = without_lifeguard(LOCAL)

    def killed(seed: int) -> int:
        sim = settled(30, off, seed)
        sim.loss = 0.3
        return pause_again_and_again(sim, 60.0).dead

    assert any(killed(seed) for seed in range(8))


def test_without_discard_a_machine_that_slept_accuses_others() -> None:
    sim = settled(5, replace(LAN, pause_periods=math.inf, lag_share=math.inf), 1)
    for node in sim.running:
        sim.pause(node, 3600.0)

    sim.run(3630.0)

    assert sim.told(Suspected, Died) != []


def test_without_a_buddy_refutation_takes_longer() -> None:
    def refutation_s() -> float:
        sim = settled(20, "lan", 1)
        sim.loss = 0.3
        sim.run(90.0)
        return quantile(beliefs(sim).refuted_s, 0.5)

    with_it_s = refutation_s()
    with no_buddy():
        without_it_s = refutation_s()

    assert without_it_s > 1.5 * with_it_s


@pytest.mark.usefixtures("no_evidence_of_links")
def test_without_the_evidence_of_links_a_crash_is_found_as_late_as_silence() -> None:
    crash_s = crash_with_reset(settled(10, "lan", 1))

    assert crash_s > BOUNDS_S["crash with reset"]["lan", 10]
    assert crash_s >= 0.5 * endless_pause(settled(10, "lan", 1))
