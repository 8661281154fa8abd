from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpreg_nb.membership.member import (
    apply_verdict,
    is_own_farewell,
    merge,
    precedence,
    verdict_of,
    without_hearsay,
)
from mpreg_nb.protocol.gossip import MemberRecord, MemberState, Verdict

ALIVE, SUSPECT, DEAD, LEFT = MemberState
OLD, NEW = bytes(16), bytes(15) + b"\x01"

records = st.builds(
    MemberRecord,
    name=st.just("n1"),
    generation=st.integers(1, 2),
    epoch=st.sampled_from([OLD, NEW]),
    incarnation=st.integers(1, 3),
    state=st.sampled_from(MemberState),
    catalog_version=st.integers(0, 2),
)


def record(
    state: MemberState = ALIVE, incarnation: int = 1, **fields: object
) -> MemberRecord:
    plain = MemberRecord(
        name="n1", generation=1, epoch=OLD, incarnation=incarnation, state=state
    )
    return replace(plain, **fields)


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        (record(ALIVE), record(SUSPECT)),
        (record(SUSPECT), record(DEAD)),
        (record(DEAD), record(LEFT)),
        (record(SUSPECT, 1), record(ALIVE, 2)),
        (record(DEAD, 1), record(ALIVE, 2)),
        (record(ALIVE, 9), record(LEFT, 1)),
        (record(LEFT, 9), record(ALIVE, 1, generation=2)),
        (record(DEAD, 9), record(ALIVE, 1, epoch=NEW)),
    ],
    ids=[
        "suspect beats alive",
        "dead beats suspect",
        "left beats dead",
        "refuted",
        "back from the dead",
        "left is final for the process",
        "restart with a higher generation",
        "restart in the same generation, larger epoch",
    ],
)
def test_of_two_records_this_one_wins(
    loser: MemberRecord, winner: MemberRecord
) -> None:
    assert precedence(loser) < precedence(winner)
    assert merge(loser, winner).state is winner.state
    assert merge(winner, loser).state is winner.state


@given(one=records, other=records)
def test_merging_is_commutative_in_all_that_decides(
    one: MemberRecord, other: MemberRecord
) -> None:
    assert merge(one, other) == merge(other, one)


@given(one=records, other=records, third=records)
def test_merging_is_associative(
    one: MemberRecord, other: MemberRecord, third: MemberRecord
) -> None:
    assert merge(merge(one, other), third) == merge(one, merge(other, third))


@given(one=records, other=records)
def test_merging_again_changes_nothing(one: MemberRecord, other: MemberRecord) -> None:
    merged = merge(one, other)

    assert merge(merged, one) is merged
    assert merge(merged, other) is merged


@given(heard=st.lists(records, min_size=1, max_size=4))
def test_any_order_of_arrival_ends_the_same(heard: list[MemberRecord]) -> None:
    ends = {reduce(merge, order) for order in permutations(heard)}

    assert len(ends) == 1


@given(heard=st.lists(records, min_size=1))
def test_the_highest_incarnation_is_kept_even_where_the_state_stays(
    heard: list[MemberRecord],
) -> None:
    end = reduce(merge, heard)

    same_process = [
        r for r in heard if (r.generation, r.epoch) == (end.generation, end.epoch)
    ]
    assert end.incarnation == max(r.incarnation for r in same_process)


@given(known=records, said=records)
def test_a_verdict_does_what_a_record_of_the_same_process_would(
    known: MemberRecord, said: MemberRecord
) -> None:
    verdict = verdict_of(said)

    judged = apply_verdict(known, verdict)

    is_same = (known.generation, known.epoch) == (said.generation, said.epoch)
    assert judged.state is (merge(known, said).state if is_same else known.state)
    assert judged.urls == known.urls


def test_only_the_node_itself_can_announce_that_it_left() -> None:
    own = Verdict(
        name="n1", generation=1, epoch=OLD, incarnation=1, state=LEFT, by=("n1",)
    )

    assert is_own_farewell(own)
    assert not is_own_farewell(replace(own, by=("n2",)))
    assert not is_own_farewell(replace(own, by=("n1", "n2")))


def test_the_dead_of_a_third_node_are_only_suspects() -> None:
    assert without_hearsay(record(DEAD)).state is SUSPECT
    assert without_hearsay(record(LEFT)).state is LEFT
