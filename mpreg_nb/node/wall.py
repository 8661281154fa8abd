"""Nodes that this one does not hear and does not talk to for a while: a drill.

Links to them are cut without a word (`transport.cut`), new ones from them are cut
as they come, dials of them get no answer. When the time is over the cut links
end, dials go on, and membership finds the others again by its ordinary means.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.cut import Cut
from mpreg_nb.transport.dial import CONNECT_TIMEOUT_S, DialFailed


@dataclass(slots=True)
class _Barred:
    """One node behind the wall."""

    until_s: float  # on the clock of the event loop
    timer: asyncio.TimerHandle
    cuts: list[Cut] = field(default_factory=list)
    passable: asyncio.Event = field(default_factory=asyncio.Event)


class Wall:
    """Who is cut off from this node now, and for how long."""

    def __init__(
        self,
        links: Callable[[], Iterable[Connection]],
        urls_of: Callable[[str], tuple[str, ...]],
    ) -> None:
        """`links` tells the links to other nodes, `urls_of` where a node listens."""
        self._links = links
        self._urls_of = urls_of
        self._barred: dict[str, _Barred] = {}

    def bar(self, nodes: Iterable[str], for_s: float) -> None:
        """Cut `nodes` off for `for_s` from now; one that is cut off longer stays so."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        for node in nodes:
            barred = self._barred.get(node)
            if barred is None:
                timer = loop.call_at(until_s, self._end, node)
                self._barred[node] = _Barred(until_s, timer)
                for link in self._links():
                    if link.peer.name == node:
                        self.cut(link)
            elif barred.until_s < until_s:
                barred.timer.cancel()
                barred.until_s = until_s
                barred.timer = loop.call_at(until_s, self._end, node)

    def bars(self, node: str) -> bool:
        """Whether `node` is cut off now."""
        return node in self._barred

    def cut(self, link: Connection) -> None:
        """Cut a link to a node that is cut off."""
        self._barred[link.peer.name].cuts.append(link.cut())

    async def pass_to(self, node: str) -> None:
        """Return at once for most nodes; for one that is cut off, when it is not.

        Raises:
            DialFailed: not within the time that a dial has.
        """
        if self._barred:
            await self._pass(self._barred.get(node), node)

    async def pass_to_url(self, url: str) -> None:
        """Do what `pass_to` does, for the node that listens at `url`."""
        for node, barred in list(self._barred.items()):
            if url in self._urls_of(node):
                await self._pass(barred, url)

    def stop(self) -> None:
        """Let all through."""
        for node in list(self._barred):
            self._end(node)

    async def _pass(self, barred: _Barred | None, to: str) -> None:
        if barred is None:
            return
        try:
            await asyncio.wait_for(barred.passable.wait(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise timed_out(to) from None

    def _end(self, node: str) -> None:
        barred = self._barred.pop(node)
        barred.timer.cancel()
        barred.passable.set()
        for cut in barred.cuts:
            cut.mend()


def timed_out(to: str) -> DialFailed:
    """Return what a dial of a node that is cut off ends in."""
    return DialFailed("timed_out", to, f"no answer within {CONNECT_TIMEOUT_S:g} s")
