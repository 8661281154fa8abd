"""`%mpreg doctor`: checks the installation and the clusters, and suggests fixes."""

import importlib.util
import math
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Container, Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import psutil
from packaging.requirements import Requirement

from mpreg_nb.cluster.current import all_clusters
from mpreg_nb.cures import start_node
from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.cluster_files import ClusterFiles, ClusterRecord, rows_of
from mpreg_nb.shared_memory.segments import DEFAULT_LIMIT_MB, IS_SUPPORTED, MEMORY
from mpreg_nb.transport.tls import (
    Certificate,
    TlsFiles,
    certificates_folder,
    dialling,
    ends_soon,
    read_ca,
    read_tls,
)
from mpreg_nb.transport.token import load_token
from mpreg_nb.units import count
from mpreg_nb.view.html import GREEN, ORANGE, RED, chosen
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Marked, Table, safe
from mpreg_nb.view.terminal import shown

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.cluster.cluster import Cluster


FEW_FILES = 512
"""Open files that a node may need: links to some hundreds of nodes and clients."""

NODE_MODULE = "mpreg_nb.node"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    about: str
    state: "State" = "ok"
    found: str
    cure: str = ""


# ------------------------------------------------------------------ installation


def check_installation() -> Iterator[Finding]:
    """Check the version of Python and the required packages."""
    here = f"{platform.python_implementation()} {platform.python_version()}"
    if plain():
        here = platform.python_implementation()
    yield Finding(about="Python", found=here)
    wrong = list(_wrong_packages())
    yield from wrong
    if not wrong:
        said = "" if plain() else f" {version('mpreg_nb')}"
        yield Finding(about="packages", found=f"mpreg_nb{said} and all requirements")
    if importlib.util.find_spec("uvloop") is None:
        yield Finding(
            about="event loop",
            state="note",
            found="that of asyncio; calls take about 50 % longer than with uvloop",
            cure="pip install uvloop",
        )


def _wrong_packages() -> Iterator[Finding]:
    for line in requires("mpreg_nb") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = ""
        if requirement.specifier.contains(installed or "0", prereleases=True):
            continue
        yield Finding(
            about=requirement.name,
            state="wrong",
            found=f"{installed or 'not installed'}, needs {requirement.specifier}",
            cure=f"pip install '{requirement}'",
        )


# ---------------------------------------------------------------------- notebook


def check_notebook() -> Iterator[Finding]:
    """Check the front end, and whether it can show live views."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        yield Finding(about="front end", found="a plain script: views are text")
        return
    if not hasattr(shell, "kernel"):
        yield Finding(about="front end", found="a terminal: views are text")
        return
    if plain():
        yield Finding(
            about="front end",
            state="note",
            found="plain mode: views do not update",
            cure="unset MPREG_NB_PLAIN and restart the kernel",
        )
        return
    yield Finding(about="front end", found=_front_end())
    yield from _widgets()


def _front_end() -> str:
    if "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ:
        return "VS Code"
    if "COLAB_RELEASE_TAG" in os.environ:
        return "Colab"
    path = os.environ.get("JPY_SESSION_NAME", "")
    return f"Jupyter, {Path(path).name}" if path else "an unknown front end"


def _widgets() -> Iterator[Finding]:
    """Check that the front-end files of widgets are installed.

    It checks the environment of this kernel. A Jupyter server in another environment
    has its own files.
    """
    missing = [
        name
        for name, parts in (
            ("jupyterlab_widgets", ("@jupyter-widgets", "jupyterlab-manager")),
            ("anywidget", ("anywidget",)),
        )
        if not any(
            Path(prefix, "share", "jupyter", "labextensions", *parts).is_dir()
            for prefix in {sys.prefix, sys.base_prefix, "/usr/local", "/usr"}
        )
    ]
    if not missing:
        yield Finding(about="widgets", found="live views can be shown")
        return
    yield Finding(
        about="widgets",
        state="note",
        found=f"no front-end files of {', '.join(missing)} in this environment",
        cure="in the environment of the Jupyter server: pip install "
        f"{' '.join(missing)}, then reload the page",
    )


# ----------------------------------------------------------------------- machine


def check_machine() -> Iterator[Finding]:
    """Check loopback connections, the limit of open files, and shared memory."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname(), timeout=2.0):
                yield Finding(about="loopback", found="ports can be opened and reached")
    except OSError as error:
        yield Finding(
            about="loopback",
            state="wrong",
            found=f"a port on 127.0.0.1 cannot be used: {error.strerror or error}",
            cure="allow connections to 127.0.0.1 in the firewall or the sandbox",
        )
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FEW_FILES:
        cure = f"ulimit -n {FEW_FILES if most < 0 else min(most, 4096)}, then restart"
        yield Finding(
            about="open files", state="note", found=f"at most {files}", cure=cure
        )
    yield _shared_memory()


