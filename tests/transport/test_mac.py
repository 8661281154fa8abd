"""Whoever stands between two ends without TLS can drop what passes, and do no more.

Threats S7 and S15 on links that are open already: the stranger passes the proofs on and
changes what follows.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Close, Frame, Opcode

from mpreg_nb.errors import NotTrusted
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.transport.connection import Lane, Timeouts
from mpreg_nb.transport.framing import MAC_BYTES, FrameMac
from tests.support.links import Ear, house, numbered, open_link
from tests.support.wiretap import wiretap

KEY = bytes(range(32))
PROOF_FRAME_BYTES = 38
PART = random.Random(4).randbytes(300_000)


# ------------------------------------------------------------------ one direction


def test_the_macs_are_these_bytes() -> None:
    mac = FrameMac(KEY)

    assert [mac.next(b"one").hex(), mac.next(b"t", b"wo").hex()] == [
        "8ce711058d709a9865fbbcf3ffaf08b8",
        "b82e47bec96238a023ae3d5e98c7141e",
    ]


def test_frames_that_come_as_they_were_sent_are_genuine() -> None:
    sender, receiver = FrameMac(KEY), FrameMac(KEY)

    for payload in (b"", b"one", PART):
        content = receiver.checked(payload + sender.next(payload))

        assert content is not None
        assert bytes(content) == payload


@pytest.mark.parametrize(
    "frames",
    [
        lambda one, two: [one[:-1] + bytes([one[-1] ^ 1])],
        lambda one, two: [bytes([one[0] ^ 128]) + one[1:]],
        lambda one, two: [one[1:]],
        lambda one, two: [one[-MAC_BYTES:]],
        lambda one, two: [b""],
        lambda one, two: [two],
        lambda one, two: [one, one],
        lambda one, two: [one, two, two],
    ],
    ids=[
        "the MAC changed",
        "the content changed",
        "shorter",
        "no content",
        "nothing",
        "the first left out",
        "the first twice",
        "the second twice",
    ],
)
def test_a_frame_that_was_changed_moved_or_repeated_is_not_genuine(
    frames: Callable[[bytes, bytes], list[bytes]],
) -> None:
    sender, receiver = FrameMac(KEY), FrameMac(KEY)
    one = b"one" + sender.next(b"one")
    two = b"two" + sender.next(b"two")
    *before, wrong = frames(one, two)

    for genuine in before:
        assert receiver.checked(genuine) is not None
    assert receiver.checked(wrong) is None


# ---------------------------------------------------------------- a whole link


async def passed_on(
    change: Callable[[int, bytes], bytes], *, answers: bool, lane: Lane = "data"
) -> tuple[list[Any], str]:
    """Let a stranger change one direction of a link; return what came, and the end.

    change: gets where in the stream after the proofs some bytes are, and these.
    answers: it is the direction from the listener to the dialler.
    """
    seen = -PROOF_FRAME_BYTES if not answers else 0
    open_yet = False

    def tamper(data: bytes) -> bytes:
        nonlocal seen, open_yet
        if not open_yet:  # the request or its answer comes first, and alone
            open_yet = True
            return data
        at, seen = seen, seen + len(data)
        if at < 0:  # the proof is another matter
            return data[:-at] + change(0, data[-at:])
        return change(at, data)

    patience = Timeouts(close_s=0.05)
    async with house(patience=patience) as home, wiretap(home.listener.port) as tap:
        if answers:
            tap.change_answered = tamper
        else:
            tap.change_sent = tamper
        dialled_ear = Ear()
        link = await open_link(tap.url, dialled_ear, lane=lane)
        accepted_ear = await home.ear()
        assert accepted_ear.connection is not None
        sender = accepted_ear.connection if answers else link
        receiver_ear = dialled_ear if answers else accepted_ear
        for message, parts in SENT:
            sender.send(message, parts)
            await sender.drained()
        sender.close(1000, "bye")
        return receiver_ear.messages, await receiver_ear.lost()


SENT: list[tuple[Any, tuple[Buffer, ...]]] = [
    (numbered(1), ()),
    (numbered(2), ()),
    (numbered(3), (PART,)),
    (numbered(4), ()),
]


def are_first_of_those_sent(heard: list[Any]) -> bool:
    plain = [(message, tuple(map(bytes, parts))) for message, parts in heard]
    return plain == SENT[: len(plain)]


@pytest.mark.parametrize("answers", [False, True], ids=["sent", "answered"])
async def test_what_passes_unchanged_arrives(answers: bool) -> None:
    heard, end = await passed_on(lambda at, data: data, answers=answers)

    assert len(heard) == len(SENT)
    assert are_first_of_those_sent(heard)
    assert end == "closed by the other end: 1000 bye"


def flipped(place: int) -> Callable[[int, bytes], bytes]:
    def change(at: int, data: bytes) -> bytes:
        if not at <= place < at + len(data):
            return data
        index = place - at
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return change


@pytest.mark.parametrize("lane", ["data", "control"])
@pytest.mark.parametrize("answers", [False, True], ids=["sent", "answered"])
async def test_a_byte_changed_anywhere_lets_nothing_in_that_was_not_sent(
    answers: bool, lane: Lane
) -> None:
    places = [*range(0, 90, 3), 500, 100_000, 299_000]

    for place in places:
        heard, _ = await passed_on(flipped(place), answers=answers, lane=lane)

        assert are_first_of_those_sent(heard), place
        assert len(heard) < len(SENT), place


async def test_without_the_check_a_changed_byte_would_be_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unchecked(self: FrameMac, payload: Buffer) -> Buffer:
        return memoryview(payload)[:-MAC_BYTES]

    monkeypatch.setattr(FrameMac, "checked", unchecked)
    outcomes = [
        are_first_of_those_sent((await passed_on(flipped(place), answers=True))[0])
        for place in range(0, 36, 3)
    ]

    assert not all(outcomes)


@pytest.mark.parametrize(
    "injected",
    [
        Frame(Opcode.TEXT, b'{"rpc": 1}'),
        Frame(Opcode.BINARY, b"\x90"),
        Frame(Opcode.BINARY, b"\x90", fin=False),
        Frame(Opcode.CLOSE, Close(1008, "the name is taken").serialize()),
        Frame(Opcode.CLOSE, Close(1000, "x" + "0" * 32).serialize()),
    ],
    ids=["text", "a batch", "a part of a batch", "a goodbye", "one with a made-up MAC"],
)
@pytest.mark.parametrize("answers", [False, True], ids=["sent", "answered"])
async def test_a_man_in_the_middle_can_end_a_link_but_send_nothing_on_it(
    answers: bool, injected: Frame
) -> None:
    frame = injected.serialize(mask=not answers)
    done = False

    def inject(at: int, data: bytes) -> bytes:
        nonlocal done
        if done or not data:
            return data
        done = True
        return frame + data

    heard, end = await passed_on(inject, answers=answers)

    assert heard == []
    assert "taken" not in end
    assert "closed by the other end: " not in end


async def test_what_was_recorded_cannot_be_played_again() -> None:
    kept = b""

    def twice(at: int, data: bytes) -> bytes:
        nonlocal kept
        kept, before = kept or data, kept
        return data if before else data + data

    heard, end = await passed_on(twice, answers=True)

    assert heard == SENT[: len(heard)]
    assert len(heard) <= 2
    assert end == "the connection was lost: a message was changed on its way"


async def test_a_listener_that_would_leave_out_the_mac_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpreg_nb.transport.listener.Welcome", _without_mac)
    async with house() as home:
        with pytest.raises(NotTrusted, match="without a MAC"):
            await open_link(home.listener.url)

        assert home.ears == []


def _without_mac(**said: Any) -> Any:
    from mpreg_nb.transport.handshake import Welcome

    return Welcome(**(said | {"mac": False}))


async def test_the_owner_is_warned_of_a_man_in_the_middle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await passed_on(flipped(30), answers=True)

    assert "was changed on its way" in caplog.text
