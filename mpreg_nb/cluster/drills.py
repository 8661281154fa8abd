"""Failures that a cluster can be put through, to see how it copes with them."""

import asyncio
from collections.abc import Iterable

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.cluster.nodes import LocalNodes
from mpreg_nb.cluster.pausing import LONGEST_S
from mpreg_nb.cures import cure
from mpreg_nb.errors import MpregError
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.drills import Partition

TOLD_WITHIN_S = 5.0
"""Every node of a partition has answered that it takes part."""


@public
class Drills:
    """The drills of a cluster, for nodes that this process started.

    Each returns when it has begun, and ends by itself, also when this process ends
    before. What the cluster makes of it shows in `nodes()`, `events()` and `watch()`.
    """

    client: Client
    _nodes: LocalNodes | None
    _thread: LoopThread

    def kill(self, node: str) -> None:
        """End a node at once, as a crash would.

        Its workers end with it, and its running calls are lost. The other nodes are not
        told: they detect the failure within seconds. `up` starts the node again.

        Raises:
            MpregError: this process did not start a node of that name.
        """
        nodes = self._for_drill(node)
        nodes.kill(node)

    def pause(self, node: str, seconds: float) -> None:
        """Stop the processes of a node, and let them continue after some seconds.

        The other nodes get no answer from it: they suspect it, then consider it dead.
        When it continues, it is alive again within seconds. Pausing a paused node
        restarts its time.

        seconds: above 0, at most 600.

        Raises:
            MpregError: this process did not start a node of that name, or the node has
                ended.
        """
        nodes = self._for_drill(node)
        nodes.pause(node, _checked(seconds))

    def partition(
        self, a: str | Iterable[str], b: str | Iterable[str], seconds: float
    ) -> None:
        """Cut the network between two groups of nodes for some seconds.

        Nothing sent between the groups arrives, then or later, and no connection
        reports an error. Each group suspects the other, then considers it dead, and
        continues on its own; a node that is alone needs about 10 seconds for that,
        since no other node confirms its suspicion. Calls between the groups are lost.
        This client still reaches both, and shows the view of the node that it is
        connected to. Afterwards the groups join again within seconds.

        a, b: names of nodes; a node in neither group reaches both.
        seconds: above 0, at most 600.

        Raises:
            MpregError: this process did not start a node of that name, or a node does
                not run now.
            ValueError: a group is empty, or a node is in both.
        """
        sides = [_names(a), _names(b)]
        nodes = self._for_drill(*sides[0], *sides[1])
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
            self._cut(nodes.urls, (sides[0], sides[1]), for_ms), TOLD_WITHIN_S
        )

    async def _cut(
        self,
        urls: dict[str, str],
        sides: tuple[tuple[str, ...], tuple[str, ...]],
        for_ms: int,
    ) -> None:
        client = self.client
        # All links first: then all nodes hear of it at nearly the same moment.
        links = {}
        for node in (*sides[0], *sides[1]):
            client.links.is_back(node)  # it runs, whatever was met there before
            links[node] = await client.links.reach(node, (urls[node],))
            if links[node] is None:
                raise MpregError(f"node {node!r} is not reachable now; try again")
        await asyncio.gather(
            *(
                client.ask(
                    Partition(id=client.new_id(), nodes=others, for_ms=for_ms),
                    link=links[node],
                )
                for side, others in (sides, sides[::-1])
                for node in side
            )
        )

    def _for_drill(self, *names: str) -> LocalNodes:
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
