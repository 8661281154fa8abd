"""`up`, `connect`, `adopt`, `down`, `ps`, and the verbs of the current cluster."""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from mpreg_nb.boundary import levels_to_user, public
from mpreg_nb.client.future import Future
from mpreg_nb.cluster import current as open_clusters
from mpreg_nb.cluster.calling import Called
from mpreg_nb.cluster.cluster import AdoptedCluster, Cluster
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.engine_cluster import connect_dask, dask_client
from mpreg_nb.cluster.function import Function, View, declared
from mpreg_nb.cluster.registration import warn_stale_results
from mpreg_nb.cluster.start_progress import await_hosts
from mpreg_nb.cures import cure
from mpreg_nb.engines.engine import is_dask_url
from mpreg_nb.errors import HostsFailed
from mpreg_nb.launcher.cluster_files import ClusterFiles
from mpreg_nb.launcher.kept_clusters import end, rows_on, take_up
from mpreg_nb.launcher.launcher import RemoteOptions
from mpreg_nb.launcher.launchers import read_places
from mpreg_nb.launcher.node_spec import NodeSpec, Wanted, WantedHosts, read_spec
from mpreg_nb.launcher.started_nodes import VIA, StartedNodes, Via
from mpreg_nb.node.environment import fill_standard_files
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import load_token

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.cluster.doctor import Findings
    from mpreg_nb.cluster.run import Run
    from mpreg_nb.workflows.builder import Flow


ENTRY = NodeSpec("entry", workers=0)
"""Jobs of a queue join it when they start: a node here that runs nothing itself."""

_starting = threading.RLock()


def _start_anew() -> None:
    """Replace the lock in a forked child, where its holder does not exist."""
    global _starting
    _starting = threading.RLock()


os.register_at_fork(after_in_child=_start_anew)


@public
def current() -> Cluster:
    """Return the cluster that this process started or connected to last.

    Inside a function that runs on a cluster, it is this cluster.

    Raises:
        NoCluster: there is none, or it was ended; the message says how to get one.
        ForkedProcess: the cluster belongs to the parent of this forked process.
    """
    cluster: Cluster = open_clusters.current()
    return cluster


