"""What nodes tell of the bytes and messages that went over their links."""

import pytest

import mpreg_nb as mp
from mpreg_nb.protocol.messages import LinkSnapshot, Traffic, TrafficRequest

pytestmark = pytest.mark.live


def traffic(cluster: mp.Cluster, node: str) -> dict[tuple[str, str], LinkSnapshot]:
    """Ask one node; role and peer -> what went between the two."""
    client = cluster.client

    async def ask() -> Traffic:
        record = client.mirror.record(node)
        assert record is not None
        link = await client.links.reach(node, record.urls)
        answer, _ = await client.requests.ask(
            TrafficRequest(id=client.requests.new_id()), link=link
        )
        assert isinstance(answer, Traffic)
        return answer

    said = cluster._thread.run(ask())
    assert said.node == node
    return {(link.role, link.peer): link for link in said.links}


def test_a_node_counts_what_went_between_it_and_each_peer() -> None:
    with mp.up(2, fresh=True) as cluster:
        cluster.on(node="n1").call("echo", b"")  # opens the link
        cluster.on(node="n2").call("echo", b"")
        before = traffic(cluster, "n1")

        for _ in range(10):
            cluster.on(node="n1").call("echo", b"x" * 1000)

        after = traffic(cluster, "n1")
        (client,) = (peer for role, peer in after if role == "client")
        grown = after["client", client]
        known = before["client", client]
        assert set(after) == {("node", "n2"), ("client", client)}
        assert grown.received_bytes - known.received_bytes > 10_000
        assert grown.sent_bytes - known.sent_bytes > 10_000
        assert grown.received_messages - known.received_messages >= 10
        assert grown.sent_messages - known.sent_messages >= 10
        assert after["node", "n2"].sent_bytes > 0
        assert traffic(cluster, "n2")["node", "n1"].received_bytes > 0
