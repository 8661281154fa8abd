"""Frames in and out, against what websockets itself makes and reads."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mpreg_nb.transport.framing import FrameReader, FrameWriter, Scratch

LIMIT = 100_000
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, LIMIT]


def protocol(*, server: bool) -> Protocol:
    if server:
        return ServerProtocol(state=OPEN, max_size=LIMIT)
    return ClientProtocol(parse_uri("ws://localhost/"), state=OPEN, max_size=LIMIT)


def reader(
    *, server: bool, scratch_bytes: int = 1 << 18
) -> tuple[FrameReader, Protocol]:
    """Return the reader of one side: a server's gets masked frames."""
    side = protocol(server=server)
    scratch = Scratch(scratch_bytes)
    return FrameReader(side, scratch, masked=server, max_bytes=LIMIT), side


def read(frames: FrameReader, *pieces: bytes) -> list[bytes]:
    """Return copies of the payloads that `pieces`, one read each or more, give."""
    found: list[bytes] = []
    for piece in pieces:
        while piece:
            size = frames.put(piece)
            piece = piece[size:]
            found += [bytes(payload) for payload in frames.received(size)]
    return found


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    for begin, end in pairwise(edges):
        yield data[begin:end]


@pytest.mark.parametrize("masked", [True, False], ids=["dialler", "listener"])
@pytest.mark.parametrize("size", SIZES)
def test_websockets_reads_the_frames_that_we_write(masked: bool, size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    theirs = protocol(server=masked)

    theirs.receive_data(FrameWriter(masked=masked).frame(payload))

    [frame] = theirs.events_received()
    assert isinstance(frame, Frame)
    assert frame == Frame(Opcode.BINARY, payload)


@pytest.mark.parametrize("masked", [True, False], ids=["dialler", "listener"])
@given(pieces=st.lists(st.binary(max_size=9), min_size=1, max_size=6))
def test_a_frame_of_pieces_reads_as_one_of_the_whole(
    masked: bool, pieces: list[bytes]
) -> None:
    theirs = protocol(server=masked)

    theirs.receive_data(b"".join(FrameWriter(masked=masked).frame_of([*pieces])))

    assert theirs.events_received() == [Frame(Opcode.BINARY, b"".join(pieces))]


def test_masks_do_not_repeat() -> None:
    writer = FrameWriter(masked=True)

    masks = {writer.frame(b"")[2:6] for _ in range(1000)}

    assert len(masks) > 990


def test_pieces_are_not_copied_where_nothing_is_masked() -> None:
    part = memoryview(bytearray(1000))

    frame = FrameWriter(masked=False).frame_of([b"head", part])

    assert frame[2] is part


@pytest.mark.parametrize("server", [True, False], ids=["listener", "dialler"])
@pytest.mark.parametrize("size", SIZES)
def test_we_read_the_frames_that_websockets_writes(server: bool, size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    frames, side = reader(server=server)

    found = read(frames, Frame(Opcode.BINARY, payload).serialize(mask=server))

    assert found == [payload]
    assert side.events_received() == []


@pytest.mark.parametrize("server", [True, False], ids=["listener", "dialler"])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 125, 126, 300, 2000]), max_size=8),
    places=st.lists(st.integers(0, 20_000), max_size=12),
)
def test_it_does_not_matter_how_frames_are_cut_into_reads(
    server: bool, sizes: list[int], places: list[int]
) -> None:
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = b"".join(
        Frame(Opcode.BINARY, payload).serialize(mask=server) for payload in payloads
    )
    frames, side = reader(server=server, scratch_bytes=512)

    found = read(frames, *cut(data, places))

    assert found == payloads
    assert side.events_received() == []


@given(places=st.lists(st.integers(0, 200), max_size=6))
def test_pings_are_answered_between_messages(places: list[int]) -> None:
    frames, side = reader(server=True)
    data = b"".join(
        frame.serialize(mask=True)
        for frame in (
            Frame(Opcode.BINARY, b"one"),
            Frame(Opcode.PING, b"?"),
            Frame(Opcode.BINARY, b"two"),
            Frame(Opcode.PONG, b""),
            Frame(Opcode.BINARY, b"three"),
        )
    )

    found = read(frames, *cut(data, places))

    assert found == [b"one", b"two", b"three"]
    assert frames.noticed
    assert not frames.passes_all
    assert side.data_to_send() == [Frame(Opcode.PONG, b"?").serialize(mask=False)]


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.TEXT, b"hello").serialize(mask=True),
        Frame(Opcode.BINARY, b"part", fin=False).serialize(mask=True),
        Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True),
    ],
    ids=["text", "a fragment", "a goodbye"],
)
def test_what_is_not_ours_goes_to_websockets_with_all_that_follows(data: bytes) -> None:
    frames, side = reader(server=True)
    binary = Frame(Opcode.BINARY, b"before").serialize(mask=True)

    found = read(frames, binary + data, b"")

    assert found == [b"before"]
    assert frames.passes_all
    assert len(side.events_received()) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (b"\x82\xff" + (LIMIT + 1).to_bytes(8, "big"), 1009),
        (b"\x82\xff" + (2**62).to_bytes(8, "big"), 1009),
        (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
        (b"\x92\x80" + bytes(4), 1002),
        (b"\x83\x80" + bytes(4), 1002),
        (b"\x80\x80" + bytes(4), 1002),
    ],
    ids=[
        "not masked",
        "one byte too long",
        "absurdly long",
        "a long ping",
        "a reserved bit",
        "an unknown opcode",
        "a continuation of nothing",
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_websockets_judges_what_breaks_the_protocol(
    data: bytes, code: int, bytewise: bool
) -> None:
    frames, side = reader(server=True)

    found = (
        read(frames, *(bytes([byte]) for byte in data))
        if bytewise
        else read(frames, data)
    )

    assert found == []
    assert side.close_sent is not None
    assert side.close_sent.code == code


@pytest.mark.parametrize("kept", [1, 3, 7, 150])
def test_what_is_kept_of_a_frame_is_passed_on_with_the_rest(kept: int) -> None:
    frames, side = reader(server=True)
    data = Frame(Opcode.BINARY, b"x" * 200).serialize(mask=True)

    read(frames, data[:kept])
    frames.pass_all()
    read(frames, data[kept:])

    assert side.events_received() == [Frame(Opcode.BINARY, b"x" * 200)]
