"""Open a client, and wait until it sees what it should."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mpreg_nb.client.client import Client
from mpreg_nb.transport.token import Token
from mpreg_nb.wire.pictures import Snapshot


async def open_client(urls: Sequence[str], token: Token, direct: bool) -> Client:
    """Return a client that is connected, or leave nothing open."""
    client = Client(urls, token, direct=direct)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client


STATES = ("alive", "suspect", "dead", "left")


async def seen(
    client: Client,
    wanted: dict[str, str],
    timeout_s: float,
    *,
    urls: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Return when the client sees every node of `wanted` in its state.

    urls: where some of them are. What the client knows of a node of the same name
        that ran elsewhere before does not count.

    Raises:
        ValueError: there is no such state.
        TimeoutError: it is not so after `timeout_s`; says how it is.
    """
    for state in wanted.values():
        if state not in STATES:
            raise ValueError(
                f"a state is {', '.join(STATES[:-1])} or {STATES[-1]}, not {state!r}"
            )
    reached = asyncio.Event()
    states: dict[str, str] = {}

    def look(snapshot: Snapshot) -> None:
        states.clear()
        for picture in snapshot.nodes:
            record = picture.record
            if urls.get(record.name, "") in ("", *record.urls):
                states[record.name] = record.state.name.lower()
        if all(states.get(node) == state for node, state in wanted.items()):
            reached.set()

    stop = client.on_snapshot(look)
    # The entry may be just the node that does not answer: what others tell counts too.
    asked = asyncio.ensure_future(client.snapshot())
    waiting = asyncio.ensure_future(reached.wait())
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait({asked, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            await waiting
    except TimeoutError:
        raise TimeoutError(
            "; ".join(
                f"{node} is {states.get(node, 'unknown')}, not {state}"
                for node, state in wanted.items()
                if states.get(node) != state
            )
            + f" (after {timeout_s:g} s). See cluster.events()"
        ) from None
    finally:
        stop()
        asked.cancel()
        waiting.cancel()
