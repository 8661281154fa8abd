"""How a client asks the node that drives a run: directly, or through its entry."""

from typing import TYPE_CHECKING, Any

from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.messages import Relay, Relayed

if TYPE_CHECKING:
    from mpreg_nb.client.client import Client


class Ways:
    """Finds links to nodes by name; what has none of its own goes by the entry."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    async def to(self, node: str) -> Connection:
        """Return the link for messages to `node`, dialling it where that is allowed.

        Raises:
            NodeLost: not even the entry can be reached.
        """
        links = self._client.links
        known = self._client.mirror.record(node) if self._client.direct else None
        link = await links.reach(node, known.urls if known is not None else ())
        return link or await links.any_entry()

    async def ask(
        self,
        node: str,
        message: Relayed,
        *,
        link: Connection | None = None,
        function: str = "run",
        whole: bool = False,
    ) -> tuple[Any, tuple[Buffer, ...]]:
        """Send a question about a run to the node that drives it; return the answer.

        Raises the error that it answers with, as one of `function`, or NodeLost.
        whole: return that answer too.
        """
        link = link or await self.to(node)
        question = addressed(message, node, link)
        return await self._client.ask(
            question, link=link, function=function, whole=whole
        )


def addressed(message: Relayed, node: str, link: Connection) -> Relayed | Relay:
    """Return what to send on `link` so that `message` comes to `node`."""
    if link.peer.name == node:
        return message
    return Relay(id=message.id, node=node, message=message)
