"""Who gets in at a port, and what the others are told."""

import asyncio
import errno
import os
import resource
import socket
import ssl
from typing import Any

import pytest

from mpreg_nb.errors import NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.listener import RESERVED_DESCRIPTORS, Listener, listen
from tests.support.links import (
    CLUSTER,
    NODE,
    TOKEN,
    Ear,
    House,
    house,
    numbered,
    open_link,
)

UPGRADE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "mpreg.data.v2",
    "X-Mpreg-Nonce": "00" * 16,
    "X-Mpreg-Role": "node",
    "X-Mpreg-Name": "n2",
}
ANYWHERE = "0.0.0.0"  # noqa: S104 - to be refused
BEARER = {"Authorization": f"Bearer {TOKEN.reveal()}"}


def request(
    headers: dict[str, str], path: str = "/", method: str = "GET", more: str = ""
) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}{more}\r\n".encode()


async def exchange(listener: Listener, data: bytes, host: str = "127.0.0.1") -> str:
    """Send `data` and return all that comes until the other side hangs up."""
    reader, writer = await asyncio.open_connection(host, listener.port)
    try:
        writer.write(data)
        return (await reader.read()).decode("latin-1")
    except ConnectionResetError:
        return ""
    finally:
        writer.close()


async def status(listener: Listener, data: bytes) -> int:
    answer = await exchange(listener, data)
    return int(answer.split(" ")[1]) if answer else 0


# ------------------------------------------------------------------------ HTTP


async def test_health_is_open_and_says_nothing_else() -> None:
    async with house() as home:
        ask = request({"Host": "localhost"}, "/healthz")

        ok = await exchange(home.listener, ask)
        home.listener.draining = True
        draining = await exchange(home.listener, ask)

        assert ok.startswith("HTTP/1.1 200 OK")
        assert ok.endswith("\r\n\r\nok\n")
        assert draining.endswith("\r\n\r\ndraining\n")


async def test_metrics_need_the_token() -> None:
    async with house(metrics=lambda: "calls_total 7\n") as home:
        headers = {"Host": "localhost"}

        without = await exchange(home.listener, request(headers, "/metrics"))
        wrong = {"Authorization": "Bearer of-something-else"}
        refused = await status(home.listener, request(headers | wrong, "/metrics"))
        found = await exchange(home.listener, request(headers | BEARER, "/metrics"))

        assert without.startswith("HTTP/1.1 401 ")
        assert "WWW-Authenticate: Bearer" in without
        assert refused == 401
        assert "text/plain; version=0.0.4" in found
        assert found.endswith("\r\n\r\ncalls_total 7\n")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request({"Host": "localhost"}), 426),
        (request({"Host": "localhost"}, "/metrics"), 401),
        (request({"Host": "localhost"} | BEARER, "/metrics"), 404),
        (request({"Host": "localhost"}, "/index.html"), 404),
        (request({"Host": "localhost"}, "/healthz", "POST"), 405),
        (request(UPGRADE, method="PUT"), 405),
        (request(UPGRADE, "/chat"), 404),
        (request(UPGRADE | {"Sec-WebSocket-Protocol": "chat"}), 400),
        (request(UPGRADE | {"Sec-WebSocket-Protocol": "chat, mpreg.data.v2"}), 400),
        (request(UPGRADE | {"Sec-WebSocket-Protocol": "mpreg.data.v9"}), 400),
        (request(UPGRADE | {"Sec-WebSocket-Version": "8"}), 400),
        (request(UPGRADE | {"Host": "evil.example"}), 403),
        (request(UPGRADE | {"Origin": "https://evil.example"} | BEARER), 403),
        (request(UPGRADE | {"Origin": "null"}), 403),
        (request(UPGRADE, more="Host: localhost\r\n"), 400),
        (request(UPGRADE, more="Origin: a\r\nORIGIN: b\r\n"), 400),
        (request(UPGRADE, more="X-Mpreg-Nonce: 00\r\n"), 400),
        (request(UPGRADE | {"X-Mpreg-Nonce": "00"}), 400),
        (request(UPGRADE) + b"\x82\x00", 400),
        (
            request(
                UPGRADE
                | {"X-Mpreg-Role": "client"}
                | {"Sec-WebSocket-Protocol": "mpreg.control.v2"}
            ),
            403,
        ),
        (request({"Host": "localhost"}, "/" + "x" * 9000), 414),
        (request({"Host": "localhost"}, more="A: b\r\n" * 200), 431),
        (request({"Host": "localhost"}, more=f"A: {'b' * 9000}\r\n"), 431),
    ],
)
async def test_other_requests_get_a_short_answer(data: bytes, expected: int) -> None:
    async with house() as home:
        answer = await exchange(home.listener, data)

        assert answer.startswith(f"HTTP/1.1 {expected} ")
        assert len(answer) < 600
        assert home.ears == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x00" * 100,
        b"GET / HTTP/1.1\nHost: localhost\n\n\r\n\r\n",
        b"GET " + b"x" * 100_000,
        b"hello\r\n\r\n",
    ],
    ids=["TLS", "SSH", "zeros", "bare line feeds", "no end", "one word"],
)
async def test_what_is_no_http_is_hung_up_on(data: bytes) -> None:
    async with house() as home:
        answer = await exchange(home.listener, data)

        assert answer == "" or answer.startswith("HTTP/1.1 4")
        assert home.ears == []