@public
def up(
    nodes: Wanted | None = None,
    *,
    ssh: WantedHosts | None = None,
    slurm: Any = None,
    launchers: Mapping[str, Any] = MappingProxyType({}),
    python: str = "",
    install: bool = False,
    packages: Sequence[str] | str = (),
    via: Via | None = None,
    workers: int | None = None,
    slots: int | None = None,
    keep: bool | None = None,
    fresh: bool = False,
    name: str = "",
    token: str | None = None,
    timeout: float | None = None,
) -> Cluster:
    """Start nodes, here and on other machines, and return the cluster; idempotent.

    nodes: a number, a dict of name -> resources, or words as for `%mpreg up`. The
        same nodes again return the running cluster; more nodes are added; a node that
        died, or whose resources changed, is started again; fewer change nothing. By
        default 3 nodes, or none on this machine where there are others.
    ssh: hosts as ssh knows them, and the resources of the node on each:
        {"gpu-1": {"gpu"}, "ada@box.lan": {"disk"}}; or several nodes of a host:
        {"gpu-1": {"a": {"gpu"}, "b": "cpu"}}; or words: "gpu-1:gpu box/b:disk".
    slurm: nodes that are jobs of Slurm, each a job of its own: their names and
        resources, {"train": {"gpu"}}, or such dicts by the options of sbatch:
        {"--gres=gpu:1 --time=4:00:00": {"train": {"gpu"}}}. A job that still waits in
        the queue after `timeout` joins when it starts.
    launchers: nodes of other launchers, by their names.
    python: the interpreter on other machines; by default one that fits is looked for.
    install: make an environment on other machines, with this mpreg_nb; once.
    packages: what else that environment has, as pip takes it; "kernel": the packages,
        in their versions here, that functions of this notebook import.
    via: how links get from machine to machine. "tunnel", the default: through this
        machine, inside of ssh. "tls": from each to each, over ports that must be
        reachable, with certificates that are made for this cluster; the only way to
        nodes of Slurm.
    workers: processes per node that run user code.
    slots: calls at once in each worker.
    keep: the nodes outlive this process; see `adopt`.
    fresh: end running nodes first.
    timeout: seconds in which each node must be ready.
    Options that are not given are as in `mp.config()`. A running cluster keeps the
    options that it was started with; a warning names those that have no effect.

    Raises:
        StartFailed: a node did not start; its last log lines are in the message.
        HostsFailed: nodes of other machines did not; says where, why, and what to
            do. The others run, in a cluster that `current` returns.
    """
    fill_standard_files()
    places = {**launchers, "ssh": ssh, "slurm": slurm}
    places = {name: wanted for name, wanted in places.items() if wanted is not None}
    here = read_spec(3 if nodes is None else nodes) if nodes or not places else ()
    if slurm is not None:
        if via == "tunnel":
            raise ValueError("nodes of Slurm are reached by TLS alone: leave out via")
        via = "tls"
        here = here or (ENTRY,)
    specs = read_places(here, places)
    if via not in (None, *VIA):
        raise ValueError(f"via is 'tunnel' or 'tls', not {via!r:.60}")
    remote = RemoteOptions(python=python, install=install, packages=packages)
    given = {"workers": workers, "slots": slots, "keep": keep, "name": name or None}
    given["via"] = via
    workers = CONFIG.workers if workers is None else workers
    slots = CONFIG.slots if slots is None else slots
    timeout = CONFIG.start_timeout_s if timeout is None else timeout
    _check_count("workers", workers, 0)
    _check_count("slots", slots, 1)
    with _starting:  # of several threads one starts the cluster, the others find it
        running: list[Cluster] = [
            c for c in open_clusters.all_clusters() if c._started_here
        ]
        if fresh:
            for cluster in running:
                cluster.down()
        elif running:
            cluster = running[-1]
            open_clusters.enter(cluster)
            cluster.grow(specs, timeout, remote)
            _warn_of_ignored(given, cluster._start_options)
            _warn_of_waiting(cluster.waiting)
            return cluster
        if via is not None and not places:
            raise ValueError(
                f"via={via!r} is for nodes on other machines: ssh={{'gpu-1': 'gpu'}}"
            )
        secret = load_token(token)
        local = StartedNodes(
            secret,
            name=name,
            keep=CONFIG.keep if keep is None else keep,
            notebook=os.environ.get("JPY_SESSION_NAME", ""),
            workers=workers,
            slots=slots,
            lease_s=CONFIG.lease_s,
            via=via or "tunnel",
            await_hosts=await_hosts,
        )
        try:
            local.ask_of_hosts(remote)
            failures = local.start(specs, timeout)
            started = tuple(local.urls)
            if not started:
                raise HostsFailed(failures)
            urls = tuple(local.urls.values())
            cluster = Cluster(urls, secret, nodes=local, ca=local.ca)
        except BaseException:
            local.close()
            raise
        try:
            cluster.wait_for(*started)
        except BaseException:
            cluster.down()
            raise
        cluster = _compared(cluster)
        _warn_of_waiting(cluster.waiting)
        if failures:
            raise HostsFailed(failures, started)
        return cluster


