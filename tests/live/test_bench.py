"""The bench, as a notebook and as a terminal run it."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.benchmark import program
from mpreg_nb.benchmark.capacity import register_pause, scaled_per_s, scaling_row
from mpreg_nb.benchmark.peers import compared, pythons
from mpreg_nb.benchmark.rows import own_nodes

pytestmark = pytest.mark.live

PROGRAM = str(Path(sys.executable).with_name("mpreg-nb"))


def interrupting(line: str) -> Callable[[str], None]:
    """What Stop does, at the moment when a line of progress begins so."""

    def progress(said: str) -> None:
        if said.startswith(line):
            raise KeyboardInterrupt

    return progress


def test_it_measures_beside_the_users_cluster_and_leaves_that_alone() -> None:
    said: list[str] = []
    with mp.up(1) as cluster:
        measured = mp.bench(only="builtin", progress=said.append)

        assert mp.current() is cluster
        assert mp.up(1) is cluster
        assert list(mp.ps()["node"]) == ["n1"]
        assert not any(n.startswith("bench") for n in cluster.functions()["function"])

    assert [row.row for row in measured.latencies] == ["builtin echo"]
    assert measured.rates == ()
    assert 0.0 < measured.latencies[0].p50_us < 1e6
    assert said[0] == "starting two nodes"
    assert said[-1].startswith("latencies, round 3 of 3: a bare echo takes")


def test_it_measures_the_cluster_that_it_is_given() -> None:
    with mp.up(1) as cluster:
        measured = mp.bench(cluster=cluster, only="call", progress=lambda line: None)

        assert "bench_same" in list(cluster.functions()["function"])

    # What needs two nodes is left out.
    assert [row.row for row in measured.latencies] == [
        "call, worker process",
        "call, thread of the node",
        "call, blocking",
    ]


def test_it_measures_an_array_beside_raw_tcp() -> None:
    measured = mp.bench(only="100 MB", progress=lambda line: None)

    [row] = measured.transfers
    assert 0.0 < row.gb_per_s_min <= row.gb_per_s <= row.gb_per_s_max
    assert row.times_tcp > 0.0
    assert (measured.latencies, measured.rates) == ((), ())


def test_it_answers_the_figures_of_mpreg_on_one_node() -> None:
    with mp.up(1, fresh=True) as cluster:
        workflows, memory = (
            mp.bench(cluster=cluster, only=row, progress=lambda line: None)
            for row in ("workflows", "memory")
        )

    assert [row.mpreg_per_s for row in workflows.rates] == [8.0]
    assert workflows.rates[0].per_s_min > 0.0
    [held] = memory.memory
    assert held.processes == 2
    assert 20.0 < held.memory_mb < 500.0
    assert (memory.scaling, memory.unequal) == ((), ())


def test_unequal_nodes_take_shares_of_mixed_work_by_their_speed() -> None:
    measured = mp.bench(only="unequal", progress=lambda line: None)

    [row] = measured.unequal
    fast, half, quarter = row.shares
    assert [share.node for share in row.shares] == ["fast", "half", "quarter"]
    assert fast.share + half.share + quarter.share == pytest.approx(1.0)
    assert fast.share > quarter.share > 0.0
    assert 0.0 < row.per_s < row.most_per_s * 1.1


def test_the_rate_of_calls_that_wait_grows_with_the_nodes() -> None:
    with own_nodes("s1") as cluster:
        register_pause(cluster)
        with asyncio.Runner() as loop:
            [one] = loop.run(scaled_per_s(cluster, ["s1"], 1, 0.3))
            cluster.add("s2")
            [two] = loop.run(scaled_per_s(cluster, ["s1", "s2"], 1, 0.3))

    row = scaling_row(2, [two], one)
    assert row.row == "scaling, 2 nodes"
    assert row.times_one > 1.2


def test_peers_run_the_same_loop_and_one_that_does_not_start_is_left_out() -> None:
    said: list[str] = []
    installed = {"mpreg_nb": sys.executable, "ProcessPool": sys.executable}

    rows = compared(
        installed | {"broken": shutil.which("false") or ""},
        rounds=2,
        only="chain",
        progress=said.append,
    )

    assert [(row.row, row.peer, row.unit) for row in rows] == [
        ("chain of 8", "mpreg_nb", "us"),
        ("chain of 8", "ProcessPool", "us"),
    ]
    assert all(0.0 < row.value_min <= row.value <= row.value_max for row in rows)
    assert "peers: broken is left out: ended with exit code 1" in said
    assert said[-1] == "peers, round 2 of 2: chain of 8"


def test_the_peers_are_those_that_are_installed_here() -> None:
    found = pythons()

    assert {"mpreg_nb", "ProcessPool", "joblib", "Dask"} <= found.keys()
    assert set(found.values()) == {sys.executable}


def test_rows_of_peers_are_measured_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "pythons", lambda: {"ProcessPool": sys.executable})
    with pytest.raises(ValueError, match="no row has 'blocking call'"):
        mp.bench(only="blocking call", progress=lambda line: None)

    measured = mp.bench(
        only="start to first result", peers=True, progress=lambda line: None
    )

    assert [row.row for row in measured.peers] == ["start to first result"]
    assert (measured.latencies, measured.rates) == ((), ())


def test_stop_ends_it_and_its_nodes() -> None:
    with pytest.raises(KeyboardInterrupt):
        mp.bench(progress=interrupting("latencies, round 1"))

    assert list(mp.ps()["node"]) == []  # processes are watched by the fixture


def test_the_command_prints_the_table_and_nothing_else() -> None:
    done = subprocess.run(
        [PROGRAM, "bench", "--quick", "--only", "builtin"],
        capture_output=True,
        text=True,
        timeout=100,
    )

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("unit: a bare websockets echo, p50 ")
    assert lines[1].startswith("mode: ")
    assert lines[3].startswith("builtin echo  ")
    assert len(lines) == 4
    assert "round 3 of 3" in done.stderr


def test_the_function_is_a_function_also_when_its_folder_was_imported() -> None:
    import mpreg_nb.benchmark.rows  # noqa: F401 - sets an attribute of the package

    assert callable(mp.bench)


def test_rows_that_there_are_not_are_refused_before_anything_starts() -> None:
    said: list[str] = []

    with pytest.raises(ValueError, match="no row has 'no such row' in its name"):
        mp.bench(only="no such row", progress=said.append)
    with (
        mp.up(1, fresh=True) as cluster,
        pytest.raises(ValueError, match="no row of one node has 'forwarded'"),
    ):
        mp.bench(cluster=cluster, only="forwarded", progress=said.append)
    with (
        mp.up(2, fresh=True) as cluster,
        pytest.raises(ValueError, match="no row of a given cluster has 'scaling'"),
    ):
        mp.bench(cluster=cluster, only="scaling", progress=said.append)

    assert said == []
