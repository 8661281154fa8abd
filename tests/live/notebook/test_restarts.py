"""A kernel that is restarted again and again leaves nothing behind."""

from pathlib import Path

import psutil
import pytest

from tests.support.kernel import Cell, kernel
from tests.support.leaks import Leaks

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

RESTARTS = 20
ENDED_S = 10.0  # nodes end within 5 s of their kernel; a busy machine is slower

SETUP = """%load_ext mpreg_nb
import time
import mpreg_nb as mp
cluster = mp.up(2)

@mp.function
def hang():
    print("hanging")
    time.sleep(60)

futures = [hang.on(node=name).submit() for name in ('n1', 'n2')]
"""


def _both_hang(cell: Cell) -> bool:
    return cell.stream().count("hanging") == 2


def nodes_of(leaks: Leaks) -> list[psutil.Process]:
    """The processes of the cluster: nodes, workers and what watches them."""
    return [p for p in leaks.processes() if "mpreg_nb" in " ".join(p.cmdline())]


def test_a_kernel_restarted_twenty_times_with_a_busy_cluster_leaves_nothing(
    leaks: Leaks, tmp_path: Path
) -> None:
    seen = 0
    with kernel() as front:
        for number in range(RESTARTS):
            cell = front.run(SETUP)
            front.wait_until(lambda: _both_hang(cell))  # noqa: B023 - called at once
            processes = nodes_of(leaks)
            seen = len(processes)
            front.restart(now=number % 2 == 0)
            _, alive = psutil.wait_procs(processes, timeout=ENDED_S)

            assert seen >= 4
            assert alive == []

    assert list((tmp_path / "own" / "state").rglob("*.json")) == []
