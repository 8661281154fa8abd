import random

import pytest
from msgspec.structs import replace

from mpreg_nb.membership.broadcast import Broadcasts
from mpreg_nb.membership.events import NameReplaced, Notify, Send
from mpreg_nb.membership.member import verdict_of
from mpreg_nb.membership.state import LocalMember
from mpreg_nb.membership.suspicion import Awareness
from mpreg_nb.protocol.gossip import Gossip, MemberRecord, MemberState, Verdict

ALIVE, SUSPECT, DEAD, LEFT = MemberState
EPOCH, LOW, HIGH = b"m" * 16, b"a" * 16, b"z" * 16


@pytest.fixture
def health() -> Awareness:
    return Awareness(8)


@pytest.fixture
def own(health: Awareness) -> LocalMember:
    record = MemberRecord(name="me", generation=3, epoch=EPOCH)
    own = LocalMember(record, Broadcasts(), health, period_s=1.0)
    own.join(0.0)
    return own


def said(state: MemberState, **fields: object) -> Verdict:
    record = MemberRecord(name="me", generation=3, epoch=EPOCH, state=state)
    return replace(verdict_of(record), **fields)


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_an_accusation_is_refuted_with_a_higher_incarnation(
    own: LocalMember, health: Awareness, state: MemberState
) -> None:
    effects = own.receive(said(state, incarnation=7), "b", 50.0)

    assert own.record.incarnation == 8
    assert own.record.state is ALIVE
    assert effects == [Send("b", Gossip(items=(own.record,)))]
    assert health.score == 1


def test_an_accusation_that_was_refuted_before_is_only_answered(
    own: LocalMember, health: Awareness
) -> None:
    own.receive(said(SUSPECT), "b", 50.0)
    refuted = own.record

    effects = own.receive(said(SUSPECT), "c", 51.0)

    assert own.record == refuted
    assert effects == [Send("c", Gossip(items=(refuted,)))]
    assert health.score == 1


def test_who_has_left_refutes_nothing(own: LocalMember) -> None:
    own.leave()

    assert own.receive(said(DEAD, incarnation=9), "b", 50.0) == []
    assert own.record.state is LEFT


def test_its_farewell_outranks_every_accusation(own: LocalMember) -> None:
    own.receive(said(SUSPECT, incarnation=7), "b", 50.0)

    own.leave()

    assert own.record.incarnation == 9
    assert own.record.by == ("me",)


def test_news_of_a_process_before_it_is_answered_with_the_new_record(
    own: LocalMember,
) -> None:
    effects = own.receive(said(DEAD, generation=2, epoch=HIGH), "b", 50.0)

    assert effects == [Send("b", Gossip(items=(own.record,)))]
    assert own.record.generation == 3


@pytest.mark.parametrize("state", [DEAD, LEFT])
def test_a_gone_process_with_a_higher_rank_is_outbid(
    own: LocalMember, state: MemberState
) -> None:
    own.receive(said(state, generation=5, epoch=LOW), "b", 50.0)

    assert own.record.generation == 6


def test_before_its_join_it_outbids_quietly() -> None:
    news = Broadcasts()
    record = MemberRecord(name="me", generation=1, epoch=EPOCH)
    own = LocalMember(record, news, Awareness(8), period_s=1.0)

    effects = own.receive(said(ALIVE, generation=4, epoch=LOW), "b", 0.0)

    assert own.record.generation == 5
    assert effects == []
    assert len(news) == 0


def test_who_keeps_bidding_against_it_is_alive_and_has_the_name(
    own: LocalMember,
) -> None:
    told = []
    for _ in range(5):
        bid = said(ALIVE, generation=own.record.generation + 1, epoch=LOW)
        told += own.receive(bid, "b", 100.0)

    assert next(e for e in told if isinstance(e, Notify)) == Notify(NameReplaced(10))


def test_of_two_live_ones_the_newcomer_gives_way() -> None:
    dice = random.Random(1)
    for _ in range(20):
        processes = []
        for epoch, joined_s in ((dice.randbytes(16), 0.0), (dice.randbytes(16), 95.0)):
            record = MemberRecord(name="me", generation=1, epoch=epoch)
            own = LocalMember(record, Broadcasts(), Awareness(8), period_s=1.0)
            own.join(joined_s)
            processes.append(own)
        old, new = processes
        gave_way = None
        while gave_way is None:
            for one, other in ((old, new), (new, old)):
                for effect in one.receive(verdict_of(other.record), "b", 100.0):
                    if isinstance(effect, Notify):
                        gave_way = gave_way or one

        assert gave_way is new
