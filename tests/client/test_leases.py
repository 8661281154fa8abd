"""When a client asks for a worker that takes its calls directly."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from mpreg_nb.client.leases import Key, LeasedWorkers
from mpreg_nb.protocol.messages import Ids, LeaseAnswer, LeaseRequest

SHORT: Key = ("f", "short", frozenset())
UNKNOWN: Key = ("g", "unknown", frozenset())


class Link:
    """A link to a node of this machine that answers nothing by itself."""

    def __init__(self) -> None:
        self.peer = SimpleNamespace(carrier="unix", name="n1")
        self.asked: list[LeaseRequest] = []

    def send(self, message: LeaseRequest) -> None:
        self.asked.append(message)


class Client:
    """Calls of one client at a node."""

    def __init__(self) -> None:
        self.link: Any = Link()
        self.decided = asyncio.Event()
        self.workers = LeasedWorkers(
            is_wanted=lambda: True,
            workers_of=lambda _: (1, 1),
            new_id=Ids().next,
            said=lambda *_: None,
            returned=lambda *_: None,
            lost=lambda _: None,
            decided=self.decided.set,
        )
        self.workers.learn(SHORT[1], run_us=20)

    def waits(self, key: Key = SHORT, *, under_way: int = 0, now: float = 0.0) -> bool:
        """Say whether a call waits for a worker."""
        return self.workers.is_awaited(self.link, key, under_way, now)

    def refuse(self) -> None:
        """Answer that there is no worker now."""
        answer = LeaseAnswer(id=self.link.asked[-1].id)
        self.workers.receive(self.link, answer)


def run(scenario: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        client = Client()
        await scenario(client)
        client.workers.stop()

    asyncio.run(within())


def test_a_worker_is_asked_for_at_the_second_call() -> None:
    async def scenario(client: Client) -> None:
        assert not client.waits()
        assert client.waits()
        assert client.waits()  # for the same answer

        assert len(client.link.asked) == 1

    run(scenario)


def test_short_calls_wait_until_those_before_them_have_ended() -> None:
    async def scenario(client: Client) -> None:
        client.waits()

        assert client.waits(under_way=3)
        assert client.link.asked == []
        assert client.waits(under_way=0)
        assert len(client.link.asked) == 1

    run(scenario)


def test_they_do_not_wait_long_for_that() -> None:
    async def scenario(client: Client) -> None:
        client.waits()
        client.waits(under_way=3)

        await client.decided.wait()

        assert not client.waits(under_way=3)
        assert client.link.asked == []

    run(scenario)


def test_calls_of_unknown_time_wait_for_no_others() -> None:
    async def scenario(client: Client) -> None:
        client.waits(UNKNOWN)

        assert not client.waits(UNKNOWN, under_way=3)
        assert client.waits(UNKNOWN)

    run(scenario)


def test_after_each_refusal_the_client_asks_later(monkeypatch: Any) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def scenario(client: Client) -> None:
        nonlocal now
        client.waits(now=now)
        client.waits(now=now)
        pauses = []
        for _ in range(8):
            client.refuse()
            began = now
            while not client.waits(now=now):
                now += 0.001
            pauses.append(now - began)

        assert pauses == sorted(set(pauses))
        assert pauses[0] < 0.02
        assert pauses[-1] > 0.5

    run(scenario)
