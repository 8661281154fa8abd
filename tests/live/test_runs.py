"""Runs that outlive who began them, and what can be asked of them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.client.output import writing_to
from mpreg_nb.cluster.current import parts_of

pytestmark = pytest.mark.live

TOKEN = "a0" * 32
"""Of the cluster of all tests: each test has a folder for tokens of its own."""

KERNEL = """
import json, sys
import mpreg_nb as mp

def load(rows):
    print("loading")
    return list(range(rows))

def wait_for(rows, path):
    import pathlib, time
    print("waiting")
    while not pathlib.Path(path).exists():
        time.sleep(0.02)
    return len(rows)

cluster = mp.up(2, keep=True, name="kept")
done = cluster.workflow("short")
done.step("rows", load, 3)
short = done.run()
flow = cluster.workflow("long")
rows = flow.step("rows", load, 5)
flow.step("count", wait_for, rows, sys.argv[1])
long = flow.start()
while {state.name: state.status for state in long.steps}["count"] != "running":
    pass
print(json.dumps([short.id, long.id]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}}
    with mp.up(nodes, fresh=True, token=TOKEN) as cluster:
        yield cluster


@pytest.fixture
def other(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """Another client, that entered by another node."""
    url = next(url for url in cluster.urls if url != _entry_url(cluster))
    connected = mp.connect(url, token=TOKEN)
    yield connected
    connected.disconnect()


def _entry_url(cluster: mp.Cluster) -> str:
    client = parts_of(cluster).client
    record = client.state.record(client.entry_node)
    assert record is not None
    return record.urls[0]


def double(number: int) -> int:
    print(f"doubling {number}")  # noqa: T201 - on a node
    return 2 * number


def wait_for(value: Any, path: str) -> Any:
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.02)
    return value


def make(count: int) -> Any:
    import numpy

    return numpy.ones(count)


def broken(rows: Any) -> float:
    raise ValueError("not written yet")


def total(rows: Any) -> float:
    return float(rows.sum())


