"""Payloads of many fragments, on real links and in processes of their own."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mpreg_nb.protocol.codec import Abort, Attach, encode
from mpreg_nb.protocol.messages import Output, Reply
from mpreg_nb.settings import FRAGMENT_BYTES, Limits
from tests.support.links import linked, numbered

PROGRAM = Path(__file__).parents[1] / "support" / "large_transfer.py"
MB = 1_000_000


async def test_an_array_arrives_whole_with_its_neighbours() -> None:
    async with linked() as pair:
        array = np.random.default_rng(7).random((1000, 1250))  # 10 MB
        parts = (b"head", array.data, b"", bytearray(b"tail"))
        pair.accepted.send(numbered(1), parts)
        pair.dialled.send(numbered(2), parts)

        for ear, number in ((pair.dialled_ear, 1), (pair.accepted_ear, 2)):
            message, (head, data, nothing, tail) = await ear.message()
            assert message == numbered(number)
            assert (bytes(head), bytes(nothing), bytes(tail)) == (b"head", b"", b"tail")
            found = np.frombuffer(data).reshape(array.shape)
            assert np.array_equal(found, array)


async def test_small_messages_overtake_large_parts() -> None:
    async with linked() as pair:
        pair.dialled.send(numbered(0), (bytes(40 * MB),))
        overtaken = 0
        while not any(parts for _, parts in pair.accepted_ear.messages):
            overtaken += 1
            pair.dialled.send(numbered(overtaken))
            await pair.accepted_ear.heard(pair.accepted_ear.messages, overtaken)

        assert overtaken > 10  # each went there while the whole was under way


async def test_streams_share_the_link() -> None:
    async with linked() as pair:
        pair.dialled.send(numbered(1), (bytes(20 * MB),))
        pair.dialled.send(numbered(2), (bytes(1 * MB),))

        first, second = await pair.accepted_ear.heard(pair.accepted_ear.messages, 2)

        assert (first[0], second[0]) == (numbered(2), numbered(1))


async def test_many_large_messages_at_once_all_arrive() -> None:
    async with linked() as pair:
        for number in range(50):
            pair.dialled.send(numbered(number), (bytes([number]) * MB,))

        heard = await pair.accepted_ear.heard(pair.accepted_ear.messages, 50)

        assert {int.from_bytes(message.id, "big") for message, _ in heard} == set(
            range(50)
        )
        for message, (part,) in heard:
            assert part == bytes([message.id[-1]]) * MB


async def test_too_much_is_refused_and_the_link_goes_on() -> None:
    limits = Limits(max_payload_bytes=1 * MB)
    async with linked(limits=limits) as pair:
        pair.dialled.send(numbered(1), (bytes(600_000), bytes(400_001)))
        pair.dialled.send(numbered(2), (bytes(600_000), bytes(400_000)))

        [(message, size)] = await pair.accepted_ear.heard(pair.accepted_ear.refusals)
        allowed, parts = await pair.accepted_ear.message()

        assert (message, size) == (numbered(1), 1_000_001)
        assert allowed == numbered(2)
        assert sum(map(len, parts)) == MB
        assert pair.accepted.statistics().strikes == 0


async def test_a_sender_whose_parts_are_refused_stops_sending_them() -> None:
    limits = Limits(max_payload_bytes=1 * MB)
    async with linked(limits=limits) as pair:
        pair.dialled.send(numbered(1), (bytes(200 * MB),))

        await pair.accepted_ear.heard(pair.accepted_ear.refusals)
        await pair.dialled.drained()

        assert pair.dialled.statistics().bytes_out < 100 * MB


async def test_refusals_do_not_pile_up() -> None:
    limits = Limits(max_payload_bytes=1000)
    async with linked(limits=limits) as pair:
        for number in range(200):
            pair.dialled.send(numbered(number), (bytes(1001),))

        await pair.accepted_ear.heard(pair.accepted_ear.refusals, 200)
        pair.dialled.send(numbered(1), (bytes(1000),))
        await pair.accepted_ear.message()

        assert pair.accepted.statistics().strikes == 0


async def test_a_sender_may_give_up_what_it_began() -> None:
    async with linked() as pair:
        stream = pair.dialled.send(numbered(1), (bytes(100 * MB),))
        while pair.accepted.statistics().streams_in == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody is told that a stream began

        pair.dialled.abort(stream)
        pair.dialled.abort(stream)
        pair.dialled.send(numbered(2))
        message, _ = await pair.accepted_ear.message()

        assert message == numbered(2)
        assert pair.accepted.statistics().streams_in == 0
        assert pair.dialled.statistics().streams_out == 0
        assert pair.dialled.statistics().bytes_out < 100 * MB


async def test_aborting_an_unstarted_transfer_sends_nothing() -> None:
    async with linked() as pair:
        stream = pair.dialled.send(numbered(1), (bytes(MB),))
        pair.dialled.abort(stream)
        pair.dialled.send(numbered(2))

        await pair.accepted_ear.message()

        assert pair.accepted_ear.messages == [(numbered(2), ())]


async def test_an_abort_of_nothing_is_no_harm() -> None:
    async with linked() as pair:
        for stream in (1, 2, 77):
            pair.dialled.send(Abort(stream=stream))
        pair.dialled.send(numbered(1))

        await pair.accepted_ear.message()

        assert pair.accepted.statistics().strikes == 0


async def test_a_link_lost_in_the_middle_delivers_no_part() -> None:
    async with linked() as pair:
        pair.dialled.send(numbered(1), (bytes(100 * MB),))
        while pair.accepted.statistics().streams_in == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)

        pair.dialled._transport.abort()
        await pair.accepted_ear.lost()

        assert pair.accepted_ear.messages == []
        assert pair.accepted.statistics().streams_in == 0


async def test_absurd_sizes_are_refused_without_making_room() -> None:
    async with linked(limits=Limits(max_payload_bytes=2**40)) as pair:
        absurd = Attach(
            stream=2, sizes=(2**40,) * 3, message=msgspec.Raw(encode(numbered(1)))
        )
        pair.dialled.send(absurd)

        [(message, size)] = await pair.accepted_ear.heard(pair.accepted_ear.refusals)

        assert (message, size) == (numbered(1), 3 * 2**40)


@pytest.mark.parametrize(
    ("loop", "carrier"), [("asyncio", "unix"), ("uvloop", "unix"), ("uvloop", "tcp")]
)
def test_a_hundred_megabytes_cost_no_copy_at_the_sender_and_one_at_the_receiver(
    loop: str, carrier: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, PROGRAM, loop, carrier],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
    )
    found = json.loads(run.stdout)

    whole_mb = found["part_mb"]
    assert (whole_mb, found["carrier"]) == (100, carrier)
    assert found["sender_grew_mb"] < 0.2 * whole_mb
    assert found["receiver_grew_mb"] < 1.2 * whole_mb
    # On a busy machine all of it takes longer.
    assert found["small_p99_ms"] < max(200, 0.3 * found["whole_ms"])
    assert found["equal"] is True


def test_fragments_fit_a_frame() -> None:
    assert 2 * FRAGMENT_BYTES < Limits().max_frame_bytes


async def test_messages_of_a_call_arrive_in_order_however_large_a_display_is() -> None:
    shown = Output(id=bytes(16), node="n1", stream="display", text="")
    printed = Output(id=bytes(16), node="n1", stream="stdout", text="after")
    reply = Reply(id=bytes(16), payload=b"", node="n1")
    other = Reply(id=bytes(15) + b"1", payload=b"", node="n1")
    async with linked() as pair:
        pair.dialled.send(shown, (bytes(5 * MB),))
        pair.dialled.send(printed)
        pair.dialled.send(shown, (bytes(1 * MB),))
        pair.dialled.send(reply, (bytes(2 * MB),))
        pair.dialled.send(other)

        came = await pair.accepted_ear.heard(pair.accepted_ear.messages, 5)

        assert [message for message, _ in came] == [
            *(other, shown, printed, shown, reply)
        ]
        assert [sum(map(len, parts)) for _, parts in came] == [
            *(0, 5 * MB, 0, 1 * MB, 2 * MB)
        ]
