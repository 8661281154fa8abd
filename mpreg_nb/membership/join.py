"""How a node joins: its seed URLs, and who may use a name that two processes claim.

Of two processes with one name the older one keeps it if it still answers; otherwise
the newcomer is the same node, started again. Cassandra and memberlist make the
newcomer wait instead.
"""

import math
from collections.abc import Container, Sequence

import msgspec

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Effect, NameFree, NameTaken, Notify
from mpreg_nb.protocol.gossip import NodeName, Ping

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
"""Between dials of a seed before the join is complete: nodes that are started
together find each other soon, a wrong url costs little."""

FIRST_ROUND_S = 1.0
"""Between looks at the seeds in the first round after the join. The seed that let this
node in may die before it has told of nodes that joined at the same moment."""

LOST_S = 10.0
"""A dial whose outcome was not reported for so long is tried again."""


class _Seed(msgspec.Struct):
    url: str
    dial_at_s: float
    failures: int = 0


class Seeds:
    """Seeds of one node; all are tried until the join is complete.

    Later those that are no members are dialled, each once soon after the join, then
    one now and then: two halves of a cluster that do not know each other meet.
    """

    def __init__(self, settings: SwimConfig) -> None:
        self._settings = settings
        self._seeds: list[_Seed] = []
        self._again_at_s = math.inf  # once the join is complete
        self._dialled_at_s = -math.inf  # after the join
        self._turn = 0
        self._first_round = 0  # seeds that it has still to look at

    def __len__(self) -> int:
        return len(self._seeds)

    def start(self, urls: Sequence[str], now: float) -> None:
        """Dial `urls`, one after the other."""
        stagger_s = self._settings.seed_stagger_s
        self._seeds = [
            _Seed(url, now + place * stagger_s)
            for place, url in enumerate(dict.fromkeys(urls))
        ]
        self._again_at_s = math.inf

    def settle(self, now: float) -> None:
        """Begin to look for seeds that are no members, after the join."""
        self._first_round = len(self._seeds)
        if self._seeds:
            self._again_at_s = now + FIRST_ROUND_S

    def failed(self, url: str, now: float) -> bool:
        """Record that a dial failed; return whether `url` is a seed."""
        for seed in self._seeds:
            if seed.url == url:
                pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0**seed.failures)
                seed.failures = min(seed.failures + 1, 10)
                seed.dial_at_s = now + pause_s
                return True
        return False

    @property
    def deadline(self) -> float:
        """When to ask for `due` again."""
        if self._again_at_s < math.inf:
            return self._again_at_s
        return min((seed.dial_at_s for seed in self._seeds), default=math.inf)

    def due(self, now: float, members: Container[str]) -> list[str]:
        """Return the urls to dial now; `members`: urls of members that need none."""
        if self._again_at_s < math.inf:
            if now < self._again_at_s:
                return []
            self._first_round -= 1
            is_first = self._first_round > 0
            self._again_at_s = now + (
                FIRST_ROUND_S if is_first else self._settings.seed_redial_s
            )
            self._turn = (self._turn + 1) % len(self._seeds)
            url = self._seeds[self._turn].url
            if url in members:
                return []
            self._dialled_at_s = now
            return [url]
        due = [seed for seed in self._seeds if seed.dial_at_s <= now]
        for seed in due:
            seed.dial_at_s = now + LOST_S
        return [seed.url for seed in due]

    def just_dialled(self, now: float) -> bool:
        """Whether an unknown peer that connects now may be a seed dialled before."""
        return now - self._dialled_at_s < LOST_S


FIRST_SEQ = 1 << 52
"""Above all sequence numbers of probes."""


class _Claim(msgspec.Struct, frozen=True):
    name: NodeName
    epoch: bytes  # of the newcomer
    until_s: float


class NameClaims:
    """Claims of names whose holder was pinged and has not answered yet."""

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
        """Handle the Ack of the holder, which keeps the name."""
        claim = self._claims.get(seq)
        if claim is None or claim.name != sender:
            return []
        del self._claims[seq]
        return [Notify(NameTaken(claim.name, claim.epoch))]

    @property
    def deadline(self) -> float:
        """When the first claim expires without an answer of the holder."""
        if not self._claims:
            return math.inf
        return min(claim.until_s for claim in self._claims.values())

    def tick(self, now: float) -> list[Effect]:
        """Give the names of silent holders to those who claim them."""
        due = [seq for seq, claim in self._claims.items() if claim.until_s <= now]
        claims = [self._claims.pop(seq) for seq in due]
        return [Notify(NameFree(claim.name, claim.epoch)) for claim in claims]

    def postpone(self, until: float) -> None:
        """Let no claim expire before `until`: an answer may wait unread."""
        for seq, claim in self._claims.items():
            if claim.until_s < until:
                self._claims[seq] = _Claim(claim.name, claim.epoch, until)
