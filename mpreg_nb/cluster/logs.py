"""What nodes wrote to their logs: `cluster.logs()`, `%mpreg logs`.

A log is a file of the machine that its node runs on, so it can be read for the
nodes that this user started here, be it by this process or an earlier one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpreg_nb.client.client import Client
from mpreg_nb.cluster.entry import is_here
from mpreg_nb.cluster.identity import Stamp, is_alive
from mpreg_nb.cluster.ledger import Ledger
from mpreg_nb.cluster.log_file import LogFile
from mpreg_nb.errors import MpregError
from mpreg_nb.names import nearest
from mpreg_nb.wire.boundary import public

if TYPE_CHECKING:
    from mpreg_nb.cluster.nodes import LocalNodes

LOOK_S = 0.2
"""Between two looks whether a log that is followed has grown."""


@dataclass(frozen=True, slots=True, repr=False)
class Log:
    """Lines that nodes wrote; shows itself as text."""

    nodes: tuple[str, ...]
    lines: tuple[str, ...]  # after the node's name where there are several nodes

    def __repr__(self) -> str:
        if self.lines:
            return "\n".join(self.lines)
        return f"no log lines from {', '.join(self.nodes)}"


@dataclass(frozen=True, slots=True)
class _Source:
    node: str
    file: LogFile
    process: Stamp
    kept: Callable[[int], tuple[str, ...]]  # the last lines, where the file is gone

    def last(self, lines: int) -> tuple[str, ...]:
        try:
            return self.file.last(lines)
        except OSError:
            return self.kept(lines)

    def more(self) -> tuple[str, ...]:
        try:
            return self.file.more()
        except OSError:  # the folder went with the cluster
            return ()


@public
class Logs:
    """The logs of a cluster."""

    client: Client
    _nodes: "LocalNodes | None"

    def logs(self, node: str | None = None, lines: int = 50) -> Log:
        """Return the last lines of the log of `node`, or of all nodes.

        lines: at most this many per node. Prints of functions are not in the log: they
            appear in the cell that called the function.

        Raises:
            MpregError: the log is on another machine, or there is no such node.
        """
        sources = self._sources(node)
        _check_lines(lines)
        found = tuple(
            _prefixed(source.node, line, sources)
            for source in sources
            for line in source.last(lines)
        )
        return Log(tuple(source.node for source in sources), found)

    def follow_logs(self, node: str | None = None, lines: int = 10) -> Iterator[str]:
        """Iterate over the last lines, then over each new line, as `tail -f` does.

        Ends when the nodes have ended. Raises the errors of `logs`.
        """
        sources = self._sources(node)
        _check_lines(lines)
        return _follow(sources, lines)

    def _sources(self, node: str | None) -> list[_Source]:
        found = {source.node: source for source in self._all_sources()}
        if node is not None and node in found:
            return [found[node]]
        known = {picture.record.name for picture in self.client.mirror.nodes}
        if node is not None and node not in known:
            meant = nearest(node, {*known, *found})
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise MpregError(f"the cluster has no node {node!r}.{hint}")
        if found and node is None:
            return [found[name] for name in sorted(found)]
        whose = f"node {node!r} was" if node is not None else "its nodes were"
        raise MpregError(
            f"{whose} started by another program or on another machine, where its "
            "log is: see the output of `mpreg-nb node` there"
        )

    def _all_sources(self) -> Iterator[_Source]:
        if self._nodes is not None:
            for spec in self._nodes.specs:
                process = self._nodes.process(spec.name)
                log = process.log_file()
                yield _Source(spec.name, log, process.stamp, process.log)
            return
        # Adopted, or joined by URL: perhaps another process of this user began it.
        ledger = Ledger()
        urls = {url for p in self.client.mirror.nodes for url in p.record.urls}
        for entry in ledger.entries():
            for recorded in entry.nodes:
                if recorded.url in urls and is_here(entry):
                    path = ledger.log_path(entry.cluster, recorded.name)
                    log, stamp = LogFile(path), recorded.process
                    yield _Source(recorded.name, log, stamp, lambda lines: ())


def _follow(sources: list[_Source], lines: int) -> Iterator[str]:
    for source in sources:
        for line in source.last(lines):
            yield _prefixed(source.node, line, sources)
    following = list(sources)
    while following:
        time.sleep(LOOK_S)  # no system call tells of a file that grows everywhere
        # Looked at before the file is: what a node wrote at its end is there.
        ended = [source for source in following if not is_alive(source.process)]
        for source in following:
            for line in source.more():
                yield _prefixed(source.node, line, sources)
        following = [source for source in following if source not in ended]


def _prefixed(node: str, line: str, sources: list[_Source]) -> str:
    return f"[{node}] {line}" if len(sources) > 1 else line


def _check_lines(lines: object) -> None:
    if isinstance(lines, bool) or not isinstance(lines, int):
        raise TypeError(f"lines must be a whole number, not {lines!r}")
    if lines < 0:
        raise ValueError(f"lines must be 0 or more, not {lines}")
