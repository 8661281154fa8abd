"""Which versions the processes of a cluster have, and where they differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpreg_nb.view.columns import TEXT, frame
from mpreg_nb.view.tables import Table
from mpreg_nb.wire.versions import PACKAGES

if TYPE_CHECKING:
    import pandas as pd

HERE = "this process"


def versions_frame(
    here: Mapping[str, str],
    nodes: Mapping[str, Mapping[str, str]],
    differing: Mapping[str, Sequence[str]],
) -> "pd.DataFrame":
    """Return one row for this process, then one a node, sorted by name."""
    names = ("python", *PACKAGES)
    columns = {name: TEXT for name in ("node", *names, "differs")}
    rows = [
        (node, *(versions.get(name, "") for name in names), ", ".join(differ))
        for node, versions, differ in (
            (HERE, here, ()),
            *((n, nodes[n], differing.get(n, ())) for n in sorted(nodes)),
        )
    ]
    return frame(columns, rows)


def versions_table(
    here: Mapping[str, str],
    nodes: Mapping[str, Mapping[str, str]],
    differing: Mapping[str, Sequence[str]],
) -> Table:
    """Return what differs, and of whom, and nothing else."""
    shown = [name for name in here if any(name in one for one in differing.values())]
    rows = [(HERE, *(here[name] for name in shown))]
    for node in sorted(differing):
        versions = (nodes[node].get(name) or "none" for name in shown)
        rows.append((node, *versions))
    return Table(head=("node", *shown), rows=rows)
