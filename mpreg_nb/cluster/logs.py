"""The logs of nodes.

A log is a file on the machine of its node. It can be read for the nodes that this user
started on this machine, in this process or an earlier one.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from mpreg_nb.client.client import Client
from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.cluster_files import ClusterFiles, is_here
from mpreg_nb.launcher.launcher import LaunchedNode, LogReader
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.pid import is_alive
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.names import nearest

LOOK_S = 0.2
"""Between two looks whether a followed log has grown."""


class NodeLog(msgspec.Struct, frozen=True):
    """Lines that nodes wrote; shows itself as text."""

    nodes: tuple[str, ...]
    lines: tuple[str, ...]  # after the node's name where there are several nodes

    def __repr__(self) -> str:
        if self.lines:
            return "\n".join(self.lines)
        return f"no log lines from {', '.join(self.nodes)}"


class LogSource(msgspec.Struct, frozen=True):
    """The log of one node."""

    node: str
    file: LogReader
    is_running: Callable[[], bool]
    kept: Callable[[int], tuple[str, ...]]  # the last lines when the file is gone

    def last(self, lines: int) -> tuple[str, ...]:
        """Return the last lines."""
        try:
            return self.file.last(lines)
        except OSError:
            return self.kept(lines)

    def more(self) -> tuple[str, ...]:
        """Return the lines since the last look."""
        try:
            return self.file.more()
        except OSError:  # the folder was removed with the cluster
            return ()


def read_logs(sources: list[LogSource], lines: int) -> NodeLog:
    """Return the last lines of each log."""
    _check_lines(lines)
    found = tuple(
        _prefixed(source.node, line, sources)
        for source in sources
        for line in source.last(lines)
    )
    return NodeLog(tuple(source.node for source in sources), found)


def follow_logs(sources: list[LogSource], lines: int) -> Iterator[str]:
    """Iterate over the last lines, then over each new line, until the nodes end."""
    _check_lines(lines)
    return _follow(sources, lines)


def log_sources(
    client: Client, nodes: StartedNodes | None, node: str | None
) -> list[LogSource]:
    """Return the log of `node`, or of all nodes.

    nodes: the nodes that this process started.

    Raises:
        MpregError: the log is on another machine, or there is no such node.
    """
    found = {source.node: source for source in _all_sources(client, nodes)}
    if node is not None and node in found:
        return [found[node]]
    known = {each.record.name for each in client.state.nodes}
    if node is not None and node not in known:
        meant = nearest(node, {*known, *found})
        hint = f" Did you mean {meant!r}?" if meant else ""
        have = ", ".join(sorted({*known, *found}))
        raise MpregError(f"the cluster has no node {node!r}.{hint} It has: {have}")
    if found and node is None:
        return [found[name] for name in sorted(found)]
    whose = f"node {node!r} was" if node is not None else "its nodes were"
    raise MpregError(
        f"{whose} started by another program or on another machine, where its "
        "log is: see the output of `mpreg-nb node` there"
    )


def _all_sources(client: Client, nodes: StartedNodes | None) -> Iterator[LogSource]:
    if nodes is not None:
        for spec in nodes.specs:
            own = nodes.node(spec.name)
            yield LogSource(spec.name, own.log_reader(), partial(_runs, own), own.log)
        return
    # Adopted, or joined by URL: perhaps another process of this user started them.
    files = ClusterFiles()
    urls = {url for each in client.state.nodes for url in each.record.urls}
    for entry in files.entries():
        for recorded in entry.nodes:
            if recorded.url in urls and is_here(entry) and not recorded.launcher:
                log = LogFile(files.log_path(entry.cluster, recorded.name))
                alive = partial(is_alive, recorded.process)
                yield LogSource(recorded.name, log, alive, lambda lines: ())


def _runs(node: LaunchedNode) -> bool:
    return node.is_running


def _follow(sources: list[LogSource], lines: int) -> Iterator[str]:
    for source in sources:
        for line in source.last(lines):
            yield _prefixed(source.node, line, sources)
    following = list(sources)
    while following:
        time.sleep(LOOK_S)  # no system call of all platforms reports a file that grows
        # Checked before the file is read: the last lines of a node are read too.
        ended = [source for source in following if not source.is_running()]
        for source in following:
            for line in source.more():
                yield _prefixed(source.node, line, sources)
        following = [source for source in following if source not in ended]


def _prefixed(node: str, line: str, sources: list[LogSource]) -> str:
    return f"[{node}] {line}" if len(sources) > 1 else line


def _check_lines(lines: object) -> None:
    if isinstance(lines, bool) or not isinstance(lines, int):
        raise TypeError(f"lines must be a whole number, not {lines!r}")
    if lines < 0:
        raise ValueError(f"lines must be 0 or more, not {lines}")
