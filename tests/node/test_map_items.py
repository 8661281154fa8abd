"""Which items of a map go next, and how many together."""

import pytest

from mpreg_nb.node.map_items import KNOWN_TIMES, PROBES, MapItems
from mpreg_nb.protocol.messages import Ids, ResultRef
from mpreg_nb.serialize.chunks import CHUNK_BYTES, CHUNKS_AHEAD, LONGEST_S, MOST_ITEMS

ITEMS = 2_000
SMALL: list[bytes | ResultRef] = [b"item"] * ITEMS


def items_of(count: int = ITEMS, *, slots: int = 1) -> MapItems:
    items = MapItems(0.005, slots)
    items.waiting = dict.fromkeys(range(count), 1)
    return items


def probed(run_us: int, count: int = ITEMS) -> MapItems:
    items = items_of(count)
    for item in range(PROBES):
        assert items.take(SMALL) == (item,)
    for _ in range(PROBES):
        items.over(1)
        items.took((run_us,))
    return items


def test_the_first_items_go_one_by_one_and_the_next_wait_for_their_times() -> None:
    items = items_of()
    first = [items.take(SMALL) for _ in range(PROBES)]

    assert first == [(item,) for item in range(PROBES)]
    assert items.take(SMALL) == ()
    assert items.is_probing


def test_all_slots_have_an_item_and_another_that_waits_from_the_start() -> None:
    items = items_of(slots=20)

    sent = [items.take(SMALL) for _ in range(40)]

    assert sent == [(item,) for item in range(40)]
    assert items.take(SMALL) == ()


def test_who_gave_up_waiting_for_times_sends_one_by_one() -> None:
    items = items_of()
    for _ in range(PROBES):
        items.take(SMALL)

    items.gave_up_probing = True

    assert not items.is_probing
    assert items.take(SMALL) == (PROBES,)


def test_chunks_hold_as_many_as_their_time_allows_in_order() -> None:
    items = probed(run_us=100)

    assert items.take(SMALL) == tuple(range(PROBES, PROBES + 50))


def test_times_of_the_first_call_of_a_worker_do_not_count_alone() -> None:
    items = items_of()
    for _ in range(PROBES):
        items.take(SMALL)

    items.took((90_000,))
    assert items.take(SMALL) == ()
    for _ in range(KNOWN_TIMES - 1):
        items.took((10,))

    assert len(items.take(SMALL)) == MOST_ITEMS


def test_long_items_are_not_packed() -> None:
    items = probed(run_us=6_000)

    assert [items.take(SMALL) for _ in range(2)] == [(PROBES,), (PROBES + 1,)]


def test_after_a_chunk_in_which_one_took_long_items_go_one_by_one_for_a_while() -> None:
    items = probed(run_us=10)
    items.took([10] * 200 + [int(LONGEST_S * 1e6) + 1])
    alone = len(items.take(SMALL))

    for _ in range(5):
        items.took((10,))

    assert alone == 1
    assert len(items.take(SMALL)) > 1


def test_few_chunks_are_under_way_at_once() -> None:
    items = probed(run_us=10)
    sent = [items.take(SMALL) for _ in range(CHUNKS_AHEAD)]
    full = items.take(SMALL)

    items.over(len(sent[0]))

    assert all(len(one) > 1 for one in sent)
    assert full == ()
    assert items.take(SMALL)


def test_chunks_get_smaller_towards_the_end() -> None:
    items = probed(run_us=10, count=PROBES + 40)
    sizes = []
    while items.waiting:
        taken = items.take(SMALL)
        sizes.append(len(taken))
        items.over(len(taken))

    assert sizes[0] == 20
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@pytest.mark.parametrize("odd", ["large", "again"])
def test_a_large_item_and_one_that_is_sent_again_go_by_themselves(odd: str) -> None:
    items = probed(run_us=10)
    packed, third = [*SMALL], PROBES + 2
    if odd == "large":
        packed[third] = ResultRef("n1", Ids().next(), 100_000)
    else:
        items.waiting[third] = 2

    sent = [items.take(packed) for _ in range(3)]

    assert sent[:2] == [(PROBES, PROBES + 1), (third,)]
    assert sent[2][0] == third + 1
    assert len(sent[2]) > 1


def test_a_chunk_is_not_larger_than_its_limit_in_bytes() -> None:
    items = probed(run_us=10)
    packed: list[bytes | ResultRef] = [bytes(CHUNK_BYTES // 4)] * ITEMS

    assert len(items.take(packed)) == 5


def test_where_a_chunk_could_not_begin_items_go_one_by_one() -> None:
    items = probed(run_us=10)

    items.one_by_one = True

    assert items.take(SMALL) == (PROBES,)
