"""What a client does when its entry leaves, dies or hangs, or all nodes start again."""

import asyncio

import pytest

from mpreg_nb.client import cluster_view, connections, registrations
from mpreg_nb.client.calls import PLAIN
from mpreg_nb.client.client import Client
from mpreg_nb.client.connections import Connections
from mpreg_nb.client.registrations import Shipment
from mpreg_nb.errors import NodeLost
from mpreg_nb.protocol.messages import Failed, Notice, Register, Watch
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection
from tests.support.links import TOKEN, house
from tests.support.telling_nodes import run, speakers, until

PULSE_S = 0.05
VERSION = "ab" * 16
REBORN = "d2" * 16


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_view, "ENTRY_PULSE_S", PULSE_S)
    monkeypatch.setattr(registrations, "MISSED_S", PULSE_S)
    monkeypatch.setattr(connections, "REDIAL_S", 0.01)


def registering(client: Client) -> asyncio.Task[Shipment]:
    request = Register(
        id=client.requests.new_id(), function="train", version=VERSION, payload=b""
    )
    return asyncio.ensure_future(client.registrations.register(request, (b"code",)))


def test_a_call_that_comes_when_the_client_has_been_closed_ends_unsent() -> None:
    async def scene() -> None:
        async with speakers("a") as (client, _nodes):
            outcomes: list[object] = []

            def done(call: object, outcome: object, parts: object) -> None:
                outcomes.append(outcome)

            call = client.prepare("echo", (1,), {}, PLAIN, done)
            await client.close()
            client.calls.start(call)

            [outcome] = outcomes
            assert isinstance(outcome, Failed)
            assert outcome.failure.kind == "node_lost"
            assert outcome.failure.executed == "no"

    run(scene)


def test_a_link_that_opens_while_the_client_is_closed_is_not_kept() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            urls = nodes["b"].members["b"].urls
            await client.close()

            with pytest.raises(NodeLost, match="the client is closed"):
                await client.links.open(urls, 0.0)

            assert client.links.entry is None

    run(scene)


@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_registration_is_made_with_the_next_entry(end: str) -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            await client.links.reach("b", nodes["b"].members["b"].urls)
            nodes["a"].answers = False
            shipment = registering(client)
            await asyncio.sleep(0)

            nodes["a"].die() if end == "dies" else nodes["a"].fall_silent()

            assert (await shipment).registered.nodes == ("b",)
            assert client.entry_node == "b"

    run(scene)


def test_registration_waits_for_an_entry_while_there_is_no_link() -> None:
    async def scene() -> None:
        async with speakers("a") as (client, nodes):
            nodes["a"].answers = False
            shipment = registering(client)
            await asyncio.sleep(0)
            nodes["a"].answers = True

            nodes["a"].die()

            assert (await shipment).registered.nodes == ("a",)

    run(scene)


def test_question_ends_when_no_node_is_found_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", PULSE_S)

    async def scene() -> None:
        async with speakers("a") as (client, nodes):
            nodes["a"].answers = False
            shipment = registering(client)
            await asyncio.sleep(0)
            nodes["a"].cluster_id = REBORN  # another cluster has the port now
            nodes["a"].members.clear()
            client.state.update(await client.snapshot())

            nodes["a"].die()

            with pytest.raises(NodeLost, match="another cluster"):
                await shipment
            assert client.links.lost

    run(scene)


def test_client_moves_to_another_entry_when_its_own_leaves() -> None:
    async def scene() -> None:
        async with speakers("a", "b", "c") as (client, nodes):
            leaving = client.links.entry
            assert leaving is not None

            nodes["a"].links[0].send(Notice(kind="draining"))
            await until(lambda: client.entry_node != "a")

            assert leaving.is_open  # what runs there ends there
            entry = nodes[client.entry_node]
            await until(lambda: bool(entry.links))
            entry.links[0].send(Notice(kind="draining"))
            await until(lambda: client.entry_node not in ("a", entry.name))

    run(scene)


def test_client_leaves_a_leaving_entry_as_soon_as_it_knows_another_node() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            other = nodes["a"].members.pop("b")
            nodes["a"].tell_all()
            await until(lambda: len(client.state.nodes) == 1)
            nodes["a"].links[0].send(Notice(kind="draining"))

            nodes["a"].members["b"] = other
            nodes["a"].tell_all()

            await until(lambda: client.entry_node == "b")

    run(scene)


def test_client_finds_nodes_that_were_all_started_again_in_another_cluster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            await registering(client)
            for node in nodes.values():
                node.cluster_id = REBORN

            for node in nodes.values():
                node.die()
            await until(lambda: any(node.offers for node in nodes.values()))

            assert client.links.cluster_id == REBORN

    run(scene)

    told = capsys.readouterr().err
    assert told == (
        "mpreg_nb: registered 1 function again (train): all nodes that held it had "
        "been started again\n"
    )


