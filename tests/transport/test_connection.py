"""One link, both ends: batches, closing, strikes, slow and silent peers."""

import asyncio
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any, cast, get_args

import msgspec
import pytest
from websockets.frames import Frame, Opcode

from mpreg_nb.protocol.codec import Attach, Buffer, Fragment, encode, join
from mpreg_nb.protocol.messages import (
    ANSWERS,
    REQUESTS,
    Call,
    Data,
    Failed,
    Message,
    Notice,
    Output,
    RunList,
)
from mpreg_nb.settings import FRAGMENT_BYTES, Limits
from mpreg_nb.transport.connection import (
    FAST_BYTES_PER_S,
    HIGH_WATER_BYTES,
    LOOKS,
    SLOW_BYTES_PER_S,
    STRIKES,
    Connection,
    Keepalive,
    MessageReader,
    SlowReaderWatch,
    Timeouts,
)
from tests.support.links import (
    CLUSTER,
    ME,
    NODE,
    Ear,
    house,
    linked,
    numbered,
    open_link,
)

# What the tests below do by hand to one end: bytes that no `send` would write.


def write_raw(connection: Connection, data: bytes) -> None:
    connection._transport.write(data)


def echo(connection: Connection, message: Any, parts: tuple[Buffer, ...]) -> None:
    connection.send(message, parts)


def binary(connection: Connection, payload: bytes) -> bytes:
    """Return `payload` in a frame as this end would send it."""
    mac = connection._mac_out
    genuine = payload if mac is None else payload + mac.next(payload)
    return Frame(Opcode.BINARY, genuine).serialize(mask=connection.peer.dialled)


async def test_each_end_knows_who_the_other_is() -> None:
    async with linked(lane="control") as pair:
        there, here = pair.dialled.peer, pair.accepted.peer

        assert (there.role, there.name, there.dialled) == ("node", NODE, True)
        assert (here.role, here.name, here.dialled) == ("node", ME, False)
        assert there.cluster_id == here.cluster_id == CLUSTER
        assert there.lane == here.lane == "control"
        assert there.address == f"127.0.0.1:{pair.listener.port}"
        assert here.address.startswith("127.0.0.1:")


async def test_messages_arrive_in_order_in_both_directions() -> None:
    async with linked() as pair:
        for number in range(100):
            pair.dialled.send(numbered(number))
            pair.accepted.send(numbered(1000 + number))

        await pair.accepted_ear.heard(pair.accepted_ear.messages, 100)
        await pair.dialled_ear.heard(pair.dialled_ear.messages, 100)

        assert pair.accepted_ear.messages == [(numbered(n), ()) for n in range(100)]
        assert pair.dialled_ear.messages[0] == (numbered(1000), ())
        assert pair.dialled_ear.messages[-1] == (numbered(1099), ())


async def test_all_that_is_sent_in_one_turn_goes_in_one_frame() -> None:
    async with linked() as pair:
        for number in range(1000):
            pair.dialled.send(numbered(number))
        await pair.accepted_ear.heard(pair.accepted_ear.messages, 1000)

        statistics = pair.dialled.statistics()

        assert statistics.messages_out == 1000
        assert statistics.frames_out == 1


async def test_all_answers_to_one_frame_go_in_one_frame() -> None:
    async with linked() as pair:
        pair.accepted.on_message = echo
        for number in range(1000):
            pair.dialled.send(numbered(number))
        await pair.dialled_ear.heard(pair.dialled_ear.messages, 1000)

        statistics = pair.accepted.statistics()

        assert statistics.messages_out == 1000
        assert statistics.frames_out == statistics.frames_in
        assert statistics.frames_out <= 2  # the system may cut what it delivers


