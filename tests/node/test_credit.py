"""A node takes so many calls of one client at once, whether it holds back or not."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from mpreg_nb.node.node import Node
from mpreg_nb.protocol.messages import Call, Cancel, Failed
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.token import Role
from tests.support.links import TOKEN, Ear, open_link

CREDIT = 4


@asynccontextmanager
async def client(
    node: Node, name: str = "rude", role: Role = "client"
) -> AsyncIterator[Ear]:
    ear = Ear()
    link = await open_link(node.url, ear, role=role, name=name)
    try:
        yield ear
    finally:
        link.close()
        await link.wait_closed()


@asynccontextmanager
async def started(credit: int = CREDIT) -> AsyncIterator[Node]:
    limits = Limits(calls_per_link=credit)
    node = Node(NodeSettings(name="n1", workers=0, drain_s=0, limits=limits), TOKEN)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(bounded())


def waiting(number: int) -> Call:
    """Return a call that waits: no node has its function."""
    return Call(
        id=number.to_bytes(16, "big"), function="nowhere", payload=b"", wait_ms=60_000
    )


async def ends(ear: Ear, count: int) -> list[tuple[int, str]]:
    """Return which calls ended and of what, once there are so many."""
    found: list[tuple[int, str]] = []
    seen = 0
    while len(found) < count:
        seen += 1
        message, _ = await ear.message(seen)
        if isinstance(message, Failed):
            number = int.from_bytes(message.id, "big")
            found.append((number, message.failure.kind))
    return found


def send(ear: Ear, *messages: Any) -> None:
    assert ear.connection is not None
    for message in messages:
        ear.connection.send(message)


def test_calls_beyond_the_credit_are_refused_and_the_link_stays() -> None:
    async def scene() -> None:
        async with started() as node, client(node) as rude:
            send(rude, *map(waiting, range(1, 11)))

            refused = await ends(rude, 6)
            assert refused == [(number, "overloaded") for number in range(5, 11)]
            assert rude.losses == []
            assert len(node.calls) == CREDIT

    run(scene())


def test_another_client_has_a_credit_of_its_own() -> None:
    async def scene() -> None:
        async with started() as node, client(node) as rude, client(node, "b") as other:
            send(rude, *map(waiting, range(1, 6)))
            await ends(rude, 1)
            send(other, waiting(20), Cancel(id=waiting(20).id))

            assert await ends(other, 1) == [(20, "cancelled")]

    run(scene())


def test_a_call_that_its_client_cancelled_makes_room() -> None:
    async def scene() -> None:
        async with started() as node, client(node) as rude:
            send(rude, *map(waiting, range(1, CREDIT + 1)))
            send(rude, Cancel(id=waiting(1).id), waiting(20), waiting(21))

            assert await ends(rude, 2) == [(1, "cancelled"), (21, "overloaded")]

    run(scene())


def test_a_node_passes_on_what_many_clients_sent() -> None:
    async def scene() -> None:
        async with started() as node, client(node, "n2", "node") as peer:
            send(peer, *map(waiting, range(1, 11)), Cancel(id=waiting(1).id))

            assert await ends(peer, 1) == [(1, "cancelled")]
            assert len(node.calls) == 9

    run(scene())


def test_without_the_limit_all_would_be_taken_in() -> None:
    async def scene() -> None:
        async with started(credit=1000) as node, client(node) as rude:
            send(rude, *map(waiting, range(1, 11)), Cancel(id=waiting(1).id))

            assert await ends(rude, 1) == [(1, "cancelled")]
            assert len(node.calls) == 9

    run(scene())