async def test_nothing_of_a_request_comes_back_in_an_answer() -> None:
    async with house() as home:
        marks = {"X-Mpreg-Name": "<script>", "X-Mpreg-Role": "<script>"}

        answer = await exchange(home.listener, request(UPGRADE | marks, "/"))

        assert "<script>" not in answer


# --------------------------------------------------------------- foreign clients


async def json_client(
    home: House, headers: dict[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.listener.port)
    upgrade = {name: value for name, value in UPGRADE.items() if "-Mpreg-" not in name}
    del upgrade["Sec-WebSocket-Protocol"]
    writer.write(request(upgrade | headers))
    return reader, writer, (await reader.readuntil(b"\r\n\r\n")).decode()


@pytest.mark.parametrize(
    ("headers", "json_open", "expected"),
    [
        (BEARER, False, 101),
        (BEARER | {"Sec-WebSocket-Protocol": "mpreg.json"}, False, 101),
        ({}, False, 401),
        ({"Authorization": "Bearer wrong"}, False, 401),
        ({"Sec-WebSocket-Protocol": "mpreg.json"}, False, 401),
        ({}, True, 101),
        ({"Origin": "https://evil.example"}, True, 403),
    ],
)
async def test_foreign_clients_show_the_token_unless_the_node_is_open(
    headers: dict[str, str], json_open: bool, expected: int
) -> None:
    async with house(json_open=json_open) as home:
        _, writer, answer = await json_client(home, headers)

        writer.close()

        assert answer.startswith(f"HTTP/1.1 {expected} ")


async def test_foreign_clients_exchange_text() -> None:
    async with house(json_open=True) as home:
        reader, writer, _ = await json_client(home, {})
        ear = await home.ear()
        assert ear.connection is not None
        assert (ear.connection.peer.lane, ear.connection.peer.name) == ("json", "")

        # "hé" whole, then "hello" in two fragments; with the mask 0
        writer.write(b"\x81\x83" + bytes(4) + "hé".encode())
        writer.write(b"\x01\x82" + bytes(4) + b"he" + b"\x80\x83" + bytes(4) + b"llo")
        await ear.heard(ear.texts, 2)
        ear.connection.send_text("grüße")
        answer = await reader.readexactly(2 + 7)
        writer.close()

        assert ear.texts == ["hé", "hello"]
        assert answer == b"\x81\x07" + "grüße".encode()
        await ear.lost()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x81" + bytes(4) + b"\x90", 1003),
        (b"\x81\x82" + bytes(4) + b"\xff\xfe", 1007),
        (b"\x81\x05hello", 1002),
    ],
    ids=["binary", "not UTF-8", "not masked"],
)
async def test_foreign_clients_cannot_send_anything_else(
    frame: bytes, code: int
) -> None:
    async with house(json_open=True) as home:
        reader, writer, _ = await json_client(home, {})
        writer.write(frame)

        answer = await reader.read()
        writer.close()

        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == code
        assert home.ears[0].texts == []
        assert home.ears[0].messages == []


