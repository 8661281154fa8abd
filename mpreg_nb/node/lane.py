"""The data lane from this node to others: a link is opened by the first message."""

from collections.abc import Callable, Sequence

import msgspec

from mpreg_nb.transport.peers import Peers
from mpreg_nb.wire.codec import Parts


class DataLane:
    """Sends to nodes by name; what cannot be sent is reported by `Peers`."""

    def __init__(self, peers: Peers, urls: Callable[[str], Sequence[str]]) -> None:
        self._peers = peers
        self._urls = urls

    def send(self, node: str, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Send on the link to `node`, opening one if there is none."""
        if self._peers.get(node, "data") is None:
            self._peers.reach(node, self._urls(node), "data")
        self._peers.send(node, "data", message, parts)
