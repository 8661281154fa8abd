"""Bytes of no sense, in bounded amounts with fixed seeds: nothing gets out of hand."""

import asyncio
import random
import time

import msgspec
import pytest
from websockets.frames import Frame, Opcode

from mpreg_nb.protocol.codec import Abort, Attach, Fragment, encode, join
from mpreg_nb.protocol.messages import Call, Notice, Reply, ResultRef
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import STRIKES, Timeouts
from tests.support.links import (
    TOKEN,
    Pair,
    house,
    linked,
    numbered,
    open_link,
)

ID = bytes(range(16))
VALID = [
    join([encode(numbered(1)), encode(numbered(2))]),
    join(
        [
            encode(
                Call(id=ID, function="f", payload=b"x" * 300, resources=frozenset("ab"))
            )
        ]
    ),
    join([encode(Reply(id=ID, payload=b"", node="n", kept=ResultRef("n", ID, 7)))]),
    join([encode(Notice(kind="draining", text="ü" * 100))]),
    join(
        [
            encode(
                Attach(
                    stream=2, sizes=(3, 0, 4), message=msgspec.Raw(encode(numbered(1)))
                )
            )
        ]
    ),
    join([encode(Fragment(stream=2, data=memoryview(b"abc")))]),
    join([encode(Abort(stream=2))]),
]


def mutated(valid: bytes, lot: random.Random) -> bytes:
    data = bytearray(valid)
    for _ in range(lot.randint(1, 4)):
        match lot.randrange(5):
            case 0 if data:
                data[lot.randrange(len(data))] = lot.randrange(256)
            case 1 if data:
                del data[lot.randrange(len(data)) :]
            case 2:
                data[lot.randint(0, len(data)) : 0] = lot.randbytes(lot.randint(1, 9))
            case 3:
                data += lot.choice(VALID)
            case _:
                begin = lot.randint(0, len(data))
                del data[begin : begin + lot.randint(1, 9)]
    return bytes(data)


def put(pair: Pair, data: bytes) -> None:
    pair.dialled._transport.write(data)


def framed(pair: Pair, payload: bytes) -> bytes:
    """Return a frame of a peer that knows the token: its MAC is right."""
    mac = pair.dialled._mac_out
    genuine = payload if mac is None else payload + mac.next(payload)
    return Frame(Opcode.BINARY, genuine).serialize(mask=True)


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_batches_hurt_nobody_else(seed: int) -> None:
    lot = random.Random(seed)
    async with linked() as pair:
        for _ in range(2000):
            if not pair.dialled.is_open:
                break
            put(pair, framed(pair, mutated(lot.choice(VALID), lot)))
            if lot.random() < 0.05:
                await asyncio.sleep(0)

        reason = await pair.dialled_ear.lost()

        assert "1008 too many invalid messages" in reason
        assert pair.accepted.statistics().strikes == STRIKES


@pytest.mark.parametrize("seed", range(12))
async def test_mutated_frames_end_with_a_code_or_not_at_all(seed: int) -> None:
    lot = random.Random(seed)
    async with linked(patience=Timeouts(close_s=0.05)) as pair:
        frames = [Frame(Opcode.BINARY, valid).serialize(mask=True) for valid in VALID]
        for _ in range(300):
            put(pair, mutated(lot.choice(frames), lot))
        pair.dialled.close()

        reason = await pair.accepted_ear.lost()

        assert reason.startswith(
            ("closed ", "the other end violated", "the connection was lost")
        )


@pytest.mark.parametrize("seed", range(12))
async def test_noise_after_the_proof_is_closed(seed: int) -> None:
    lot = random.Random(seed)
    async with linked(patience=Timeouts(close_s=0.05)) as pair:
        put(pair, lot.randbytes(100_000))
        pair.dialled.close()

        await pair.accepted_ear.lost()

        assert pair.accepted_ear.messages == []


@pytest.mark.parametrize("seed", range(12))
async def test_noise_before_the_proof_is_closed(seed: int) -> None:
    lot = random.Random(seed)
    async with house(limits=Limits(proof_timeout_s=0.2)) as home:
        request = (
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Protocol: mpreg.data.v2\r\nX-Mpreg-Role: node\r\n"
            f"X-Mpreg-Nonce: {'00' * 16}\r\nX-Mpreg-Name: n2\r\n\r\n"
        ).encode()
        for _ in range(40):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", home.listener.port
            )
            data = request if lot.random() < 0.3 else mutated(request, lot)
            writer.write(data + lot.randbytes(lot.choice([0, 5, 38, 300])))
            try:
                writer.write_eof()
                answer = await reader.read()
            except OSError:  # it has hung up already
                answer = b""
            writer.close()
            assert TOKEN.reveal().encode() not in answer

        assert home.ears == []
        link = await open_link(home.listener.url)
        link.close()
        await link.wait_closed()


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
async def test_deep_nesting_is_a_strike_and_quick(depth: int) -> None:
    async with linked() as pair:
        began = time.process_time()
        deep = b"\x91" * depth + b"\x90"
        put(pair, framed(pair, deep))
        pair.dialled.send(numbered(1))

        await pair.accepted_ear.message()

        assert pair.accepted.statistics().strikes == 1
        assert time.process_time() - began < 1.0


async def test_a_million_tiny_messages_in_one_frame_are_read() -> None:
    async with linked() as pair:
        tiny = msgspec.msgpack.encode(["of_next_year"])
        put(pair, framed(pair, join([tiny] * 200_000)))
        pair.dialled.send(numbered(1))

        await pair.accepted_ear.message()

        assert pair.accepted.statistics().unknown == 200_000


async def test_one_byte_at_a_time_is_read_as_well_as_all_at_once() -> None:
    async with linked() as pair:
        frame = framed(pair, join([encode(numbered(7))]))
        for byte in frame:
            put(pair, bytes([byte]))
            await asyncio.sleep(0)

        assert await pair.accepted_ear.message() == (numbered(7), ())
