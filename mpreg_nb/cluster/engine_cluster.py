"""Connecting to a cluster of another engine: starts a gateway to it on this machine."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from mpreg_nb.cluster import current as open_clusters
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.engines.dask_values import DaskArguments
from mpreg_nb.engines.engine import (
    check_installed,
    dask_address,
    dask_url,
    gateway_command,
)
from mpreg_nb.launcher.node_spec import NodeSpec
from mpreg_nb.launcher.process import ProcessLauncher
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.transport.token import Token
from mpreg_nb.user_files import private_folder, state_folder, write_private

GATEWAY = "gateway"
"""Name of the node that has no workers, to which the notebook is connected."""

START_S = 60.0
"""How long a gateway may take to start, at the least: Dask takes long to import."""

LEAVE_S = 4.0
"""How long a gateway may take to leave its engine as it was."""


def connect_dask(
    url: str,
    token: Token,
    *,
    client: Any = None,
    security: dict[str, Any] | None = None,
    keep: bool = False,
    name: str = "",
    direct: bool = True,
) -> Cluster:
    """Return the cluster whose nodes are the workers of the Dask cluster at `url`.

    One that this process has connected to already is returned as it is.

    client: of the program, to compute arguments with, and the arguments of its
        `distributed.Security`.

    Raises:
        StartFailed: the gateway did not start; its last log lines are in the message.
        ModuleNotFoundError: `distributed` is not installed.
        ValueError: `url` is not the URL of a Dask scheduler.
    """
    address = dask_address(url)
    check_installed()
    for cluster in open_clusters.all_clusters():
        engine = cluster._engine
        if engine is not None and engine.address == address and cluster._is_served:
            open_clusters.enter(cluster)
            found: Cluster = cluster
            return _with_client(found, client, security)
    file = _written(security)
    nodes = StartedNodes(
        token,
        name=name,
        keep=keep,
        notebook=os.environ.get("JPY_SESSION_NAME", ""),
        workers=0,
        slots=1,
        launcher=ProcessLauncher(
            token,
            keep=keep,
            command=gateway_command(url, str(file or "")),
            orderly_s=LEAVE_S,
        ),
    )
    try:
        nodes.start([NodeSpec(GATEWAY)], max(START_S, CONFIG.start_timeout_s))
        urls = tuple(nodes.urls.values())
        made = Cluster(urls, token, nodes=nodes, direct=direct)
        return _with_client(made, client, security)
    except BaseException:
        nodes.close()
        raise
    finally:
        if file is not None:
            file.unlink(missing_ok=True)  # the gateway has read it, or never will


def _with_client(
    cluster: Cluster, client: Any, security: dict[str, Any] | None
) -> Cluster:
    deferred = cluster._client.deferred
    if isinstance(deferred, DaskArguments) and client is not None:
        deferred.use(client, security)
    return cluster


def dask_client(client: Any) -> tuple[str, dict[str, Any] | None]:
    """Return the URL of the scheduler of a Dask client, and its security.

    Raises:
        TypeError: it is no client, or its security cannot be handed on.
        ValueError: its scheduler is in this process alone.
    """
    scheduler = getattr(client, "scheduler", None)
    address = getattr(scheduler, "address", None)
    if not isinstance(address, str):
        raise TypeError(
            f"on_dask takes a connected distributed.Client, not {client!r:.80}"
        )
    if address.startswith("inproc:"):
        raise ValueError(
            "this Dask cluster is inside this process, where no other one can reach "
            "it. Start its workers as processes: LocalCluster(processes=True)"
        )
    return dask_url(address), _fields(getattr(client, "security", None))


_SECURE = ("require_encryption", "tls_ca_file", "tls_client_cert", "extra_conn_args")
"""Fields of `distributed.Security` of which one is set where there is TLS. The others
have values always."""


def _fields(security: Any) -> dict[str, Any] | None:
    names = getattr(type(security), "__slots__", ())
    fields = {name: getattr(security, name, None) for name in names}
    fields = {name: value for name, value in fields.items() if value is not None}
    if not any(fields.get(name) for name in _SECURE):
        return None
    try:
        json.dumps(fields)
    except TypeError as error:
        raise TypeError(
            f"the security of this Dask client cannot be handed on ({error}). Use one "
            "whose arguments are texts and numbers, such as file names"
        ) from None
    return fields


def _written(security: dict[str, Any] | None) -> Path | None:
    """Write the arguments to a file of the user alone: they may hold a private key."""
    if security is None:
        return None
    folder = private_folder(state_folder() / "dask")
    file = folder / f"{secrets.token_hex(8)}.json"
    write_private(file, json.dumps(security).encode())
    return file
