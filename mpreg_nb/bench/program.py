"""`mp.bench()` and `mpreg-nb bench`: what calls cost on this machine."""

import sys
from collections.abc import Callable
from contextlib import ExitStack

from mpreg_nb.bench.lab import own_nodes
from mpreg_nb.bench.measuring import Measurement, check_only
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.view.benchmark import Bench
from mpreg_nb.wire.boundary import public


@public
def bench(
    quick: bool = True,
    cluster: Cluster | None = None,
    *,
    only: str = "",
    progress: Callable[[str], object] = print,
) -> Bench:
    """Measure calls, workflows and maps against a bare WebSocket echo.

    Takes some ten seconds, not `quick` a minute or two. Two nodes of its own are
    started for it, beside what runs, and ended with it.

    cluster: measure this one instead; functions whose names begin with "bench_" are
        registered on it. The echo is of this machine in any case.
    only: rows whose name has this in it.
    progress: takes a line now and then.

    Raises ValueError at once where no row has `only` in its name.

    Interrupting it ends the measurement and its nodes at once.
    """
    check_only(only, nodes=2 if cluster is None else len(cluster.urls))
    with ExitStack() as stack:
        if cluster is None:
            progress("starting two nodes")
            cluster = stack.enter_context(own_nodes())
        return _measured(Measurement(cluster, quick=quick, only=only), progress)


def main(*, quick: bool = False, only: str = "") -> int:
    """Measure and print the table, progress to standard error; return 0."""
    measured = bench(quick, only=only, progress=_to_stderr)
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
