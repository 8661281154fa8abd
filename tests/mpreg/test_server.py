"""Servers: what they offer, when they begin and how they end."""

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from mpreg_nb.errors import MpregError, NotTrusted
from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings, RPCCommand
from tests.support.mpreg_servers import (
    clustered,
    free_port,
    served,
    serving,
    until_known,
)


async def test_a_server_has_its_url_once_it_serves() -> None:
    server = MPREGServer()

    with pytest.raises(MpregError, match="is not serving yet"):
        _ = server.url
    async with serving(server):
        assert await server.started() == server.url
        assert server.url.startswith("ws://127.0.0.1:")


async def test_sync_functions_run_in_threads_and_async_ones_on_the_loop() -> None:
    async def on_loop() -> int:
        return threading.get_ident()

    commands = {"thread": threading.get_ident, "loop": on_loop}
    async with served(commands) as (_, client):
        thread, loop = await client.call("thread"), await client.call("loop")

    assert thread != loop == threading.get_ident()


async def test_sync_functions_wait_for_each_other_without_harm() -> None:
    meeting = threading.Barrier(2, timeout=10)

    async with served({"meet": meeting.wait}) as (_, client):
        places = await asyncio.gather(client.call("meet"), client.call("meet"))

    assert sorted(places) == [0, 1]


async def test_nothing_is_pickled_on_the_way_in() -> None:
    lock = threading.Lock()  # no pickle holds one
    seen: list[int] = []

    def note(value: int) -> bool:
        with lock:
            seen.append(value)
        return lock.locked()

    async with served({"note": note}) as (_, client):
        assert await client.call("note", 3) is False

    assert seen == [3]


async def test_a_function_may_come_while_the_server_serves() -> None:
    async with served({}) as (server, client):
        server.register_command("late", lambda: "here", ["gpu"])

        assert await client.call("late", locs={"gpu"}) == "here"


async def test_a_function_may_come_from_another_thread() -> None:
    async with served({}) as (server, client):
        await asyncio.to_thread(server.register_command, "late", lambda: "here")

        await until_known(client, {"late"})
        assert await client.call("late") == "here"


async def test_the_newer_of_two_registrations_counts() -> None:
    async with served({"f": lambda: "old"}) as (server, client):
        old = await client.call("f")
        server.register_command("f", lambda: "new")
        new = await client.call("f")

    assert (old, new) == ("old", "new")


async def test_locs_are_met_by_the_function_and_its_server_together() -> None:
    server = MPREGServer(MPREGSettings(resources={"rack-1"}))
    server.register_command("train", lambda: "done", resources=["gpu", "models"])

    async with serving(server), MPREGClientAPI(server.url) as client:
        assert await client.call("train", locs=frozenset({"gpu", "rack-1"})) == "done"
        assert await client.call("train") == "done"
        with pytest.raises(LookupError, match="lacks: tpu"):
            await client.call("train", locs=frozenset({"gpu", "tpu"}))


async def test_a_function_of_two_servers_is_called_on_the_server_with_the_locs() -> (
    None
):
    async with (
        clustered(
            {
                "east": ({"east"}, {"where": lambda: "east"}),
                "west": ({"west"}, {"where": lambda: "west"}),
            }
        ) as servers,
        MPREGClientAPI(servers["east"].url) as client,
    ):
        places = [await client.call("where", locs={at}) for at in ("east", "west")]

    assert places == ["east", "west"]


async def test_five_different_servers_work_on_one_request() -> None:
    def made(kind: str) -> Any:
        return lambda *given: {"by": kind, "given": list(given)}

    kinds = ("ingest", "clean", "train", "score", "report")
    async with (
        clustered({kind: ({kind}, {kind: made(kind)}) for kind in kinds}) as servers,
        MPREGClientAPI(servers["clean"].url) as client,
    ):
        results = await client.request(
            [
                RPCCommand("end", "report", ("t.by", "s.by", "s.given"), locs="report"),
                RPCCommand("s", "score", ("t.given", "c.by"), locs=["score"]),
                RPCCommand("t", "train", ("c",), locs=["train"]),
                RPCCommand("c", "clean", ("i.by",), locs=["clean"]),
                RPCCommand("i", "ingest", ("raw",), locs=["ingest"]),
            ]
        )

    cleaned = {"by": "clean", "given": ["ingest"]}
    assert results == {
        "end": {"by": "report", "given": ["train", "score", [[cleaned], "clean"]]}
    }


