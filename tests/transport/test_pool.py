"""Links by node name: shared dials, queues, and dials that cross."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.errors import NotTrusted
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.transport import pool as peers_module
from mpreg_nb.transport.connection import Connection, FailureKind, Lane
from mpreg_nb.transport.dial import DialFailed
from mpreg_nb.transport.listener import Listener, listen
from mpreg_nb.transport.pool import LONGEST_QUEUE, ConnectionPool, keeps_new_link
from mpreg_nb.transport.token import Token
from tests.support.links import CLUSTER, OTHER_TOKEN, TOKEN, house, numbered


@dataclass(eq=False)
class Member:
    """A node that only has links, and all that its ConnectionPool told it."""

    name: str
    token: Token = TOKEN
    cluster: str = CLUSTER
    messages: list[tuple[str, Any]] = field(default_factory=list)  # from, message
    opened: list[Connection] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, Lane, FailureKind]] = field(default_factory=list)
    unsent: list[tuple[str, Any, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    peers: ConnectionPool = field(init=False)
    listener: Listener = field(init=False)

    def __post_init__(self) -> None:
        self.peers = ConnectionPool(
            token=self.token,
            role="node",
            name=self.name,
            cluster_id=lambda: self.cluster,
            on_open=self._on_open,
            on_lost=lambda link, why: self._note(self.lost, (link.peer.name, why)),
            on_failed=lambda node, lane, kind, detail: self._note(
                self.failed, (node, lane, kind)
            ),
            on_unsent=self._on_unsent,
        )

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.listener.url,)

    async def start(self) -> None:
        self.listener = await listen(
            token=self.token,
            node_name=self.name,
            cluster_id=lambda: self.cluster,
            on_connection=self.peers.accept,
        )

    async def until(self, what: list[Any], count: int) -> None:
        while len(what) < count:
            self.changed.clear()
            await self.changed.wait()

    def _on_open(self, link: Connection) -> None:
        link.on_message = lambda link, message, parts: self._note(
            self.messages, (link.peer.name, message)
        )
        self._note(self.opened, link)

    def _on_unsent(
        self, node: str, lane: Lane, message: Any, parts: Parts, reason: str
    ) -> None:
        self._note(self.unsent, (node, message, reason))

    def _note(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self.changed.set()


@asynccontextmanager
async def members(*names: str, **options: Any) -> AsyncIterator[list[Member]]:
    found = [Member(name, **options) for name in names]
    for member in found:
        await member.start()
    try:
        yield found
    finally:
        for member in found:
            await member.peers.close()
        for member in found:
            await member.listener.close()


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{probe.getsockname()[1]}"


async def test_a_link_serves_both_ends_whoever_dialled() -> None:
    async with members("a", "b") as (a, b):
        link = await a.peers.dial("b", b.urls, "data")
        await b.until(b.opened, 1)

        a.peers.send("b", "data", numbered(1))
        b.peers.send("a", "data", numbered(2))
        await b.until(b.messages, 1)
        await a.until(a.messages, 1)

        assert a.peers.get("b", "data") is link
        assert a.peers.get("b", "control") is None
        assert (a.messages, b.messages) == ([("b", numbered(2))], [("a", numbered(1))])


async def test_lanes_are_links_of_their_own() -> None:
    async with members("a", "b") as (a, b):
        data = await a.peers.dial("b", b.urls, "data")
        control = await a.peers.dial("b", b.urls, "control")

        assert data is not control
        assert (data.peer.lane, control.peer.lane) == ("data", "control")
        assert set(a.peers.links()) == {data, control}


async def test_dials_at_the_same_time_share_one_link() -> None:
    async with members("a", "b") as (a, b):
        links = await asyncio.gather(
            *(a.peers.dial("b", b.urls, "data") for _ in range(20))
        )
        again = await a.peers.dial("b", b.urls, "data")

        assert len({*links, again}) == 1
        assert len(a.opened) == len(b.opened) == 1


async def test_a_waiter_that_is_cancelled_does_not_end_the_dial() -> None:
    async with members("a", "b") as (a, b):
        waiters = [
            asyncio.create_task(a.peers.dial("b", b.urls, "data")) for _ in range(2)
        ]
        await asyncio.sleep(0)
        waiters[0].cancel()

        link = await waiters[1]

        assert link.is_open
        assert waiters[0].cancelled()


async def test_urls_are_tried_in_order() -> None:
    async with members("a", "b") as (a, b), house() as other:
        urls = (free_url(), other.listener.url, *b.urls)

        link = await a.peers.dial("b", urls, "data")

        assert link.peer.name == "b"
        assert other.ears == []


async def test_messages_wait_for_the_dial_in_order() -> None:
    async with members("a", "b") as (a, b):
        a.peers.reach("b", b.urls, "data")
        a.peers.reach("b", b.urls, "data")
        for number in range(100):
            a.peers.send("b", "data", numbered(number))
        await b.until(b.messages, 100)
        a.peers.reach("b", b.urls, "data")

        assert b.messages == [("a", numbered(number)) for number in range(100)]
        assert len(a.opened) == 1
        assert a.unsent == []


async def test_without_a_link_or_a_dial_a_message_is_reported_at_once() -> None:
    async with members("a") as (a,):
        a.peers.send("b", "data", numbered(1))

        assert a.unsent == [("b", numbered(1), "there is no connection")]


async def test_what_waits_for_a_dial_is_bounded() -> None:
    async with members("a") as (a,):
        a.peers.reach("b", (free_url(),), "data")
        for number in range(LONGEST_QUEUE + 1):
            a.peers.send("b", "data", numbered(number))

        assert [message for _, message, _ in a.unsent] == [numbered(LONGEST_QUEUE)]
        await a.until(a.unsent, LONGEST_QUEUE + 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nobody there", "refused"),
        ("no url", "refused"),
        ("another token", "not_trusted"),
        ("another cluster", "wrong_cluster"),
        ("another node", "wrong_node"),
    ],
)
async def test_a_failed_dial_says_why_and_reports_what_waited(
    kind: str, expected: FailureKind
) -> None:
    options: dict[str, dict[str, Any]] = {
        "another token": {"token": OTHER_TOKEN},
        "another cluster": {"cluster_id": lambda: "c9"},
    }
    async with members("a") as (a,), house(**options.get(kind, {})) as other:
        urls: dict[str, tuple[str, ...]] = {
            "nobody there": (free_url(),),
            "no url": (),
        }
        node = "b" if kind == "another node" else "n1"
        a.peers.reach(node, urls.get(kind, (other.listener.url,)), "data")
        a.peers.send(node, "data", numbered(1))
        a.peers.send(node, "data", numbered(2))

        await a.until(a.unsent, 2)

        assert a.failed == [(node, "data", expected)]
        assert [message for _, message, _ in a.unsent] == [numbered(1), numbered(2)]
        assert a.peers.get(node, "data") is None


async def test_the_worst_failure_of_several_urls_is_reported() -> None:
    async with members("a") as (a,), house(token=OTHER_TOKEN) as other:
        urls = (free_url(), other.listener.url, free_url())

        with pytest.raises(NotTrusted):
            await a.peers.dial("n1", urls, "data")
        with pytest.raises(DialFailed) as caught:
            await a.peers.dial("n1", (free_url(),), "data")

        assert caught.value.kind == "refused"
        assert [kind for _, _, kind in a.failed] == ["not_trusted", "refused"]


async def test_a_lost_link_is_reported_and_dialled_again() -> None:
    async with members("a", "b") as (a, b):
        first = await a.peers.dial("b", b.urls, "data")
        await b.until(b.opened, 1)
        b.opened[0].close(1001, "bye")
        await a.until(a.lost, 1)

        a.peers.send("b", "data", numbered(1))
        second = await a.peers.dial("b", b.urls, "data")

        assert a.lost == [("b", "closed by the other end: 1001 bye")]
        assert a.unsent == [("b", numbered(1), "there is no connection")]
        assert second is not first
        assert a.peers.get("b", "data") is second


async def test_a_link_that_is_closing_is_used_no_more() -> None:
    async with members("a", "b") as (a, b):
        first = await a.peers.dial("b", b.urls, "data")
        first.close()

        second = await a.peers.dial("b", b.urls, "data")
        await a.until(a.lost, 1)

        assert second is not first
        assert a.peers.get("b", "data") is second


@pytest.mark.parametrize("lane", ["control", "data"])
@pytest.mark.parametrize("seed", range(8))
async def test_of_dials_that_cross_both_ends_use_the_same_link(
    lane: Lane, seed: int
) -> None:
    async with members("a", "b") as (a, b):
        order = (a, b) if seed % 2 else (b, a)
        for member in order:
            other = b if member is a else a
            member.peers.reach(other.name, other.urls, lane)
            member.peers.send(other.name, lane, numbered(seed))
            for _ in range(seed // 2 * 3):
                await asyncio.sleep(0)
        await a.peers.dial("b", b.urls, lane)
        await b.peers.dial("a", a.urls, lane)
        if lane == "data":
            await a.until(a.messages, 1)
            await b.until(b.messages, 1)
        else:
            while len(a.peers.links()) + len(b.peers.links()) > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # until the other one is closed

        link_a, link_b = a.peers.get("b", lane), b.peers.get("a", lane)

        assert link_a is not None
        assert link_b is not None
        assert link_a.peer.dialled is not link_b.peer.dialled
        if len(a.opened) == 2:  # they did cross
            assert link_a.peer.dialled
        assert a.unsent == b.unsent == []


async def test_a_spare_takes_over_when_the_link_in_use_is_lost() -> None:
    async with members("a", "b") as (a, b):
        await asyncio.gather(
            a.peers.dial("b", b.urls, "data"), crossed(b, a), return_exceptions=True
        )
        await a.until(a.opened, 2)
        await b.until(b.opened, 2)
        used = a.peers.get("b", "data")
        assert used is not None

        used.close()
        await a.until(a.lost, 1)
        await b.until(b.lost, 1)
        a.peers.send("b", "data", numbered(1))
        await b.until(b.messages, 1)

        spare = a.peers.get("b", "data")
        assert spare is not None
        assert spare is not used
        assert used.peer.dialled is not spare.peer.dialled


async def crossed(member: Member, other: Member) -> None:
    """Open a link as one does whose dial crossed, whatever links there are."""
    await member.peers._dial_url(other.urls[0], other.name, "data")


async def test_a_newer_link_replaces_an_old_one_that_the_other_end_has_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers_module, "SAME_MOMENT_S", 0.0)
    async with members("a", "b") as (a, b):
        old = await a.peers.dial("b", b.urls, "control")
        await b.until(b.opened, 1)

        await b.peers._dial_url(a.urls[0], "a", "control")
        await a.until(a.opened, 2)

        now = a.peers.get("b", "control")
        assert now is a.opened[1]
        assert not now.peer.dialled
        assert not old.is_open


async def test_a_link_opened_elsewhere_is_taken_in_under_the_name_it_proved() -> None:
    async with members("a", "b") as (a, b):
        await a.peers._dial_url(b.urls[0], "", "data")

        a.peers.send("b", "data", numbered(1))
        await b.until(b.messages, 1)

        assert b.messages == [("a", numbered(1))]


async def test_closing_what_leads_to_a_node_leaves_the_others() -> None:
    async with members("a", "b", "c") as (a, b, c):
        for member in (b, c):
            for lane in ("control", "data"):
                await a.peers.dial(member.name, member.urls, lane)
        a.peers.close_link("b", 1001, "you left")
        await a.until(a.lost, 2)

        assert a.peers.get("b", "data") is None
        assert a.peers.get("b", "control") is None
        assert {link.peer.name for link in a.peers.links()} == {"c"}


async def test_giving_up_a_node_ends_its_dial_and_reports_what_waited() -> None:
    async with members("a") as (a,):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
            a.peers.reach("b", (url,), "data")
            a.peers.send("b", "data", numbered(1))
            waiter = asyncio.create_task(a.peers.dial("b", (url,), "data"))
            await asyncio.sleep(0.01)

            a.peers.close_link("b")
            with pytest.raises(DialFailed, match="abandoned"):
                await waiter

            assert [message for _, message, _ in a.unsent] == [numbered(1)]


async def test_closing_ends_dials_that_have_not_started() -> None:
    async with members("a") as (a,):
        a.peers.reach("b", (free_url(),), "data")
        a.peers.send("b", "data", numbered(1))

        await a.peers.close()

        assert len(a.unsent) == 1
        assert a.peers.links() == ()


async def test_a_fault_in_a_dial_reaches_those_who_wait_for_it(
    loop_errors: list[dict[str, Any]],
) -> None:
    async with members("a", "b") as (a, b):

        def fail(_: Connection) -> None:
            raise LookupError("a fault of the owner")

        a.peers._on_open = fail
        a.peers.reach("b", b.urls, "data")
        a.peers.send("b", "data", numbered(1))
        with pytest.raises(LookupError):
            await a.peers.dial("b", b.urls, "data")

        assert a.failed == []
        assert a.unsent == [("b", numbered(1), "a fault of the owner")]
        assert a.peers.links() == ()
        assert len(loop_errors) == 1
        loop_errors.clear()


@given(first_by_a=st.booleans(), second_by_a=st.booleans(), age_s=st.floats(0.0, 60.0))
def test_both_ends_keep_the_same_of_two_links(
    first_by_a: bool, second_by_a: bool, age_s: float
) -> None:
    a_keeps_new = keeps_new_link(
        "a",
        "b",
        new_dialled_here=second_by_a,
        old_dialled_here=first_by_a,
        old_age_s=age_s,
    )
    b_keeps_new = keeps_new_link(
        "b",
        "a",
        new_dialled_here=not second_by_a,
        old_dialled_here=not first_by_a,
        old_age_s=age_s,
    )

    assert a_keeps_new == b_keeps_new


def test_of_dials_that_crossed_that_of_the_smaller_name_stays() -> None:
    kept = keeps_new_link(
        "a", "b", new_dialled_here=True, old_dialled_here=False, old_age_s=0.1
    )

    assert kept
