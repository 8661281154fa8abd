"""A program that knows nothing of this package calls functions by JSON text."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mpreg_nb.errors import NotTrusted
from mpreg_nb.mpreg import MPREGServer, MPREGSettings
from mpreg_nb.transport.token import load_token
from tests.support.mpreg_servers import clustered, served, serving


def bearer(secret: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret or load_token().reveal()}"}


async def ask(link: ClientConnection, *commands: dict[str, Any], **fields: Any) -> Any:
    await link.send(json.dumps({"role": "rpc", "u": "1", "cmds": commands, **fields}))
    return json.loads(await link.recv())


def command(name: str, fun: str, *args: Any, **fields: Any) -> dict[str, Any]:
    return {"name": name, "fun": fun, "args": args, **fields}


@asynccontextmanager
async def linked(
    commands: dict[str, Any], **settings: Any
) -> AsyncIterator[ClientConnection]:
    async with (
        served(commands, **settings) as (server, _),
        connect(server.url, additional_headers=bearer(), proxy=None) as link,
    ):
        yield link


async def test_the_shortest_exchange() -> None:
    async with linked({}) as link:
        await link.send(
            '{"role":"rpc","u":"1","cmds":[{"name":"a","fun":"echo","args":["hi"],'
            '"kwargs":{},"locs":[]}]}'
        )

        assert await link.recv() == '{"r":{"a":"hi"},"error":null,"u":"1"}'


async def test_commands_use_results_of_others() -> None:
    commands = {
        "measure": lambda sensor: {"sensor": sensor, "rows": [1, 2, 3]},
        "mean": lambda rows, digits: round(sum(rows) / len(rows), digits),
    }

    async with linked(commands) as link:
        answer = await ask(
            link,
            command("m", "mean", "raw.rows", kwargs={"digits": 1}),
            command("raw", "measure", "s-7"),
            command("kept", "echo", "raw.nothing"),
        )

    assert answer == {"r": {"m": 2.0, "kept": "raw.nothing"}, "error": None, "u": "1"}


async def test_a_command_goes_where_its_locs_are() -> None:
    async with (
        clustered(
            {
                "entry": ((), {}),
                "gpu-1": ({"gpu"}, {"where": lambda: "gpu-1"}),
                "cpu-1": ({"cpu"}, {"where": lambda: "cpu-1"}),
            }
        ) as servers,
        connect(servers["entry"].url, additional_headers=bearer(), proxy=None) as link,
    ):
        answer = await ask(
            link,
            command("on gpu", "where", locs=["gpu"]),
            command("on cpu", "where", locs=["cpu"]),
        )
        nowhere = await ask(link, command("a", "where", locs=["tpu"]))

    assert answer["r"] == {"on gpu": "gpu-1", "on cpu": "cpu-1"}
    assert nowhere["error"]["code"] == 1001
    assert "tpu" in nowhere["error"]["message"]


async def test_an_unknown_function_is_reported_before_anything_runs() -> None:
    ran: list[int] = []

    async with linked({"note": ran.append}) as link:
        answer = await ask(link, command("a", "note", 1), command("b", "notte", "a"))

    assert ran == []
    assert answer["r"] is None
    assert answer["error"]["code"] == 1001
    assert "Did you mean 'note'?" in answer["error"]["message"]
    assert answer["error"]["details"]["command"] == "b"


async def test_a_failure_is_reported_with_the_types_of_the_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def analytics(dataset: str, metrics: list[Any]) -> dict[Any, str]:
        return {metric: dataset for metric in metrics}

    async with linked({"analytics": analytics, "made": lambda: {"k": 1}}) as link:
        answer = await ask(
            link, command("m", "made"), command("a", "analytics", "test", ["m"])
        )

    line = (
        "Function execution failed: command=analytics, error=TypeError: unhashable "
        "type: 'dict', args_types=['str', 'list']"
    )
    assert answer["error"]["code"] == 1003
    assert answer["error"]["message"] == line
    assert answer["error"]["details"]["args_types"] == ["str", "list"]
    assert answer["error"]["details"]["type"] == "builtins.TypeError"
    assert caplog.messages == [line]


async def test_a_failure_is_reported_at_once_and_ends_the_rest() -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def wrong() -> None:
        raise ValueError("no")

    async with linked({"long": long, "wrong": wrong}) as link:
        answer = await ask(link, command("l", "long"), command("w", "wrong"))
        await ended.wait()

    assert "ValueError: no" in answer["error"]["message"]


async def test_control_characters_do_not_reach_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong() -> None:
        raise ValueError("a\nERROR forged \x1b[31m")

    async with linked({"wrong": wrong}) as link:
        await ask(link, command("w", "wrong"))

    assert all(message.isprintable() for message in caplog.messages)
    assert "a\\nERROR forged \\x1b[31m" in caplog.messages[0]


async def test_a_timeout_is_reported_and_ends_the_work() -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with linked({"long": long}) as link:
        answer = await ask(link, command("l", "long"), timeout=0.05)
        await ended.wait()

    assert answer["error"]["code"] == 1004
    assert answer["u"] == "1"


async def test_a_client_that_goes_takes_its_work_along() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with linked({"long": long}) as link:
        frame = {"role": "rpc", "u": "1", "cmds": [command("l", "long")]}
        await link.send(json.dumps(frame))
        await begun.wait()
        await link.close()
        await ended.wait()


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"role":"rpc","u":"1","cmds":[{"name":"a","fun":"echo","args":[NaN]}]}',
        '{"role":"rpc","cmds":' + "[" * 100_000,
        '{"role":"rpc","u":' + "9" * 5000 + "}",
        json.dumps({"role": "rpc", "u": "1", "cmds": [command("a", "echo", 10**30)]}),
        json.dumps(
            {
                "role": "rpc",
                "u": "1",
                "cmds": [command("a", "echo", "b"), command("b", "echo", "a")],
            }
        ),
        json.dumps(
            {
                "role": "rpc",
                "u": "1",
                "cmds": [command("a", "echo", 1), command("a", "echo", 2)],
            }
        ),
    ],
    ids=["text", "nan", "nesting", "number", "integer", "cycle", "twice"],
)
async def test_what_is_malformed_is_refused_and_the_link_survives(text: str) -> None:
    async with linked({}) as link:
        await link.send(text)
        refused = json.loads(await link.recv())
        after = await ask(link, command("a", "echo", "still here"))

    assert refused["error"]["code"] == 1000
    assert after["r"] == {"a": "still here"}


async def test_another_role_is_refused_and_the_link_survives() -> None:
    async with linked({}) as link:
        refused = await ask(link, role="server")
        after = await ask(link)

    assert (refused["error"]["code"], refused["u"]) == (1004, "1")
    assert after == {"r": {}, "error": None, "u": "1"}


async def test_a_result_that_json_has_nothing_for_is_an_error() -> None:
    async with linked({"odd": lambda: object()}) as link:
        answer = await ask(link, command("o", "odd"))

    assert answer["error"]["code"] == 1003
    assert "JSON cannot hold it" in answer["error"]["message"]


async def test_requests_of_one_link_run_at_the_same_time() -> None:
    meeting = asyncio.Barrier(2)

    async def met(who: str) -> str:
        async with meeting:
            return who

    async with linked({"met": met}) as link:
        for who in ("one", "two"):
            frame = {"role": "rpc", "u": who, "cmds": [command("m", "met", who)]}
            await link.send(json.dumps(frame))
        answers = [json.loads(await link.recv()) for _ in range(2)]

    assert {answer["u"]: answer["r"]["m"] for answer in answers} == {
        "one": "one",
        "two": "two",
    }


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), {"Authorization": "Basic dXNlcjp4"}, {"X-Token": "x"}],
    ids=["none", "wrong", "basic", "other"],
)
async def test_without_the_token_nobody_comes_in(headers: dict[str, str]) -> None:
    async with served({}) as (server, _):
        with pytest.raises(InvalidStatus) as caught:
            await connect(server.url, additional_headers=headers, proxy=None)

    assert caught.value.response.status_code == 401


async def test_an_open_server_needs_no_token() -> None:
    async with (
        served({}, json_open=True) as (server, _),
        connect(server.url, proxy=None) as link,
    ):
        answer = await ask(link, command("a", "echo", 1))

    assert answer["r"] == {"a": 1}


async def test_a_web_page_is_refused_even_with_the_token() -> None:
    async with served({}, json_open=True) as (server, _):
        with pytest.raises(InvalidStatus) as caught:
            await connect(
                server.url,
                origin="https://example.org",  # type: ignore[arg-type]
                additional_headers=bearer(),
                proxy=None,
            )

    assert caught.value.response.status_code == 403


async def test_an_open_server_is_for_this_machine_only() -> None:
    server = MPREGServer(MPREGSettings(host="0.0.0.0", json_open=True))  # noqa: S104

    with pytest.raises(NotTrusted):
        async with serving(server):
            pass


async def test_frames_that_are_no_text_end_only_their_own_link() -> None:
    async with served({}, json_open=True) as (server, _):
        async with connect(server.url, proxy=None) as link:
            await link.send(b"\x80\x04K\x01.")
            with pytest.raises(ConnectionClosed):
                await link.recv()
        async with connect(server.url, proxy=None) as link:
            answer = await ask(link, command("a", "echo", 1))

    assert answer["r"] == {"a": 1}
