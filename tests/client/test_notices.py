"""What a node says without being asked, and that nobody answers."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from mpreg_nb.errors import BadRequest, MpregError, NodeLost
from mpreg_nb.protocol.codec import Parts, encode
from mpreg_nb.protocol.messages import Call, Failed, Failure, Notice, Resume
from mpreg_nb.transport.connection import Connection
from tests.support.links import send_element
from tests.support.telling_nodes import Speaker, run, speakers


class Heard(logging.Handler):
    """Lets a test wait for the next record."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.put_nowait(record.getMessage())


def test_a_notice_of_a_node_is_one_line_of_the_log() -> None:
    heard = Heard()
    broken: list[object] = []
    said: list[str] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: broken.append(context)
        )
        async with speakers("n1") as (_, nodes):
            nodes["n1"].links[0].send(Notice(kind="strike", text="no such message"))
            said.append(await heard.texts.get())

    log = logging.getLogger("mpreg_nb.client.client")
    log.addHandler(heard)
    try:
        run(scene)
    finally:
        log.removeHandler(heard)

    assert said == ["n1 says: no such message"]
    assert not broken


class Answering:
    """A node that answers each call with these bytes, and has none of them later."""

    def __init__(self, node: Speaker, answer: Callable[[Call], bytes]) -> None:
        self._node = node
        self._answer = answer
        self._hear, node.hear = node.hear, self.hear  # type: ignore[method-assign]
        for link in node.links:
            link.on_message = self.hear

    def hear(self, link: Connection, message: Any, parts: Parts) -> None:
        if isinstance(message, Call):
            send_element(link, self._answer(message))
        elif isinstance(message, Resume):
            lost = Failure(
                kind="node_lost", message="no node has it", executed="unknown"
            )
            for call_id in message.ids:
                link.send(Failed(id=call_id, failure=lost))
        else:
            self._hear(link, message, parts)


def ends_of(answer: Callable[[Call], bytes]) -> Exception:
    """Return what a call raises that a node answers so."""
    raised: list[Exception] = []

    async def scene() -> None:
        async with speakers("n1") as (client, nodes):
            Answering(nodes["n1"], answer)
            try:
                await client.call("work")
            except MpregError as error:
                raised.append(error)

    run(scene)
    [error] = raised
    return error


def test_a_result_that_cannot_be_read_ends_its_call() -> None:
    error = ends_of(lambda call: msgspec.msgpack.encode(["reply", call.id, 5]))

    assert isinstance(error, BadRequest)
    assert "the answer of n1 could not be read: " in str(error)


def test_a_call_that_its_node_cannot_read_has_not_run() -> None:
    failure = Failure(kind="bad_request", message="the node could not read it")
    error = ends_of(lambda call: encode(Failed(id=call.id, failure=failure)))

    assert isinstance(error, BadRequest)
    assert "the node could not read it" in str(error)


def test_calls_on_a_link_where_a_message_was_lost_end() -> None:
    error = ends_of(lambda call: encode(Notice(kind="strike", text="not msgpack")))

    assert isinstance(error, NodeLost)
    assert error.executed == "unknown"
