"""What a node and the one that it joins say about each other."""

import asyncio
import platform
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mpreg_nb.errors import MpregError
from mpreg_nb.node.node import Node
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import Token

TOKEN = Token("a-token-of-this-test-0123456789")


@asynccontextmanager
async def started(name: str, *join: str) -> AsyncIterator[Node]:
    settings = NodeSettings(name=name, join=join, workers=0, drain_s=0)
    node = Node(settings, TOKEN)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def test_nodes_of_two_versions_of_python_warn_of_each_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = ".".join(platform.python_version_tuple()[:2])

    async def scene() -> None:
        async with asyncio.timeout(60), started("n1") as first:
            monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
            async with started("n2", first.url):
                while len(warnings()) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # nobody is told of a line of the log

    def warnings() -> list[str]:
        return sorted(line for line in caplog.messages if "runs Python" in line)

    asyncio.run(scene())

    assert [line.partition(":")[0] for line in warnings()] == [
        f"node n1 runs Python {own}, and n2 Python 3.99",
        f"node n2 runs Python 3.99, and n1 Python {own}",
    ]


def test_nodes_of_one_version_of_python_say_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with started("n1") as first, started("n2", first.url):
            pass

    asyncio.run(scene())

    assert "runs Python" not in caplog.text


def test_a_second_node_of_a_name_is_refused_and_the_first_is_notified(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with started("n1") as first:
            async with started("n1", first.url):
                raise AssertionError("it joined")

    with pytest.raises(MpregError, match=r"named 'n1'.*another --name"):
        asyncio.run(scene())

    assert "a second node named n1" in caplog.text


def test_a_node_that_reaches_nobody_says_why_at_once_and_what_to_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens there
        nobody = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        node = Node(NodeSettings(name="n1", join=(nobody,), workers=0), TOKEN)

        with pytest.raises(MpregError) as caught:
            asyncio.run(node.start(join_timeout_s=0.5))

    delayed = [line for line in caplog.messages if "cannot reach" in line]
    assert delayed == [
        f"node n1 cannot reach {nobody} yet: Connection refused. It tries again"
    ]
    assert f"no node can be reached at {nobody} (Connection refused)" in str(
        caught.value
    )
    assert "firewalls" in str(caught.value)
