"""How servers end, and what becomes of the calls that they have."""

import asyncio
import contextlib
import signal
import socket

import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings
from tests.support.mpreg_servers import served, serving, until_known


async def test_shutdown_may_come_from_a_thread_and_again() -> None:
    server = MPREGServer()
    task = asyncio.ensure_future(server.server())
    await server.started()

    await asyncio.to_thread(server.shutdown)
    await task
    server.shutdown()


async def test_shutdown_may_come_from_a_signal_handler() -> None:
    server = MPREGServer()
    task = asyncio.ensure_future(server.server())
    await server.started()

    before = signal.signal(signal.SIGUSR1, lambda *_: server.shutdown())
    try:
        signal.raise_signal(signal.SIGUSR1)
        await task
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_shutdown_before_the_start_makes_a_short_service() -> None:
    server = MPREGServer()

    server.shutdown()

    await server.server()


async def test_a_cancelled_server_leaves() -> None:
    server = MPREGServer()
    task = asyncio.ensure_future(server.server())
    url = await server.started()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    host, port = url.removeprefix("ws://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


async def test_running_calls_end_before_the_server_does() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "whole"

    async with served({"slow": slow}) as (server, client):
        call = asyncio.ensure_future(client.call("slow"))
        await begun.wait()
        server.shutdown()
        go_on.set()

        assert await call == "whole"


async def test_a_dead_server_fails_its_calls() -> None:
    begun = asyncio.Event()

    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    server = MPREGServer(MPREGSettings(drain=0.05))
    server.register_command("long", long)
    async with contextlib.AsyncExitStack() as stack:
        async with serving(server):
            client = await stack.enter_async_context(MPREGClientAPI(server.url))
            call = asyncio.ensure_future(client.call("long"))
            await begun.wait()

        with pytest.raises(MpregError):
            await call


async def test_calls_go_on_when_one_of_two_servers_leaves() -> None:
    leaving = MPREGServer(MPREGSettings(name="leaving"))
    leaving.register_command("where", lambda: "leaving")
    async with contextlib.AsyncExitStack() as stack:
        task = asyncio.ensure_future(leaving.server())
        first = await leaving.started()
        staying = MPREGServer(MPREGSettings(name="staying", connect=first))
        staying.register_command("where", lambda: "staying")
        await stack.enter_async_context(serving(staying))
        client = await stack.enter_async_context(MPREGClientAPI(staying.url))
        await until_known(client, {"where"}, nodes=2)

        leaving.shutdown()
        places = [await client.call("where") for _ in range(200)]
        await task
        places += [await client.call("where") for _ in range(20)]

    assert set(places[-20:]) == {"staying"}
    assert set(places) <= {"leaving", "staying"}


async def test_a_client_finds_another_server_when_its_own_leaves() -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = MPREGServer(MPREGSettings(name="leaving"))
        task = asyncio.ensure_future(first.server())
        second = MPREGServer(
            MPREGSettings(name="staying", connect=await first.started())
        )
        second.register_command("where", lambda: "staying")
        await stack.enter_async_context(serving(second))
        client = await stack.enter_async_context(MPREGClientAPI(first.url))
        await until_known(client, {"where"}, nodes=2)

        first.shutdown()
        await task

        assert await client.call("where") == "staying"


async def test_a_port_is_free_again_the_moment_that_its_server_has_ended() -> None:
    async with contextlib.AsyncExitStack() as stack:
        staying = MPREGServer()
        await stack.enter_async_context(serving(staying))
        server = MPREGServer(MPREGSettings(connect=staying.url))
        task = asyncio.ensure_future(server.server())
        url = await server.started()
        async with MPREGClientAPI(url) as client:
            await until_known(client, (), nodes=2)

            server.shutdown()
            await task

        assert_free(url)


async def test_servers_that_are_cancelled_twice_leave_their_ports_free() -> None:
    first = MPREGServer(MPREGSettings(gossip_interval=5.0))
    tasks = [asyncio.ensure_future(first.server())]
    urls = [await first.started()]
    for _ in range(2):
        other = MPREGServer(MPREGSettings(gossip_interval=5.0, connect=urls[0]))
        tasks.append(asyncio.ensure_future(other.server()))
        urls.append(await other.started())
    async with MPREGClientAPI(urls[0]) as client:
        await until_known(client, (), nodes=3)

        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)  # the servers begin to leave
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
    for url in urls:
        assert_free(url)


async def test_another_server_takes_the_port_while_calls_of_the_first_end() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "whole"

    async with served({"slow": slow}) as (server, client):
        call = asyncio.ensure_future(client.call("slow"))
        await begun.wait()
        server._shutdown_event.set()  # as MPREG's own programs do
        port = int(server.url.rpartition(":")[2])

        for _ in range(20):  # turns of the loop, far less than 0.1 s
            await asyncio.sleep(0)
        async with served({}, port=port) as (_, second):
            assert await second.call("echos", 1, "a") == [1, "a"]
            assert not call.done()
            go_on.set()

            assert await call == "whole"


def assert_free(url: str) -> None:
    with socket.socket() as probe:  # without SO_REUSEADDR, as strict programs look
        probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))
