"""Two processes with one name: the one that lives keeps it."""

import asyncio

import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.node.node import Node
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import load_token
from mpreg_nb.wire.gossip import MemberState

pytestmark = pytest.mark.live


async def started(name: str, *join: str) -> Node:
    node = Node(NodeSettings(name=name, workers=0, join=join), load_token())
    await node.start()
    return node


def test_newcomer_with_the_name_of_a_live_node_is_refused() -> None:
    async def scene() -> None:
        first = await started("first")
        second = await started("second", first.url)
        try:
            for taken in ("first", "second"):
                with pytest.raises(MpregError, match=f"is named '{taken}'"):
                    await started(taken, first.url)
            states = {m.name: m.state for m in first.gossiping.swim.members}
            assert set(states.values()) == {MemberState.ALIVE}
        finally:
            await second.stop(0)
            await first.stop(0)

    asyncio.run(scene())


def test_node_that_crashed_gets_its_name_back_at_once() -> None:
    async def scene() -> None:
        first = await started("first")
        second = await started("second", first.url)
        old = second.gossiping.swim.me.epoch
        # As a crash does: links break without a goodbye.
        second.gossiping.stop()
        await second.peers.close()
        again = await started("second", first.url)
        try:
            member = first.gossiping.swim.member("second")
            assert member is not None
            assert member.record.epoch != old
            assert member.state is MemberState.ALIVE
        finally:
            await again.stop(0)
            await second.stop(0)
            await first.stop(0)

    asyncio.run(scene())
