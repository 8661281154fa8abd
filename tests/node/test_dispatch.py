"""Who gets a message; a request whose handler raises is answered all the same."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from mpreg_nb.node.dispatch import Dispatcher, Handler, JoinGate
from mpreg_nb.node.node import Node
from mpreg_nb.protocol.gossip import Hello, MemberRecord, Offer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    CodePush,
    Failed,
    Notice,
    Output,
    Reply,
    TrafficRequest,
)
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.connection import Connection
from tests.support.links import TOKEN, Ear, open_link, send_element

ID = bytes(16)


class Link:
    """Keeps what is sent on it."""

    peer = type("Peer", (), {"role": "client", "name": "me"})

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any, parts: Any = ()) -> None:
        self.sent.append(message)


def raises(link: Any, message: Any, parts: Any) -> None:
    raise RuntimeError("a fault")


async def raises_later(link: Any, message: Any, parts: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("a fault")


def handled(handler: Handler, message: Any) -> list[Any]:
    """Return what is answered where `handler` handles a message, and raises."""
    link: Any = Link()

    async def handle() -> None:
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        loop.set_exception_handler(lambda _, one: told.set_exception(one["exception"]))
        dispatcher = Dispatcher("n1", Limits(), loop.create_task)
        dispatcher.handle({type(message): handler})
        dispatcher.from_client(link, message, ())
        await told

    with pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(handle())
    return link.sent  # type: ignore[no-any-return]


@pytest.mark.parametrize("handler", [raises, raises_later])
def test_a_request_whose_handler_raises_is_answered(handler: Handler) -> None:
    [answer] = handled(handler, TrafficRequest(id=ID))

    assert (answer.id, answer.failure.kind) == (ID, "bad_request")
    assert answer.failure.executed == "unknown"
    assert answer.failure.message == (
        "node n1 could not handle it: RuntimeError: a fault"
    )


@pytest.mark.parametrize("handler", [raises, raises_later])
def test_a_handler_of_no_request_that_raises_ends_nothing(
    handler: Handler,
) -> None:
    assert handled(handler, Cancel(id=ID)) == []


def refused(message: Any) -> tuple[list[Any], list[Any]]:
    """Return what who waits here hears, and what is answered, of a large message."""
    heard: list[Any] = []

    def take(link: Any, answer: Any, parts: Any) -> bool:
        if answer.id == ID:
            heard.append(answer)
        return answer.id == ID  # type: ignore[no-any-return]

    dispatcher = Dispatcher("n1", Limits(), asyncio.ensure_future)
    dispatcher.handle_answers(take, Failed)
    link: Any = Link()
    dispatcher.refused(link, message, 2**40)
    return heard, link.sent


def test_a_call_with_a_too_large_result_is_reported_as_run() -> None:
    [heard], sent = refused(Reply(id=ID, payload=b"", node="n2"))

    assert (heard.failure.kind, heard.failure.executed) == ("too_large", "yes")
    assert not sent


@pytest.mark.parametrize(
    "message",
    [
        Call(id=ID[:-1] + b"1", function="f", payload=b""),
        CodePush(
            id=ID[:-1] + b"1",
            offer=Offer(function="f", version="0" * 32, origin="n2"),
            payload=b"",
        ),
    ],
    ids=["a call", "code that a node was given"],
)
def test_a_request_that_is_too_large_is_answered(message: Any) -> None:
    heard, [answer] = refused(message)

    assert (answer.id, answer.failure.kind) == (message.id, "too_large")
    assert answer.failure.executed == "no"
    assert not heard


def test_a_print_that_is_too_large_ends_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard, sent = refused(Output(id=ID, node="n2", stream="display", text=""))

    assert (heard, sent) == ([], [])
    assert "Output of me was dropped" in caplog.text


def with_a_node(scene: Callable[[Ear, Connection], Coroutine[Any, Any, None]]) -> None:
    """Play `scene` with the link of a client to a node."""

    async def bounded() -> None:
        node = Node(NodeSettings(name="n1", workers=0, drain_s=0), TOKEN)
        await node.start()
        ear = Ear()
        link = await open_link(node.url, ear, role="client")
        try:
            async with asyncio.timeout(60):
                await scene(ear, link)
        finally:
            link.close()
            await link.wait_closed()
            await node.stop()

    asyncio.run(bounded())


def test_a_call_that_a_node_cannot_read_is_answered() -> None:
    async def scene(ear: Ear, link: Connection) -> None:
        send_element(link, msgspec.msgpack.encode(["call", ID, 129 * "x", b""]))

        answer, _ = await ear.message()

        assert isinstance(answer, Failed)
        assert (answer.id, answer.failure.executed) == (ID, "no")
        assert link.is_open

    with_a_node(scene)


def test_a_node_ends_a_link_on_which_something_was_lost_that_it_sent() -> None:
    async def scene(ear: Ear, link: Connection) -> None:
        link.send(Notice(kind="strike", text="not msgpack"))

        assert "a message was lost: not msgpack" in await ear.lost()

    with_a_node(scene)


class Arriving:
    """A control link of another node, and what became of it."""

    peer = type("Peer", (), {"role": "node", "name": "n2", "address": ""})

    def __init__(self) -> None:
        self.on_message: Any = None
        self.heard: list[Any] = []
        self.closed = ""

    def say(self, message: Any) -> None:
        self.on_message(self, message, ())

    def close(self, code: int, reason: str) -> None:
        self.closed = reason


@pytest.mark.parametrize("is_free", [True, False])
def test_both_links_of_a_process_at_the_gate_are_let_in_or_sent_away(
    is_free: bool,
) -> None:
    let_in: list[Any] = []

    def accept(link: Any) -> None:
        let_in.append(link)
        link.on_message = lambda _, message, parts: link.heard.append(message)

    record = MemberRecord(name="n2", generation=1, epoch=bytes(16))
    hello = Hello(record=record, joined=False)
    gate = JoinGate(lambda name: b"another process", lambda *_: None, accept)
    links: list[Any] = [Arriving(), Arriving()]
    for link in links:
        gate.arrived(link)
        link.say(hello)

    if is_free:
        gate.free("n2", record.epoch)
    else:
        gate.taken("n2", record.epoch)

    assert let_in == (links if is_free else [])
    assert [link.heard for link in links] == [[hello] if is_free else []] * 2
    assert [bool(link.closed) for link in links] == [not is_free] * 2
