"""Values that are taken apart into items, and put together again."""

import itertools
from typing import Any

import numpy as np
import pytest

from mpreg_nb.errors import InvalidWorkflow, NotPicklable
from mpreg_nb.serialize.items import (
    HEAD_BYTES,
    MOST_PARTS,
    gather,
    open_all,
    pack_items,
    read_head,
    take_apart,
)
from mpreg_nb.serialize.pickle import pack, unpack
from mpreg_nb.settings import RIDE_ALONG_BYTES


def dealt(items: list[Any]) -> list[tuple[Any, ...]]:
    """Return the parts of each item, as a node deals them out."""
    head, *parts = pack_items(items)
    found: list[tuple[Any, ...]] = []
    for entry in read_head(head):
        if isinstance(entry, bytes):
            found.append((entry,))
        else:
            found.append(tuple(parts[:entry]))
            del parts[:entry]
    assert parts == []
    return found


def test_each_item_can_be_opened_by_itself() -> None:
    items = ["small", np.arange(10_000.0), b"x" * 20_000, None]

    opened = [unpack(parts) for parts in dealt(items)]

    assert opened[0] == "small"
    np.testing.assert_array_equal(opened[1], items[1])
    assert opened[2:] == items[2:]


def test_small_items_travel_in_the_head_as_long_as_there_is_room() -> None:
    size = RIDE_ALONG_BYTES // 2
    items = [b"x" * size] * (HEAD_BYTES // size + 10)

    head, *parts = pack_items(items)

    assert len(head) < HEAD_BYTES + 10 * len(items)
    assert len(parts) > 0
    assert [unpack(parts) for parts in dealt(items)] == items


def test_results_are_gathered_without_being_opened() -> None:
    results = [{"n": 1}, np.arange(10_000.0), "text"]

    value = unpack(gather([pack(result) for result in results]))

    assert (value[0], value[2]) == ({"n": 1}, "text")
    np.testing.assert_array_equal(value[1], results[1])
    assert value[1].flags.writeable is False or value[1].base is not None


def test_nothing_gathered_is_an_empty_list() -> None:
    assert unpack(gather([])) == []


def test_large_parts_are_gathered_without_a_copy() -> None:
    part = bytearray(100_000)
    packed = (pack(np.frombuffer(part, "u1"))[0], memoryview(part))

    gathered = gather([packed])
    part[7] = 42

    assert unpack(gathered)[0][7] == 42


def test_a_gathered_value_has_a_bound_on_its_parts() -> None:
    many = [(b"head", *[b"x" * RIDE_ALONG_BYTES] * 100)] * 200

    assert len(gather(many)) == MOST_PARTS + 1


def test_an_item_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(NotPicklable, match=r"item\[1\]"):
        open_all([pack(1), (b"no pickle",)])


@pytest.mark.parametrize("over", [(1, 2), {1: "a", 2: "b"}, iter([1, 2]), range(1, 3)])
def test_anything_iterable_is_taken_apart(over: Any) -> None:
    assert take_apart(over, "m") == [1, 2]


def test_what_has_no_items_is_refused_with_its_type() -> None:
    with pytest.raises(TypeError, match=r"map step 'm' .* of type int"):
        take_apart(5, "m")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("over", "count"), [(range(20_000), "20,000"), (itertools.count(), "more")]
)
def test_too_many_items_are_refused_even_without_end(over: Any, count: str) -> None:
    with pytest.raises(
        InvalidWorkflow, match=f"{count} items, and the limit is 10,000"
    ):
        take_apart(over, "m")