@public
def connect(
    *urls: str,
    token: str | None = None,
    direct: bool = True,
    ca: str | os.PathLike[str] | None = None,
    keep: bool = False,
    name: str = "",
) -> Cluster:
    """Connect to a running cluster by the URL of any of its nodes.

    The URL of a Dask scheduler, `dask://HOST:PORT`, runs the calls on the workers of
    that Dask cluster: a gateway to it is started here, and ends with this process.

    urls: tried in order until one answers.
    token: the cluster's token; by default MPREG_NB_TOKEN, MPREG_NB_TOKEN_FILE or the
        token file of this user.
    direct: also open connections to the other nodes that can be reached; False
        sends everything through the first node.
    ca: for wss:// URLs, the CA of the cluster: the file ca.pem of `mpreg-nb tls init`;
        by default MPREG_NB_CA, or the one that this user made. "system": trust what
        web browsers trust.
    keep, name: of the gateway to a Dask cluster: whether it outlives this process, and
        its name for `ps`, `adopt` and `down`.

    Raises:
        NotTrusted: the token is not the cluster's, or a certificate not of its CA.
        NodeLost: no node answers at any of `urls`.
        StartFailed: the gateway to a Dask cluster did not start, with its reason.
        ValueError: one of `urls` is not the URL of a node.
    """
    if not urls:
        raise TypeError("connect needs the URL of a node: mp.connect('ws://HOST:PORT')")
    fill_standard_files()
    if is_dask_url(urls[0]):
        if len(urls) > 1:
            raise TypeError("a Dask cluster has one scheduler: connect takes its URL")
        with _starting:
            secret = load_token(token)
            return _compared(
                connect_dask(urls[0], secret, keep=keep, name=name, direct=direct)
            )
    if keep or name:
        raise TypeError(
            "keep and name are for the gateway to a Dask cluster: other nodes are "
            "those of whoever started them"
        )
    cluster = Cluster(urls, load_token(token), direct=direct, ca=load_ca(ca))
    return _compared(cluster)


@public
def on_dask(client: Any, *, keep: bool = False, name: str = "") -> Cluster:
    """Run calls on the workers of the Dask cluster of a `distributed.Client`.

    For clusters whose client has TLS certificates, and where a client is at hand:
    `mp.on_dask(Client(SLURMCluster(...)))`. All else is as with `connect`.

    Raises:
        StartFailed: the gateway did not start, with its reason.
        ValueError: the Dask cluster is inside this process.
    """
    url, security = dask_client(client)
    fill_standard_files()
    with _starting:
        return _compared(
            connect_dask(
                url,
                load_token(),
                client=client,
                security=security,
                keep=keep,
                name=name,
            )
        )


@public
def adopt(name: str | None = None) -> Cluster:
    """Take over a cluster that was started with keep=True, together with its runs.

    `cluster.runs()` lists the runs, including those of ended processes, and
    `cluster.get_run(id)` returns one; running ones print here. `cluster.down()` ends
    the nodes, `cluster.disconnect()` lets them run. A cluster that this process
    already holds is returned as it is.

    name: may be omitted if there is only one kept cluster. "gpu-1/lab" is cluster lab
        on a host that ssh reaches.

    Raises:
        NoCluster: there is none of that name, or there are several and no name was
            given.
    """
    cluster: Cluster
    wanted = name
    if name is None or "/" not in name:
        wanted = ClusterFiles().find(name, only_kept=True).cluster
    for cluster in open_clusters.all_clusters():
        if cluster.name == wanted:
            open_clusters.enter(cluster)
            return cluster
    kept = take_up(wanted, load_token())
    try:
        return _compared(AdoptedCluster(kept))
    except BaseException:
        kept.close()
        raise


@public
def down(name: str | None = None) -> tuple[str, ...]:
    """End the cluster of this process, or the one of this user that has `name`.

    "gpu-1/lab" is cluster lab on a host that ssh reaches.

    Without a name, and without a cluster in this process: the user's kept cluster
    whose owner has ended, if there is exactly one. Returns the names of the nodes
    that ended.

    Raises:
        NoCluster: there is none to end; the message lists the clusters of other
            programs with their owners.
    """
    held = open_clusters.all_clusters()
    if name is None and held:
        return _end(current())
    for cluster in held:
        if name is not None and cluster.name == name:
            return _end(cluster)
    return end(name, load_token())


def _end(cluster: Cluster) -> tuple[str, ...]:
    nodes = cluster.own_nodes
    cluster.down()
    return cluster.ended_nodes if isinstance(cluster, AdoptedCluster) else nodes


@public
def ps(host: str = "") -> "pd.DataFrame":
    """Return one row per node that this user started here, nodes run by hand too.

    host: list those on a host that ssh reaches.

    Columns: cluster, node, state, resources, pid, notebook, started_at.
    """
    from mpreg_nb.view.frames import ps_frame

    rows = rows_on(host, load_token()) if host else ClusterFiles().rows()
    return ps_frame(rows)


