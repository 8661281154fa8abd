"""Verbs by which nodes come and go: start, join, end, and drills of failure."""

import re
from typing import Any

from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.session import Session


def up(session: Session, options: Options) -> Any:
    """Start nodes and return the cluster."""
    from mpreg_nb.cluster.current import all_clusters
    from mpreg_nb.cluster.starting import up

    if options.nodes and options.count is not None:
        raise Misuse("give names or a number, not both: %mpreg up -n 3")
    before = [(cluster, cluster.urls) for cluster in all_clusters()]
    with arguments():
        cluster = up(
            options.nodes or (3 if options.count is None else options.count),
            workers=options.workers,
            slots=options.slots,
            keep=options.keep,
            fresh=options.fresh,
        )
    if (cluster, cluster.urls) in before:
        print("already up")  # noqa: T201 - said, since nothing else shows it
    return cluster


def down(session: Session, options: Options) -> Any:
    """End the cluster or some of its nodes; return the names of those that ended."""
    from mpreg_nb.cluster.starting import down

    if not options.names:
        return down()
    with arguments():
        session.cluster.remove(*options.names)
    return tuple(options.names)


def ps(session: Session, options: Options) -> Any:
    """Return the frame of all nodes of this user."""
    from mpreg_nb.cluster.starting import ps

    return ps()


def adopt(session: Session, options: Options) -> Any:
    """Connect to a kept cluster and return it."""
    from mpreg_nb.cluster.starting import adopt

    with arguments():
        return adopt(options.name)


def connect(session: Session, options: Options) -> Any:
    """Connect to a cluster by URL and return it."""
    from mpreg_nb.cluster.starting import connect

    with arguments():
        return connect(*options.urls)


def kill(session: Session, options: Options) -> Any:
    """End a node as a crash would."""
    with arguments():
        return session.cluster.kill(options.node)


def pause(session: Session, options: Options) -> Any:
    """Pause a node for some seconds."""
    with arguments():
        return session.cluster.pause(options.node, options.seconds)


def partition(session: Session, options: Options) -> Any:
    """Cut the network between two sides for some seconds."""
    here, there = options.sides
    with arguments():
        return session.cluster.partition(here, there, options.seconds)


def sides_joined(line: str) -> str:
    """Return `line` without the spaces around commas and the bar.

    >>> sides_joined("n1, n2 | n3 10")
    'n1,n2|n3 10'
    """
    return re.sub(r"\s*([|,])\s*", r"\1", line)