async def test_who_asks_one_thing_at_a_time_does_not_wait_for_the_end_of_the_turn() -> (
    None
):
    async with linked() as pair:
        pair.accepted.on_message = echo
        for number in range(1, 4):
            pair.dialled.send(numbered(number))
            await pair.dialled_ear.heard(pair.dialled_ear.messages, number)

        pair.dialled.send(numbered(4))
        at_once = pair.dialled.statistics().messages_out
        pair.dialled.send(numbered(5))
        pair.dialled.send(numbered(6))
        not_yet = pair.dialled.statistics().messages_out
        await pair.dialled_ear.heard(pair.dialled_ear.messages, 6)

        assert (at_once, not_yet) == (4, 4)
        assert [message for message, _ in pair.dialled_ear.messages] == [
            numbered(number) for number in range(1, 7)
        ]


async def test_a_turn_that_is_too_long_for_one_frame_goes_in_several() -> None:
    limits = Limits(max_frame_bytes=300_000)
    async with linked(limits=limits) as pair:
        text = "x" * 100_000
        sent = [
            Output(id=bytes(16), node=str(number), stream="stdout", text=text)
            for number in range(10)
        ]
        for message in sent:
            pair.dialled.send(message)

        await pair.accepted_ear.heard(pair.accepted_ear.messages, 10)

        assert [message for message, _ in pair.accepted_ear.messages] == sent
        assert pair.dialled.statistics().frames_out >= 4


@pytest.mark.parametrize("parts", [(), (b"part", b"")], ids=["alone", "with parts"])
async def test_a_message_longer_than_a_frame_arrives(parts: tuple[bytes, ...]) -> None:
    async with linked() as pair:
        text = "ü" * (5 << 20)
        sent = Output(id=bytes(16), node="n", stream="stdout", text=text)
        pair.dialled.send(sent, parts)
        pair.dialled.send(numbered(1))

        first, second = await pair.accepted_ear.heard(pair.accepted_ear.messages, 2)

        assert first == (numbered(1), ())  # small ones do not wait for it
        assert second[0] == sent
        assert tuple(bytes(part) for part in second[1]) == parts


async def test_what_a_callback_raises_costs_neither_link_nor_batch(
    loop_errors: list[dict[str, Any]],
) -> None:
    async with linked() as pair:
        heard: list[bytes] = []
        all_heard = asyncio.Event()

        def fail_on_first(_: Connection, message: Any, parts: object) -> None:
            heard.append(message.id)
            if len(heard) == 3:
                all_heard.set()
            if len(heard) == 1:
                raise LookupError("a fault of the owner")

        pair.accepted.on_message = fail_on_first
        pair.dialled.send(numbered(1))
        pair.dialled.send(numbered(2))
        pair.dialled.send(numbered(3), (b"part",))
        await all_heard.wait()

        assert pair.accepted.is_open
        assert [str(error["exception"]) for error in loop_errors] == [
            "a fault of the owner"
        ]
        loop_errors.clear()


# ----------------------------------------------------------------- closing


@pytest.mark.parametrize("closing", ["dialled", "accepted"])
async def test_closing_sends_waiting_messages_and_gives_both_ends_the_reason(
    closing: str,
) -> None:
    async with linked() as pair:
        one, other = (
            (pair.dialled, pair.dialled_ear),
            (pair.accepted, pair.accepted_ear),
        )
        if closing == "accepted":
            one, other = other, one
        one[0].send(numbered(1))
        one[0].close(1001, "going home")
        one[0].send(numbered(2))

        reasons = await one[1].lost(), await other[1].lost()
        await one[0].wait_closed()

        assert reasons == (
            "closed here: 1001 going home",
            "closed by the other end: 1001 going home",
        )
        assert other[1].messages == [(numbered(1), ())]
        assert not one[0].is_open
        assert not other[0].is_open


async def test_on_lost_is_called_once_however_often_a_link_ends() -> None:
    async with linked() as pair:
        pair.dialled.close()
        pair.dialled.close()
        pair.accepted.close()
        await pair.dialled.wait_closed()
        await pair.accepted.wait_closed()
        pair.dialled._transport.abort()
        pair.dialled.close()
        await asyncio.sleep(0)

        assert len(pair.dialled_ear.losses) == 1
        assert len(pair.accepted_ear.losses) == 1