def test_run_of_another_client_is_found_followed_and_asked(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    flow = cluster.workflow("shared")
    four = flow.step("four", double, 2)
    flow.step("wait", wait_for, four, str(go)).on("gpu")
    run = flow.start()
    written: list[tuple[str, str]] = []

    with writing_to(lambda node, stream, text: written.append((node, text))):
        taken = other.get_run(run.id[:8])
    by_name, own = other.get_run("shared"), cluster.get_run(run.id)
    while_going = taken.status
    go.touch()
    taken.wait(60)

    assert (by_name is taken, own is run) == (True, True)
    assert while_going == "running"
    assert (taken["four"], taken["wait"]) == (4, 4)
    assert taken.outputs == run.wait(60).outputs == {"wait": 4}
    assert taken.frame().equals(run.frame())
    assert [box.name for box in taken.diagram().boxes] == ["four", "wait"]
    assert (
        taken.log("four") == run.log("four") == f"[{_node(run, 'four')}] doubling 2\n"
    )
    assert taken.log("wait") == ""
    assert taken.started_at <= run.started_at + timedelta(seconds=5)
    row = other.runs().iloc[0]
    assert (row["run"], row["workflow"], row["status"]) == (
        run.id[:8],
        "shared",
        "done",
    )
    assert (row["steps"], row["done"], row["failed"]) == (2, 2, 0)


def test_run_is_cancelled_by_another_client(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    flow = cluster.workflow("endless")
    flow.step("wait", wait_for, 1, str(tmp_path / "never"))
    run = flow.start()

    other.get_run(run.id).cancel()

    with pytest.raises(mp.errors.CallCancelled):
        run.wait(60)


def test_all_goes_through_the_entry_where_nodes_may_not_be_reached_directly(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    flow = cluster.workflow("behind")
    rows = flow.step("rows", wait_for, [1, 2], str(go)).on("gpu")
    flow.step("sum", cluster.register(broken, name="sum_of"), rows)
    run = flow.start()
    url = next(url for url in cluster.urls if url != _entry_url(cluster))

    with mp.connect(url, token=TOKEN, direct=False) as behind:
        taken = behind.get_run(run.id)
        go.touch()
        with pytest.raises(mp.errors.WorkflowFailed):
            taken.wait(60)
        cluster.register(len, name="sum_of")
        resumed = taken.resume().wait(60)

        assert taken["rows"] == [1, 2]
        assert resumed["sum"] == 2
        assert resumed.why("sum").choices[0].chosen in ("n1", "n2")
        assert parts_of(behind).client.links.open_links == (
            parts_of(behind).client.entry_node,
        )
        assert parts_of(behind).client.entry_node != parts_of(cluster).client.entry_node


def test_run_is_followed_on_when_the_link_to_its_node_was_lost(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go, lost = tmp_path / "go", threading.Event()
    flow = cluster.workflow("cut off")
    flow.step("wait", wait_for, 3, str(go))
    connected = mp.connect(_entry_url(cluster), token=TOKEN)
    taken = connected.get_run(flow.start().id)
    link = parts_of(connected).client.links.entry
    assert link is not None

    def close_link(_: object) -> None:
        lost.set() if not link.is_open else link.close()

    stop = parts_of(connected).client.on_snapshot(close_link)

    connected.refresh()
    assert lost.wait(60)
    stop()
    go.touch()
    taken.wait(60)

    assert not link.is_open
    assert taken["wait"] == 3
    connected.disconnect()


def test_the_error_for_an_unknown_run_suggests_the_nearest(cluster: mp.Cluster) -> None:
    flow = cluster.workflow("sensor-report")
    flow.step("one", double, 1)
    flow.run()

    with pytest.raises(mp.errors.NoRun, match="Did you mean 'sensor-report'"):
        cluster.get_run("sensor-reprot")
    with pytest.raises(mp.errors.NoRun, match=r"cluster\.runs\(\)"):
        cluster.get_run("abc")


def test_why_lists_every_attempt_and_the_unsent_calls(
    cluster: mp.Cluster, other: mp.Cluster
) -> None:
    flow = cluster.workflow("explained")
    bad = flow.step("bad", broken, 1).on("gpu").retry(1)
    flow.step("next", double, bad)
    run = flow.start()
    with pytest.raises(mp.errors.WorkflowFailed):
        run.wait(60)

    frame = other.get_run(run.id).why("bad").frame()

    assert frame["attempt"].tolist() == [1, 1, 2, 2]
    assert frame["node"].tolist() == ["n2", "n1"] * 2
    assert frame["fits"].tolist() == [True, False] * 2
    assert frame["chosen"].tolist() == [True, False] * 2
    assert frame["reason"].tolist() == ["", "lacks gpu"] * 2
    assert "was not sent: it was skipped because bad has no result" in str(
        run.why("next")
    )
    with pytest.raises(KeyError, match="Did you mean 'bad'"):
        run.why("bda")


def test_mended_run_is_resumed_also_by_another_client(
    cluster: mp.Cluster, other: mp.Cluster
) -> None:
    flow = cluster.workflow("mended")
    rows = flow.step("rows", make, 50_000).on("gpu")
    sum_of = flow.step("sum", cluster.register(broken, name="sum_of"), rows)
    flow.step("after", double, sum_of)
    run = flow.start()
    with pytest.raises(mp.errors.WorkflowFailed):
        run.wait(60)
    cluster.register(total, name="sum_of")

    resumed = other.get_run(run.id).resume().wait(60)

    assert resumed.id != run.id
    assert resumed.outputs == {"after": 100_000.0}
    attempts = resumed.frame().set_index("step")["attempts"].to_dict()
    assert attempts == {"rows": 0, "sum": 1, "after": 1}
    assert "this run uses the result of an earlier run" in str(resumed.why("rows"))
    assert len(resumed["rows"]) == len(run["rows"]) == 50_000


def test_async_code_finds_follows_and_resumes_runs(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    flow = cluster.workflow("followed")
    waits = flow.step("wait", wait_for, 5, str(go))
    flow.step("sum", cluster.register(broken, name="sum_of"), waits)
    run = flow.start()

    async def follow() -> tuple[Any, ...]:
        async with mp.connect_async(cluster.urls[-1], token=TOKEN) as connected:
            found = await connected.get_run(run.id)
            go.touch()
            with pytest.raises(mp.errors.WorkflowFailed):
                await found
            cluster.register(double, name="sum_of")
            resumed = await (await found.resume())
            frame = await connected.runs()
            why = await resumed.why("sum")
            return await resumed.outputs(), frame["workflow"][0], len(why.choices)

    assert asyncio.run(follow()) == ({"sum": 10}, "followed", 1)


def _node(run: Any, step: str) -> str:
    nodes: dict[str, str] = {state.name: state.node for state in run.steps}
    return nodes[step]


def test_result_that_was_lost_with_its_node_is_made_again() -> None:
    with mp.up({"a": set(), "b": {"gpu"}, "c": {"gpu"}}, fresh=True) as cluster:
        flow = cluster.workflow("lost")
        rows = flow.step("rows", make, 50_000).on("gpu")
        flow.step("sum", cluster.register(broken, name="sum_of"), rows)
        run = flow.start()
        with pytest.raises(mp.errors.WorkflowFailed):
            run.wait(60)
        held_by = _node(run, "rows")
        cluster.kill(held_by)
        cluster.wait_for(held_by, state="dead", timeout=60)
        cluster.register(total, name="sum_of")

        resumed = run.resume().wait(60)

        assert resumed["sum"] == 50_000.0
        assert _node(resumed, "rows") == {"b": "c", "c": "b"}[held_by]


def test_run_is_lost_with_the_node_that_drives_it(tmp_path: Path) -> None:
    with mp.up(2, fresh=True) as cluster:
        flow = cluster.workflow("doomed")
        flow.step("wait", wait_for, 1, str(tmp_path / "never"))
        run = flow.start()
        driver = parts_of(cluster).client.entry_node

        cluster.kill(driver)

        with pytest.raises(mp.errors.NodeLost, match="it coordinated the run"):
            run.wait(60)
        with pytest.raises(mp.errors.NoRun, match=f"node {driver} coordinated the run"):
            run.why("wait")
        with pytest.raises(mp.errors.NoRun, match="start the workflow again"):
            run.resume()
        listed = cluster.runs()
        assert listed[["run", "status"]].to_numpy().tolist() == [[run.id[:8], "failed"]]


def test_node_that_hangs_does_not_hold_up_the_list_of_runs() -> None:
    with mp.up(2, fresh=True) as cluster:
        flow = cluster.workflow("short")
        flow.step("two", double, 1)
        run = flow.run()
        cluster.runs()  # so that there is a link to each node
        driver = parts_of(cluster).client.entry_node
        (hanging,) = set(cluster.own_nodes) - {driver}
        cluster.pause(hanging, 60)
        began = time.monotonic()

        listed = cluster.runs()

        assert listed["run"].tolist() == [run.id[:8]]
        assert time.monotonic() - began < 30


def test_adopted_cluster_goes_down_at_once_whatever_it_runs(tmp_path: Path) -> None:
    cluster = mp.up(1, keep=True, name="busy")
    flow = cluster.workflow("endless")
    flow.step("wait", wait_for, 1, str(tmp_path / "never"))
    flow.start()
    cluster.disconnect()
    adopted = mp.adopt("busy")
    began = time.monotonic()

    ended = mp.down()

    assert adopted.own_runs[0].name == "endless"
    assert ended == ("n1",)
    assert time.monotonic() - began < 8
    assert mp.ps().empty


def test_several_kept_clusters_are_listed_and_one_is_adopted_by_name() -> None:
    one = mp.up(1, keep=True, name="one")
    one.disconnect()
    two = mp.up(1, keep=True, name="two")
    two.disconnect()

    try:
        with pytest.raises(mp.errors.NoCluster, match="Your kept clusters: one, two"):
            mp.adopt()
        adopted = mp.adopt("two")
        same = mp.adopt("two")
        adopted.disconnect()
        again = mp.adopt("two")
        states = mp.ps()["state"].tolist()
        again.down()
        left = mp.ps()["cluster"].tolist()
    finally:
        for name in set(mp.ps()["cluster"]):
            mp.down(name)

    assert (adopted is same, adopted is again) == (True, False)
    assert states == ["alive", "alive"]
    assert left == ["one"]


def test_runs_go_on_when_the_process_that_began_them_is_killed(tmp_path: Path) -> None:
    program, go = tmp_path / "kernel.py", tmp_path / "go"
    program.write_text(textwrap.dedent(KERNEL))
    kernel = subprocess.Popen(
        [sys.executable, program, go],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert kernel.stdin is not None
    assert kernel.stdout is not None
    ids: list[str] = []
    for line in kernel.stdout:
        if line.startswith("["):
            try:
                ids = json.loads(line)
            except json.JSONDecodeError:
                continue  # what a step printed, with the name of its node
            break
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.wait()
    kernel.stdin.close()
    kernel.stdout.close()
    short, long = ids

    adopted = mp.adopt()
    try:
        frame = adopted.runs()
        listed = frame[["run", "workflow", "status"]].to_numpy().tolist()
        adopted_short, adopted_long = adopted.get_run(short[:8]), adopted.get_run(long)
        fetched = adopted_short["rows"]
        waited_for = adopted_long.status
        go.touch()
        adopted_long.wait(60)
        counted = adopted_long["count"]
        name = adopted.name
    finally:
        ended = mp.down("kept")

    assert listed == [[long[:8], "long", "running"], [short[:8], "short", "done"]]
    assert fetched == [0, 1, 2]
    assert (waited_for, adopted_long.status, counted) == ("running", "done", 5)
    assert name == "kept"
    assert ended == ("n1", "n2")
    assert not [p for p in psutil.process_iter() if _is_node(p)]


def _is_node(process: psutil.Process) -> bool:
    try:
        ours = process.environ().get("XDG_RUNTIME_DIR") == os.environ["XDG_RUNTIME_DIR"]
        return ours and "mpreg_nb.node" in process.cmdline()
    except psutil.Error:
        return False
