"""Kept clusters of this user, here and on hosts of ssh: found, taken up, ended.

`gpu-1/lab` names the cluster lab as host gpu-1 knows it; `lab` is one that was started
from this machine, with its nodes on hosts.
"""

import os
import platform
import time
from contextlib import closing
from typing import Any

import msgspec

from mpreg_nb.errors import HostFailure, HostsFailed, NoCluster
from mpreg_nb.launcher import launchers
from mpreg_nb.launcher.cluster_files import (
    ClusterFiles,
    ClusterRecord,
    LedgerRow,
    is_here,
)
from mpreg_nb.launcher.host_messages import ClusterEntered
from mpreg_nb.launcher.launcher import LaunchContext
from mpreg_nb.launcher.node_spec import check_host, own_name
from mpreg_nb.launcher.pid import stamp
from mpreg_nb.transport.token import Token


def _ssh(token: Token, cluster_id: str = "") -> Any:
    """Return a launcher of ssh; its package may be missing."""
    context = LaunchContext(token=token, cluster="", cluster_id=cluster_id, keep=True)
    return launchers.make("ssh", context)


def _hosts(record: ClusterRecord) -> dict[str, str]:
    """Return host -> name of the cluster there."""
    return {
        node.host: f"{record.cluster}@{own_name(node.host)}"
        for node in record.nodes
        if node.launcher == "ssh"
    }


class KeptCluster:
    """A kept cluster that this process has connected to; `close` disconnects."""

    def __init__(self, record: ClusterRecord, launcher: Any | None) -> None:
        self.record = record
        """What is known of it; its nodes are those that were found."""

        self._launcher = launcher

    def close(self) -> None:
        """Disconnect from its hosts; its nodes go on."""
        if self._launcher is not None:
            self._launcher.close()


def take_up(name: str | None, token: Token) -> KeptCluster:
    """Find a kept cluster, and open the tunnels to its nodes.

    Raises:
        NoCluster: there is none of that name, or several and no name was given.
        HostsFailed: there is no way to a host of it.
    """
    host, slash, cluster = (name or "").rpartition("/")
    if slash:
        launcher = _ssh(token)
        try:
            entered = launcher.take_up(check_host(host), cluster)
        except BaseException:
            launcher.close()
            raise
        return KeptCluster(_record_of(f"{host}/{cluster}", entered), launcher)
    record = ClusterFiles().find(name, only_kept=True)
    hosts = _hosts(record)
    if not hosts or not is_here(record) or record.ca:  # by TLS it needs no tunnels
        return KeptCluster(record, None)
    launcher = _ssh(token, record.cluster_id)
    try:
        nodes = [node for node in record.nodes if not node.launcher]
        for host, there in hosts.items():
            nodes += launcher.take_up(host, there).nodes
        failures = launcher.expose([node.url for node in nodes])
        if failures:
            raise HostsFailed(tuple(failures.values()))
    except BaseException:
        launcher.close()
        raise
    return KeptCluster(msgspec.structs.replace(record, nodes=tuple(nodes)), launcher)


def _record_of(name: str, entered: ClusterEntered) -> ClusterRecord:
    return ClusterRecord(
        cluster=name,
        cluster_id=entered.cluster_id,
        host=platform.node(),
        owner=stamp(os.getpid()),
        keep=True,
        notebook="",
        started_at=time.time(),
        ca=entered.ca,
        nodes=entered.nodes,
    )


def end(name: str | None, token: Token, *, drain_s: float = 10.0) -> tuple[str, ...]:
    """End a cluster of this user by its name; return the names of its nodes.

    Without a name: the only kept one whose owner has ended.

    Raises:
        NoCluster: there is none, or it runs on another machine.
        HostsFailed: there is no way to a host of it; its nodes elsewhere have ended.
    """
    ledger = ClusterFiles()
    host, slash, cluster = (name or "").rpartition("/")
    if slash:
        with closing(_ssh(token)) as launcher:
            return tuple(launcher.end(check_host(host), cluster, drain_s))
    record = ledger.abandoned() if name is None else ledger.find(name)
    hosts = _hosts(record) if is_here(record) and record.keep else {}
    ended: list[str] = []
    failures: list[HostFailure] = []
    if hosts:
        with closing(_ssh(token)) as launcher:
            for host, there in hosts.items():
                try:
                    ended += launcher.end(host, there, drain_s)
                except NoCluster:
                    continue  # it ended there by itself
                except HostsFailed as error:
                    failures += error.failures
    here = ledger.end(record.cluster, drain=drain_s)
    if failures:
        lost = {failure.host for failure in failures}
        left = tuple(node for node in record.nodes if node.host in lost)
        ledger.record(msgspec.structs.replace(record, nodes=left))
        raise HostsFailed(failures)
    return (*here, *ended)


def rows_on(host: str, token: Token) -> tuple[LedgerRow, ...]:
    """Return the nodes of this user on a host.

    Raises:
        HostsFailed: there is no way to it.
    """
    with closing(_ssh(token)) as launcher:
        return tuple(launcher.rows(check_host(host)))
