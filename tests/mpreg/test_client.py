"""Clients: calls, requests, errors and endings."""

import asyncio
import logging
import pickle
import threading
from typing import Any

import pytest

from mpreg_nb.errors import (
    CallTimeout,
    InvalidWorkflow,
    NoCluster,
    NodeLost,
    NoRoute,
    NotPicklable,
    RemoteError,
)
from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings, RPCCommand
from tests.support.mpreg_servers import free_port, served, serving


class Ledger(Exception):
    """An error with fields, of this test's own."""

    def __init__(self, account: str, missing: int) -> None:
        super().__init__(account, missing)
        self.account = account
        self.missing = missing


def describe(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


async def test_arguments_arrive_as_they_were_given() -> None:
    async with served({"describe": describe}) as (_, client):
        got = await client.call("describe", 1, "describe", rows=[2], function="f")

    assert got == [[1, "describe"], {"rows": [2], "function": "f"}]


async def test_hundreds_of_calls_share_one_link() -> None:
    async def twice(value: int) -> int:
        await asyncio.sleep(0)
        return value * 2

    async with served({"twice": twice}) as (_, client):
        calls = [client.call("twice", number) for number in range(300)]

        assert await asyncio.gather(*calls) == [number * 2 for number in range(300)]


async def test_connecting_and_disconnecting_may_be_done_by_hand_and_again() -> None:
    async with served({}) as (server, _):
        client = MPREGClientAPI(server.url)
        await client.connect()
        await client.connect()
        assert await client.call("echo", 1) == 1
        await client.disconnect()
        await client.disconnect()

        with pytest.raises(NoCluster, match=r"await client\.connect"):
            await client.call("echo", 1)
        await client.connect()
        assert await client.call("echo", 2) == 2
        await client.disconnect()


async def test_request_has_the_name_of_the_examples_too() -> None:
    async with served({}) as (_, client):
        results = await client._client.request([RPCCommand("a", "echo", (1,))])

    assert results == {"a": 1}


async def test_a_url_without_a_listener_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpreg_nb.mpreg.client.CONNECT_S", 0.05)
    client = MPREGClientAPI(f"ws://127.0.0.1:{free_port()}")

    with pytest.raises(ConnectionError) as caught:
        await client.connect()

    assert isinstance(caught.value, NodeLost)


async def test_a_server_that_starts_only_now_is_found() -> None:
    server = MPREGServer(MPREGSettings(port=free_port()))
    client = MPREGClientAPI(f"ws://127.0.0.1:{server.settings.port}")
    connecting = asyncio.ensure_future(client.connect())
    await asyncio.sleep(0)

    async with serving(server):
        await connecting
        assert await client.call("echo", 1) == 1
        await client.disconnect()


async def test_an_unknown_function_is_reported_at_once() -> None:
    async with served({"train": describe}) as (_, client):
        with pytest.raises(NoRoute, match="Did you mean 'train'"):
            await client.call("trian")
        with pytest.raises(NoRoute, match="lacks: gpu"):
            await client.call("train", locs=frozenset({"gpu"}))


async def test_a_failure_is_also_of_the_class_that_was_raised() -> None:
    def withdraw(account: str, amount: int) -> None:
        raise Ledger(account, amount)

    async with served({"withdraw": withdraw}) as (_, client):
        with pytest.raises(Ledger) as caught:
            await client.call("withdraw", "a-1", amount=30)

    error = caught.value
    assert isinstance(error, RemoteError)
    assert (error.account, error.missing) == ("a-1", 30)
    assert error.args == ("a-1", 30)
    assert str(error.original) == "('a-1', 30)"
    assert str(error) == (
        "Function execution failed: command=withdraw, error=Ledger: ('a-1', 30), "
        "args_types=['str', 'amount=int']"
    )


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        OSError(2, "no such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"abc", 1, 2, "bad"),
        ExceptionGroup("two", [ValueError("a"), TypeError("b")]),
        RecursionError("deep"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_every_kind_of_error_says_the_line(error: Exception) -> None:
    def wrong() -> None:
        raise error

    async with served({"wrong": wrong}) as (_, client):
        with pytest.raises(type(error)) as caught:
            await client.call("wrong")

    line = f"Function execution failed: command=wrong, error={type(error).__name__}: "
    assert str(caught.value).startswith(line)


async def test_a_failure_survives_pickling() -> None:
    def wrong(value: int) -> None:
        raise ValueError(value)

    async with served({"wrong": wrong}) as (_, client):
        with pytest.raises(ValueError, match="execution failed") as caught:
            await client.call("wrong", 3)

    twin = pickle.loads(pickle.dumps(caught.value))
    assert str(twin) == str(caught.value)
    assert isinstance(twin, ValueError)
    assert isinstance(twin, RemoteError)
    assert str(pickle.loads(pickle.dumps(twin))) == str(caught.value)


async def test_a_failed_command_of_a_request_is_reported_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def analytics(dataset: str, metrics: list[Any]) -> dict[Any, str]:
        return {metric: dataset for metric in metrics}

    commands = {"long": long, "made": lambda: {"k": 1}, "analytics": analytics}
    async with served(commands) as (_, client):
        with caplog.at_level(logging.ERROR), pytest.raises(TypeError) as caught:
            await client.request(
                [
                    RPCCommand("l", "long"),
                    RPCCommand("m", "made"),
                    RPCCommand("a", "analytics", ("test", ["m"])),
                    RPCCommand("never", "made", ("a",)),
                ]
            )
        await ended.wait()

    line = (
        "Function execution failed: command=analytics, error=TypeError: unhashable "
        "type: 'dict', args_types=['str', 'list']"
    )
    assert str(caught.value) == line
    assert caplog.messages == [line]


async def test_a_request_is_checked_before_anything_runs() -> None:
    ran: list[int] = []

    async with served({"note": ran.append}) as (_, client):
        with pytest.raises(InvalidWorkflow, match="cycle"):
            await client.request(
                [RPCCommand("a", "note", ("b",)), RPCCommand("b", "note", ("a",))]
            )
        with pytest.raises(InvalidWorkflow, match="named 'a'"):
            await client.request([RPCCommand("a", "note"), RPCCommand("a", "note")])
        with pytest.raises(NoRoute, match="Did you mean 'note'"):
            await client.request([RPCCommand("a", "note", 1), RPCCommand("b", "nota")])
        with pytest.raises(NoRoute, match="gpu"):
            await client.request(
                [RPCCommand("a", "note", 1), RPCCommand("b", "note", 2, locs={"gpu"})]
            )
        with pytest.raises(NotPicklable, match="args"):
            await client.request(
                [
                    RPCCommand("a", "note", 1),
                    RPCCommand("b", "note", (threading.Lock(),)),
                ]
            )

    assert ran == []


async def test_no_commands_give_no_results() -> None:
    async with served({}) as (_, client):
        assert await client.request([]) == {}


@pytest.mark.parametrize("count", [1, 2])
async def test_time_that_is_up_ends_a_request(count: int) -> None:
    begun: list[object] = []
    stopped = asyncio.Semaphore(0)

    async def long() -> None:
        begun.append(asyncio.current_task())
        try:
            await asyncio.Event().wait()
        finally:
            stopped.release()

    commands = [RPCCommand(f"c{number}", "long") for number in range(count)]
    timeout_s = 0.05
    async with served({"long": long}) as (_, client):
        while len(begun) < count:  # on a busy machine time may be up before they begin
            with pytest.raises(TimeoutError) as caught:
                await client.request(commands, timeout=timeout_s)
            timeout_s *= 2
        for _ in begun:
            await stopped.acquire()

    assert isinstance(caught.value, CallTimeout)


async def test_time_that_is_up_ends_a_call() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    timeout_s = 0.05
    async with served({"long": long}) as (_, client):
        while not begun.is_set():  # on a busy machine time may be up before it begins
            with pytest.raises(CallTimeout):
                await client.call("long", timeout=timeout_s)
            timeout_s *= 2
        await stopped.wait()


async def test_a_timeout_that_a_function_raises_is_its_own() -> None:
    def wrong() -> None:
        raise TimeoutError("the database is slow")

    commands = [RPCCommand("a", "wrong"), RPCCommand("b", "echo", ("a",))]
    async with served({"wrong": wrong}) as (_, client):
        with pytest.raises(TimeoutError, match="the database is slow") as caught:
            await client.request(commands, timeout=20)

    assert isinstance(caught.value, RemoteError)


@pytest.mark.parametrize("count", [1, 2])
async def test_cancelling_a_request_cancels_its_commands(count: int) -> None:
    begun, stopped = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def long() -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.release()

    commands = [RPCCommand(f"c{number}", "long") for number in range(count)]
    async with served({"long": long}) as (_, client):
        task = asyncio.ensure_future(client.request(commands))
        for _ in commands:
            await begun.acquire()
        task.cancel()
        for _ in commands:
            await stopped.acquire()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_request_may_be_wider_than_what_a_node_takes_at_once() -> None:
    async def twice(value: int) -> int:
        return value * 2

    wide = [RPCCommand(f"c{number}", "twice", (number,)) for number in range(1500)]
    last = RPCCommand("sum", "add", ([command.name for command in wide],))
    async with served({"twice": twice, "add": sum}) as (_, client):
        results = await client.request([*wide, last])

    assert results == {"sum": 2 * sum(range(1500))}


async def test_results_may_be_large_and_binary() -> None:
    size = 3_000_000
    commands = [
        RPCCommand("blob", "make", (size,)),
        RPCCommand("same", "echo", ("blob",)),
        RPCCommand("size", "measure", ({"deep": ["blob"]},)),
    ]
    functions = {"make": bytes, "measure": lambda given: len(given["deep"][0])}

    async with served(functions) as (_, client):
        results = await client.request(commands)

    assert results == {"same": bytes(size), "size": size}
