"""Segments, their pool, and leases, in one process."""

import fcntl
import gc
import operator
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mpreg_nb.serialize.pickle import pack, unpack
from mpreg_nb.shared_memory import segments
from mpreg_nb.shared_memory.segments import (
    ALIGNMENT,
    IDLE_S,
    LEAST_BYTES,
    MOST_SEGMENTS,
    Segment,
    SharedMemory,
    bytes_of,
)

MB = 1 << 20


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory()
    made.linked(1)
    yield made
    gc.collect()
    made.trim()
    assert made.statistics().owned_bytes == 0


def array(size_bytes: int = MB, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, 255, size_bytes, np.uint8)


def segment_of(memory: SharedMemory, part: object) -> Segment:
    assert isinstance(part, memoryview)
    found = memory.find(part, len(part))
    assert found is not None
    return found[0]


def stays(memory: SharedMemory, parts: Sequence[object]) -> bool:
    """Whether `place` leaves the parts where they are."""
    placed = memory.place(parts)  # type: ignore[arg-type]
    return all(map(operator.is_, placed, parts))


def test_a_large_array_is_copied_to_shared_memory_once_and_read_there(
    memory: SharedMemory,
) -> None:
    given = array()

    parts = memory.place(pack(given))
    found = unpack(parts)

    assert np.array_equal(found, given)
    assert memory.find(memoryview(found).toreadonly(), MB) is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_what_is_in_shared_memory_is_not_copied_again(memory: SharedMemory) -> None:
    found = unpack(memory.place(pack(array())))
    owned = memory.statistics().owned_bytes

    again = memory.place(pack(found[1000:]))

    assert memory.statistics().owned_bytes == owned
    assert np.array_equal(unpack(again), found[1000:])


def test_two_calls_with_the_same_array_share_one_copy(memory: SharedMemory) -> None:
    given = array()
    first = memory.place(pack((given, 1)))

    second = memory.place(pack((given, 2)))

    assert segment_of(memory, first[1]) is segment_of(memory, second[1])


def test_an_array_that_was_changed_in_place_is_copied_again(
    memory: SharedMemory,
) -> None:
    given = array()
    first = memory.place(pack(given))
    before = given.copy()

    given[-1] += 1
    second = memory.place(pack(given))

    assert np.array_equal(unpack(first), before)
    assert np.array_equal(unpack(second), given)