def test_client_does_not_take_nodes_of_another_cluster_for_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", PULSE_S)

    async def scene() -> None:
        async with (
            house(node_name="x", cluster_id=lambda: REBORN) as other,
            speakers("a") as (client, nodes),
        ):
            client.reach_also([other.listener.url])
            nodes["a"].cluster_id = "e3" * 16
            nodes["a"].members.clear()
            client.state.update(await client.snapshot())

            nodes["a"].die()
            await until(lambda: client.links.lost)

            assert client.links.entry is None

    run(scene)


def test_client_looks_for_nodes_for_as_long_as_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", PULSE_S)
    monkeypatch.setattr(connections, "SELDOM_S", PULSE_S)

    async def scene() -> None:
        async with speakers("a") as (client, nodes):
            own, nodes["a"].cluster_id = nodes["a"].cluster_id, REBORN
            members = dict(nodes["a"].members)
            nodes["a"].members.clear()
            client.state.update(await client.snapshot())
            nodes["a"].die()
            await until(lambda: client.links.lost)

            nodes["a"].members.update(members)
            nodes["a"].cluster_id = own

            await until(lambda: client.links.entry is not None)
            assert not client.links.lost

    run(scene)


def test_function_that_every_node_has_lost_is_registered_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def scene() -> None:
        async with speakers("a") as (client, nodes):
            await registering(client)
            nodes["a"].tell_all()
            await client.snapshot()

            nodes["a"].offers.clear()  # the node that held it has died
            nodes["a"].tell_all()

            await until(lambda: bool(nodes["a"].offers))

    run(scene)

    assert "registered 1 function again (train)" in capsys.readouterr().err


def test_silent_link_is_given_up_once_somebody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "BUSY_PULSE_S", PULSE_S)

    async def scene() -> None:
        async with speakers("a", "b", "c") as (client, nodes):
            for name in ("b", "c"):
                await client.links.reach(name, nodes[name].members[name].urls)
                await until(lambda name=name: bool(nodes[name].links))  # type: ignore[misc]
                nodes[name].fall_silent()
            waited_for = client.links.get("b")

            request = Watch(id=client.requests.new_id())
            with pytest.raises(NodeLost, match="no sign of life"):
                await client.requests.ask(request, link=waited_for)

            assert client.links.get("b") is None
            assert client.links.get("c") is not None

    run(scene)


class Mortal:
    """The links of a client to a node; some of them end as soon as they open."""

    def __init__(self, url: str, dying: set[int]) -> None:
        """dying: which of the links, counted from 1."""
        self.opened = 0
        self.entries: asyncio.Queue[Connection] = asyncio.Queue()
        self._dying = dying
        self.links = Connections(
            TOKEN,
            name="me",
            limits=Limits(),
            on_open=self.open,
            on_lost=lambda link, reason: None,
            on_entry=lambda link, after_none: self.entries.put_nowait(link),
            on_cut_off=lambda reason: None,
            known_urls=lambda: (url,),
            standing=lambda node: 0,
            is_busy=lambda link: False,
        )

    def open(self, link: Connection) -> None:
        self.opened += 1
        if self.opened in self._dying:
            link.give_up("its node was killed")


def test_a_link_that_ends_as_it_opens_does_not_become_the_entry() -> None:
    async def scene() -> None:
        async with house() as home:
            client = Mortal(home.listener.url, dying={1})

            await client.links.open([home.listener.url])

            assert client.opened == 2
            assert client.links.entry is not None
            assert client.links.entry.is_open
            await client.links.close()

    run(scene)


def test_a_link_that_ends_as_it_opens_does_not_end_the_search_for_an_entry() -> None:
    async def scene() -> None:
        async with house() as home:
            client = Mortal(home.listener.url, dying={2})
            await client.links.open([home.listener.url])
            first = await client.entries.get()

            first.give_up("its node was killed")
            entry = await client.entries.get()

            assert client.opened == 3
            assert entry.is_open
            await client.links.close()

    run(scene)


def test_a_question_on_a_link_that_is_gone_ends_at_once() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            link = await client.links.reach("b", nodes["b"].members["b"].urls)
            assert link is not None
            link.give_up("its node was killed")
            await link.wait_closed()

            request = Watch(id=client.requests.new_id())
            with pytest.raises(NodeLost) as lost:
                await client.requests.ask(request, link=link)

            assert (lost.value.node, lost.value.executed) == ("b", "no")

    run(scene)
