"""`mp.bench()` and `mpreg-nb bench`: what calls cost on this machine."""

import sys
from collections.abc import Callable
from contextlib import ExitStack

from msgspec.structs import replace

from mpreg_nb.benchmark.measure import Measurement, check_only
from mpreg_nb.benchmark.peers import compared, pythons
from mpreg_nb.benchmark.rows import own_nodes
from mpreg_nb.boundary import public
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.view.benchmark import Bench


@public
def bench(
    quick: bool = True,
    cluster: Cluster | None = None,
    *,
    only: str = "",
    peers: bool = False,
    progress: Callable[[str], object] = print,
) -> Bench:
    """Measure calls, workflows and maps in units of a bare WebSocket echo.

    Starts two nodes of its own for the measurement and ends them. Interrupting it
    ends the measurement and its nodes at once.

    quick: about fifteen seconds; False repeats more, and also measures how the rate
        grows from 1 to 5 nodes and how unequal nodes share mixed work, on nodes that
        it starts for these rows. It takes two minutes.
    cluster: measure this one instead, without the rows that start nodes; functions
        whose names begin with `bench_` are registered on it. The echo always runs on
        this machine.
    only: measure only rows with this text in their names, those of other nodes too.
    peers: then also measure the same work with mpreg_nb and with those of
        ProcessPoolExecutor, loky, joblib, Ray, ipyparallel and Dask that are installed
        here: each in a process of its own, with two workers.
    progress: called with a line of text from time to time.

    Raises:
        ValueError: no row has `only` in its name.
    """
    own = cluster is None
    given = None if cluster is None else len(cluster.urls)
    check_only(only, given=given, peers=peers)
    with ExitStack() as stack:
        if cluster is None:
            progress("starting two nodes")
            cluster = stack.enter_context(own_nodes())
        measurement = Measurement(cluster, quick=quick, only=only, more_nodes=own)
        measured = _measured(measurement, progress)
    if peers:
        rounds = 1 if quick else 3
        rows = compared(pythons(), rounds=rounds, only=only, progress=progress)
        measured = replace(measured, peers=rows)
    return measured


def main(*, quick: bool = False, only: str = "", peers: bool = False) -> int:
    """Measure and print the table, progress to standard error; return 0."""
    measured = bench(quick, only=only, peers=peers, progress=_to_stderr)
    sys.stdout.write(f"{measured}\n")
    return 0


def _measured(measurement: Measurement, progress: Callable[[str], object]) -> Bench:
    measurement.start()
    try:
        while isinstance(said := measurement.said.get(), str):
            progress(said)
    except BaseException:  # most likely an interrupt
        measurement.stop()
        raise
    measurement.join()
    if isinstance(said, BaseException):
        raise said
    return said


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
