"""How soon a cluster agrees, in simulated time. MPREG_NB_SEEDS=50 tries more."""

import os

import pytest

from mpreg_nb.membership.config import ProfileName
from tests.membership.experiments import (
    BOUNDS_S,
    EXPERIMENTS,
    IDLE_BYTES_PER_S,
    completeness_s,
)
from tests.support.simulation import settled

SEEDS = int(os.environ.get("MPREG_NB_SEEDS", "0"))
FEW_SEEDS = {3: 8, 10: 4, 100: 1}
PROFILES: tuple[ProfileName, ...] = ("lan", "local", "wan")

CASES = [
    (experiment, profile, count)
    for experiment in EXPERIMENTS
    for profile in PROFILES
    for count in (3, 10, 100)
    # A hundred nodes take long, and the profiles differ in their figures only.
    if SEEDS or count < 100 or (profile == "lan" and experiment != "endless pause")
]


@pytest.mark.parametrize(("experiment", "profile", "count"), CASES)
def test_a_cluster_agrees_within_its_bound(
    experiment: str, profile: ProfileName, count: int
) -> None:
    bound_s = BOUNDS_S[experiment][profile, count]
    seeds = range(SEEDS or FEW_SEEDS[count])

    took_s = {
        seed: EXPERIMENTS[experiment](settled(count, profile, seed)) for seed in seeds
    }

    slow = {seed: seconds for seed, seconds in took_s.items() if seconds > bound_s}
    assert len(slow) <= len(took_s) // 100, f"seeds and seconds: {slow}"


@pytest.mark.parametrize("count", [3, 10])
def test_even_the_unluckiest_seed_finds_a_silent_crash(count: int) -> None:
    took_s = [
        EXPERIMENTS["silent crash"](settled(count, "lan", seed))
        for seed in range(SEEDS or 20)
    ]

    assert max(took_s) <= completeness_s(settled(count, "lan").settings, count)


@pytest.mark.parametrize(
    ("profile", "count"), [key for key in IDLE_BYTES_PER_S if key[1] <= 100]
)
def test_an_idle_node_sends_little(profile: ProfileName, count: int) -> None:
    sim = settled(count, profile)
    seconds = 10 * sim.settings.period_s
    before = sum(node.sent_bytes for node in sim.running)

    sim.run(seconds)

    sent = sum(node.sent_bytes for node in sim.running) - before
    assert sent / count / seconds <= IDLE_BYTES_PER_S[profile, count]
