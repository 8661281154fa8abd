"""What nodes tell of the bytes and messages that went over their links."""

import asyncio

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.protocol.messages import LinkSnapshot, Traffic, TrafficRequest

pytestmark = pytest.mark.live


async def traffic(
    cluster: mp.AsyncCluster, node: str
) -> dict[tuple[str, str], LinkSnapshot]:
    """Ask one node; role and peer -> what went between the two."""
    client = parts_of(cluster).client
    record = client.state.record(node)
    assert record is not None
    link = await client.links.reach(node, record.urls)
    said, _ = await client.requests.ask(
        TrafficRequest(id=client.requests.new_id()), link=link
    )
    assert isinstance(said, Traffic)
    assert said.node == node
    return {(link.role, link.peer): link for link in said.links}


async def traffic_of_calls(url: str) -> None:
    async with mp.connect_async(url) as cluster:
        await cluster.on(node="n1").call("echo", b"")  # opens the link
        await cluster.on(node="n2").call("echo", b"")
        before = await traffic(cluster, "n1")

        for _ in range(10):
            await cluster.on(node="n1").call("echo", b"x" * 1000)

        after = await traffic(cluster, "n1")
        me = parts_of(cluster).client.links.name
        grown, known = after["client", me], before["client", me]
        assert ("node", "n2") in after
        assert grown.received_bytes - known.received_bytes > 10_000
        assert grown.sent_bytes - known.sent_bytes > 10_000
        assert grown.received_messages - known.received_messages >= 10
        assert grown.sent_messages - known.sent_messages >= 10
        assert after["node", "n2"].sent_bytes > 0
        assert (await traffic(cluster, "n2"))["node", "n1"].received_bytes > 0


def test_a_node_counts_what_went_between_it_and_each_peer() -> None:
    with mp.up(2, fresh=True) as cluster:
        asyncio.run(traffic_of_calls(cluster.urls[0]))
