"""Whether calls go through a node or straight to a worker.

What a client sends to a node tells by which way its calls go: a call that a worker gets
directly is no message on that link.
"""

from collections.abc import Callable

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from tests.support.until import until

MANY = 40
FEW = MANY // 4
"""Messages on the link in place of so many calls: requests for leases, and the like."""


def sent(cluster: mp.Cluster) -> int:
    """Return how many messages the client has sent to nodes."""
    links = parts_of(cluster).client.links
    found = (links.get(node) for node in links.open_links)
    return sum(link.statistics().messages_out for link in found if link is not None)


def messages_of(cluster: mp.Cluster, calls: Callable[[], object]) -> int:
    """Return how many messages go to nodes while `calls` makes calls."""
    before = sent(cluster)
    calls()
    return sent(cluster) - before


def become_direct(
    cluster: mp.Cluster, function: Callable[..., object], *args: object
) -> None:
    """Call a function until its calls go straight to a worker."""

    def is_direct() -> bool:
        def several() -> None:
            for _ in range(4):
                cluster.call(function, *args)

        return messages_of(cluster, several) == 0

    until(is_direct)