async def test_a_server_serves_before_its_peers_are_there() -> None:
    port = free_port()
    early = MPREGServer(MPREGSettings(name="early", connect=f"ws://127.0.0.1:{port}"))
    early.register_command("early", lambda: 1)
    late = MPREGServer(MPREGSettings(name="late", port=port))
    late.register_command("late", lambda: 2)

    async with serving(early), MPREGClientAPI(early.url) as client:
        assert await client.call("early") == 1
        async with serving(late):
            await until_known(client, {"late"}, nodes=2)
            assert await client.call("late") == 2


async def test_servers_that_name_each_other_meet() -> None:
    ports = free_port(), free_port()
    urls = [f"ws://127.0.0.1:{port}" for port in ports]
    servers = [
        MPREGServer(MPREGSettings(port=port, peers=[url]))
        for port, url in zip(ports, reversed(urls), strict=True)
    ]
    for number, server in enumerate(servers):
        server.register_command(f"f{number}", lambda number=number: number)

    async with serving(*servers):
        for url in urls:
            async with MPREGClientAPI(url) as client:
                await until_known(client, {"f0", "f1"}, nodes=2)
                assert [await client.call("f0"), await client.call("f1")] == [0, 1]


async def test_servers_of_another_cluster_stay_strangers() -> None:
    one = MPREGServer(MPREGSettings(cluster_id="one"))
    async with serving(one):
        two = MPREGServer(MPREGSettings(cluster_id="two", connect=one.url))
        async with serving(two), MPREGClientAPI(two.url) as client:
            caller = client._caller
            assert caller is not None
            names = [picture.record.name for picture in (await caller.snapshot()).nodes]

    assert names == [two.name]


async def test_a_server_serves_once() -> None:
    server = MPREGServer()
    async with serving(server):
        with pytest.raises(MpregError, match="Create a new MPREGServer"):
            await server.server()

        assert server.url


async def test_a_name_in_use_is_reported() -> None:
    async with served({}, name="gpu-1") as (server, _):
        second = MPREGServer(MPREGSettings(name="gpu-1", connect=server.url))

        with pytest.raises(MpregError, match="Give each server a name"):
            await second.server()


async def test_a_port_in_use_is_reported() -> None:
    async with served({}) as (server, _):
        port = int(server.url.rpartition(":")[2])
        second = MPREGServer(MPREGSettings(port=port))
        task = asyncio.ensure_future(second.server())

        with pytest.raises(OSError, match="port"):
            await second.started()
        with pytest.raises(OSError, match="port"):
            await task


async def test_a_server_off_this_machine_needs_more_than_a_token() -> None:
    with pytest.raises(NotTrusted, match="unencrypted"):
        await MPREGServer(MPREGSettings(host="0.0.0.0")).server()  # noqa: S104


async def test_a_client_of_another_user_is_refused() -> None:
    async with served({}) as (server, _):
        with pytest.raises(NotTrusted):
            await MPREGClientAPI(server.url, token="another-0123456789abcdef").connect()


async def test_a_token_of_its_own_is_kept() -> None:
    server = MPREGServer(MPREGSettings(token="of-these-two-0123456789"))
    async with (
        serving(server),
        MPREGClientAPI(server.url, token="of-these-two-0123456789") as client,
    ):
        assert await client.call("echo", 1) == 1

    assert "of these two" not in repr(server.settings)


@pytest.mark.parametrize("name", ["", "a,b", "a/b", "a\nb", "x" * 129])
def test_a_bad_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        MPREGServer().register_command(name, print)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        MPREGServer().register_command("f", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Exception("x")]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_a_function_raises_ends_its_call_only(
    error: BaseException, kind: str
) -> None:
    def wrong() -> None:
        raise error

    async def wrong_async() -> None:
        raise error

    commands = {"wrong": wrong if kind == "sync" else wrong_async}
    async with served(commands) as (_, client):
        with pytest.raises(MpregError, match="Function execution failed"):
            await client.call("wrong")

        assert await client.call("echo", 1) == 1


async def test_a_function_that_cancels_itself_fails() -> None:
    async def wrong() -> None:
        raise asyncio.CancelledError

    async with served({"wrong": wrong}) as (_, client):
        with pytest.raises(MpregError, match="CancelledError"):
            await client.call("wrong")


async def test_the_log_level_is_that_of_the_package() -> None:
    logger = logging.getLogger("mpreg_nb")
    before = logger.level
    try:
        async with served({}, log_level="warning"):
            assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)


async def test_a_start_takes_little_time() -> None:
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        async with served({}) as (_, client):
            await client.call("echo", 1)
        took_s.append(time.monotonic() - began)

    assert min(took_s) < 1
