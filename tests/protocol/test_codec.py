"""Batches of messages: what is read, what is refused, and how cheaply."""

import sys
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.codec import (
    Abort,
    Attach,
    Fragment,
    control_decoder,
    data_decoder,
    encode,
    join,
)
from mpreg_nb.protocol.messages import Call, Cancel, Notice, Waiting

ID = bytes(range(16))
CANCEL = encode(Cancel(id=ID))
CALL = Call(id=ID, function="f", payload=b"x" * 100, resources=frozenset({"gpu"}))
VALID = join([CANCEL, encode(CALL), encode(Notice(kind="strike", text="ü"))])


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (
            Attach(stream=2, sizes=(3, 70_000), message=msgspec.Raw(CANCEL)),
            b"\x94\xa6attach\x02\x92\x03\xce\x00\x01\x11p" + CANCEL,
        ),
        (
            Fragment(stream=300, data=memoryview(b"abc")),
            b"\x93\xa8fragment\xcd\x01\x2c\xc4\x03abc",
        ),
        (Abort(stream=2), b"\x92\xa5abort\x02"),
    ],
    ids=["Attach", "Fragment", "Abort"],
)
def test_elements_of_streams_have_these_bytes(
    element: msgspec.Struct, expected: bytes
) -> None:
    assert encode(element) == expected
    for decoder in (data_decoder(), control_decoder()):
        assert decoder.batch(join([expected])) == [element]


@pytest.mark.parametrize(
    ("count", "head"),
    [
        (0, b"\x90"),
        (1, b"\x91"),
        (15, b"\x9f"),
        (16, b"\xdc\x00\x10"),
        (65_535, b"\xdc\xff\xff"),
        (65_536, b"\xdd\x00\x01\x00\x00"),
    ],
)
def test_any_number_of_messages_makes_one_batch(count: int, head: bytes) -> None:
    batch = join([CANCEL] * count)

    assert batch.startswith(head)
    assert data_decoder().batch(batch) == [Cancel(id=ID)] * count


def test_a_single_message_is_read_by_itself() -> None:
    assert data_decoder().one(msgspec.Raw(CANCEL)) == Cancel(id=ID)


def test_batches_are_read_from_any_buffer() -> None:
    decoder = data_decoder()

    for batch in (VALID, bytearray(VALID), memoryview(VALID)):
        assert decoder.batch(batch)[1] == CALL


def test_a_fragment_is_a_view_of_what_was_received() -> None:
    received = bytearray(join([encode(Fragment(stream=2, data=memoryview(b"abc")))]))

    [fragment] = data_decoder().batch(received)

    assert isinstance(fragment, Fragment)
    received[-1:] = b"x"
    assert bytes(fragment.data) == b"abx"


@pytest.mark.parametrize("size", range(len(VALID)))
def test_a_batch_that_is_cut_off_is_a_bad_request(size: int) -> None:
    with pytest.raises(BadRequest, match="not a message of this lane"):
        data_decoder().batch(VALID[:size])


@pytest.mark.parametrize(
    "data",
    [
        VALID + b"\x00",
        b"\xc0",
        CANCEL,
        b"\x80",
        join([b"\x01"]),
        join([b"\xc7\x03\x05abc"]),
        join([b"\x92\xa6cancel\xa2hi"]),
        join([b"\x81\xa1t\xa6cancel"]),
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xc6\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
        join([b"\x92\xa6notice\xa6\xff\xfeabcd"]),
    ],
    ids=[
        "bytes behind it",
        "nothing",
        "a message without a batch",
        "a map",
        "a number",
        "an extension type",
        "a wrong type",
        "a message as a map",
        "4 G messages",
        "4 GB of bytes",
        "4 G pairs",
        "text that is not UTF-8",
    ],
)
def test_what_is_no_batch_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest):
        data_decoder().batch(data)


def test_a_lane_carries_nothing_but_its_own() -> None:
    with pytest.raises(BadRequest, match="Invalid value 'cancel'"):
        control_decoder().batch(join([CANCEL]))


@pytest.mark.parametrize("depth", [1000, 10_000, 1_000_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01"], ids=["arrays", "maps"])
def test_deep_nesting_is_a_bad_request_in_no_time(depth: int, opening: bytes) -> None:
    data = opening * depth + b"\x90"
    decoder = data_decoder()
    began = time.process_time()

    with pytest.raises(BadRequest):
        decoder.batch(data)
    decoder.salvage(data)

    assert time.process_time() - began < 0.5
    assert sys.getrecursionlimit() < 10_000


def test_claims_of_length_cost_no_memory() -> None:
    decoder = data_decoder()
    claims = [b"\xdd\xff\xff\xff\xff", b"\x91\xc6\xff\xff\xff\xff" + bytes(1000)]
    tracemalloc.start()

    for claim in claims:
        with pytest.raises(BadRequest):
            decoder.batch(claim)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000


def test_a_fault_is_described_in_one_short_line() -> None:
    long = msgspec.msgpack.encode(["x\n" * 1000])

    with pytest.raises(BadRequest) as caught:
        data_decoder().batch(join([long]))

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_good_messages_of_a_bad_batch_can_be_saved() -> None:
    newer = msgspec.msgpack.encode(["of_next_year", {"a": 1}])
    wrong = msgspec.msgpack.encode(["cancel", 7])
    odd = [msgspec.msgpack.encode(one) for one in ([], [7], "text", {"cancel": 1})]

    good, unknown, bad = data_decoder().salvage(
        join([CANCEL, newer, wrong, *odd, encode(CALL)])
    )

    assert good == [Cancel(id=ID), CALL]
    assert unknown == 1
    assert len(bad) == 1 + len(odd)


def test_of_an_unread_message_kind_and_id_are_known_where_they_can_be_read() -> None:
    call = msgspec.msgpack.decode(encode(CALL))
    calls = [
        ["call", call[1], "", *call[3:]],  # a function without a name
        ["call", "no id", *call[2:]],
        ["call"],
        ["waiting", 7],
    ]
    batch = join([msgspec.msgpack.encode(one) for one in calls])

    _, _, wrong = data_decoder().salvage(batch)

    assert [(one.kind, one.id) for one in wrong] == [
        (Call, CALL.id),
        (None, b""),
        (None, b""),
        (Waiting, b""),
    ]


def test_of_what_is_no_batch_nothing_is_saved() -> None:
    good, unknown, [wrong] = data_decoder().salvage(VALID[:-1])

    assert (good, unknown) == ([], 0)
    assert (wrong.kind, wrong.id) == (None, b"")


@given(st.binary(max_size=200))
@example(b"\x91\x92\xa5abort\xcf\xff\xff\xff\xff\xff\xff\xff\xff")
def test_no_bytes_raise_anything_but_a_bad_request(data: bytes) -> None:
    for decoder in (data_decoder(), control_decoder()):
        try:
            decoder.batch(data)
        except BadRequest:
            _, unknown, wrong = decoder.salvage(data)
            assert unknown or wrong


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6)
)
def test_no_change_of_a_good_batch_raises_anything_else(
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value

    try:
        data_decoder().batch(data)
    except BadRequest:
        data_decoder().salvage(data)
