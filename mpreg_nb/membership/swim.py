"""Membership as one machine: what came in, what to do, until when to sleep.

It joins the parts of this folder: `table` (who is known), `probe` (who answers),
`suspicion` (for how long to doubt), `awareness` (how much to trust oneself),
`broadcast` (what to pass on), `sync` (what gossip missed), `links` (who is at
the other end of a wire), `claims` (who may have a name).

Rules for the driver:

- All times are seconds on one monotonic clock, passed in as `now`.
- Carry out effects in their order. After each call read `deadline` again and
  sleep until it, then call `tick`. A late tick is harmless.
- One control link per peer, by the name that the handshake told. Report every
  change of it by `link`; `links.keeps_new_link` says which of two to keep. The
  machine drops what it would send to a peer without a link.
- Give every message that comes on a control link to `receive`, in order; those
  about catalogs and code are not membership's and give no effects.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mpreg_nb.membership.effects import Effect, LinkEvent
from mpreg_nb.membership.knobs import SwimSettings
from mpreg_nb.membership.member import Member
from mpreg_nb.wire.gossip import Control, Load, MemberRecord, NodeName, Offer

T = TypeVar("T")


class Dice(Protocol):
    """The source of randomness; `random.Random` is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return a whole number in [0, stop)."""
        ...

    def shuffle(self, items: list[T], /) -> None:
        """Put `items` in a random order."""
        ...

    def sample(self, items: Sequence[T], k: int, /) -> list[T]:
        """Return `k` different ones of `items`."""
        ...


class Swim:
    """The membership of one node. It never reads a clock and never does I/O.

    Invariant: the own record is never SUSPECT or DEAD, and its incarnation is
    above that of every accusation that has come in.
    """

    def __init__(
        self, settings: SwimSettings, me: MemberRecord, rng: Dice, now: float
    ) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------ what happens

    def join(self, seed_urls: Sequence[str], now: float) -> list[Effect]:
        """Dial the seeds until one full exchange succeeds; without seeds, begin.

        Tells `JoinCompleted`, at once where there are no seeds. Seeds are dialled
        again for ever (`seed_redial_s`); giving up is the driver's.
        """
        raise NotImplementedError

    def receive(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        """Take in what `sender` sent on its control link."""
        raise NotImplementedError

    def link(self, peer: str, event: LinkEvent, now: float) -> list[Effect]:
        """Take in what became of the control link to `peer`.

        `peer` is a node's name; for a seed that could not be reached, its url.
        """
        raise NotImplementedError

    def tick(self, now: float) -> list[Effect]:
        """Do what is due; to be called at or after `deadline`."""
        raise NotImplementedError

    def announce(
        self, catalog_version: int, delta: tuple[Offer, ...] | None, now: float
    ) -> list[Effect]:
        """Tell all that the own catalog has reached `catalog_version`."""
        raise NotImplementedError

    def leave(
        self, now: float, *, drain_s: float = 0.0, reason: str = ""
    ) -> list[Effect]:
        """Say goodbye to all; pings are still answered until the driver stops.

        Tells `LeaveSpread` when links may be closed (`leave_spread_s` later).
        """
        raise NotImplementedError

    def loop_lag(self, lag_s: float, now: float) -> list[Effect]:
        """Take in by how much the event loop was late, as the driver measured."""
        raise NotImplementedError

    def set_load(self, load: Load) -> None:
        """Replace the load that rides on pings and acks."""
        raise NotImplementedError

    def claim(self, name: NodeName, epoch: bytes, now: float) -> list[Effect]:
        """Ask whether a process that was just authenticated may have `name`.

        For an inbound link whose name already has a link or a record with another
        epoch (the epoch is in the handshake or in the first message, `Hello`). Hold
        the link until `NameFree` or `NameTaken` is told: at once where nobody
        lives under the name, else after a ping of the holder.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ what is known

    @property
    def deadline(self) -> float:
        """When to call `tick`, on the driver's clock."""
        raise NotImplementedError

    @property
    def me(self) -> MemberRecord:
        """The own record, as others will hear of it."""
        raise NotImplementedError

    @property
    def joined(self) -> bool:
        """Whether the join is complete."""
        raise NotImplementedError

    @property
    def health(self) -> int:
        """Local health: 0 is well, larger is slower (Lifeguard)."""
        raise NotImplementedError

    @property
    def members(self) -> tuple[Member, ...]:
        """All known nodes, this one first, also the dead and the gone."""
        raise NotImplementedError

    @property
    def alive(self) -> tuple[NodeName, ...]:
        """Names of the members that are ALIVE, this node first."""
        raise NotImplementedError

    def member(self, name: NodeName) -> Member | None:
        """Return what is known of `name`, if anything."""
        raise NotImplementedError
