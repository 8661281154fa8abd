"""Every figure of membership: its unit, its default, what turning it costs.

The defaults are the profile `lan`. `local` is for nodes of one machine, `wan`
for links of tens of milliseconds and more.
"""

import math
from typing import Literal, TypeAlias

import msgspec

ProfileName: TypeAlias = Literal["local", "lan", "wan"]


class SwimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a node notices, how sure it must be, how much it may send."""

    period_s: float = 1.0
    """One probe each. Detection time and idle traffic follow it in proportion."""

    ack_timeout_s: float = 0.5
    """Silence after which others are asked. Above the slowest usual round trip,
    a dial included; at most half the period, so that the others have time."""

    indirect_probes: int = 3
    """Members asked to ping a silent one. 0: one lost answer is a suspicion."""

    suspicion_mult: int = 4
    """Shortest suspicion, in periods times log10 of the members. Smaller finds the
    dead sooner and kills the slow; from 2 on, it less 2 is how many must agree."""

    suspicion_max_mult: int = 6
    """Longest suspicion, in shortest ones: for an accuser that nobody confirms."""

    gossip_interval_s: float = 0.2
    """Between rounds while there is news; silent otherwise."""

    gossip_fanout: int = 3
    """Peers told in one round."""

    retransmit_mult: int = 4
    """Each item is sent this often times ceil(log10(members + 1))."""

    gossip_bytes: int = 1024
    """Of items in one message, so that it fits one packet."""

    sync_interval_s: float = 30.0
    """Between full comparisons with a random member; what gossip missed is caught
    within about two. Stretched above 32 members (`stretched_sync_s`)."""

    dead_redial_s: float = 5.0
    """Between dials of the dead, least recently dialled first: heals partitions."""

    seed_redial_s: float = 30.0
    """Between dials of a seed that is no member: heals what nobody remembers."""

    seed_stagger_s: float = 0.25
    """Between the dials of several seeds at the first join."""

    dead_memory_s: float = 24 * 3600.0
    """How long the dead and the gone are remembered, so that old news of them is
    known for old and a partition this long still heals."""

    dead_memory_mult: int = 4
    """Dead and gone records kept, in members (at least 64 are kept)."""

    mesh_limit: int = 64
    """Up to so many members everybody has a link to everybody (14 KiB each)."""

    kept_links: int = 8
    """Above `mesh_limit`: links that are never closed for idleness."""

    idle_link_s: float = 30.0
    """Above `mesh_limit`: a link unused for so long is closed."""

    max_links: int = 128
    """Above `mesh_limit`: the least recently used link is closed beyond it."""

    health_max: int = 8
    """Worst local health; periods and timeouts stretch up to 1 + this. 0 switches
    the stretching off."""

    degraded_health: int = 4
    """From this health on a node asks to be spared (`Load.degraded`)."""

    pause_periods: float = 3.0
    """A gap of more than this many periods between two events of the machine means
    that the process itself stood still."""

    lag_share: float = 0.5
    """Lateness of the own event loop that counts as illness, in ack timeouts: what
    fell due meanwhile is put off, since its answer may wait unread."""

    claim_patience_s: float = 1.0
    """How long the holder of a name has to answer before a newcomer gets it."""

    leave_spread_s: float = 1.0
    """From the goodbye to the closing of links; above the time gossip needs."""

    load_change: float = 0.25
    """Share of the slots by which the load must change to be told to all."""

    load_interval_s: float = 1.0
    """Least time between two such tellings; members / 50 s if that is more."""

    def __post_init__(self) -> None:
        if not 0 < self.ack_timeout_s <= self.period_s:
            raise ValueError(
                f"ack_timeout_s must be above 0 and at most period_s = "
                f"{self.period_s}, not {self.ack_timeout_s}"
            )
        if self.gossip_interval_s <= 0 or self.sync_interval_s <= 0:
            raise ValueError("gossip_interval_s and sync_interval_s must be above 0")


PROFILES: dict[ProfileName, SwimConfig] = {
    "local": SwimConfig(
        period_s=0.5,
        ack_timeout_s=0.2,
        suspicion_mult=3,
        gossip_interval_s=0.1,
        sync_interval_s=15.0,
        dead_redial_s=2.0,
        seed_redial_s=15.0,
        leave_spread_s=0.6,
    ),
    "lan": SwimConfig(),
    "wan": SwimConfig(
        period_s=5.0,
        ack_timeout_s=3.0,
        suspicion_mult=6,
        gossip_interval_s=0.5,
        gossip_fanout=4,
        sync_interval_s=60.0,
        dead_redial_s=15.0,
        seed_redial_s=60.0,
        claim_patience_s=3.0,
        leave_spread_s=2.0,
    ),
}
"""By the name that `mpreg-nb node --profile` takes."""


def retransmits(members: int, mult: int) -> int:
    """Return how often one item is sent before it is taken to be known by all.

    mult * ceil(log10(members + 1)). Source: Das, Gupta, Motivala, "SWIM", DSN 2002,
    section 4.1, with memberlist's base and default multiplier.

    >>> [retransmits(members, 4) for members in (1, 3, 10, 100, 1000)]
    [4, 4, 8, 12, 16]
    """
    return mult * math.ceil(math.log10(members + 1))


def stretched_sync_s(members: int, interval_s: float) -> float:
    """Return the time between full comparisons in a cluster of `members`.

    interval * (ceil(log2(members) - 5) + 1) above 32 members, so that the traffic
    of comparisons grows slower than the table. Source: memberlist, `pushPullScale`.

    >>> [stretched_sync_s(members, 30.0) for members in (3, 32, 33, 64, 100, 1000)]
    [30.0, 30.0, 60.0, 60.0, 90.0, 180.0]
    """
    if members <= 32:
        return interval_s
    return interval_s * (math.ceil(math.log2(members) - 5) + 1)
