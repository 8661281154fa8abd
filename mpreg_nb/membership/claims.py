"""Who may have a name, when a second process comes with it.

The older one keeps it if it still answers; otherwise the newcomer is the same
node, started again. Cassandra and memberlist make the newcomer wait instead.
"""

import math
from dataclasses import dataclass

from mpreg_nb.membership.effects import Effect, NameFree, NameTaken, Tell
from mpreg_nb.wire.gossip import NodeName, Ping

FIRST_SEQ = 1 << 52
"""Above all sequence numbers of probes."""


@dataclass(frozen=True, slots=True)
class _Claim:
    name: NodeName
    epoch: bytes  # of the newcomer
    until_s: float


class Claims:
    """Names whose holder has been pinged, by the number of that ping."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._claims: dict[int, _Claim] = {}
        self._seq = FIRST_SEQ

    def ask(self, name: NodeName, newcomer: bytes, holder: bytes, now: float) -> Ping:
        """Return the ping that the holder must answer to keep the name."""
        self._seq += 1
        self._claims[self._seq] = _Claim(name, newcomer, now + self._patience_s)
        return Ping(seq=self._seq, epoch=holder)

    def ack(self, seq: int, sender: NodeName) -> list[Effect]:
        """Take in an answer: the holder lives."""
        claim = self._claims.get(seq)
        if claim is None or claim.name != sender:
            return []
        del self._claims[seq]
        return [Tell(NameTaken(claim.name, claim.epoch))]

    @property
    def deadline(self) -> float:
        """When the first holder will have been silent for too long."""
        return min((c.until_s for c in self._claims.values()), default=math.inf)

    def tick(self, now: float) -> list[Effect]:
        """Give the names of silent holders to those who claim them."""
        due = [seq for seq, claim in self._claims.items() if claim.until_s <= now]
        claims = [self._claims.pop(seq) for seq in due]
        return [Tell(NameFree(claim.name, claim.epoch)) for claim in claims]

    def postpone(self, until: float) -> None:
        """Judge no holder before `until`: its answer may wait in our buffers."""
        for seq, claim in self._claims.items():
            if claim.until_s < until:
                self._claims[seq] = _Claim(claim.name, claim.epoch, until)
