from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpreg_nb.membership.anti_entropy import (
    PUSH_RECORDS,
    differences,
    digest,
    pushes,
    root,
)
from mpreg_nb.membership.member import precedence
from mpreg_nb.protocol.gossip import MemberRecord, MemberState

records = st.builds(
    MemberRecord,
    name=st.sampled_from(["a", "b", "c"]),
    generation=st.integers(1, 2),
    epoch=st.sampled_from([bytes(16), b"\x01" * 16]),
    incarnation=st.integers(1, 2),
    state=st.sampled_from(MemberState),
    catalog_version=st.integers(0, 1),
)
tables = st.lists(records, unique_by=lambda record: record.name)


def record(name: str, **fields: object) -> MemberRecord:
    return replace(MemberRecord(name=name, generation=1, epoch=bytes(16)), **fields)


def test_equal_tables_have_equal_roots_in_any_order() -> None:
    lines = [digest(record(name)) for name in "abc"]

    assert root(lines) == root(reversed(lines))


@given(table=tables, changed=records)
def test_any_difference_shows_in_the_root(
    table: list[MemberRecord], changed: MemberRecord
) -> None:
    here = {r.name: r for r in table}
    there = here | {changed.name: changed}

    roots = [root(map(digest, some.values())) for some in (here, there)]

    assert (roots[0] == roots[1]) == (here == there)


@given(one=tables, other=tables)
def test_both_sides_see_the_same_differences(
    one: list[MemberRecord], other: list[MemberRecord]
) -> None:
    here, there = {r.name: r for r in one}, {r.name: r for r in other}

    found = differences(here, [digest(r) for r in other])
    mirrored = differences(there, [digest(r) for r in one])

    owners = {line.name for line in found.catalogs}
    assert set(found.push) == set(mirrored.pull) | {
        line.name for line in mirrored.catalogs
    }
    assert set(mirrored.push) == set(found.pull) | owners


@given(one=tables, other=tables)
def test_what_is_pulled_is_better_than_what_is_known(
    one: list[MemberRecord], other: list[MemberRecord]
) -> None:
    here, there = {r.name: r for r in one}, {r.name: r for r in other}

    found = differences(here, [digest(r) for r in other])

    for name in found.pull:
        assert name not in here or precedence(there[name]) > precedence(here[name])


def test_records_go_in_pieces_and_the_last_is_marked() -> None:
    many = [record(f"n{number}") for number in range(PUSH_RECORDS + 1)]

    sent = list(pushes(many))

    assert [len(push.records) for push in sent] == [PUSH_RECORDS, 1]
    assert [push.last for push in sent] == [False, True]


def test_nothing_to_send_is_still_an_answer() -> None:
    assert [push.last for push in pushes([])] == [True]
