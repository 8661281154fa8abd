"""Two processes with one name: the one that lives keeps it."""

import asyncio

import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.node.node import Node
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import load_token

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
            states = {m.name: m.state for m in first.membership_driver.swim.members}
            assert set(states.values()) == {MemberState.ALIVE}
        finally:
            await second.stop(0)
            await first.stop(0)

    asyncio.run(scene())
