"""Parts cut into fragments and put together, without a link."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.codec import Abort, Attach, Buffer, Fragment, Unread, encode
from mpreg_nb.settings import FRAGMENT_BYTES
from mpreg_nb.transport.streams import (
    OPEN_AT_ONCE,
    Complete,
    IncomingStreams,
    OutgoingStreams,
    TooLarge,
)
from tests.support.links import numbered

LIMIT = 10 * FRAGMENT_BYTES
MESSAGE = encode(numbered(1))
READ = msgspec.msgpack.Decoder(Attach | Fragment | Abort)


def elements(outgoing: OutgoingStreams) -> list[Any]:
    """Return all that `outgoing` still sends, decoded."""
    found = []
    while pieces := outgoing.next_element():
        found.append(READ.decode(b"".join(pieces)))
    return found


def receive(
    incoming: IncomingStreams, element: Any
) -> Complete | TooLarge | Unread | None:
    match element:
        case Attach():
            return incoming.attach(element.stream, element.sizes, element.message)
        case Fragment():
            return incoming.fragment(element.stream, element.data)
        case _:
            incoming.abort(element.stream)
            return None


@given(
    sizes=st.lists(
        st.sampled_from([0, 1, 5, FRAGMENT_BYTES - 1, FRAGMENT_BYTES, 300_000]),
        max_size=12,
    )
)
def test_parts_arrive_as_they_were_sent(sizes: list[int]) -> None:
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    outgoing = OutgoingStreams(dialled=True)
    incoming = IncomingStreams(max_bytes=2**40)

    outgoing.add(MESSAGE, parts)
    done = [receive(incoming, element) for element in elements(outgoing)]

    assert all(one is None for one in done[:-1])
    complete = done[-1]
    assert isinstance(complete, Complete)
    assert bytes(complete.message) == MESSAGE
    assert [bytes(part) for part in complete.parts] == parts
    assert len(incoming) == len(outgoing) == 0


def test_no_fragment_is_longer_than_the_limit_and_none_is_short_without_need() -> None:
    outgoing = OutgoingStreams(dialled=True)

    outgoing.add(MESSAGE, [bytes(FRAGMENT_BYTES + 1), b"x" * 10, bytes(FRAGMENT_BYTES)])
    sizes = [len(e.data) for e in elements(outgoing) if isinstance(e, Fragment)]

    assert sizes == [FRAGMENT_BYTES, FRAGMENT_BYTES, 11]


def test_a_large_part_is_sent_from_where_it_lies() -> None:
    part = bytearray(2 * FRAGMENT_BYTES)
    outgoing = OutgoingStreams(dialled=True)
    outgoing.add(MESSAGE, [part])
    outgoing.next_element()

    _, piece = outgoing.next_element()

    assert isinstance(piece, memoryview)
    assert piece.obj is part


def test_many_small_parts_share_a_fragment() -> None:
    outgoing = OutgoingStreams(dialled=True)
    parts = [bytes([number % 256]) * 3 for number in range(1000)]
    outgoing.add(MESSAGE, parts)

    attach, fragment = elements(outgoing)

    assert attach.sizes == (3,) * 1000
    assert bytes(fragment.data) == b"".join(parts)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.empty((0, 4)),
        np.array(7),
        np.arange(4, dtype=">i2"),
    ],
    ids=["two dimensions", "empty", "no dimension", "big-endian"],
)
def test_arrays_are_parts_as_they_are(array: Any) -> None:
    outgoing = OutgoingStreams(dialled=True)
    incoming = IncomingStreams(max_bytes=LIMIT)

    outgoing.add(MESSAGE, [array.data])
    done = [receive(incoming, element) for element in elements(outgoing)][-1]

    assert isinstance(done, Complete)
    assert bytes(done.parts[0]) == array.tobytes()


def test_streams_take_turns() -> None:
    outgoing = OutgoingStreams(dialled=False)
    outgoing.add(MESSAGE, [bytes(3 * FRAGMENT_BYTES)])
    outgoing.add(MESSAGE, [bytes(FRAGMENT_BYTES)])

    order = [(type(e).__name__, e.stream) for e in elements(outgoing)]

    assert order == [
        ("Attach", 1),
        ("Attach", 3),
        ("Fragment", 1),
        ("Fragment", 3),
        ("Fragment", 1),
        ("Fragment", 1),
    ]


def test_more_streams_than_are_mixed_wait_their_turn() -> None:
    outgoing = OutgoingStreams(dialled=True)
    for _ in range(OPEN_AT_ONCE + 1):
        outgoing.add(MESSAGE, [bytes(2 * FRAGMENT_BYTES)])

    kinds = [type(element) for element in elements(outgoing)]

    assert kinds[:OPEN_AT_ONCE] == [Attach] * OPEN_AT_ONCE
    assert kinds[OPEN_AT_ONCE : 2 * OPEN_AT_ONCE] == [Fragment] * OPEN_AT_ONCE
    assert kinds.count(Attach) == OPEN_AT_ONCE + 1


def test_both_ends_number_their_streams_apart() -> None:
    numbers = [
        OutgoingStreams(dialled=dialled).add(MESSAGE, [b"x"])
        for dialled in (True, False)
    ]

    assert [number % 2 for number in numbers] == [0, 1]


def test_more_parts_than_a_message_may_have_are_not_taken() -> None:
    with pytest.raises(ValueError, match="at most"):
        OutgoingStreams(dialled=True).add(MESSAGE, [b""] * 65_537)


def test_an_aborted_stream_sends_no_more_and_says_so_once() -> None:
    outgoing = OutgoingStreams(dialled=True)
    stream = outgoing.add(MESSAGE, [bytes(3 * FRAGMENT_BYTES)])
    outgoing.next_element()

    said = [outgoing.abort(stream), outgoing.abort(stream)]

    assert said == [encode(Abort(stream=stream)), b""]
    assert elements(outgoing) == []


def test_a_stream_that_was_not_announced_is_aborted_without_a_word() -> None:
    outgoing = OutgoingStreams(dialled=True)
    stream = outgoing.add(MESSAGE, [b"x"])

    assert outgoing.abort(stream) == b""
    assert elements(outgoing) == []


def test_an_aborted_message_is_forgotten_and_its_number_free() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)
    incoming.attach(2, (5,), "first")
    incoming.abort(2)

    incoming.attach(2, (1,), "second")
    done = incoming.fragment(2, memoryview(b"x"))

    assert done == Complete("second", (bytearray(b"x"),))


def test_too_much_is_refused_before_room_is_made_and_its_bytes_are_dropped() -> None:
    incoming = IncomingStreams(max_bytes=10)

    refused = incoming.attach(2, (6, 5), "big")
    dropped = [incoming.fragment(2, memoryview(bytes(size))) for size in (6, 5)]

    assert refused == TooLarge("big", 11)
    assert dropped == [None, None]
    with pytest.raises(BadRequest, match="not open"):
        incoming.fragment(2, memoryview(b"x"))


def test_sizes_beyond_all_memory_are_refused() -> None:
    incoming = IncomingStreams(max_bytes=2**62)

    refused = incoming.attach(2, (2**55,), "huge")

    assert refused == TooLarge("huge", 2**55)


def wrong(told: object) -> str:
    """Return why a message cannot be used."""
    assert isinstance(told, Unread)
    return str(told.error)


def test_fragments_of_nothing_are_bad_requests() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)

    with pytest.raises(BadRequest, match="not open"):
        incoming.fragment(2, memoryview(b"x"))


def test_a_stream_that_brings_more_than_it_announced_ends() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)
    incoming.attach(2, (3,), "short")

    told = incoming.fragment(2, memoryview(b"four"))

    assert "more than it announced" in wrong(told)
    assert len(incoming) == 0


def test_a_stream_cannot_be_started_twice() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)
    incoming.attach(2, (3,), "first")

    assert "twice" in wrong(incoming.attach(2, (3,), "second"))


def test_open_streams_are_limited() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)
    for stream in range(2 * OPEN_AT_ONCE + 1):
        incoming.attach(2 * stream, (1,), "one more")

    assert "too many" in wrong(incoming.attach(1000, (1,), "one too many"))


def test_parts_of_a_message_that_could_not_be_read_are_dropped() -> None:
    incoming = IncomingStreams(max_bytes=LIMIT)
    incoming.refuse(2, (2, 1))

    assert incoming.fragment(2, memoryview(b"two")) is None

    with pytest.raises(BadRequest, match="not open"):
        incoming.fragment(2, memoryview(b"one more"))


def buffers() -> list[Buffer]:
    return [b"one", bytearray(b"two"), memoryview(b"three")]


def test_every_kind_of_buffer_is_a_part() -> None:
    outgoing = OutgoingStreams(dialled=True)
    outgoing.add(MESSAGE, buffers())

    _, fragment = elements(outgoing)

    assert bytes(fragment.data) == b"onetwothree"


def test_streams_of_one_key_go_one_after_the_other_and_hold_up_no_other() -> None:
    outgoing = OutgoingStreams(dialled=True)
    incoming = IncomingStreams(max_bytes=2**40)
    first, behind, other = numbered(1), numbered(2), numbered(3)

    outgoing.add(encode(first), (bytes(3 * FRAGMENT_BYTES),), b"call")
    outgoing.add(encode(behind), (), b"call")
    outgoing.add(encode(other), (bytes(FRAGMENT_BYTES),))
    done = [receive(incoming, element) for element in elements(outgoing)]

    order = [bytes(one.message) for one in done if isinstance(one, Complete)]
    assert order == [encode(other), encode(first), encode(behind)]


def test_a_stream_that_is_given_up_lets_the_next_of_its_key_begin() -> None:
    outgoing = OutgoingStreams(dialled=True)

    begun = outgoing.add(MESSAGE, (bytes(3 * FRAGMENT_BYTES),), b"call")
    dropped = outgoing.add(MESSAGE, (b"1",), b"call")
    last = outgoing.add(MESSAGE, (b"2",), b"call")
    outgoing.next_element()
    told = outgoing.abort(begun), outgoing.abort(dropped)

    assert (READ.decode(told[0]), told[1]) == (Abort(stream=begun), b"")
    assert [element.stream for element in elements(outgoing)] == [last, last]