async def test_a_reason_too_long_for_a_close_frame_is_cut() -> None:
    async with linked() as pair:
        pair.dialled.close(1000, "ü" * 200)

        assert (
            await pair.accepted_ear.lost()
            == f"closed by the other end: 1000 {'ü' * 44}"
        )


async def test_a_link_that_breaks_off_is_lost_at_both_ends() -> None:
    async with linked() as pair:
        pair.dialled._transport.abort()

        assert "lost" in await pair.accepted_ear.lost()
        assert "lost" in await pair.dialled_ear.lost()


async def test_a_link_that_breaks_within_a_message_delivers_no_part_of_it() -> None:
    async with linked() as pair:
        frame = binary(pair.dialled, join([encode(numbered(1))]))
        write_raw(pair.dialled, frame[:-1])
        await pair.dialled.drained()
        pair.dialled._transport.close()

        await pair.accepted_ear.lost()

        assert pair.accepted_ear.messages == []


async def test_an_end_that_does_not_answer_a_goodbye_is_left_behind() -> None:
    patience = Timeouts(close_s=0.05)
    async with linked(patience=patience) as pair:
        pair.accepted._transport.pause_reading()

        pair.dialled.close(1000)

        assert await pair.dialled_ear.lost() == "closed here: 1000"


async def test_nothing_is_delivered_after_close() -> None:
    async with linked() as pair:
        heard: list[Any] = []

        def close_on_first(link: Connection, message: Any, parts: object) -> None:
            heard.append(message)
            link.close()

        pair.accepted.on_message = close_on_first
        pair.dialled.send(numbered(1))
        pair.dialled.send(numbered(2))

        await pair.dialled_ear.lost()

        assert heard == [numbered(1)]


async def test_waiting_for_the_end_can_be_cancelled() -> None:
    async with linked() as pair:
        waiter = asyncio.create_task(pair.dialled.wait_closed())
        await asyncio.sleep(0)
        waiter.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiter

        assert pair.dialled.is_open


# ------------------------------------------------------- messages without sense


async def test_a_bad_message_is_a_strike_and_the_others_of_its_batch_count() -> None:
    async with linked() as pair:
        bad = msgspec.msgpack.encode(["cancel", 7])
        batch = join([encode(numbered(1)), bad, encode(numbered(2))])
        write_raw(pair.dialled, binary(pair.dialled, batch))

        await pair.accepted_ear.heard(pair.accepted_ear.messages, 2)
        notice, _ = await pair.dialled_ear.message()

        assert [m for m, _ in pair.accepted_ear.messages] == [numbered(1), numbered(2)]
        assert isinstance(notice, Notice)
        assert (notice.kind, pair.accepted.statistics().strikes) == ("strike", 1)
        assert "Expected `bytes`, got `int`" in notice.text


def unreadable(kind: type[Message], reader: str = "") -> bytes:
    """Return an element of the kind whose id alone can be read; ids are all zero."""
    others = len(kind.__struct_fields__) - 1
    wrong = [{reader: None}] * others
    return msgspec.msgpack.encode([kind.__struct_config__.tag, bytes(16), *wrong])


def with_more_than_an_id(kinds: Iterable[Any]) -> list[Any]:
    found = [kind for kind in kinds if len(kind.__struct_fields__) > 1]
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", with_more_than_an_id(REQUESTS))
async def test_the_sender_of_an_unreadable_request_gets_an_error(kind: Any) -> None:
    async with linked() as pair:
        write_raw(pair.dialled, binary(pair.dialled, join([unreadable(kind)])))

        answer, _ = await pair.dialled_ear.message()

        assert isinstance(answer, Failed)
        assert (answer.id, answer.failure.kind) == (bytes(16), "bad_request")
        assert answer.failure.executed == "no"
        assert "could not read it, and did nothing: " in answer.failure.message
        assert pair.dialled.is_open


@pytest.mark.parametrize("kind", with_more_than_an_id(ANSWERS))
async def test_who_waits_for_an_answer_that_cannot_be_read_gets_an_error(
    kind: Any,
) -> None:
    async with linked() as pair:
        write_raw(pair.accepted, binary(pair.accepted, join([unreadable(kind)])))

        answer, _ = await pair.dialled_ear.message()

        assert isinstance(answer, Failed)
        assert (answer.id, answer.failure.kind) == (bytes(16), "bad_request")
        assert answer.failure.executed == "unknown"
        assert f"the answer of {NODE} could not be read: " in answer.failure.message
        assert pair.dialled.is_open