def test_small_values_stay_where_they_are(memory: SharedMemory) -> None:
    parts = pack(array(LEAST_BYTES // 2))

    assert stays(memory, parts)


def test_large_bytes_go_to_shared_memory_too(memory: SharedMemory) -> None:
    given = bytes(array())

    parts = memory.place(pack(given))

    assert segment_of(memory, parts[0]).capacity >= MB
    assert unpack(parts) == given


def test_parts_of_one_value_share_a_segment_and_are_aligned(
    memory: SharedMemory,
) -> None:
    value = [array(MB + n, n) for n in range(3)]

    parts = memory.place(pack(value))

    assert len({segment_of(memory, part).id for part in parts[1:]}) == 1
    assert all(
        segments.address_of(part) % ALIGNMENT == 0
        for part in parts[1:]
        if isinstance(part, memoryview)
    )
    assert all(map(np.array_equal, unpack(parts), value))


def test_a_segment_is_filled_again_when_it_has_no_more_readers(
    memory: SharedMemory,
) -> None:
    parts = memory.place(pack(array(seed=1)))
    first = segment_of(memory, parts[1])
    view = unpack(parts)[7:9]
    del parts

    while_read = memory.place(pack(array(seed=2)))
    second = segment_of(memory, while_read[1])
    del view
    gc.collect()
    after = memory.place(pack(array(seed=3)))

    assert second is not first
    assert segment_of(memory, after[1]) is first


def test_beyond_the_limit_values_stay_where_they_are(memory: SharedMemory) -> None:
    memory.limit_bytes = 3 * MB
    held = memory.place(pack(array(2 * MB)))
    parts = pack(array(2 * MB, seed=2))

    assert stays(memory, parts)
    assert memory.statistics().refused == 1
    del held
    gc.collect()
    assert not stays(memory, parts)


def test_a_free_segment_makes_room_for_a_larger_one(memory: SharedMemory) -> None:
    memory.limit_bytes = 6 * MB
    memory.place(pack(array(MB)))
    gc.collect()

    segment_of(memory, memory.place(pack(array(6 * MB - 4096)))[1])

    assert memory.statistics().owned_bytes <= 6 * MB


def test_no_process_owns_more_segments_than_it_has_descriptors_to_spare(
    memory: SharedMemory,
) -> None:
    held = [memory.place(pack(array(seed=n))) for n in range(MOST_SEGMENTS + 5)]

    assert memory.statistics().owned_bytes == MOST_SEGMENTS * MB
    assert all(np.array_equal(unpack(held[n]), array(seed=n)) for n in (0, 36))


def test_nothing_is_made_while_no_link_reads_it_or_the_limit_is_0(
    memory: SharedMemory,
) -> None:
    parts = pack(array())
    memory.limit_bytes = 0
    assert stays(memory, parts)

    memory.limit_bytes = bytes_of(1)
    memory.linked(-1)
    assert stays(memory, parts)


def test_only_the_owner_can_write_and_nobody_changes_the_size() -> None:
    segment = Segment.create(b"k" * 12, LEAST_BYTES)

    with pytest.raises(PermissionError):
        os.pwrite(segment.descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 1)
    assert fcntl.fcntl(segment.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_segment_with_an_exaggerated_size_is_not_mapped(
    memory: SharedMemory,
) -> None:
    descriptor = os.memfd_create("small")

    with pytest.raises(ValueError, match="smaller"):
        memory.map(b"k" * 12, descriptor, LEAST_BYTES)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_forked_child_may_still_read_is_never_filled_again(
    memory: SharedMemory,
) -> None:
    before = array(seed=1)
    parts = memory.place(pack(before))
    go, gone = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(gone)
        os.read(go, 1)  # until the parent closes its end
        os.write(tell, b"same" if unpack(parts)[0] == before[0] else b"changed")
        os._exit(0)

    del parts
    gc.collect()
    filled = [memory.place(pack(array(seed=n))) for n in range(2, 6)]
    os.close(gone)
    said = os.read(told, 10)
    os.waitpid(child, 0)
    for end in (go, told, tell):
        os.close(end)

    assert said == b"same"
    del filled


def test_a_forked_child_has_a_pool_of_its_own(memory: SharedMemory) -> None:
    held = memory.place(pack(array()))
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        own = memory.statistics()
        os.write(tell, repr((own.owned_bytes, own.mapped_bytes)).encode())
        os._exit(0)

    said = os.read(told, 100)
    os.waitpid(child, 0)
    os.close(told)
    os.close(tell)

    assert said == b"(0, 0)"
    assert np.array_equal(unpack(held), array())


def test_what_was_free_for_long_goes_back_to_the_system(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.place(pack(array()))
    gc.collect()
    now = time.monotonic()

    memory.trim(IDLE_S)
    kept = memory.statistics().owned_bytes
    monkeypatch.setattr(time, "monotonic", lambda: now + segments.IDLE_S + 1.0)
    memory.trim(IDLE_S)

    assert kept > 0
    assert memory.statistics().owned_bytes == 0


@pytest.fixture
def _threads_in_turn() -> Iterator[None]:
    """Let another thread run after nearly every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_in_turn")
def test_threads_place_values_at_the_same_time(memory: SharedMemory) -> None:
    def place(number: int) -> int:
        for _ in range(150):
            memory.place([memoryview(bytes(20_000 + part)) for part in range(32)])
        return number

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(place, range(4))] == [0, 1, 2, 3]
