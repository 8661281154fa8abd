"""How many items travel together, and those that are plain values."""

from enum import IntEnum
from typing import Any

import numpy as np
import pytest

from mpreg_nb.serialize.chunks import (
    MOST_ITEMS,
    ChunkSizes,
    PlainItems,
    are_plain,
    pack_plain,
)


class Level(IntEnum):
    LOW = 1


class Text(str):
    pass


def plain(count: int, width: int = 1) -> PlainItems:
    items = PlainItems(width, (True,), {"by": 2})
    for number in range(0, count * width, width):
        values = list(range(number, number + width))
        items.add(values, pack_plain(values))
    return items


def calls(items: PlainItems) -> list[tuple[Any, ...]]:
    columns, _ = items.chunk.columns()
    return list(zip(*columns, strict=False))


@pytest.mark.parametrize(
    "value", [1, True, 1.0, 1j, None, "a", b"a", (1, "a"), ((),)[0]]
)
def test_numbers_texts_and_flat_tuples_are_plain(value: object) -> None:
    assert are_plain([1, value])


@pytest.mark.parametrize(
    "value", [[1], {}, Level.LOW, Text("a"), np.float64(1), ((1,),), bytearray(), len]
)
def test_what_can_be_changed_or_has_a_class_of_its_own_is_not_plain(
    value: object,
) -> None:
    assert not are_plain([1, value])


def test_plain_items_are_the_arguments_of_calls_with_what_all_share() -> None:
    items = plain(3, width=2)

    _, by_name = items.chunk.columns()

    assert len(items) == 3
    assert calls(items) == [(True, 0, 1), (True, 2, 3), (True, 4, 5)]
    assert by_name == {"by": 2}


def test_a_part_of_plain_items_can_be_sent_again() -> None:
    items = plain(5, width=2)

    assert calls(items[3:]) == calls(items)[3:]
    assert calls(items[1:3]) == calls(items)[1:3]
    assert not items[5:]


def test_a_chunk_counts_for_more_than_items_that_went_alone() -> None:
    sizes = ChunkSizes(0.005, slots=1)
    for _ in range(4):
        sizes.took(1, 100e-6)

    sizes.took(50, 500e-6)

    assert sizes.item_s == pytest.approx(10e-6)


def test_chunks_that_are_short_anyway_are_not_made_shorter() -> None:
    item_s = 1e-6
    alike, few = (
        ChunkSizes(0.005, slots=2, most=8192, item_s=item_s, least_s=least_s)
        for least_s in (0.0, 0.0005)
    )

    assert alike.next(left=2_000) == few.next(left=2_000) == 500
    assert (alike.next(left=1_000), few.next(left=1_000)) == (250, 500)
    assert (alike.next(left=10), few.next(left=10)) == (3, 5)


def test_chunks_that_are_pickled_item_by_item_have_a_limit() -> None:
    assert ChunkSizes(0.005, slots=1, item_s=1e-7).next(None) == MOST_ITEMS