def _shared_memory() -> Finding:
    about = "shared memory"
    if not IS_SUPPORTED:
        found = "not on this system: large values go through sockets"
        return Finding(about=about, state="note", found=found)
    held = MEMORY.statistics()
    if not held.limit_bytes:
        found = "switched off: large values go through sockets"
        cure = f'mp.config("shared_memory_mb", {DEFAULT_LIMIT_MB})'
        return Finding(about=about, state="note", found=found, cure=cure)
    found = f"up to {held.limit_bytes >> 20:,} MB for large values"
    if held.owned_bytes and not plain():
        found += f", {held.owned_bytes >> 20:,} MB of it in use"
    if held.refused:
        found += "; the limit was reached, and values went through sockets"
        cure = f'mp.config("shared_memory_mb", {2 * (held.limit_bytes >> 20)})'
        return Finding(about=about, state="note", found=found, cure=cure)
    return Finding(about=about, found=found)


# ------------------------------------------------------------- trust and leftovers


def check_trust() -> Iterator[Finding]:
    """Check the token, the CA and the certificates of this user."""
    try:
        token = load_token()
    except (MpregError, OSError) as error:
        yield Finding(about="token", state="wrong", found=str(error))
        return
    where = "yours" if plain() else f"from {token.source}"
    yield Finding(about="token", found=where)
    yield from check_certificates(certificates_folder())


def check_certificates(folder: Path) -> Iterator[Finding]:
    """Check the CA and the certificates in a folder, if there are any."""
    for path in sorted(folder.glob("*.pem")) if folder.is_dir() else ():
        try:
            ends_s = _ends_s(path)
        except (MpregError, OSError) as error:
            yield Finding(about=path.name, state="wrong", found=str(error))
            continue
        yield _end_of(path.name, ends_s)


def _ends_s(path: Path) -> float:
    if path.name == "ca.pem":
        [found, *_] = dialling(read_ca(path)).get_ca_certs()
        return Certificate.of(found).expires_s
    files = TlsFiles(
        certificate=str(path),
        key=str(path.with_suffix(".key")),
        ca=str(path.with_name("ca.pem")),
    )
    certificate = read_tls(files).certificate
    return certificate.expires_s if certificate is not None else 0.0


def _end_of(whose: str, ends_s: float) -> Finding:
    ends = ends_soon(ends_s)
    if not ends:
        # Plain mode shows no date, so that a tested notebook shows the same each day.
        day = "" if plain() else f" until {date.fromtimestamp(ends_s):%Y-%m-%d}"
        return Finding(about=whose, found=f"a valid certificate{day}")
    cure = "mpreg-nb tls node NAME HOST, copy the files to its machine, start it again"
    if whose == "ca.pem":
        cure = "mpreg-nb tls init --out FOLDER, then make all certificates again"
    state: State = "wrong" if ends_s <= time.time() else "note"
    return Finding(about=whose, state=state, found=f"the certificate {ends}", cure=cure)


def check_leftovers() -> Iterator[Finding]:
    """List other clusters and node processes of this user that run."""
    reading = ClusterFiles().read()
    for problem in reading.problems:
        yield Finding(about="ledger", state="wrong", found=problem)
    entries = ClusterFiles().entries()
    here = {cluster.name for cluster in _own()}
    others = [entry for entry in entries if entry.cluster not in here]
    for entry in others:
        yield _running(entry)
    known = {row.pid for entry in entries for row in rows_of(entry)}
    unknown = [pid for pid in _node_processes() if pid not in known]
    if unknown:
        # Their owner is unknown, so no cure suggests to end them.
        yield Finding(
            about="processes",
            found=f"{count(len(unknown), 'node process', 'node processes')} of other "
            "programs of yours, which mp.ps() does not list",
        )
    if not others:
        yield Finding(about="leftovers", found="no other cluster of yours is running")


def _running(entry: ClusterRecord) -> Finding:
    name = entry.cluster
    if entry.by_hand:
        nodes = ", ".join(node.name for node in entry.nodes)
        return Finding(
            about="clusters",
            found=f"node {nodes}, started by hand, is running as {name!r}",
        )
    rows = rows_of(entry)
    alive = sum(row.state != "dead" for row in rows)
    adopt = f"mp.adopt({name!r}) takes it over, " if entry.keep else ""
    return Finding(
        about="clusters",
        state="note",
        found=f"your cluster {name!r} is running: {alive} of {len(rows)} nodes",
        cure=f"{adopt}mp.down({name!r}) ends it",
    )