@pytest.mark.parametrize(
    "kind",
    with_more_than_an_id(set(get_args(Data)) - REQUESTS - ANSWERS),
)
async def test_the_sender_of_any_other_unreadable_message_gets_a_notice(
    kind: Any,
) -> None:
    async with linked() as pair:
        write_raw(pair.dialled, binary(pair.dialled, join([unreadable(kind)])))

        notice, _ = await pair.dialled_ear.message()

        assert isinstance(notice, Notice)
        assert notice.kind == "strike"


@pytest.mark.parametrize("local", [False, True], ids=["TCP", "Unix socket"])
async def test_a_large_request_that_cannot_be_read_is_answered_too(
    local: bool,
) -> None:
    async with linked(local=local) as pair:
        bad = msgspec.Raw(unreadable(Call))
        attach = encode(Attach(stream=2, sizes=(3,), message=bad))
        fragment = encode(Fragment(stream=2, data=memoryview(b"abc")))
        write_raw(pair.dialled, binary(pair.dialled, join([attach, fragment])))

        answer, _ = await pair.dialled_ear.message()

        assert isinstance(answer, Failed)
        assert answer.failure.kind == "bad_request"
        assert pair.accepted.statistics().strikes == 1  # not one for each fragment


async def test_a_request_that_brings_more_than_it_announced_is_answered() -> None:
    async with linked() as pair:
        call = msgspec.Raw(encode(Call(id=bytes(16), function="f", payload=b"")))
        attach = encode(Attach(stream=2, sizes=(2,), message=call))
        fragment = encode(Fragment(stream=2, data=memoryview(b"abc")))
        write_raw(pair.dialled, binary(pair.dialled, join([attach, fragment])))

        answer, _ = await pair.dialled_ear.message()

        assert isinstance(answer, Failed)
        assert "sent more than it announced" in answer.failure.message


async def test_messages_of_a_newer_version_are_counted_and_ignored() -> None:
    async with linked() as pair:
        newer = msgspec.msgpack.encode(["of_next_year", {"a": [1, 2]}, None])
        for _ in range(2 * STRIKES):
            write_raw(pair.dialled, binary(pair.dialled, join([newer])))
        pair.dialled.send(numbered(1))

        await pair.accepted_ear.message()

        statistics = pair.accepted.statistics()
        assert (statistics.unknown, statistics.strikes) == (2 * STRIKES, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91",
        join([encode(numbered(1))]) + b"\x00",
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["nothing", "no msgpack", "cut off", "bytes behind it", "absurd length"],
)
async def test_after_ten_strikes_a_peer_is_cut_off(payload: bytes) -> None:
    async with linked() as pair:
        for _ in range(STRIKES):
            write_raw(pair.dialled, binary(pair.dialled, payload))

        reason = await pair.dialled_ear.lost()

        assert reason.startswith("closed by the other end: 1008")
        assert pair.accepted.statistics().strikes == STRIKES


async def test_the_control_lane_carries_no_data_messages() -> None:
    async with linked(lane="control") as pair:
        for _ in range(STRIKES):
            pair.dialled.send(Notice(kind="strike"))
            await asyncio.sleep(0)
            write_raw(pair.dialled, binary(pair.dialled, b""))

        assert "1008" in await pair.dialled_ear.lost()
        assert pair.accepted_ear.messages == []


