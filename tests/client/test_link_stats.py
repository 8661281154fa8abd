import asyncio
from typing import Any

from mpreg_nb.client.statistics import EVERY_S, LinkStatsPoll
from mpreg_nb.errors import NodeLost
from mpreg_nb.protocol.messages import Traffic, TrafficRequest


class Links:
    """Links to nodes of these names."""

    def __init__(self, *names: str) -> None:
        self.open_links = names

    def direct(self, node: str, urls: tuple[str, ...]) -> str | None:
        return node if node in self.open_links else None


class Client:
    """Answers for nodes: n1 and n2 at once, "lost" with an error, "paused" never."""

    def __init__(self, *names: str) -> None:
        self.links = Links(*names)
        self.asked: list[str] = []
        self.now_s = 100.0

    def new_id(self) -> bytes:
        return b"i" * 16

    async def ask(self, request: TrafficRequest, *, link: str) -> tuple[Any, tuple[()]]:
        self.asked.append(link)
        if link == "lost":
            raise NodeLost("lost", "it is gone", executed="unknown")
        if link == "paused":
            await asyncio.Event().wait()
        return Traffic(id=request.id, node=link, links=()), ()


def poll_of(client: Client) -> LinkStatsPoll:
    return LinkStatsPoll(client.links, client, lambda: client.now_s)  # type: ignore[arg-type]


def test_all_nodes_that_can_be_reached_are_asked() -> None:
    async def check() -> None:
        client = Client("n1", "n2", "lost")
        poll = poll_of(client)

        await poll.ask()

        assert sorted(client.asked) == ["lost", "n1", "n2"]
        assert [told.node for told in poll.told] == ["n1", "n2"]
        assert (poll.round, poll.told_at) == (1, 100.0)

    asyncio.run(check())


def test_nodes_are_asked_at_most_so_often() -> None:
    async def check() -> None:
        client = Client("n1")
        poll = poll_of(client)
        await poll.ask()

        client.now_s += EVERY_S - 0.01
        await poll.ask()
        early = len(client.asked)
        client.now_s += 0.01
        await poll.ask()

        assert (early, len(client.asked), poll.round) == (1, 2, 2)

    asyncio.run(check())


def test_many_nodes_are_asked_more_seldom() -> None:
    async def check() -> None:
        client = Client(*(f"n{place}" for place in range(100)))
        poll = poll_of(client)
        await poll.ask()

        client.now_s += 4.9
        await poll.ask()
        early = poll.round
        client.now_s += 0.2
        await poll.ask()

        assert (early, poll.round) == (1, 2)

    asyncio.run(check())


def test_a_node_that_does_not_answer_holds_nobody_up() -> None:
    async def check() -> None:
        client = Client("n1", "paused")
        poll = poll_of(client)

        await asyncio.wait_for(poll.ask(), 60)

        assert [told.node for told in poll.told] == ["n1"]

    asyncio.run(check())


def test_one_round_is_asked_at_a_time() -> None:
    async def check() -> None:
        client = Client("paused")
        poll = poll_of(client)

        poll.begin()
        await asyncio.sleep(0)
        client.now_s += 10 * EVERY_S
        poll.begin()
        await poll.ask()

        assert client.asked == ["paused"]
        assert poll.told == ()

    asyncio.run(check())