def _own() -> "tuple[Cluster, ...]":
    from mpreg_nb.cluster.current import all_clusters

    return all_clusters()


def _node_processes() -> Iterator[int]:
    me = psutil.Process().uids().real
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"] or (), process.info["uids"]
        # Workers are children of nodes and run another module.
        if uids is not None and uids.real == me and NODE_MODULE in words:
            yield process.pid


# ----------------------------------------------------------------------- clusters


def check_cluster(cluster: "Cluster") -> Iterator[Finding]:
    """Check the nodes and links of an open cluster."""
    name = cluster.name or "cluster"
    try:
        snapshot = cluster.refresh()
    except MpregError as error:
        yield Finding(about=name, state="wrong", found=str(error))
        return
    for picture in snapshot.nodes:
        record, load = picture.record, picture.load
        state = record.state.name.lower()
        if state in ("dead", "suspect"):
            again = start_node(record.name, record.resources, record.engine)
            own = record.name in cluster.own_nodes
            yield Finding(
                about=record.name,
                state="note" if state == "suspect" else "wrong",
                found=f"is {state}",
                cure=f"{again} starts it again" if own else "",
            )
        elif ends_soon(record.certificate_ends_s or math.inf):
            yield _end_of(record.name, record.certificate_ends_s)
        elif load is not None and load.degraded:
            yield Finding(
                about=record.name,
                state="note",
                found="answers late: its event loop is blocked",
                cure="look for a function with isolation='thread' that holds the GIL",
            )
    if cluster._engine is not None:
        for verb, why in cluster._engine.gaps.items():
            yield Finding(about=verb, found=f"on {cluster._engine.name}: {why}")
    alive = sum(p.record.state.name == "ALIVE" for p in snapshot.nodes)
    carried = "" if plain() else cluster._client.links.carried()
    yield Finding(
        about=name,
        found=f"{alive} of {len(snapshot.nodes)} nodes alive"
        + (f", connected {carried}" if carried else ""),
    )


State: TypeAlias = Literal["ok", "note", "wrong"]

_MARKS = {"ok": ("●", GREEN), "note": ("◐", ORANGE), "wrong": ("✗", RED)}


class Findings(msgspec.Struct, frozen=True):
    """The results of all checks, by subject."""

    found: "tuple[Finding, ...]"

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return all(finding.state != "wrong" for finding in self.found)

    def frame(self) -> "pd.DataFrame":
        """Return one row per finding.

        Columns: about, state (ok, note, wrong), found, cure.
        """
        from mpreg_nb.view.frames import FINDINGS, frame

        return frame(
            FINDINGS, [(f.about, f.state, f.found, f.cure) for f in self.found]
        )

    def __str__(self) -> str:
        return f"{self._title}\n{self._table}"

    def __repr__(self) -> str:
        return shown(self)

    def _repr_html_(self) -> str:
        return (
            f'<div style="overflow-x:auto"><div><b>Doctor</b>: {safe(self._title)}'
            f"</div>{self._table.html}</div>"
        )

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        bundle = {"text/plain": shown(self), "text/html": self._repr_html_()}
        return chosen(bundle, include, exclude)

    @property
    def _title(self) -> str:
        by_state = {state: 0 for state in _MARKS}
        for finding in self.found:
            by_state[finding.state] += 1
        if by_state["wrong"]:
            return f"{count(by_state['wrong'], 'problem')} found"
        if by_state["note"]:
            return f"everything works; {count(by_state['note'], 'note')}"
        return "no problems found"

    @property
    def _table(self) -> Table:
        return Table(
            head=["about", "state", "found", "what to do"],
            rows=[
                [
                    finding.about,
                    Marked(_MARKS[finding.state][0], finding.state, _ink(finding)),
                    finding.found,
                    finding.cure,
                ]
                for finding in self.found
            ],
        )


def _ink(finding: "Finding") -> str:
    return _MARKS[finding.state][1]


def examine() -> Findings:
    """Check this installation, this kernel, and the files and clusters of this user.

    It starts and changes nothing; it sends requests to the clusters that are open
    here. It takes some tenths of a second.
    """
    return Findings(tuple(_everything()))


def _everything() -> "Iterator[Finding]":
    yield from check_installation()
    yield from check_notebook()
    yield from check_machine()
    yield from check_trust()
    yield from check_leftovers()
    for cluster in all_clusters():
        yield from check_cluster(cluster)
