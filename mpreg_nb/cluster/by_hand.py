"""Nodes started by hand (`mpreg-nb node`), as the ledger knows them.

Each is an entry of its own, with the process of the node as its owner. So `ps` lists
it, `down NAME` ends it, and what a killed one leaves is deleted like that of others.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from mpreg_nb.cluster.entry import RecordedNode
from mpreg_nb.cluster.identity import stamp
from mpreg_nb.cluster.ledger import Ledger
from mpreg_nb.settings import NodeSettings


@contextmanager
def entered(settings: NodeSettings) -> Iterator[None]:
    """Keep an entry for the node that this process runs, until the block ends.

    A node runs without an entry where the user has no place for a ledger.
    """
    ledger = Ledger()
    try:
        entry = ledger.claim(
            settings.cluster_id or f"of {settings.name}",
            workers=settings.workers,
            slots=settings.slots,
            by_hand=True,
        )
        node = RecordedNode(
            name=settings.name,
            resources=tuple(sorted(settings.resources)),
            url="",  # its port is known once it listens; only `adopt` asks for it
            process=stamp(os.getpid()),
        )
        entry = msgspec.structs.replace(entry, nodes=(node,))
        ledger.record(entry)
    except OSError as error:
        sys.stderr.write(f"mpreg-nb ps will not list this node: {error}\n")
        yield
        return
    try:
        yield
    finally:
        ledger.remove(entry)
