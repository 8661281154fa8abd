"""Open a client, and wait until it sees what it should."""

import asyncio
from collections.abc import Sequence
from typing import Any

from mpreg_nb.client.client import Client
from mpreg_nb.transport.token import Token


async def open_client(urls: Sequence[str], token: Token, direct: bool) -> Client:
    """Return a client that is connected, or leave nothing open."""
    client = Client(urls, token, direct=direct)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client


async def seen(client: Client, wanted: dict[str, str]) -> None:
    """Return when the client sees every node of `wanted` in its state."""
    seen = asyncio.Event()

    def look(snapshot: Any) -> None:
        states = {
            picture.record.name: picture.record.state.name.lower()
            for picture in snapshot.nodes
        }
        if all(states.get(node) == state for node, state in wanted.items()):
            seen.set()

    stop = client.on_snapshot(look)
    try:
        await client.snapshot()
        await seen.wait()
    finally:
        stop()
