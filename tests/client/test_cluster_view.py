"""Through whose eyes a client sees the cluster, when one of them closes."""

import pytest
from msgspec.structs import replace

from mpreg_nb.client import cluster_view
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.protocol.gossip import Offer
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.transport.connection import Connection
from tests.support.telling_nodes import run, speakers, until

PULSE_S = 0.05


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
            searched = client.view._silent
            searches: list[Connection] = []

            def silent(link: Connection) -> None:
                searches.append(link)
                searched(link)

            client.view._silent = silent  # type: ignore[method-assign]
            await until(lambda: len(searches) == 3)

            assert client.entry_node == "a"

    run(scene)


def test_silent_entry_is_watched_on_when_the_node_that_answered_is_gone() -> None:
    async def scene() -> None:
        async with speakers("a", "b") as (client, nodes):
            gone = await client.links.reach("b", nodes["b"].members["b"].urls)
            assert gone is not None
            gone.give_up("it died after its answer")

            async def answer(snapshot: object) -> Connection:
                return gone

            client.view._try = answer  # type: ignore[method-assign]
            searched = client.view._silent
            searches: list[Connection] = []

            def silent(link: Connection) -> None:
                searches.append(link)
                searched(link)

            client.view._silent = silent  # type: ignore[method-assign]
            nodes["a"].fall_silent()

            await until(lambda: len(searches) == 2)

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


# ------------------------------------------------------------ what changed alone


def offer(function: str, version: str = "1") -> tuple[str, Offer]:
    return "a", Offer(function=function, version=version * 32, origin="a")


def told(*offers: tuple[str, Offer], **fields: object) -> Snapshot:
    plain: dict[str, object] = {"id": bytes(16), "node": "a", "nodes": ()}
    return Snapshot(**plain | {"offers": offers, "mark": ("p", 1)} | fields)  # type: ignore[arg-type]


def test_state_keeps_what_a_snapshot_does_not_speak_of() -> None:
    state = ClusterState()
    state.update(told(offer("kept"), offer("new"), offer("gone")))
    state.registered(offer("own")[1])

    state.update(told(offer("new", "2"), mark=("p", 2), changed=("gone", "new")))

    assert state.functions == {"kept", "new", "own"}
    newest = state.newest("new")
    assert newest is not None
    assert newest.version == "2" * 32
    assert state.newest("gone") is None
    assert state.snapshot is not None
    assert sorted(one.function for _, one in state.snapshot.offers) == ["kept", "new"]
    assert state.mark == ("p", 2)


def test_state_keeps_own_registrations_until_a_snapshot_has_them() -> None:
    def versions() -> list[tuple[str, str]]:
        return sorted((node, one.version[0]) for node, one in state.offers("f"))

    def own(version: str, counter: int, origin: str = "a") -> Offer:
        offered = Offer(function="f", version=version * 32, origin=origin)
        return replace(offered, counter=counter)

    state = ClusterState()
    state.update(told())
    first, second, other = own("1", 1), own("2", 2), own("3", 2, "b")
    for offered in (first, second, other):
        state.registered(offered)

    state.update(told(mark=("p", 2), changed=()))
    assert versions() == [("a", "1"), ("a", "2"), ("b", "3")]

    state.update(told(("a", first), mark=("p", 3), changed=("f",)))
    assert versions() == [("a", "1"), ("a", "2"), ("b", "3")]

    state.update(told(("a", second), mark=("p", 4), changed=("f",)))
    assert versions() == [("a", "2"), ("b", "3")]


def test_changes_apply_only_to_state_from_the_same_process() -> None:
    state = ClusterState()
    state.update(told(offer("f")))

    assert state.continues(told(mark=("p", 2), changed=()))
    assert state.continues(told(mark=("other", 2)))
    assert not state.continues(told(mark=("other", 2), changed=()))


def test_client_asks_for_a_full_snapshot_after_changes_to_an_unknown_state() -> None:
    async def scene() -> None:
        async with speakers("a") as (client, nodes):
            [before] = nodes["a"].watched
            news = told(offer("f"), id=before, mark=("other", 2), changed=("f",))

            nodes["a"].links[0].send(news)
            await until(lambda: before not in nodes["a"].watched)
            await until(lambda: bool(nodes["a"].watched))

            assert client.state.functions == set()

    run(scene)