@pytest.mark.parametrize(
    "element",
    [
        Fragment(stream=2, data=memoryview(b"x")),
        Attach(stream=2, sizes=(), message=msgspec.Raw(b"\xc0")),
        Attach(stream=2, sizes=(1,), message=msgspec.Raw(b"\x91\x01")),
        Attach(
            stream=2,
            sizes=(1,),
            message=msgspec.Raw(encode(Fragment(stream=4, data=memoryview(b"")))),
        ),
    ],
    ids=["of no stream", "of nothing", "of no message", "of a fragment"],
)
async def test_stream_elements_without_sense_are_strikes(element: Any) -> None:
    async with linked() as pair:
        write_raw(pair.dialled, binary(pair.dialled, join([encode(element)])))
        pair.dialled.send(numbered(1))

        await pair.accepted_ear.message()

        assert pair.accepted.statistics().strikes == 1


# ------------------------------------------------------------ codes of the protocol


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"hello"), 1003),
        (Frame(Opcode.BINARY, b"in pieces", fin=False), 1003),
    ],
    ids=["text", "a fragmented message"],
)
async def test_a_data_lane_takes_whole_binary_messages_only(
    frame: Frame, code: int
) -> None:
    async with linked() as pair:
        write_raw(pair.dialled, frame.serialize(mask=True))

        assert f": {code} " in await pair.dialled_ear.lost()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x00", 1002),
        (b"\xc2\x80" + bytes(4), 1002),
        (b"\x82\xff" + (2**62).to_bytes(8, "big"), 1009),
        (b"\x82\xff" + (Limits().max_frame_bytes + 1).to_bytes(8, "big"), 1009),
    ],
    ids=["not masked", "reserved bit", "absurd length", "one byte too long"],
)
async def test_what_breaks_the_protocol_closes_with_its_code(
    data: bytes, code: int
) -> None:
    async with linked() as pair:
        write_raw(pair.dialled, data)

        assert (await pair.dialled_ear.lost()).endswith(f": {code}")
        assert "violated the protocol" in await pair.accepted_ear.lost()


# ------------------------------------------------------------ slow and silent peers


async def test_a_peer_that_does_not_read_is_cut_off_when_too_much_waits() -> None:
    limits = Limits(backlog_bytes=1 << 20)
    async with linked(limits=limits, patience=Timeouts(close_s=0.1)) as pair:
        pair.accepted._transport.pause_reading()
        big = Output(id=bytes(16), node="n", stream="stdout", text="x" * 60_000)
        peak = 0

        while pair.dialled.is_open:
            pair.dialled.send(big)
            peak = max(peak, pair.dialled.statistics().backlog_bytes)
            await asyncio.sleep(0)

        assert (await pair.dialled_ear.lost()).startswith(
            "closed here: 1013 the other end reads too slowly"
        )
        assert peak < 2 << 20


