"""What a stranger may try at a port; the numbers are those of tests/live/README.md."""

import asyncio
import hmac
import pickle
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from mpreg_nb.protocol.messages import Call
from mpreg_nb.transport.handshake import PROOF_BYTES
from mpreg_nb.transport.listener import Listener
from tests.support.links import OTHER_TOKEN, TOKEN, house, numbered, open_link

UPGRADE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mpreg.data.v2\r\n"
    f"X-Mpreg-Nonce: {'00' * 16}\r\nX-Mpreg-Role: node\r\nX-Mpreg-Name: n2\r\n"
)


def nothing_was_made_in(folder: Path) -> bool:
    return not list(folder.iterdir())


async def tried(listener: Listener, headers: str, frame: bytes) -> tuple[bytes, bytes]:
    """Ask for a link and send `frame`; return the answer, and what came after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        writer.write(f"{headers}\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(frame)
        return answer, await reader.read()
    finally:
        writer.close()


async def test_many_wrong_guesses_let_nobody_in_and_keep_nobody_out() -> None:
    """S3. No rate is limited: a token cannot be guessed, and guesses cost little."""
    guess = Frame(Opcode.BINARY, bytes(PROOF_BYTES)).serialize(mask=True)
    async with house() as home:
        for _ in range(5):
            ends = await asyncio.gather(
                *(tried(home.listener, UPGRADE, guess) for _ in range(40))
            )
            assert {end[:2] for _, end in ends} == {b"\x88\x02"}  # a goodbye
        link = await open_link(home.listener.url)
        link.send(numbered(1))

        assert await (await home.ear()).message() == (numbered(1), ())
        assert home.listener.refusals == 200
        link.close()
        await link.wait_closed()


async def test_secrets_are_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S4: by compare_digest, on digests of one length."""
    lengths: set[tuple[int, int]] = set()
    compare = hmac.compare_digest

    def noted(one: Any, other: Any) -> bool:
        lengths.add((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    async with house() as home:
        link = await open_link(home.listener.url)
        link.send(numbered(1))
        await (await home.ear()).message()
        link.close()
        await link.wait_closed()

    assert lengths >= {(32, 32), (16, 16)}  # the proofs, and the MACs
    lengths.clear()
    assert not TOKEN.matches(OTHER_TOKEN.reveal()[:-9])
    assert lengths == {(32, 32)}


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("opcode", [Opcode.BINARY, Opcode.TEXT])
async def test_nothing_is_unpickled_before_the_proof(
    opcode: Opcode, tmp_path: Path
) -> None:
    """S15, S17."""
    canary = tmp_path / "canary"
    evil = pickle.dumps(Canary(canary))
    async with house() as home:
        frame = Frame(opcode, evil).serialize(mask=True)
        _, end = await tried(home.listener, UPGRADE, frame)

        assert end[:2] == b"\x88\x02"
        assert home.ears == []
    assert nothing_was_made_in(tmp_path)


async def test_a_link_hands_pickles_on_as_bytes(tmp_path: Path) -> None:
    """S15, S16: links of nodes and clients never look into a payload."""
    evil = pickle.dumps(Canary(tmp_path / "canary"))
    async with house() as home:
        link = await open_link(home.listener.url)
        call = Call(id=bytes(16), function="f", payload=evil)
        link.send(call)
        link.send(call, (evil,))
        heard = await (await home.ear()).heard((await home.ear()).messages, 2)

        assert [bytes(message.payload) for message, _ in heard] == [evil, evil]
        link.close()
        await link.wait_closed()
    assert nothing_was_made_in(tmp_path)


async def test_nothing_is_decompressed() -> None:
    """S18: a frame that claims to be compressed ends the connection."""
    headers = UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    bomb = b"\xc2\x85" + bytes(4) + b"bomb!"
    async with house() as home:
        answer, end = await tried(home.listener, headers, bomb)

        assert b"101 Switching" in answer
        assert b"deflate" not in answer
        assert end[:2] == b"\x88\x02"
        assert home.ears == []
