"""Faults that a user injects into nodes that this process started."""

import asyncio
from collections.abc import Iterable

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.cures import cure
from mpreg_nb.engines.engine import Engine
from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.paused_node import LONGEST_S
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.names import nearest
from mpreg_nb.protocol.messages import Partition

PARTITION_TIMEOUT_S = 5.0
"""In which every node of a partition must have confirmed it."""


class FaultInjection:
    """Kills, pauses and partitions nodes; `Cluster` documents each fault.

    Each method returns when the fault has begun. It ends by itself, also if this
    process ends before.
    """

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        nodes: StartedNodes | None,
        engine: Engine | None,
    ) -> None:
        """nodes: those that this process started; None: it only connected.

        engine: whose workers run the calls; it has no such faults.
        """
        self._engine = engine
        self._client = client
        self._thread = thread
        self._nodes = nodes

    def kill(self, node: str) -> None:
        """End a node at once, as a crash would."""
        self._own("kill", node).kill(node)

    def pause(self, node: str, seconds: float) -> None:
        """Stop the processes of a node for some seconds."""
        self._own("pause", node).pause(node, _checked(seconds))

    def partition(
        self, a: str | Iterable[str], b: str | Iterable[str], seconds: float
    ) -> None:
        """Cut the network between two groups of nodes for some seconds."""
        sides = _names(a), _names(b)
        nodes = self._own("partition", *sides[0], *sides[1])
        if not all(sides):
            raise ValueError("a partition has two sides, with at least one node each")
        if both := sorted(set(sides[0]) & set(sides[1])):
            raise ValueError(f"node {both[0]!r} cannot be on both sides")
        for state, found in (("has ended", nodes.dead), ("is paused", nodes.paused)):
            if stuck := sorted(found & {*sides[0], *sides[1]}):
                raise MpregError(
                    f"node {stuck[0]!r} {state}, so it cannot be partitioned"
                )
        for_ms = max(1, round(_checked(seconds) * 1e3))
        self._thread.run(
            _cut(self._client, nodes.urls, sides, for_ms), PARTITION_TIMEOUT_S
        )

    def _own(self, fault: str, *names: str) -> StartedNodes:
        self._thread.check()
        if self._engine is not None:
            raise self._engine.refuse(fault)
        if self._nodes is None:
            raise MpregError(
                "failures can be tested only on clusters that this notebook started, "
                "and this notebook only connected to this one. Start one: "
                + cure(magic="%mpreg up", python="mp.up(3)", command="mp.up(3)")
            )
        known = [spec.name for spec in self._nodes.specs]
        for name in names:
            if name not in known:
                meant = nearest(name, known)
                raise MpregError(
                    f"this notebook did not start a node named {name!r}."
                    + (f" Did you mean {meant!r}?" if meant else "")
                    + f" It started: {', '.join(sorted(known)) or 'none'}"
                )
        return self._nodes


async def _cut(
    client: Client,
    urls: dict[str, str],
    sides: tuple[tuple[str, ...], tuple[str, ...]],
    for_ms: int,
) -> None:
    # All links first: then all nodes receive the request at nearly the same moment.
    links = {}
    for node in (*sides[0], *sides[1]):
        client.links.is_back(node)  # it runs, even if it was unreachable before
        links[node] = await client.links.reach(node, (urls[node],))
        if links[node] is None:
            raise MpregError(f"node {node!r} is not reachable now; try again")
    await asyncio.gather(
        *(
            client.requests.ask(
                Partition(id=client.requests.new_id(), nodes=others, for_ms=for_ms),
                link=links[node],
            )
            for side, others in (sides, sides[::-1])
            for node in side
        )
    )


def _names(side: str | Iterable[str]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else tuple(dict.fromkeys(side))


def _checked(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds must be a number, not {seconds!r}")
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(
            f"seconds must be above 0 and at most {LONGEST_S:g}, not {seconds:g}"
        )
    return seconds
