"""Fake nodes in this process that report the members, and a client of them.

They also keep registrations of functions, and send them to no other node.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from msgspec.structs import replace

from mpreg_nb.client.client import Client
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.gossip import MemberRecord, MemberState, Offer
from mpreg_nb.protocol.messages import (
    Cancel,
    NodeSnapshot,
    Register,
    Registered,
    Snapshot,
    Watch,
)
from mpreg_nb.transport.connection import Connection, LinkFault
from tests.support.links import CLUSTER, TOKEN, house


class Speaker:
    """A node that sends its list of members, and keeps all registrations."""

    def __init__(self, name: str, members: dict[str, MemberRecord]) -> None:
        self.name = name
        self.members = members
        self.cluster_id = CLUSTER
        self.answers = True  # registrations
        self.offers: list[tuple[str, Offer]] = []
        self.links: list[Connection] = []
        self.cuts: list[LinkFault] = []
        self.watched: dict[bytes, Connection] = {}  # by the id of the Watch

    def welcome(self, link: Connection) -> None:
        self.links.append(link)
        link.on_message = self.hear

    def fall_silent(self) -> None:
        """Send and receive nothing from now on, as a process that hangs."""
        self.cuts += [link.cut() for link in self.links]

    def die(self) -> None:
        """Close all links without a goodbye, and forget all state."""
        self.offers.clear()
        self.watched.clear()
        for link in self.links:
            link.give_up("this node died")
        self.links.clear()

    def hear(self, link: Connection, message: Any, parts: Parts) -> None:
        if isinstance(message, Watch):
            if message.period_ms:
                self.watched[message.id] = link
            self.tell(message.id, link)
        elif isinstance(message, Cancel):
            self.watched.pop(message.id, None)
        elif isinstance(message, Register) and self.answers:
            offer = Offer(
                function=message.function, version=message.version, origin=self.name
            )
            self.offers.append((self.name, offer))
            link.send(Registered(id=message.id, offer=offer, nodes=(self.name,)))

    def tell(self, request_id: bytes, link: Connection) -> None:
        nodes = tuple(NodeSnapshot(record=one) for one in self.members.values())
        offers = tuple(self.offers)
        link.send(Snapshot(id=request_id, node=self.name, nodes=nodes, offers=offers))

    def bury(self, name: str) -> None:
        """Report `name` as dead to all watchers."""
        self.members[name] = replace(self.members[name], state=MemberState.DEAD)
        self.tell_all()

    def tell_all(self) -> None:
        """Send the current snapshot to all watchers."""
        for request_id, link in self.watched.items():
            self.tell(request_id, link)


@asynccontextmanager
async def speakers(*names: str) -> AsyncIterator[tuple[Client, dict[str, Speaker]]]:
    """Yield a client, whose entry is the first of some nodes, and the nodes."""
    members: dict[str, MemberRecord] = {}
    found = {name: Speaker(name, members) for name in names}
    async with AsyncExitStack() as homes:
        for name, speaker in found.items():
            home = await homes.enter_async_context(
                house(
                    node_name=name,
                    on_connection=speaker.welcome,
                    cluster_id=partial(getattr, speaker, "cluster_id"),
                )
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
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(bounded())
