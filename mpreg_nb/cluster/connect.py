"""Connecting to a cluster, and waiting until its nodes are in certain states."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mpreg_nb.client.client import Client
from mpreg_nb.client.output import limit_lines
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.engines.dask_values import DaskArguments
from mpreg_nb.engines.engine import Engine, engine_at
from mpreg_nb.names import check_url, nearest
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import Token


async def open_client(
    urls: Sequence[str], token: Token, direct: bool, ca: str = ""
) -> Client:
    """Return a client that is connected, or leave nothing open.

    ca: what certificates of nodes are checked with; without it, for wss:// URLs, what
        `transport.tls.load_ca` finds.

    Raises:
        ValueError: one of `urls` is not the URL of a node.
        NotTrusted: the token is not the cluster's, or a certificate not of `ca`.
        NodeLost: no node answers at any of `urls`.
    """
    for url in urls:
        check_url(url)
    if not ca and any(url.startswith("wss:") for url in urls):
        ca = load_ca()
    limit_lines(lambda: CONFIG.output_lines)
    client = Client(
        urls,
        token,
        direct=direct,
        to_workers=lambda: CONFIG.direct_calls,
        ca=ca,
    )
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    engine = engine_of(client)
    if engine is not None:
        client.deferred = DaskArguments(engine.address)
    return client


def engine_of(client: Client) -> Engine | None:
    """Return the engine whose workers run the calls; None: nodes of mpreg_nb do."""
    return engine_at(client.state.engine)


def alive_urls(client: Client) -> tuple[str, ...]:
    """Return the URLs of the live nodes, sorted by the names of the nodes."""
    return tuple(
        node.record.urls[0]
        for node in client.state.nodes
        if node.record.state is MemberState.ALIVE and node.record.urls
    )


def alive_nodes(client: Client) -> str:
    """Return how many nodes are alive, as text."""
    nodes = client.state.nodes
    alive = sum(node.record.state is MemberState.ALIVE for node in nodes)
    return f"{alive} of {len(nodes)} nodes alive"


BUILTIN = "echo"
"""A function that every node offers."""

STATES = ("alive", "suspect", "dead", "left")

SEEN_TIMEOUT_S = 10.0
"""How long `up` waits until the client sees all nodes alive."""


async def wait_for_states(
    client: Client,
    wanted: dict[str, str],
    timeout_s: float,
    *,
    urls: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Return when the client sees every node of `wanted` in its state.

    urls: the URLs of some nodes; the state of an earlier node of the same name at
        another URL does not count.

    Raises:
        ValueError: there is no such state.
        TimeoutError: a node is not in its state after `timeout_s`.
    """
    for state in wanted.values():
        if state not in STATES:
            raise ValueError(
                f"a state is {', '.join(STATES[:-1])} or {STATES[-1]}, not {state!r}"
            )
    reached = asyncio.Event()
    states: dict[str, str] = {}

    def compare(snapshot: Snapshot) -> None:
        states.clear()
        for picture in snapshot.nodes:
            record = picture.record
            if urls.get(record.name, "") in ("", *record.urls):
                states[record.name] = record.state.name.lower()
        # Who is told that a node lives may hear only later what it offers.
        serving = {owner for owner, _ in client.state.offers(BUILTIN)}
        for node in states:
            if states[node] == "alive" and node not in serving:
                states[node] = "joining"
        if all(states.get(node) == state for node, state in wanted.items()):
            reached.set()

    stop = client.on_snapshot(compare)
    # The entry may be the node that does not answer: reports of others count too.
    asked = asyncio.ensure_future(client.snapshot())
    waiting = asyncio.ensure_future(reached.wait())
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait({asked, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            await waiting
    except TimeoutError:
        missing = [node for node in wanted if states.get(node) != wanted[node]]
        found = [
            f"{node} is {states.get(node, 'unknown')}, not {wanted[node]}"
            for node in missing
        ]
        meant = [nearest(node, STATES) for node in missing if node not in states]
        words = [f" To wait for that state: state={word!r}." for word in meant if word]
        raise TimeoutError(
            f"{'; '.join(found)} (after {timeout_s:g} s).{''.join(words[:1])} "
            "See cluster.events()"
        ) from None
    finally:
        stop()
        asked.cancel()
        waiting.cancel()


async def wait_for_nodes(
    client: Client, names: tuple[str, ...], state: str, timeout_s: float
) -> None:
    """Return when the client sees all nodes of `names` in `state`.

    Raises:
        ValueError: there is no such state, or a state was given as a name.
        TimeoutError: a node is not in that state after `timeout_s`.
    """
    known = {node.record.name for node in client.state.nodes}
    for word in names:
        if word in STATES and word not in known:
            node = next((name for name in names if name not in STATES), "NODE")
            raise ValueError(
                f"no node is named {word!r}. To wait for that state: "
                f"cluster.wait_for({node!r}, state={word!r})"
            )
    await wait_for_states(client, dict.fromkeys(names, state), timeout_s)