# ---------------------------------------------------------------- those who wait


async def test_who_is_slow_to_prove_itself_is_dropped_and_others_are_served() -> None:
    limits = Limits(proof_timeout_s=0.2)
    async with house(limits=limits) as home:
        slow = [
            await asyncio.open_connection("127.0.0.1", home.listener.port)
            for _ in range(20)
        ]
        for index, (_, writer) in enumerate(slow):
            writer.write(request(UPGRADE)[: index * 10])  # some silent, some halfway

        ear = Ear()
        link = await open_link(home.listener.url, ear)
        ends = [await reader.read() for reader, _ in slow]
        link.close()
        await link.wait_closed()
        for _, writer in slow:
            writer.close()

        assert ends == [b""] * 20
        assert home.listener.unproven == 0


async def test_who_gets_an_answer_and_gives_no_proof_is_dropped() -> None:
    async with house(limits=Limits(proof_timeout_s=0.1)) as home:
        answer = await exchange(home.listener, request(UPGRADE))

        assert answer.startswith("HTTP/1.1 101 ")
        assert answer.endswith("\r\n\r\n")
        assert home.ears == []


async def test_a_crowd_of_silent_ones_is_thinned_to_the_limit() -> None:
    limits = Limits(unproven_connections=4)
    async with house(limits=limits) as home:
        silent = [
            await asyncio.open_connection("127.0.0.1", home.listener.port)
            for _ in range(10)
        ]

        link = await open_link(home.listener.url)
        while home.listener.unproven > 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nobody is told of those who are dropped
        link.close()
        for _, writer in silent:
            writer.close()

        assert home.listener.unproven == 4


async def test_a_burst_of_honest_ones_is_let_in_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpreg_nb.transport.listener.YOUNG_S", 5.0)  # on a slow machine
    async with house(limits=Limits(unproven_connections=4)) as home:
        links = await asyncio.gather(
            *(open_link(home.listener.url, name=f"n{number}") for number in range(40))
        )

        await home.ear(40)

        assert home.listener.links == 40
        for link in links:
            link.close()


async def test_one_link_too_many_is_rejected_with_the_reason() -> None:
    async with house(limits=Limits(connections=2)) as home:
        first = await open_link(home.listener.url)
        second = await open_link(home.listener.url)

        answer = await status(home.listener, request(UPGRADE))
        first.close()
        await first.wait_closed()
        await home.ears[0].lost()
        third = await open_link(home.listener.url)

        assert answer == 503
        assert second.is_open
        assert third.is_open


async def test_refusals_are_logged_for_the_owner_but_not_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house() as home:
        for _ in range(30):
            await status(home.listener, request(UPGRADE | {"Host": "evil.example"}))

        assert home.listener.refusals == 30
        lines = [record.getMessage() for record in caplog.records]
        assert "403 this Host is not served here" in lines[0]
        assert len(lines) <= 20
        assert TOKEN.reveal() not in caplog.text


# ---------------------------------------------------------------------- the port


async def test_a_port_that_is_taken_is_named_with_the_cure() -> None:
    async with house() as home:
        with pytest.raises(
            OSError, match=f"port {home.listener.port}.*port=0"
        ) as caught:
            await listen(
                token=TOKEN,
                node_name=NODE,
                cluster_id=lambda: CLUSTER,
                on_connection=print,
                port=home.listener.port,
            )

        assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_machine_is_named_with_the_cure() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1\.9"):
        await listen(
            token=TOKEN,
            node_name=NODE,
            cluster_id=lambda: CLUSTER,
            on_connection=print,
            host="127.0.0.1.9",
            ssl_context=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        )


