"""Nodes that are cut off for a while: links, dials, and how it ends."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mpreg_nb.node import dispatch as wall_module
from mpreg_nb.node.dispatch import ClusterId, Dispatcher, NodeLinks, PartitionFault
from mpreg_nb.node.membership import Members
from mpreg_nb.protocol.messages import Failed, Partition, Reply
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.dial import DialFailed
from tests.support.links import NODE, TOKEN, linked, numbered

URL = "ws://127.0.0.1:7400"
ENDS_S = 0.05


def fault_on(*links: object) -> PartitionFault:
    return PartitionFault(lambda: links, lambda node: (URL,) if node == NODE else ())  # type: ignore[arg-type, return-value]


def test_links_to_who_is_cut_off_fall_silent_and_end_when_it_is_over() -> None:
    async def scene() -> None:
        async with linked() as pair:
            fault = fault_on(pair.dialled)

            fault.bar([NODE, "n7"], ENDS_S)
            pair.dialled.send(numbered(1))
            barred, open_meanwhile = fault.bars(NODE), pair.dialled.is_open
            reason = await pair.dialled_ear.lost()

            assert barred
            assert open_meanwhile
            assert "cut off" in reason
            assert not fault.bars(NODE)
            await pair.accepted_ear.lost()
            assert pair.accepted_ear.messages == []

    asyncio.run(scene())


def test_links_to_others_go_on() -> None:
    async def scene() -> None:
        async with linked() as pair:
            fault = fault_on(pair.dialled)

            fault.bar(["n7"], 60)
            pair.dialled.send(numbered(1))

            assert (await pair.accepted_ear.message())[0] == numbered(1)
            await fault.pass_to(NODE)
            await fault.pass_to_url(URL)
            fault.stop()

    asyncio.run(scene())


def test_dials_wait_for_the_end_of_the_wall() -> None:
    async def scene() -> None:
        fault = fault_on()
        fault.bar([NODE], ENDS_S)

        await asyncio.gather(fault.pass_to(NODE), fault.pass_to_url(URL))

        assert not fault.bars(NODE)

    asyncio.run(scene())


def test_dials_that_wait_too_long_get_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wall_module, "CONNECT_TIMEOUT_S", 0.01)

    async def scene() -> None:
        fault = fault_on()
        fault.bar([NODE], 60)

        with pytest.raises(DialFailed) as caught:
            await fault.pass_to(NODE)

        assert caught.value.kind == "timed_out"
        fault.stop()

    asyncio.run(scene())


def test_longer_of_two_walls_counts() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        fault = fault_on()
        began_s = loop.time()
        fault.bar([NODE], ENDS_S)
        fault.bar([NODE], 3 * ENDS_S)
        fault.bar([NODE], 2 * ENDS_S)

        await fault.pass_to(NODE)

        assert loop.time() - began_s >= 3 * ENDS_S - 0.01
        assert not fault.bars(NODE)

    asyncio.run(scene())


def test_node_that_stops_leaves_no_link_behind_its_wall() -> None:
    async def scene() -> None:
        async with linked() as pair:
            fault = fault_on(pair.dialled)
            fault.bar([NODE], 60)
            pair.accepted.close()
            await pair.accepted.wait_closed()

            fault.stop()
            await pair.dialled.wait_closed()

            assert len(pair.dialled_ear.losses) == 1

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("role", "answer", "barred"), [("client", Reply, ["n2"]), ("node", Failed, [])]
)
def test_only_clients_may_cut_a_node_off(
    role: str, answer: type, barred: list[str]
) -> None:
    async def scene() -> None:
        told: list[Any] = []
        dispatcher = Dispatcher("n1", Limits(), asyncio.ensure_future)
        links = NodeLinks(
            NodeSettings(name="n1"),
            TOKEN,
            cluster=ClusterId(""),
            dispatcher=dispatcher,
            members=Members(SimpleNamespace(member=lambda name: None)),  # type: ignore[arg-type]
            spawn=asyncio.ensure_future,
            ssl_context=None,
        )
        dispatcher.handle(links.client_handlers(), nodes=False)
        link: Any = SimpleNamespace(peer=SimpleNamespace(role=role), send=told.append)
        hear = dispatcher.from_client if role == "client" else dispatcher.from_node

        hear(link, Partition(id=bytes(16), nodes=("n2",), for_ms=1500), ())

        assert [type(one) for one in told] == [answer]
        assert [
            name for name in ("n1", "n2") if links.partition_fault.bars(name)
        ] == barred
        links.partition_fault.stop()

    asyncio.run(scene())
