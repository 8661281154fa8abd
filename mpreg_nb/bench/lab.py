"""What is measured with: two nodes beside the user's, or the cluster that is given."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from mpreg_nb.bench.functions import GATHER, SAME, SAME_THREAD, gather, same
from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster import current
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.nodes import LocalNodes
from mpreg_nb.cluster.spec import read_spec
from mpreg_nb.errors import MpregError
from mpreg_nb.transport.token import load_token


@dataclass(frozen=True, slots=True)
class Lab:
    """A blocking cluster, and clients of an event loop: what rows measure with."""

    cluster: Cluster
    direct: Client
    through_first: Client
    options: CallOptions  # name the version of `same`
    gather_options: CallOptions
    first: str  # node of the link of `through_first`
    second: str  # the same one, where there is no other

    @property
    def alone(self) -> bool:
        """Whether there is only one node to measure with."""
        return self.first == self.second


@contextlib.contextmanager
def own_nodes() -> Iterator[Cluster]:
    """Start two nodes, and end them in the end.

    The current cluster stays the current one, and `up` and `down` do not see this.
    """
    secret = load_token()
    nodes = LocalNodes(secret, name="", keep=False, notebook="", workers=1, slots=1)
    specs = read_spec({"b1": "first", "b2": "second"})
    try:
        nodes.start(specs, CONFIG.start_timeout_s)
        cluster = Cluster(tuple(nodes.urls.values()), secret, nodes=nodes)
    except BaseException:
        nodes.close()
        raise
    current.leave(cluster)
    with cluster:
        cluster.wait_for(*(spec.name for spec in specs))
        yield cluster


def prepare(cluster: Cluster) -> tuple[str, str]:
    """Register what is called; return the names of the nodes to measure with.

    Raises:
        MpregError: no node of the cluster is alive.
    """
    alive = sorted(
        picture.record.name
        for picture in cluster.refresh().nodes
        if picture.record.state.name == "ALIVE" and picture.record.urls
    )
    if not alive:
        raise MpregError("no node is alive to measure with. Start some: mp.up(2)")
    cluster.register(same, name=SAME_THREAD, isolation="thread")
    cluster.register(same, name=SAME)
    cluster.register(gather, name=GATHER)
    return alive[0], alive[1] if len(alive) > 1 else alive[0]


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, first: str, second: str) -> AsyncIterator[Lab]:
    """Open clients of the running loop to two nodes that `prepare` named."""
    urls = {
        picture.record.name: picture.record.urls[0]
        for picture in cluster.client.mirror.nodes
        if picture.record.urls
    }
    token = cluster.client.links.token
    direct = Client([urls[first]], token)
    through_first = Client([urls[first]], token, direct=False)
    try:
        await direct.open()
        await through_first.open()
        await direct.snapshot()  # tells it of the functions, at once
        yield Lab(
            cluster=cluster,
            direct=direct,
            through_first=through_first,
            options=_version(cluster, SAME),
            gather_options=_version(cluster, GATHER),
            first=first,
            second=second,
        )
    finally:
        await direct.close()
        await through_first.close()


def _version(cluster: Cluster, function: str) -> CallOptions:
    offer = cluster.client.offer(function)
    if offer is None:
        raise AssertionError(f"{function} was registered just now")
    return CallOptions(version=offer.version, holder=offer.origin)
