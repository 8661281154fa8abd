"""A kept cluster that this process took over from the one that started it."""

from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.entry import Entry, is_here
from mpreg_nb.cluster.ledger import Ledger
from mpreg_nb.errors import NoCluster
from mpreg_nb.transport.token import load_token

DRAIN_S = 1.0
"""How long a node has to leave in order; what it runs is not waited for."""


class AdoptedCluster(Cluster):
    """A cluster whose nodes this user's ledger knows.

    `down` ends its nodes, whoever started them; `disconnect`, and the end of this
    process, leave them running.
    """

    def __init__(self, entry: Entry) -> None:
        """Connect to a cluster of this machine, and take up its newest runs.

        Raises:
            NoCluster: it runs on another machine.
        """
        if not is_here(entry):
            raise NoCluster(
                f"cluster {entry.cluster!r} runs on {entry.host}: adopt it there"
            )
        self._entry = entry
        self._ended: tuple[str, ...] = ()
        super().__init__([node.url for node in entry.nodes], load_token())
        try:
            self.take_up_newest()
        except BaseException:
            self.disconnect()
            raise

    @property
    def name(self) -> str:
        """The name by which `ps`, `adopt` and `down` know it."""
        return self._entry.cluster

    @property
    def ended_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that `down` has ended."""
        return self._ended

    def down(self) -> None:
        """End its nodes and all that they run, and disconnect; may be repeated."""
        if self._down:
            return
        super().down()
        if self._entry.cluster in {entry.cluster for entry in Ledger().entries()}:
            self._ended = Ledger().end(self._entry.cluster, drain=DRAIN_S)

    def disconnect(self) -> None:
        """Disconnect and leave its nodes running."""
        super().down()
