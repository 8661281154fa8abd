"""What an engine is to a cluster: its address, and what it cannot do.

Nothing here imports the engine, so that the package works without it.
"""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from mpreg_nb.errors import MpregError

DASK_GAPS: Mapping[str, str] = MappingProxyType(
    {
        "add": "nodes of a Dask cluster are its workers: start one with Dask, for "
        "example dask_cluster.scale(4). Its node joins by itself",
        "remove": "nodes of a Dask cluster are its workers: end one with Dask, for "
        "example client.retire_workers([address]). Its node leaves by itself",
        "kill": "drills end processes that this notebook started, and workers belong "
        "to the Dask cluster. Kill one there: client.restart_workers([address])",
        "pause": "drills stop processes that this notebook started, and workers belong "
        "to the Dask cluster. Try it on a cluster of your own: mp.up(3, fresh=True)",
        "partition": "drills cut connections between nodes that this notebook "
        "started, and those of a Dask cluster are in one process. Try it on a cluster "
        "of your own: mp.up(3, fresh=True)",
        "logs": "logs of Dask workers are with Dask: client.get_worker_logs(). Here is "
        "the log of the gateway: cluster.logs('gateway')",
        "nested calls": "a function can call the cluster only where its Dask worker "
        "runs on the machine of the gateway; elsewhere it finds no cluster",
        "isolation": "isolation='thread' has no effect: a thread of the node would run "
        "in the gateway, so the function runs in a worker process of its Dask worker",
        "results": "a large result of a step is in the memory of the Dask worker that "
        "made it, and is lost with that worker. Steps of idempotent functions are then "
        "run again; a step that needs the result of another one fails",
        "adapt": "Dask sees only as many calls as there are slots, so "
        "dask_cluster.adapt() starts no workers for those that wait. Scale by hand: "
        "dask_cluster.scale(4)",
    }
)
"""Verb -> the sentence that its error, `mpreg-nb doctor` and the docs have."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine whose workers run the calls of a cluster."""

    name: str
    address: str
    gaps: Mapping[str, str] = field(repr=False)

    def refuse(self, verb: str) -> MpregError:
        """Return the error of a verb that this engine does not have."""
        return MpregError(f"{self.name} has no {verb}: {self.gaps[verb]}")


def is_dask_url(url: object) -> bool:
    """Return whether `connect` means a Dask scheduler by `url`.

    >>> is_dask_url("dask://10.0.0.5:8786"), is_dask_url("ws://10.0.0.5:7400")
    (True, False)
    """
    return isinstance(url, str) and url.partition(":")[0].split("+")[0] == "dask"


def dask_address(url: str) -> str:
    """Return the address of a scheduler as Dask writes it.

    >>> dask_address("dask://10.0.0.5:8786"), dask_address("dask+tls://lab:8786")
    ('tcp://10.0.0.5:8786', 'tls://lab:8786')

    Raises:
        ValueError: it is none; the message tells what one looks like.
    """
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL ({error})") from error
    if not is_dask_url(url) or not parts.hostname or not port:
        raise ValueError(
            f"{url!r} is not the URL of a Dask scheduler: dask://HOST:PORT, or "
            "dask+tls://HOST:PORT. In Dask its address is client.scheduler.address"
        )
    return f"{scheme.partition('+')[2] or 'tcp'}://{rest.rstrip('/')}"


def dask_url(address: str) -> str:
    """Return the URL of the scheduler at an address of Dask.

    >>> dask_url("tcp://10.0.0.5:8786"), dask_url("tls://lab:8786")
    ('dask://10.0.0.5:8786', 'dask+tls://lab:8786')
    """
    protocol, _, rest = address.rpartition("://")
    return f"dask://{rest}" if protocol in ("", "tcp") else f"dask+{protocol}://{rest}"


def engine_at(url: str) -> Engine | None:
    """Return the engine that a node says runs its calls; None if it is one of ours."""
    return Engine("Dask", dask_address(url), DASK_GAPS) if is_dask_url(url) else None


def check_installed() -> None:
    """Raise ModuleNotFoundError where `distributed` is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise ModuleNotFoundError(
            "Dask is not installed here. Install it: pip install 'mpreg_nb[dask]'",
            name="distributed",
        )


def gateway_command(url: str, security: str = "") -> list[str]:
    """Return the words that start a gateway; options of a node follow them.

    security: file that `write_security` wrote.
    """
    words = [sys.executable, "-P", "-m", "mpreg_nb.engines", url]
    return [*words, f"--dask-security={security}"] if security else words
