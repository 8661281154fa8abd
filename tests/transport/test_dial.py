"""Opening a link: what the dialler demands before it says anything."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from mpreg_nb.errors import NotTrusted
from mpreg_nb.transport import dial as dial_module
from mpreg_nb.transport import listener
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.dial import DialFailed, dial
from mpreg_nb.transport.handshake import PROOF_BYTES
from mpreg_nb.transport.token import Token, load_token, rotate
from tests.support.links import (
    CLUSTER,
    NODE,
    OTHER_TOKEN,
    TOKEN,
    Ear,
    house,
    numbered,
    open_link,
)
from tests.support.wiretap import wiretap


@asynccontextmanager
async def impostor(
    answer: bytes,
) -> AsyncIterator[tuple[str, list[bytes], asyncio.Event]]:
    """Answer a request with `answer`; yield the url, all that was said, and the end."""
    heard: list[bytes] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        heard.append(await reader.read())
        writer.close()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard, over
    finally:
        server.close()
        await asyncio.sleep(0)


# ----------------------------------------------------------- one that is not trusted


async def test_a_node_with_another_token_receives_nothing() -> None:
    async with house(token=OTHER_TOKEN) as home, wiretap(home.listener.port) as tap:
        ear = Ear()
        with pytest.raises(NotTrusted, match="a different token"):
            await open_link(tap.url, ear)

        sent = b"".join(tap.sent)
        assert sent.count(b"\r\n\r\n") == 1
        assert sent.endswith(b"\r\n\r\n")  # the request and not one byte more
        assert home.ears == []
        assert ear.connection is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\n"
        b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=["a page", "not found", "a redirect", "wrong key", "mail", "TLS", "endless"],
)
async def test_a_listener_that_is_no_node_is_not_trusted_and_receives_nothing_more(
    answer: bytes,
) -> None:
    async with impostor(answer) as (url, heard, over):
        with pytest.raises(NotTrusted):
            await open_link(url)

        await over.wait()
        assert heard[1] == b""


@pytest.mark.parametrize(
    "change",
    [
        lambda data: drop_header(data, b"X-Mpreg-Proof"),
        lambda data: cut_header(data, b"X-Mpreg-Proof", 10),
        lambda data: set_header(data, b"X-Mpreg-Proof", b"00" * PROOF_BYTES),
        lambda data: set_header(data, b"X-Mpreg-Nonce", b"00" * 16),
        lambda data: set_header(data, b"X-Mpreg-Cluster", b"c2"),
        lambda data: set_header(data, b"X-Mpreg-Node", b"n9"),
        lambda data: data + b"\x82\x00",
    ],
    ids=[
        "no proof",
        "cut off",
        "another proof",
        "another nonce",
        "another cluster",
        "another node",
        "a frame before the proof of the dialler",
    ],
)
async def test_an_answer_that_was_tampered_with_is_not_trusted(
    change: Callable[[bytes], bytes],
) -> None:
    async with house() as home, wiretap(home.listener.port) as tap:
        tap.change_answered = change

        with pytest.raises(NotTrusted):
            await open_link(tap.url)

        assert home.ears == []


def set_header(data: bytes, name: bytes, value: bytes) -> bytes:
    lines = data.split(b"\r\n")
    return b"\r\n".join(
        name + b": " + value if line.startswith(name + b":") else line for line in lines
    )


def drop_header(data: bytes, name: bytes) -> bytes:
    lines = data.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(name + b":"))


def cut_header(data: bytes, name: bytes, count: int) -> bytes:
    [line] = [line for line in data.split(b"\r\n") if line.startswith(name + b":")]
    return data.replace(line, line[:-count])


async def test_the_token_never_crosses_the_wire() -> None:
    async with house() as home, wiretap(home.listener.port) as tap:
        link = await open_link(tap.url)
        ear = await home.ear()
        link.send(numbered(1), (b"part",))
        await ear.message()
        link.close()
        await link.wait_closed()

        passed = b"".join(tap.sent + tap.answered)
        for secret in (TOKEN.reveal().encode(), TOKEN.key("node"), TOKEN.key("client")):
            assert secret not in passed
            assert secret.hex().encode() not in passed


# ----------------------------------------------- what the listener asks of the dialler


async def proof_changed(change: Callable[[bytes], bytes]) -> tuple[str, list[Ear], int]:
    """Dial with a tampered first frame; return why the link ended, and more."""
    async with house() as home, wiretap(home.listener.port) as tap:

        def change_sent(data: bytes) -> bytes:
            return data if data.startswith(b"GET") else change(data)

        tap.change_sent = change_sent
        ear = Ear()
        link = await open_link(tap.url, ear)
        link.send(numbered(1))
        reason = await ear.lost()
        return reason, home.ears, home.listener.refusals


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:20] + bytes(18) + data[38:],
        lambda data: Frame(Opcode.BINARY, b"short").serialize(mask=True) + data,
        lambda data: Frame(Opcode.TEXT, b"x" * 32).serialize(mask=True) + data,
        lambda data: Frame(Opcode.PING, b"").serialize(mask=True) + data,
        lambda data: Frame(Opcode.BINARY, b"x" * 5000).serialize(mask=True) + data,
        lambda data: b"\x82\x20" + bytes(32) + data,
    ],
    ids=["one bit", "half", "short", "text", "a ping", "long", "not masked"],
)
async def test_a_wrong_proof_closes_the_link_before_anything_is_read(
    change: Callable[[bytes], bytes],
) -> None:
    # The first data after the request is the proof alone: it is written at once.
    reason, ears, refusals = await proof_changed(
        lambda data: change(data) if len(data) < 1000 else data
    )

    assert reason.endswith(": 1008")
    assert ears == []
    assert refusals == 1


async def test_without_the_proof_a_peer_with_another_token_would_be_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "proves", lambda offered, right: True)
    async with house() as home, wiretap(home.listener.port) as tap:
        tap.change_sent = lambda data: (
            data
            if data.startswith(b"GET") or len(data) >= 1000
            else data[:-1] + bytes([data[-1] ^ 1])
        )
        link = await open_link(tap.url)

        ear = await home.ear()
        assert home.ears == [ear]
        link.close()


async def test_a_proof_that_was_seen_opens_no_second_link() -> None:
    async with house() as home, house() as another:
        async with wiretap(home.listener.port) as tap:
            link = await open_link(tap.url)
            link.send(numbered(1))
            ear = await home.ear()
            await ear.message()
            link.close()
            await link.wait_closed()
        recorded = b"".join(tap.sent)

        for listener in (home.listener, another.listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            request, end, frames = recorded.partition(b"\r\n\r\n")
            writer.write(request + end)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frames)
            answer = await reader.read()
            writer.close()

            assert answer == b"\x88\x02\x03\xf0"  # goodbye, 1008
            assert listener.refusals == 1
        assert len(home.ears) == 1
        assert another.ears == []


async def test_a_client_may_not_open_a_control_lane() -> None:
    async with house() as home:
        with pytest.raises(NotTrusted, match="403"):
            await open_link(home.listener.url, role="client", lane="control")

        assert home.ears == []


async def test_a_key_of_clients_does_not_make_a_node() -> None:
    async with house() as home:
        limited = Token(TOKEN.reveal())
        limited._keys["node"] = limited.key("client")  # all that a client was given

        with pytest.raises(NotTrusted):
            await open_link(home.listener.url, token=limited, role="node")

        link = await open_link(home.listener.url, token=limited, role="client")
        assert (await home.ear()).connection is not None
        link.close()


# ------------------------------------------------------------- the right node, or none


async def test_what_is_expected_of_the_other_end_is_checked() -> None:
    async with house() as home:
        url = home.listener.url

        with pytest.raises(DialFailed) as cluster:
            await open_link(url, cluster_id="c2")
        with pytest.raises(DialFailed) as node:
            await open_link(url, node_name="n9")
        link = await open_link(url, cluster_id=CLUSTER, node_name=NODE)

        assert cluster.value.kind == "wrong_cluster"
        assert node.value.kind == "wrong_node"
        assert "n1 answers there, not n9" in str(node.value)
        assert len(home.ears) <= 1
        link.close()


async def test_the_cluster_is_asked_for_each_link() -> None:
    clusters = iter(("c1", "c2"))
    async with house(cluster_id=lambda: next(clusters)) as home:
        links = [await open_link(home.listener.url) for _ in range(2)]

        assert [link.peer.cluster_id for link in links] == ["c1", "c2"]
        for link in links:
            link.close()


async def test_a_port_where_nobody_listens_is_refused() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    with pytest.raises(DialFailed) as caught:
        await open_link(f"ws://127.0.0.1:{port}")

    assert caught.value.kind == "refused"


async def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(DialFailed) as caught:
        await open_link("ws://no-such-host.invalid:80")

    assert caught.value.kind == "refused"


async def test_silence_is_timed_out_and_leaves_no_socket() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(DialFailed) as caught:
            await open_link(url, timeout_s=0.1)

        assert caught.value.kind == "timed_out"


async def test_one_that_hangs_up_is_refused() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    with pytest.raises(DialFailed) as caught:
        await open_link(url)
    server.close()

    assert caught.value.kind == "refused"


async def test_a_dial_that_is_given_up_leaves_no_socket() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        task = asyncio.create_task(open_link(url))
        await asyncio.sleep(0.02)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("when", ["as it opens", "before its caller knows of it"])
async def test_a_dial_that_is_given_up_as_the_link_opens_loses_the_link(
    when: str,
) -> None:
    loop, ear = asyncio.get_running_loop(), Ear()
    links: list[Connection] = []

    def give_up(link: Connection) -> None:
        ear.listen_to(link)
        links.append(link)
        if when == "as it opens":
            dialling.cancel()
        else:
            loop.call_soon(dialling.cancel)

    async with house() as home:
        dialling = asyncio.ensure_future(
            dial(
                home.listener.url,
                token=TOKEN,
                role="client",
                lane="data",
                name="me",
                on_open=give_up,
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await dialling

        [link] = links
        await link.wait_closed()
        assert len(ear.losses) == 1


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:80", "ws://", "ws://localhost:x", ""]
)
async def test_what_is_no_url_of_ours_is_refused(url: str) -> None:
    with pytest.raises(DialFailed, match="not a ws"):
        await open_link(url)


async def test_a_token_in_a_url_is_refused_without_showing_it() -> None:
    with pytest.raises(DialFailed) as caught:
        await open_link("ws://user:secret@localhost:80")

    assert "secret" not in str(caught.value)


async def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy"):
            monkeypatch.setenv(name, address)
        async with house() as home:
            link = await open_link(home.listener.url)
            link.close()

        with pytest.raises(BlockingIOError):
            proxy.accept()


async def test_the_first_messages_are_sent_as_the_link_opens() -> None:
    async with house() as home:
        ear = Ear()

        def open_and_send(connection: Connection) -> None:
            ear.listen_to(connection)
            connection.send(numbered(1))

        link = await dial(
            home.listener.url,
            token=TOKEN,
            role="client",
            lane="data",
            name="me",
            on_open=open_and_send,
        )
        there = await home.ear()

        assert await there.message() == (numbered(1), ())
        link.close()


async def test_a_fault_of_the_owner_on_opening_ends_the_link(
    loop_errors: list[dict[str, Any]],
) -> None:
    async with house() as home:

        def fail(_: Connection) -> None:
            raise LookupError("a fault of the owner")

        with pytest.raises(LookupError):
            await dial(
                home.listener.url,
                token=TOKEN,
                role="client",
                lane="data",
                name="me",
                on_open=fail,
            )
        loop_errors.clear()


def test_a_failed_dial_survives_pickling() -> None:
    import pickle

    failed = DialFailed("wrong_node", "ws://localhost:1", "n1 answers there, not n9")

    copy = pickle.loads(pickle.dumps(failed))

    assert (copy.kind, copy.url, str(copy)) == (failed.kind, failed.url, str(failed))
    assert dial_module.CONNECT_TIMEOUT_S == 3.0


# ------------------------------------------------------------ rotation and roles


@pytest.fixture
def own(tmp_path: Path) -> Token:
    """The token of a user, in a file of its own."""
    return load_token(environ={"XDG_STATE_HOME": str(tmp_path)})


async def test_while_both_tokens_are_accepted_either_opens_a_link(own: Token) -> None:
    old = Token(own.reveal())  # of a process that does not read the file
    async with house(token=own) as home:
        rotate(own)
        for token in (old, own, Token(old.issue("client"))):
            link = await open_link(home.listener.url, token=token, role="client")
            link.close()
            await link.wait_closed()

        assert len(home.ears) == 3


async def test_after_the_overlap_the_old_token_opens_no_link(own: Token) -> None:
    old = Token(own.reveal())
    async with house(token=own) as home:
        rotate(own, overlap_s=0)

        with pytest.raises(NotTrusted, match="has a different token"):
            await open_link(home.listener.url, token=old)
        with pytest.raises(NotTrusted, match="has a different token"):
            await open_link(
                home.listener.url, token=Token(old.issue("client")), role="client"
            )
        link = await open_link(home.listener.url, token=own)  # it reads the file
        link.close()
        await link.wait_closed()


async def test_a_token_for_clients_opens_no_link_of_a_node() -> None:
    limited = Token(TOKEN.issue("client"))
    async with house() as home:
        with pytest.raises(NotTrusted, match="a token for clients"):
            await open_link(home.listener.url, token=limited, role="node")
        with pytest.raises(NotTrusted, match="a token for clients"):
            async with house(token=limited):
                pass

        link = await open_link(home.listener.url, token=limited, role="client")
        link.close()
        await link.wait_closed()


async def test_a_viewer_is_distinguished_from_a_client() -> None:
    limited = Token(TOKEN.issue("viewer"))
    async with house() as home:
        link = await open_link(home.listener.url, token=limited, role="viewer")
        there = await home.ear()
        assert there.connection is not None

        assert there.connection.peer.role == "viewer"
        with pytest.raises(NotTrusted, match="403"):
            await open_link(
                home.listener.url, token=limited, role="viewer", lane="control"
            )
        link.close()
        await link.wait_closed()
