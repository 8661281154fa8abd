"""The nodes of a user on this machine, as a table of text."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpreg_nb.view.data_frame import UNKNOWN
from mpreg_nb.view.html import GREY, STATES
from mpreg_nb.view.tables import Marked, Table

if TYPE_CHECKING:
    from mpreg_nb.launcher.cluster_files import LedgerRow


_ELSEWHERE = ("○", GREY)  # on another machine: not known here


def processes(rows: "Iterable[LedgerRow]") -> Table:
    """Return one row a node, with what tells it from others first."""
    cells = []
    for row in rows:
        mark, ink = STATES.get(row.state, _ELSEWHERE)
        cells.append(
            (
                row.cluster,
                row.node,
                Marked(mark, row.state, ink),
                ", ".join(row.resources) or UNKNOWN,
                str(row.pid),
                f"{row.started_at.astimezone():%Y-%m-%d %H:%M}",
                row.notebook or ("by hand" if row.by_hand else UNKNOWN),
            )
        )
    head = ["cluster", "node", "state", "resources", "pid", "started", "notebook"]
    return Table(head=head, rows=cells, numbers=["pid"])