async def test_of_a_large_part_little_is_written_ahead_of_its_reader() -> None:
    part = bytes(32 << 20)
    async with linked() as pair:
        pair.accepted._transport.pause_reading()
        pair.dialled.send(numbered(1), (part,))
        peak = 0

        for _ in range(2 * len(part) // FRAGMENT_BYTES):
            await asyncio.sleep(0)
            peak = max(peak, pair.dialled.statistics().backlog_bytes)

        assert 0 < peak <= HIGH_WATER_BYTES + 2 * FRAGMENT_BYTES
        pair.accepted._transport.resume_reading()
        await pair.accepted_ear.heard(pair.accepted_ear.messages, 1)


async def test_a_peer_that_takes_nothing_for_too_long_is_cut_off() -> None:
    patience = Timeouts(drain_s=0.1, close_s=0.1)
    async with linked(patience=patience) as pair:
        pair.accepted._transport.pause_reading()
        pair.dialled.send(numbered(1), (bytes(32 << 20),))

        reason = await pair.dialled_ear.lost()

        assert reason == (
            "closed here: 1013 the other end reads too slowly: "
            "less than 64 kB a second for 0.1 s"
        )


async def slow_after(
    bytes_per_s: float, *, waiting: int, allowed: int, drain_s: float = 0.2
) -> str:
    """Watch a peer that reads at this rate for a while; return why it is too slow."""
    loop = asyncio.get_running_loop()
    began, found = loop.time(), asyncio.Event()
    reasons: list[str] = []

    def slow(reason: str) -> None:
        reasons.append(reason)
        found.set()

    watch = SlowReaderWatch(
        drain_s,
        taken=lambda: int((loop.time() - began) * bytes_per_s),
        waiting=lambda: waiting,
        allowed=lambda: allowed,
        on_slow=slow,
    )
    watch.start()
    try:
        await asyncio.wait_for(found.wait(), 3 * drain_s)
    except TimeoutError:
        return ""
    finally:
        watch.stop()
    return reasons[0]


@pytest.mark.parametrize(
    ("bytes_per_s", "waiting", "reason"),
    [
        (0, 1000, "less than 64 kB a second for 0.2 s"),
        (SLOW_BYTES_PER_S / 2, 1000, "less than 64 kB a second for 0.2 s"),
        (SLOW_BYTES_PER_S * 2, 1000, ""),
        (FAST_BYTES_PER_S / 2, 2 << 20, f"{2 << 20} bytes wait to be read"),
        (FAST_BYTES_PER_S * 2, 2 << 20, ""),
        (0, 0, ""),
    ],
    ids=["stands still", "a little now and then", "slow", "much", "fast", "nothing"],
)
async def test_a_slow_reader_is_distinguished_from_a_silent_one(
    bytes_per_s: float, waiting: int, reason: str
) -> None:
    found = await slow_after(bytes_per_s, waiting=waiting, allowed=1 << 20)

    assert found == reason


async def test_streams_count_among_what_waits_for_a_slow_peer() -> None:
    limits = Limits(backlog_bytes=1 << 20)
    patience = Timeouts(drain_s=0.5, close_s=0.1)
    async with linked(limits=limits, patience=patience) as pair:
        pair.accepted._transport.pause_reading()
        for number in range(20):
            pair.dialled.send(numbered(number), (bytes(600_000),))

        reason = await pair.dialled_ear.lost()

        assert reason.endswith("bytes wait to be read")


async def test_without_the_limit_all_of_it_would_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SlowReaderWatch, "start", lambda self: None)
    limits = Limits(backlog_bytes=1 << 20)
    patience = Timeouts(drain_s=0.1, close_s=0.1)
    async with linked(limits=limits, patience=patience) as pair:
        pair.accepted._transport.pause_reading()
        for number in range(20):
            pair.dialled.send(numbered(number), (bytes(600_000),))
        await asyncio.sleep(3 * patience.drain_s)

        assert pair.dialled.is_open
        assert pair.dialled.statistics().streams_out > 10


async def test_one_message_larger_than_the_limit_is_sent() -> None:
    limits = Limits(backlog_bytes=1 << 20)
    patience = Timeouts(drain_s=5.0)
    async with linked(limits=limits, patience=patience) as pair:
        pair.accepted._transport.pause_reading()
        pair.dialled.send(numbered(1), (bytes(30 << 20),))
        await asyncio.sleep(3 * patience.drain_s / LOOKS)  # it has been looked at
        pair.accepted._transport.resume_reading()

        _, (part,) = await pair.accepted_ear.message()

        assert len(part) == 30 << 20


async def test_who_reads_fast_may_have_more_waiting_than_the_limit() -> None:
    limits = Limits(backlog_bytes=1 << 20)
    patience = Timeouts(drain_s=0.5)
    async with linked(limits=limits, patience=patience) as pair:
        for number in range(60):
            pair.dialled.send(numbered(number), (bytes(3 << 20),))

        await pair.accepted_ear.heard(pair.accepted_ear.messages, 60)

        assert pair.dialled.is_open


def test_empty_pieces_of_a_text_take_no_memory() -> None:
    reader = MessageReader("json", max_payload_bytes=1)
    empty = Frame(Opcode.CONT, b"", fin=False)
    reader.text(Frame(Opcode.TEXT, b"so", fin=False))
    tracemalloc.start()
    for _ in range(100_000):
        reader.text(empty)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert reader.text(Frame(Opcode.CONT, b" on", fin=True)) == "so on"
    assert taken < 100_000


