"""Values on links: what is lent, returned, forgotten and lost, step by step."""

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mpreg_nb.protocol.shared import PartRef, SegmentRef
from mpreg_nb.serialize.pickle import pack, unpack
from mpreg_nb.shared_memory.exchange import DescriptorChannel, SegmentExchange
from mpreg_nb.shared_memory.segments import SharedMemory

MB = 1 << 20


def array(seed: int = 1, size_bytes: int = MB) -> Any:
    return np.random.default_rng(seed).integers(0, 255, size_bytes, np.uint8)


def noticed() -> None:
    """Stand in for what wakes the thread of a link."""


@dataclass
class Link:
    """One link between two processes, both of them here."""

    near: SegmentExchange
    far: SegmentExchange

    def talk(self) -> None:
        """Tell each end what the other has to say, until neither says anything."""
        gc.collect()
        while True:
            said = self.near.news(), self.far.news()
            if said[0] is not None:
                self.far.told(said[0])
            if said[1] is not None:
                self.near.told(said[1])
            if said == (None, None):
                return

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextmanager
def linked(near: SharedMemory, far: SharedMemory) -> Iterator[Link]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(
        SegmentExchange(near, DescriptorChannel(ends[0]), noticed),
        SegmentExchange(far, DescriptorChannel(ends[1]), noticed),
    )
    try:
        yield link
    finally:
        link.close()


def sent(exchange: SegmentExchange, value: object, memory: SharedMemory) -> Any:
    exported = exchange.export(memory.place(pack(value)))
    assert exported is not None
    return exported


def segments_in(exported: tuple[PartRef, ...]) -> set[bytes]:
    return {part.segment for part in exported if isinstance(part, SegmentRef)}


@pytest.fixture
def client() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def node() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def worker() -> SharedMemory:
    return SharedMemory()


def test_a_value_is_read_at_the_other_end_and_its_segment_filled_again(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        first = sent(link.near, array(1), client)
        value = unpack(link.far.accept(first))
        assert np.array_equal(value, array(1))
        assert not value.flags.writeable

        while_read = sent(link.near, array(2), client)
        link.far.accept(while_read)
        del value
        link.talk()
        again = sent(link.near, array(3), client)

        assert segments_in(while_read).isdisjoint(segments_in(first))
        assert segments_in(again) <= segments_in(first) | segments_in(while_read)
        assert np.array_equal(unpack(link.far.accept(again)), array(3))


def test_a_segment_is_mapped_once_for_many_values(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        for seed in range(5):
            value = unpack(link.far.accept(sent(link.near, array(seed), client)))
            assert np.array_equal(value, array(seed))
            del value
            link.talk()

        assert client.statistics().owned_bytes == MB
        assert node.statistics().mapped_bytes == MB


def test_a_value_returns_through_the_same_memory(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        there = sent(link.near, array(1), client)
        back = sent(link.far, unpack(link.far.accept(there)), node)
        value = unpack(link.near.accept(back))

        assert segments_in(back) == segments_in(there)
        assert np.array_equal(value, array(1))
        link.talk()
        assert client.statistics().free_bytes == 0
        del value
        link.talk()
        assert client.statistics().free_bytes > 0


def test_who_passes_a_value_on_holds_it_until_the_receiver_returns_it(
    client: SharedMemory, node: SharedMemory, worker: SharedMemory
) -> None:
    with linked(client, node) as first, linked(node, worker) as second:
        exported = second.near.export(
            first.far.accept(sent(first.near, array(1), client))
        )
        assert exported is not None
        value = unpack(second.far.accept(exported))
        first.talk()
        assert client.statistics().free_bytes == 0

        assert np.array_equal(value, array(1))
        del value
        second.talk()
        first.talk()
        assert client.statistics().free_bytes > 0


def test_what_a_dead_receiver_may_still_map_is_never_filled_again(
    client: SharedMemory, node: SharedMemory, worker: SharedMemory
) -> None:
    with linked(client, node) as first:
        with linked(node, worker) as second:
            lent = sent(first.near, array(1), client)
            exported = second.near.export(first.far.accept(lent))
            assert exported is not None
            value = unpack(second.far.accept(exported))
        first.talk()

        for seed in range(2, 6):
            other = sent(first.near, array(seed), client)
            assert segments_in(other).isdisjoint(segments_in(lent))
            first.far.accept(other)
            first.talk()

        assert np.array_equal(value, array(1))


def test_a_lost_link_leaves_what_was_read_from_it_as_it_is(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        value = unpack(link.far.accept(sent(link.near, array(1), client)))
    with linked(client, node) as link:
        for seed in range(2, 6):
            link.far.accept(sent(link.near, array(seed), client))
            link.talk()

        assert np.array_equal(value, array(1))


def test_what_the_owner_gives_back_to_the_system_is_forgotten_everywhere(
    client: SharedMemory, node: SharedMemory, worker: SharedMemory
) -> None:
    with linked(client, node) as first, linked(node, worker) as second:
        exported = second.near.export(
            first.far.accept(sent(first.near, array(1), client))
        )
        assert exported is not None
        second.far.accept(exported)
        del exported
        for _ in range(2):
            second.talk()
            first.talk()
        client.trim()
        for _ in range(2):
            first.talk()
            second.talk()

        held = [memory.statistics() for memory in (client, node, worker)]
        assert [one.mapped_bytes for one in held] == [0, 0, 0]


def test_nothing_is_forgotten_while_it_is_read(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        value = unpack(link.far.accept(sent(link.near, array(1), client)))
        client.limit_bytes = MB
        client.place(pack(array(2)))  # there is no room: nothing can be dropped
        link.talk()

        back = sent(link.far, value, node)

        assert np.array_equal(unpack(link.near.accept(back)), array(1))


def test_a_part_that_was_not_sent_is_refused(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        with pytest.raises(ValueError, match="not sent"):
            link.far.accept((SegmentRef(b"x" * 12, 0, 10),))


def test_a_part_beyond_its_segment_is_refused(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        [_, ref] = sent(link.near, array(1), client)

        with pytest.raises(ValueError, match="beyond"):
            link.far.accept((SegmentRef(ref.segment, ref.offset, 1 << 30),))


def test_a_value_that_is_nowhere_shared_goes_as_bytes(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        assert link.near.export(pack(array(1))) is None
        assert link.near.export((b"head", bytes(10))) is None


def test_a_channel_that_takes_nothing_makes_values_go_as_bytes(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        link.far.close()

        assert link.near.export(client.place(pack(array(1)))) is None


def test_a_forked_child_returns_nothing_for_its_parent(
    client: SharedMemory, node: SharedMemory
) -> None:
    with linked(client, node) as link:
        value = unpack(link.far.accept(sent(link.near, array(1), client)))
        child = os.fork()
        if not child:
            del value
            gc.collect()
            os._exit(0 if not link.far._is_awake else 1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert np.array_equal(value, array(1))
