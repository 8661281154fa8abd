"""One member as this node sees it, and which of two records of it is right.

The order is that of SWIM (Das, Gupta, Motivala, DSN 2002, section 4.2), with the
generation of a name in front of it (as Cassandra has it), so that a process that
was started again never needs to know what was said of the one before it:

    generation, epoch  >  LEFT, final for that process  >  incarnation  >  state

`merge` takes the larger of two records and keeps the highest incarnation that
either has, so that merging in any order, any number of times, ends the same.
"""

from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from mpreg_nb.protocol.gossip import Load, MemberRecord, MemberState, NodeName, Verdict

Precedence: TypeAlias = tuple[int, bytes, bool, int, MemberState]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster, as one node saw it at one moment."""

    record: MemberRecord
    since_s: float  # when it came into its state, on the driver's clock
    linked: bool = False  # a control link to it is up
    rtt_s: float | None = None  # of the last direct ping
    load: Load | None = None  # as it last told

    @property
    def name(self) -> NodeName:
        """The name of the node."""
        return self.record.name

    @property
    def state(self) -> MemberState:
        """What is held of it: alive, suspect, dead or left."""
        return self.record.state


def precedence(record: MemberRecord | Verdict) -> Precedence:
    """Return what decides between two statements about one name; larger wins."""
    return (
        record.generation,
        record.epoch,
        record.state is MemberState.LEFT,
        record.incarnation,
        record.state,
    )


def is_same_process(one: MemberRecord | Verdict, other: MemberRecord | Verdict) -> bool:
    """Whether both speak of the same process under the same generation."""
    return one.generation == other.generation and one.epoch == other.epoch


def is_own_farewell(record: MemberRecord | Verdict) -> bool:
    """Whether it is LEFT on the word of the node itself; no other may say that."""
    return record.state is MemberState.LEFT and record.by == (record.name,)


def merge(known: MemberRecord, heard: MemberRecord) -> MemberRecord:
    """Return the record that follows from both; commutative, associative, idempotent.

    Where both have the same precedence the known one stays, with the larger
    catalog version of the two.
    """
    winner, loser = known, heard
    if precedence(heard) > precedence(known):
        winner, loser = heard, known
    if not is_same_process(winner, loser):
        return winner
    incarnation = max(winner.incarnation, loser.incarnation)
    version = max(winner.catalog_version, loser.catalog_version)
    if (incarnation, version) == (winner.incarnation, winner.catalog_version):
        return winner
    return replace(winner, incarnation=incarnation, catalog_version=version)


def apply_verdict(known: MemberRecord, verdict: Verdict) -> MemberRecord:
    """Return `known` with what `verdict` says of the same process.

    A verdict about another process than the known one changes nothing: if that is
    older it is out of date, if newer its record will come.
    """
    if not is_same_process(known, verdict):
        return known
    heard = replace(
        known,
        incarnation=verdict.incarnation,
        state=verdict.state,
        by=verdict.by,
    )
    return merge(known, heard)


def verdict_of(record: MemberRecord, refused: tuple[NodeName, ...] = ()) -> Verdict:
    """Return what `record` says of its node, without the node's details."""
    return Verdict(
        name=record.name,
        generation=record.generation,
        epoch=record.epoch,
        incarnation=record.incarnation,
        state=record.state,
        by=record.by,
        refused=refused,
    )


def without_hearsay(record: MemberRecord) -> MemberRecord:
    """Return `record` as it may be believed when a third node synced it.

    DEAD becomes SUSPECT, so that one node that is wrong cannot kill the others.
    """
    if record.state is MemberState.DEAD:
        return replace(record, state=MemberState.SUSPECT)
    return record
