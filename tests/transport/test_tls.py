"""The same links inside TLS, with a certificate for tests that vouches for itself."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from mpreg_nb.errors import NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.dial import DialFailed
from tests.support.links import Ear, house, numbered, open_link

CERTIFICATE = Path(__file__).with_name("localhost.pem")


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


async def test_messages_and_large_parts_travel_inside_tls() -> None:
    async with house(ssl_context=server_context()) as home:
        ear = Ear()
        link = await open_link(home.listener.url, ear, ssl_context=client_context())
        there = await home.ear()
        part = bytes(range(256)) * 20_000
        link.send(numbered(1))
        link.send(numbered(2), (part, b"tail"))
        heard = await there.heard(there.messages, 2)
        assert there.connection is not None
        there.connection.send(numbered(3), (part,))
        _, (back,) = await ear.message()
        link.close(1000, "bye")
        reason = await there.lost()

        assert home.listener.url.startswith("wss://127.0.0.1:")
        assert heard[0] == (numbered(1), ())
        assert [bytes(one) for one in heard[1][1]] == [part, b"tail"]
        assert bytes(back) == part
        assert reason == "closed by the other end: 1000 bye"


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted() -> None:
    async with house(ssl_context=server_context()) as home:
        with pytest.raises(NotTrusted, match="certificate"):
            await open_link(home.listener.url)

        assert home.ears == []


async def test_a_certificate_of_another_host_is_not_trusted() -> None:
    async with house(ssl_context=server_context(), host="::1") as home:
        with pytest.raises(NotTrusted, match="certificate"):
            await open_link(home.listener.url, ssl_context=client_context())

        assert home.ears == []


async def test_an_old_version_of_tls_is_not_spoken() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(CERTIFICATE)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with house(ssl_context=old) as home:
        with pytest.raises((DialFailed, NotTrusted)):
            await open_link(home.listener.url, ssl_context=client_context())

        assert home.ears == []


async def test_plain_and_tls_do_not_mix_and_say_so_in_time() -> None:
    async with house(ssl_context=server_context()) as tls, house() as plain:
        tls_url, plain_url = tls.listener.url, plain.listener.url

        with pytest.raises((DialFailed, NotTrusted)):
            await open_link(tls_url.replace("wss:", "ws:"))
        with pytest.raises((DialFailed, NotTrusted)):
            await open_link(
                plain_url.replace("ws:", "wss:"), ssl_context=client_context()
            )


async def test_off_loopback_a_port_is_bound_with_tls() -> None:
    anywhere = "0.0.0.0"  # noqa: S104 - what this is about
    async with house(ssl_context=server_context(), host=anywhere) as home:
        with socket.create_connection(("127.0.0.1", home.listener.port)):
            assert home.listener.url == f"wss://0.0.0.0:{home.listener.port}"


async def test_sockets_within_the_handshake_of_tls_count_as_unproven() -> None:
    limits = Limits(unproven_connections=4)
    async with house(ssl_context=server_context(), limits=limits) as home:
        silent = [
            await asyncio.open_connection("127.0.0.1", home.listener.port)
            for _ in range(10)
        ]

        link = await open_link(home.listener.url, ssl_context=client_context())
        while home.listener.unproven != 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nobody is told of those who are dropped
        for _, writer in silent[:6]:
            writer.close()

        assert link.is_open
        assert [await reader.read() for reader, _ in silent[:6]] == [b""] * 6
        link.close()
        for _, writer in silent:
            writer.close()


async def test_who_is_silent_within_the_handshake_of_tls_is_dropped_in_time() -> None:
    limits = Limits(proof_timeout_s=0.2)
    async with house(ssl_context=server_context(), limits=limits) as home:
        reader, writer = await asyncio.open_connection("127.0.0.1", home.listener.port)

        assert await reader.read() == b""
        assert home.listener.unproven == 0
        writer.close()
