"""A stranger between two nodes, who passes both proofs on and changes what follows.

He stands where a node joins, or has taken the port of a node that died. S7 in the table
of threats.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.node.node import Node
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.framing import MAC_BYTES, FrameMac
from mpreg_nb.transport.token import Token
from tests.support.wiretap import Wiretap, wiretap

TOKEN = Token("a-token-of-this-test-0123456789")
CLUSTER = "c1" * 16
TRUE, FORGED = "gpu-5", "evil!"
CHANGED = "was changed on its way"


class Forgery:
    """Says of a node that it has a resource that it has not."""

    def __init__(self, tap: Wiretap) -> None:
        tap.change_answered = self._change
        self.done = asyncio.Event()

    def _change(self, data: bytes) -> bytes:
        if TRUE.encode() in data:
            self.done.set()
        return data.replace(TRUE.encode(), FORGED.encode())


@asynccontextmanager
async def started(name: str, *join: str, resource: str = "") -> AsyncIterator[Node]:
    settings = NodeSettings(
        name=name,
        join=join,
        resources=frozenset({resource} - {""}),
        cluster_id=CLUSTER,
        workers=0,
        drain_s=0,
    )
    node = Node(settings, TOKEN)
    try:
        await node.start(join_timeout_s=2.0)
        yield node
    finally:
        await node.stop()


def believed(node: Node) -> set[str]:
    """Return the resources that a node believes others to have."""
    return {
        resource
        for member in node.membership_driver.swim.members
        for resource in member.record.resources
    }


@dataclass(frozen=True)
class Lines:
    """What was logged so far."""

    caplog: pytest.LogCaptureFixture

    def have(self, text: str) -> bool:
        return any(text in line for line in self.caplog.messages)


async def join_through_a_stranger() -> set[str]:
    """Return what a node believes that joined at the port of a stranger."""
    async with started("n1", resource=TRUE) as first, wiretap(first.port) as tap:
        forgery = Forgery(tap)
        settings = NodeSettings(name="n2", join=(tap.url,), workers=0, drain_s=0)
        node = Node(settings, TOKEN)
        try:
            await node.start(join_timeout_s=1.0)
        except MpregError as error:
            assert "could not join" in str(error)  # noqa: PT017 - it may well join
        assert forgery.done.is_set()
        found = believed(node)
        await node.stop()
        return found


async def meet_a_stranger_on_a_dead_port(log: Lines) -> set[str]:
    """Return what a node believes after a stranger took the port of its peer."""
    async with started("n1", resource="gpu-0") as first:
        async with started("n2", first.url) as node:
            port = first.port
            first.drop()
            async with (
                started("n1", resource=TRUE) as again,
                wiretap(again.port, port) as tap,
            ):
                forgery = Forgery(tap)
                await forgery.done.wait()
                while not log.have(CHANGED):
                    if FORGED in believed(node):
                        break
                    await asyncio.sleep(0.01)  # nobody is told of either
                return believed(node)


def bounded(scene: Coroutine[Any, Any, set[str]]) -> set[str]:
    async def run() -> set[str]:
        async with asyncio.timeout(60):
            return await scene

    return asyncio.run(run())


def test_a_node_that_joins_through_a_stranger_believes_nothing_that_he_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = bounded(join_through_a_stranger())

    assert FORGED not in found
    assert CHANGED in caplog.text


def test_a_node_that_dials_a_dead_port_again_believes_nothing_that_was_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = bounded(meet_a_stranger_on_a_dead_port(Lines(caplog)))

    assert FORGED not in found
    assert CHANGED in caplog.text


def test_without_the_check_of_the_mac_both_would_believe_the_stranger(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FrameMac, "checked", lambda mac, data: memoryview(data)[:-MAC_BYTES]
    )

    assert FORGED in bounded(join_through_a_stranger())
    assert FORGED in bounded(meet_a_stranger_on_a_dead_port(Lines(caplog)))