@pytest.mark.parametrize("host", [ANYWHERE, "::", "10.0.0.5", "n1.example.org", ""])
async def test_off_loopback_nothing_is_bound_without_tls(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[object] = []
    monkeypatch.setattr(
        socket.socket, "bind", lambda *arguments: bound.append(arguments)
    )

    with pytest.raises(NotTrusted, match=r"--tls-cert"):
        await listen(
            token=TOKEN,
            node_name=NODE,
            cluster_id=lambda: CLUSTER,
            on_connection=print,
            host=host,
        )

    assert bound == []


async def test_open_json_calls_are_for_loopback_only() -> None:
    with pytest.raises(NotTrusted, match="--json-open"):
        await listen(
            token=TOKEN,
            node_name=NODE,
            cluster_id=lambda: CLUSTER,
            on_connection=print,
            host=ANYWHERE,
            json_open=True,
            ssl_context=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        )


async def test_localhost_is_served_on_both_of_its_addresses() -> None:
    async with house(host="localhost") as home:
        ask = request({"Host": "localhost"}, "/healthz")

        answers = [
            await exchange(home.listener, ask, host) for host in ("127.0.0.1", "::1")
        ]

        assert all(answer.endswith("ok\n") for answer in answers)
        assert home.listener.url == f"ws://127.0.0.1:{home.listener.port}"


async def test_ipv6_alone_is_served_and_its_url_can_be_dialled() -> None:
    async with house(host="::1") as home:
        link = await open_link(home.listener.url)

        assert home.listener.url == f"ws://[::1]:{home.listener.port}"
        link.close()


async def test_a_listener_that_takes_no_more_keeps_its_links() -> None:
    async with house() as home:
        link = await open_link(home.listener.url)
        ear = await home.ear()

        home.listener.stop_accepting()
        link.send(numbered(1))
        await ear.message()

        with pytest.raises(ConnectionError):
            await open_link(home.listener.url)
        assert link.is_open


async def test_closing_a_listener_ends_its_links_and_frees_the_port() -> None:
    async with house() as home:
        ear = Ear()
        await open_link(home.listener.url, ear)
        silent = await asyncio.open_connection("127.0.0.1", home.listener.port)

        await home.listener.close(1001, "leaving")
        reason = await ear.lost()
        silent[1].close()

        assert reason == "closed by the other end: 1001 leaving"
        assert home.listener.links == home.listener.unproven == 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", home.listener.port))


# ------------------------------------------------------------ few descriptors


async def test_strangers_cannot_use_up_the_descriptors_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house() as home:
        probe = os.dup(0)
        os.close(probe)
        # Each stranger takes two: both ends are in this process.
        files = probe + RESERVED_DESCRIPTORS + 20
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
        silent = [
            await asyncio.open_connection("127.0.0.1", home.listener.port)
            for _ in range(12)
        ]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        in_use = home.listener.unproven
        monkeypatch.undo()

        link = await open_link(home.listener.url)

        assert in_use < len(silent)
        assert link.is_open
        link.close()
        for _, writer in silent:
            writer.close()
        assert await asyncio.gather(*ends) == [b""] * len(silent)


async def test_a_listener_without_a_descriptor_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    class Full(socket.socket):
        def accept(self) -> Any:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    bound = socket.create_server(("127.0.0.1", 0))
    listening = Full(fileno=bound.detach())
    monkeypatch.setattr("mpreg_nb.transport.acceptor.ACCEPT_AGAIN_S", 0.01)
    async with house(listening=listening) as home:
        link = await open_link(home.listener.url)

        assert tries >= 3
        assert caplog.text.count("no connection can be accepted now") == 2
        link.close()
        await link.wait_closed()


async def test_a_port_that_is_half_taken_is_let_go() -> None:
    other = socket.create_server(("::1", 0), family=socket.AF_INET6)
    port = other.getsockname()[1]
    with other, pytest.raises(OSError, match="already in use") as refused:
        await listen(
            token=TOKEN,
            node_name=NODE,
            cluster_id=lambda: CLUSTER,
            on_connection=lambda link: None,
            host="localhost",
            port=port,
        )

    with socket.create_server(("127.0.0.1", port)) as again:
        assert again.getsockname()[1] == port
    assert refused.value.errno == errno.EADDRINUSE