def _compared(cluster: Cluster) -> Cluster:
    try:
        cluster._warn_of_versions()
    except BaseException:  # interrupted, or warnings are errors
        if cluster._started_here:
            cluster.down()
        else:
            cluster.disconnect()
        raise
    return cluster


def _warn_of_waiting(waiting: Mapping[str, str]) -> None:
    """Say which nodes `up` does not wait for any longer."""
    if waiting:
        told = "; ".join(f"node {name}: {what}" for name, what in waiting.items())
        names = ", ".join(map(repr, waiting))
        warnings.warn(
            f"{told}. It joins when it starts. To wait for it: "
            f"cluster.wait_for({names}, timeout=3600)",
            stacklevel=levels_to_user(),
        )


def _warn_of_ignored(
    given: Mapping[str, object], running: Mapping[str, object]
) -> None:
    """Warn if options of `up` differ from those of the cluster that runs already."""
    ignored = {
        option: value
        for option, value in given.items()
        if value is not None and value != running[option]
    }
    if ignored:
        kept = ", ".join(f"{option}={running[option]!r}" for option in ignored)
        wanted = ", ".join(f"{option}={value!r}" for option, value in ignored.items())
        again = cure(
            magic="%mpreg up --fresh",
            python="mp.up(..., fresh=True)",
            command="mp.up(..., fresh=True)",
        )
        warnings.warn(
            f"the cluster was started with {kept} and keeps that, so {wanted} has no "
            f"effect. To end it and start another one: {again}",
            stacklevel=levels_to_user(),
        )


def _check_count(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, not {value}")


P = ParamSpec("P")
R = TypeVar("R")


@overload
def function(local: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    *,
    name: str | None = None,
    resources: str | Iterable[str] = (),
    idempotent: bool = False,
    isolation: str = "process",
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


@public
def function(
    local: Any = None,
    /,
    *,
    name: str | None = None,
    resources: str | Iterable[str] = (),
    idempotent: bool = False,
    isolation: str = "process",
) -> Any:
    """Decorate a function so that it can be called here and on the cluster.

    It is registered at once if there is a current cluster; otherwise, and on a
    cluster that is started later, at its first use. See `Cluster.function`.
    """

    @public
    def decorate(plain: Callable[P, R]) -> Function[P, R]:
        made: Function[P, R] = declared(
            plain,
            current,
            name=name,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,
        )
        if open_clusters.all_clusters():
            warn_stale_results(current().register(made))
        return made

    return decorate if local is None else decorate(local)


@public
def register(
    function: Any,
    name: str | None = None,
    resources: str | Iterable[str] = (),
    *,
    idempotent: bool = False,
    isolation: str = "process",
) -> "Function[Any, Any]":
    """Register on the current cluster; see `Cluster.register`."""
    return current().register(
        function, name, resources, idempotent=idempotent, isolation=isolation
    )


@public
def call(function: Called, /, *args: Any, **kwargs: Any) -> Any:
    """Call on the current cluster; see `Cluster.call`."""
    return current().call(function, *args, **kwargs)


@public
def submit(function: Called, /, *args: Any, **kwargs: Any) -> Future[Any]:
    """Submit a call on the current cluster; see `Cluster.submit`."""
    return current().submit(function, *args, **kwargs)


@public
def map(function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
    """Map on the current cluster; see `Cluster.map`."""
    return current().map(function, *iterables)


@public
def on(
    *resources: str,
    node: str | None = None,
    timeout: float | None = None,
    wait: float | None = None,
) -> View:
    """Restrict calls on the current cluster; see `Cluster.on`."""
    return current().on(*resources, node=node, timeout=timeout, wait=wait)


@public
def workflow(name: str) -> "Flow[Run, Any]":
    """Create a workflow on the current cluster; see `Cluster.workflow`."""
    return current().workflow(name)


@public
def doctor() -> "Findings":
    """Check this installation and its clusters, and suggest fixes."""
    from mpreg_nb.cluster.doctor import examine

    return examine()
