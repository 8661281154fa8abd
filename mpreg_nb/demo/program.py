"""`mpreg-nb demo`: starts a cluster, runs a workflow on real data, shows reports."""

import os
import time
from pathlib import Path
from typing import Any

from mpreg_nb.cluster.api import up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo import climate
from mpreg_nb.demo.catalog import listing
from mpreg_nb.workflows.builder import Flow

NODES = {
    "archive": {"raw-data"},
    "lab-1": {"cpu"},
    "lab-2": {"cpu", "statistics"},
}

SOURCE = "01_quickstart.ipynb"


def build(cluster: Cluster) -> "Flow[Run, Any]":
    """Return ingest → validate → three analyses at the same time → report."""
    flow = cluster.workflow("mauna-loa")
    raw = flow.step("ingest", climate.ingest, "co2").on("raw-data")
    clean = flow.step("validate", climate.validate, raw).on("cpu")
    slopes = flow.step("trend", climate.trend, clean["weeks"]).on("statistics")
    months = flow.step("season", climate.season, clean["weeks"]).on("cpu")
    weekly = flow.step("noise", climate.noise, clean["weeks"]).on("cpu").retry(1)
    flow.step("report", climate.report, clean, slopes, months, weekly).on("cpu")
    return flow


def main(folder: Path = Path("build"), *, fast: bool = False) -> int:
    """Run the demo; files go to `folder`. Returns the exit code.

    fast: leave out the quickstart notebook.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with up(NODES, fresh=True) as cluster:
        print(f"{len(NODES)} nodes up after {time.perf_counter() - began:.1f} s\n")
        flow = build(cluster)
        _show("The workflow", flow)
        _show("Where each step would run", flow.plan())
        run = flow.run()
        _show("What the data say", run["report"])
        _show("What each step took", run.frame())
        for _ in range(200):  # something for the percentiles to be made of
            cluster.call("echo", "hello")
        _show("The members", cluster.nodes())
        _show("How long calls took", cluster.latency())
        plot = folder / "latency.png"
        cluster.plot_latency().savefig(plot, dpi=120)
    notebook = None if fast else _execute_notebook(folder)
    print(f"Written: {plot}" + (f", {notebook}" if notebook else ""))
    print(f"All in {time.perf_counter() - began:.1f} s\n")
    print(f"Next, other jobs with what to learn from each:\n{listing()}")
    return 0


def _show(title: str, what: object) -> None:
    print(f"— {title}\n\n{what}\n")


def _execute_notebook(folder: Path) -> Path | None:
    """Execute the quickstart notebook; None where it or nbclient is not there."""
    here = Path(__file__).resolve().parent
    found = [here / SOURCE, here.parent.parent / "notebooks" / SOURCE]
    source = next((path for path in found if path.exists()), None)
    if source is None:
        print("The quickstart notebook is not installed; see the source package.")
        return None
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError:
        print("To execute the notebook as well: pip install 'mpreg_nb[demo]'")
        return None
    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute(env={**os.environ, "MPREG_NB_PLAIN": "1"})
    target = folder / "quickstart.ipynb"
    nbformat.write(notebook, target)  # type: ignore[no-untyped-call]
    return target