async def test_answers_to_a_json_client_that_reads_nothing_are_bounded() -> None:
    limits = Limits(backlog_bytes=1 << 20)
    patience = Timeouts(drain_s=0.5, close_s=0.1)
    async with house(json_open=True, limits=limits, patience=patience) as home:
        reader, writer = await asyncio.open_connection("127.0.0.1", home.listener.port)
        writer.write(JSON_UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        cast(asyncio.Transport, writer.transport).pause_reading()
        ear = await home.ear()
        assert ear.connection is not None
        for _ in range(100):
            ear.connection.send_text("x" * 100_000)

        reason = await ear.lost()
        writer.close()

        assert "reads too slowly" in reason


JSON_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def test_a_silent_peer_is_pinged_and_lives_if_it_answers() -> None:
    async with linked(patience=Timeouts(ping_s=0.05)) as pair:
        for _ in range(10):
            before = pair.dialled.statistics().bytes_in
            while pair.dialled.statistics().bytes_in == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nobody is told of a pong

        assert pair.dialled.is_open
        assert pair.accepted.is_open
        assert pair.dialled.statistics().messages_in == 0


async def test_a_peer_that_answers_no_ping_is_given_up() -> None:
    async with linked(dialled_patience=Timeouts(ping_s=0.05)) as pair:
        pair.accepted._transport.pause_reading()

        reason = await pair.dialled_ear.lost()

        assert reason == "no sign of life for 0.1 s"


async def test_a_process_that_stood_still_does_not_blame_its_peer() -> None:
    ping_s, stood_still_s = 0.02, 0.1
    loop = asyncio.get_running_loop()
    heard = 0
    pinged = asyncio.Event()
    blamed: list[str] = []

    def receive() -> None:
        nonlocal heard
        heard += 1

    def ping() -> None:
        if not pinged.is_set():
            loop.call_soon(stand_still)
        pinged.set()

    def stand_still() -> None:
        time.sleep(stood_still_s)
        loop.call_later(0.001, receive)  # read only after all timers that are due

    pulse = Keepalive(ping_s, bytes_in=lambda: heard, ping=ping, on_dead=blamed.append)
    pulse.start()
    await pinged.wait()
    while not heard:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    pulse.stop()

    assert blamed == []


async def test_drained_waits_for_the_parts_and_no_longer() -> None:
    async with linked() as pair:
        await pair.dialled.drained()
        part = bytes(8 << 20)
        pair.dialled.send(numbered(1), (part,))

        await pair.dialled.drained()
        statistics = pair.dialled.statistics()
        _, parts = await pair.accepted_ear.message()

        assert statistics.streams_out == 0
        assert statistics.backlog_bytes <= 2 * FRAGMENT_BYTES
        assert parts == (part,)


async def test_drained_returns_when_the_link_is_lost() -> None:
    async with linked() as pair:
        pair.accepted._transport.pause_reading()
        pair.dialled.send(numbered(1), (bytes(32 << 20),))
        waiter = asyncio.create_task(pair.dialled.drained())
        await asyncio.sleep(0.01)

        pair.dialled._transport.abort()
        await waiter

        assert "lost" in await pair.dialled_ear.lost()


async def test_sending_on_a_lost_link_does_nothing() -> None:
    async with linked() as pair:
        pair.dialled.close()
        await pair.dialled.wait_closed()

        stream = pair.dialled.send(numbered(1), (b"x" * 100,))
        pair.dialled.send_text("hello")
        pair.dialled.abort(2)
        await pair.dialled.drained()

        assert stream == 0


async def test_other_messages_of_the_lane_pass_through() -> None:
    async with linked() as pair:
        pair.dialled.send(RunList(id=bytes(16)))

        assert await pair.accepted_ear.message() == (RunList(id=bytes(16)), ())


async def test_the_repr_of_a_link_names_its_owner() -> None:
    async with linked() as pair:
        assert repr(pair.dialled) == "<Connection data n1 open>"


async def test_a_link_can_be_opened_without_callbacks() -> None:
    async with linked() as pair:
        ear = Ear()
        other = await open_link(pair.listener.url, ear)
        other.on_message = lambda *heard: None
        other.close()
        await other.wait_closed()

        assert len(ear.losses) == 1
