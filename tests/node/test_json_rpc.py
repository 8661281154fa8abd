"""What a node does with JSON requests, seen from the link that they come over."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mpreg_nb.node.json_rpc import JsonCalls
from mpreg_nb.node.node import Node
from mpreg_nb.protocol.messages import RunList, Runs
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.token import Token

LIMITS = Limits(max_frame_bytes=100_000, calls_per_node=3)


class Link:
    """A link that keeps what is sent on it."""

    def __init__(self) -> None:
        self._answers: list[Any] = []
        self._news = asyncio.Event()
        self.closed = asyncio.Event()

    def send_text(self, text: str) -> None:
        self._answers.append(json.loads(text))
        self._news.set()

    async def wait_closed(self) -> None:
        await self.closed.wait()

    async def answer(self) -> Any:
        """Wait for the next answer, and return it."""
        while not self._answers:
            self._news.clear()
            await self._news.wait()
        return self._answers.pop(0)


class Desk:
    """A node and a link to it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls = JsonCalls(
            node.name,
            LIMITS,
            runs=node.runs,
            catalog=node.catalog,
            router=node.router,
            spawn=node.spawn,
        )
        self.link = Link()

    def send(self, *commands: tuple[Any, ...], **fields: Any) -> None:
        told = [
            {"name": name, "fun": function, "args": args}
            for name, function, *args in commands
        ]
        text = json.dumps({"role": "rpc", "u": "1", "cmds": told, **fields})
        link: Any = self.link
        self.calls.receive(link, text)

    async def ask(self, *commands: tuple[Any, ...], **fields: Any) -> Any:
        self.send(*commands, **fields)
        return await self.link.answer()


@asynccontextmanager
async def desk(**functions: Callable[..., Any]) -> AsyncIterator[Desk]:
    settings = NodeSettings(name="n1", workers=0, limits=LIMITS, drain_s=0)
    node = Node(settings, Token("a-token-of-this-test-0123456789"))
    await node.start()
    for name, function in functions.items():
        node.register_own(name, function, frozenset())
    desk = Desk(node)
    try:
        yield desk
    finally:
        desk.link.closed.set()
        await node.stop()


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(bounded())


def test_a_request_is_answered_and_forgotten() -> None:
    async def test() -> None:
        async with desk(add=lambda one, other: one + other) as at:
            answer = await at.ask(("a", "add", 1, 2), ("b", "add", "a", 10))

            assert answer == {"r": {"b": 13}, "error": None, "u": "1"}
            assert len(at.calls) == 0
            assert len(at.node.calls) == 0

    run(test())


def test_requests_are_in_no_list_of_runs() -> None:
    class Reader:
        def send(self, message: Any, parts: Any = ()) -> None:
            self.runs = message

    async def test() -> None:
        async with desk() as at:
            await at.ask(("a", "echo", 1))
            reader = Reader()
            at.node.runs.list(reader, RunList(id=bytes(16)))

            assert reader.runs == Runs(id=bytes(16), runs=())

    run(test())


def test_large_results_go_from_command_to_command_and_are_let_go() -> None:
    async def test() -> None:
        async with desk(make=lambda size: "x" * size, measure=len) as at:
            answer = await at.ask(("big", "make", 500_000), ("size", "measure", "big"))

            assert answer["r"] == {"size": 500_000}
            assert at.node.store.statistics().results == 0

    run(test())


def test_a_large_result_is_sent_where_it_fits() -> None:
    async def test() -> None:
        async with desk(make=lambda size: "x" * size) as at:
            fits = await at.ask(("big", "make", 90_000))
            more = await at.ask(("big", "make", 200_000))
            all_of_them = await at.ask(("a", "make", 60_000), ("b", "make", 60_000))

            assert fits["r"] == {"big": "x" * 90_000}
            for answer in (more, all_of_them):
                assert answer["error"]["code"] == 1003
                assert "is too large for one answer" in answer["error"]["message"]
            assert at.node.store.statistics().results == 0

    run(test())


def test_more_requests_than_a_node_takes_are_refused() -> None:
    async def test() -> None:
        go_on = asyncio.Event()
        async with desk(wait=go_on.wait) as at:
            for _ in range(LIMITS.calls_per_node):
                at.send(("a", "wait"))
            refused = await at.ask(("a", "wait"))
            go_on.set()
            others = [await at.link.answer() for _ in range(LIMITS.calls_per_node)]
            after = await at.ask(("a", "wait"))

            assert refused["error"]["code"] == 1003
            assert "full queue" in refused["error"]["message"]
            assert all(other["r"] == {"a": True} for other in others)
            assert after["r"] == {"a": True}

    run(test())


def test_a_call_that_a_node_has_no_room_for_is_rejected_with_the_reason() -> None:
    async def test() -> None:
        go_on = asyncio.Event()
        async with desk(wait=go_on.wait) as at:
            commands = [(f"c{number}", "wait") for number in range(4)]
            answer = await at.ask(*commands)

            assert answer["error"]["code"] == 1003
            assert "full queue" in answer["error"]["message"]
            assert answer["error"]["details"]["kind"] == "overloaded"

    run(test())


def test_a_link_that_ends_ends_its_requests() -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def long() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with desk(long=long) as at:
            at.send(("a", "long"), ("b", "echo", "a"))
            await begun.wait()
            at.link.closed.set()
            await ended.wait()

            assert len(at.calls) == 0

    run(test())


def test_the_time_of_a_request_is_for_all_of_its_commands() -> None:
    async def test() -> None:
        async with desk(nap=asyncio.sleep) as at:
            answer = await at.ask(
                ("a", "nap", 0.06), ("b", "nap", 0.06, "a"), timeout=0.1
            )

            assert answer["error"]["code"] == 1004
            assert "0.1 s" in answer["error"]["message"]

    run(test())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_failure_names_command_error_and_types(kind: str) -> None:
    def wrong(*given: Any, **named: Any) -> None:
        raise KeyError("k")

    async def wrong_async(*given: Any, **named: Any) -> None:
        raise KeyError("k")

    async def test() -> None:
        function = wrong if kind == "sync" else wrong_async
        async with desk(wrong=function) as at:
            answer = await at.ask(("a", "echo", {"x": 1}), ("b", "wrong", "a", 2, None))

            assert answer["error"] == {
                "code": 1003,
                "message": "Function execution failed: command=wrong, "
                "error=KeyError: 'k', args_types=['dict', 'int', 'NoneType']",
                "details": {
                    "command": "b",
                    "function": "wrong",
                    "node": "n1",
                    "kind": "application",
                    "executed": "yes",
                    "type": "builtins.KeyError",
                    "args_types": ["dict", "int", "NoneType"],
                },
            }

    run(test())


def test_a_node_that_leaves_says_so() -> None:
    async def test() -> None:
        async with desk() as at:
            at.node.calls.admission.draining = True
            answer = await at.ask(("a", "echo", 1))

            assert answer["error"]["code"] == 1003
            assert answer["error"]["details"]["executed"] == "no"

    run(test())
