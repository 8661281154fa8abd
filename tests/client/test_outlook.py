"""Through whose eyes a client sees the cluster, when one of them closes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from mpreg_nb.client import cluster_view
from mpreg_nb.client.client import Client
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.gossip import MemberRecord, MemberState
from mpreg_nb.protocol.messages import Cancel, NodeSnapshot, Snapshot, Watch
from mpreg_nb.transport.connection import Connection, LinkFault
from tests.transport.links import TOKEN, house

PULSE_S = 0.05


class Speaker:
    """A node that only tells who the members are."""

    def __init__(self, name: str, members: dict[str, MemberRecord]) -> None:
        self.name = name
        self.members = members
        self.links: list[Connection] = []
        self.cuts: list[LinkFault] = []
        self.watched: dict[bytes, Connection] = {}  # by the id of the Watch

    def welcome(self, link: Connection) -> None:
        self.links.append(link)
        link.on_message = self.hear

    def fall_silent(self) -> None:
        """Say and hear nothing any more, as a process that hangs."""
        self.cuts += [link.cut() for link in self.links]

    def hear(self, link: Connection, message: Any, parts: Parts) -> None:
        if isinstance(message, Watch):
            if message.period_ms:
                self.watched[message.id] = link
            self.tell(message.id, link)
        elif isinstance(message, Cancel):
            self.watched.pop(message.id, None)

    def tell(self, request_id: bytes, link: Connection) -> None:
        nodes = tuple(NodeSnapshot(record=one) for one in self.members.values())
        link.send(Snapshot(id=request_id, node=self.name, nodes=nodes, offers=()))

    def bury(self, name: str) -> None:
        """Say to all who watch that `name` is dead."""
        self.members[name] = replace(self.members[name], state=MemberState.DEAD)
        for request_id, link in self.watched.items():
            self.tell(request_id, link)


@asynccontextmanager
async def speakers(*names: str) -> AsyncIterator[tuple[Client, dict[str, Speaker]]]:
    """Yield a client that entered by the first of some nodes, and the nodes."""
    members: dict[str, MemberRecord] = {}
    found = {name: Speaker(name, members) for name in names}
    async with AsyncExitStack() as homes:
        for name, speaker in found.items():
            home = await homes.enter_async_context(
                house(node_name=name, on_connection=speaker.welcome)
            )
            members[name] = MemberRecord(
                name=name, generation=1, epoch=bytes(16), urls=(home.listener.url,)
            )
        client = Client(members[names[0]].urls, TOKEN)
        await client.open()
        try:
            yield client, found
        finally:
            for speaker in found.values():
                for cut in speaker.cuts:
                    cut.mend()
            await client.close()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - several parts may make it so
        await asyncio.sleep(0.005)


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scene()

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_view, "ENTRY_PULSE_S", PULSE_S)
    monkeypatch.setattr(cluster_view, "DOUBT_PULSE_S", PULSE_S)
    monkeypatch.setattr(cluster_view, "ANSWER_S", 4 * PULSE_S)


def test_client_looks_through_another_node_when_the_entry_is_silent() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            silent = client.links.entry
            nodes["a"].fall_silent()

            # The client has moved before the node hears of it.
            await until(lambda: len(nodes["b"].watched) == 1)

            assert client.entry_node == "b"
            assert client.links.get("a") is silent
            assert silent is not None
            assert silent.is_open

    run(scene)


def test_question_to_a_silent_entry_is_answered_by_another_node() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            nodes["a"].fall_silent()

            snapshot = await client.snapshot()

            assert snapshot.node == "b"

    run(scene)


def test_silent_entry_is_kept_while_no_other_node_answers() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            await client.links.reach("b", nodes["b"].members["b"].urls)
            await until(lambda: len(nodes["b"].links) == 1)
            nodes["b"].fall_silent()
            nodes["a"].fall_silent()
            searched = client.outlook._silent
            searches: list[Connection] = []

            def silent(link: Connection) -> None:
                searches.append(link)
                searched(link)

            client.outlook._silent = silent  # type: ignore[method-assign]
            await until(lambda: len(searches) == 3)

            assert client.entry_node == "a"

    run(scene)


def test_link_to_a_dead_node_ends_only_when_it_is_silent_too() -> None:
    async def scene() -> None:
        async with speakers("a", "b", "c") as (client, nodes):
            for name in ("b", "c"):
                await client.links.reach(name, nodes["a"].members[name].urls)
            await until(lambda: bool(nodes["b"].links and nodes["c"].links))
            answering = client.links.get("b")
            nodes["c"].fall_silent()

            nodes["a"].bury("b")
            nodes["a"].bury("c")
            await until(lambda: client.links.get("c") is None)

            assert client.links.get("b") is answering

    run(scene)


def test_former_entry_sends_no_more_when_it_is_back() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            link = await client.links.reach("b", nodes["a"].members["b"].urls)
            assert link is not None

            client.links.enter(link)
            await until(lambda: not nodes["a"].watched)

            assert client.entry_node == "b"

    run(scene)
