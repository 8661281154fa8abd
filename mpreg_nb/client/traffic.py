"""What went over the links of the nodes that this client has links to.

Nodes count it anyway and are asked only while somebody looks, so that it costs
nothing else. Belongs to the loop of its client.
"""

import asyncio
import math
from typing import TYPE_CHECKING

from mpreg_nb.errors import MpregError
from mpreg_nb.wire.pictures import Traffic, TrafficAsk

if TYPE_CHECKING:
    from mpreg_nb.client.client import Client

EVERY_S = 2.0
"""Nodes are asked at most so often."""

PER_NODE_S = 0.05
"""And more seldom if there are many: a hundred nodes every five seconds."""

PATIENCE_S = 2.0
"""A node that is paused or lost does not answer; it is left out."""


class TrafficPoll:
    """Asks all nodes that can be reached, and keeps what they told last."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._asking: asyncio.Task[None] | None = None
        self._due = -math.inf
        self.round = 0
        """How often they were asked; what they told is of the last round."""
        self.told: tuple[Traffic, ...] = ()
        self.told_at = -math.inf
        """When the last round ended, by the client's clock."""

    def begin(self) -> None:
        """Begin to ask, unless that was done just before. Returns at once."""
        now = self._client.now()
        if self._asking is None and now >= self._due:
            nodes = len(self._client.links.open_links)
            self._due = now + max(EVERY_S, PER_NODE_S * nodes)
            self._asking = asyncio.ensure_future(self._ask())

    async def ask(self) -> None:
        """Ask all nodes, and return when all that will answer have done so."""
        self.begin()
        if self._asking is not None:
            await self._asking

    async def _ask(self) -> None:
        try:
            nodes = self._client.links.open_links
            answers = await asyncio.gather(*map(self._ask_node, nodes))
            self.told = tuple(answer for answer in answers if answer is not None)
            self.told_at = self._client.now()
            self.round += 1
        finally:
            self._asking = None

    async def _ask_node(self, node: str) -> Traffic | None:
        link = self._client.links.direct(node, ())
        if link is None:
            return None
        request = TrafficAsk(id=self._client.new_id())
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer, _ = await self._client.ask(request, link=link)
        except (MpregError, TimeoutError):
            return None
        return answer if isinstance(answer, Traffic) else None
