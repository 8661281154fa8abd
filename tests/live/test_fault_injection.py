"""Drills: nodes that are killed, paused, or cut off from each other."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.launcher.child import node_environment
from tests.support.files import until_exists
from tests.support.leaks import Leaks

pytestmark = pytest.mark.live

SEEN_S = 20.0
"""What happens to a node shows in the notebook within this time, on a busy machine."""

HEALED_S = 60.0
PAUSED_S = 10.0
PARTED_S = 12.0

KERNEL = """
import sys, time, mpreg_nb as mp
cluster = mp.up(2, keep="keep" in sys.argv)
cluster.pause("n2", 60)
print(*mp.ps().query("node == 'n2'")["pid"], cluster.name, flush=True)
time.sleep(300)
"""


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(3, fresh=True) as cluster:
        yield cluster


def process_of(cluster: mp.Cluster, node: str) -> psutil.Process:
    nodes = mp.ps()
    [pid] = nodes[(nodes.cluster == cluster.name) & (nodes.node == node)]["pid"]
    return psutil.Process(pid)


def others(cluster: mp.Cluster) -> list[str]:
    """Nodes that the client did not enter by."""
    return sorted({"n1", "n2", "n3"} - {parts_of(cluster).client.entry_node})


def states(cluster: mp.Cluster) -> dict[str, str]:
    frame = cluster.nodes()
    return dict(zip(frame["node"], frame["state"], strict=True))


def url_of(cluster: mp.Cluster, node: str) -> str:
    record = parts_of(cluster).client.state.record(node)
    assert record is not None
    return record.urls[0]


def marked(begun: str, seconds: float) -> str:
    """Say that it runs, and take a while."""
    import pathlib
    import time

    pathlib.Path(begun).touch()
    time.sleep(seconds)
    return "done"


@pytest.mark.parametrize("which", ["the entry", "another"])
def test_killed_node_is_seen_dead_soon(cluster: mp.Cluster, which: str) -> None:
    entry = parts_of(cluster).client.entry_node
    victim = entry if which == "the entry" else others(cluster)[0]

    cluster.kill(victim)

    cluster.wait_for(victim, state="dead", timeout=SEEN_S)
    assert states(cluster)[victim] == "dead"
    assert cluster.on(timeout=60).call("echo", 1) == 1


def test_paused_node_is_taken_for_dead_and_comes_back(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    victim = others(cluster)[0]
    begun = tmp_path / "begun"
    future = cluster.on(node=victim).submit(marked, str(begun), 60)
    until_exists(begun)

    cluster.pause(victim, PAUSED_S)

    with pytest.raises(mp.errors.NodeLost) as caught:
        future.result(PAUSED_S + SEEN_S)
    assert caught.value.executed == "unknown"
    cluster.wait_for(victim, state="alive", timeout=PAUSED_S + HEALED_S)
    assert set(states(cluster).values()) == {"alive"}
    told = cluster.events().query("node == @victim")["event"]
    assert {"suspect", "dead"} <= set(told)
    assert cluster.on(node=victim, timeout=60).call(len, "ab") == 2


def test_entry_that_hangs_does_not_blind_the_notebook(cluster: mp.Cluster) -> None:
    victim = parts_of(cluster).client.entry_node

    cluster.pause(victim, 60)

    cluster.wait_for(victim, state="dead", timeout=SEEN_S)
    assert parts_of(cluster).client.entry_node != victim
    assert sorted(states(cluster).values()) == ["alive", "alive", "dead"]
    assert cluster.on(timeout=60).call("echo", 1) == 1
    cluster.remove(victim)
    assert victim not in cluster.own_nodes


def test_sides_of_a_partition_lose_each_other_and_meet_again(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    entry = parts_of(cluster).client.entry_node
    alone, with_entry = others(cluster)
    begun = tmp_path / "begun"
    side = mp.connect(url_of(cluster, alone), direct=False)
    future = side.on(node=entry).submit(marked, str(begun), 60)
    until_exists(begun)

    cluster.partition(alone, [entry, with_entry], PARTED_S)
    link = parts_of(cluster).client.links.get(alone)

    side.wait_for(entry, with_entry, state="suspect", timeout=SEEN_S)
    cluster.wait_for(alone, state="dead", timeout=SEEN_S)
    assert states(cluster) == {entry: "alive", with_entry: "alive", alone: "dead"}
    assert side.on(node=alone, timeout=60).call("echo", 1) == 1
    with pytest.raises(mp.errors.NodeLost) as caught:
        future.result(PARTED_S + HEALED_S)
    assert caught.value.executed == "unknown"
    for seer in (cluster, side):
        seer.wait_for("n1", "n2", "n3", timeout=PARTED_S + HEALED_S)
    assert side.on(node=entry, timeout=60).call("echo", 2) == 2
    # Only the others lost it: what is under way from here to there goes on.
    assert link is parts_of(cluster).client.links.get(alone) is not None
    side.down()


@pytest.mark.parametrize("kind", ["", "keep"], ids=["its nodes end", "its nodes stay"])
def test_paused_node_goes_on_when_the_kernel_is_killed(leaks: Leaks, kind: str) -> None:
    leaks.forget_files()
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, kind],
        env=node_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as kernel:
        assert kernel.stdout is not None
        pid, name = kernel.stdout.readline().split()
        node = psutil.Process(int(pid))
        stood_still = node.status() == psutil.STATUS_STOPPED

        kernel.kill()

    assert stood_still
    if kind:
        end = time.monotonic() + SEEN_S
        while node.status() == psutil.STATUS_STOPPED:
            assert time.monotonic() < end
            time.sleep(0.01)
        adopted = mp.adopt(name)
        adopted.wait_for("n2", timeout=HEALED_S)
        adopted.disconnect()
        mp.down(name)
    assert leaks.wait(SEEN_S) == []


def test_whoever_is_paused_can_be_ended(cluster: mp.Cluster) -> None:
    for node in ("n2", "n3"):
        cluster.pause(node, 60)
        cluster.pause(node, 60)
    processes = [process_of(cluster, node) for node in ("n2", "n3")]

    cluster.kill("n2")
    cluster.remove("n3")

    assert psutil.wait_procs(processes, SEEN_S)[1] == []
    assert cluster.own_nodes == ("n1", "n2")
    cluster.grow(3)
    cluster.pause("n2", 60)
    began_s = time.monotonic()
    cluster.down()
    assert time.monotonic() - began_s < SEEN_S


def test_cluster_of_another_notebook_is_ended_also_where_a_node_is_paused() -> None:
    with mp.up(2, fresh=True) as cluster:
        cluster.pause("n2", 60)
        processes = [process_of(cluster, node) for node in ("n1", "n2")]
        code = f"import mpreg_nb as mp; mp.down({cluster.name!r})"

        subprocess.run([sys.executable, "-c", code], env=node_environment(), check=True)

        assert psutil.wait_procs(processes, SEEN_S)[1] == []


def test_drills_reject_what_is_impossible(cluster: mp.Cluster) -> None:
    other = mp.connect(*cluster.urls)
    cluster.kill("n3")
    cluster.wait_for("n3", state="dead", timeout=SEEN_S)

    with pytest.raises(mp.errors.MpregError, match="Did you mean 'n1'"):
        cluster.kill("n11")
    with pytest.raises(mp.errors.MpregError, match="only on clusters that this"):
        other.pause("n1", 1)
    with pytest.raises(ValueError, match="at most 600"):
        cluster.pause("n1", 601)
    with pytest.raises(TypeError, match="a number"):
        cluster.pause("n1", "soon")  # type: ignore[arg-type]
    with pytest.raises(mp.errors.MpregError, match="has ended"):
        cluster.pause("n3", 1)
    with pytest.raises(mp.errors.MpregError, match="has ended"):
        cluster.partition("n1", ["n2", "n3"], 1)
    with pytest.raises(ValueError, match="both sides"):
        cluster.partition(["n1"], ["n2", "n1"], 1)
    with pytest.raises(ValueError, match="two sides"):
        cluster.partition(["n1"], [], 1)
    assert states(cluster) == {"n1": "alive", "n2": "alive", "n3": "dead"}
    other.down()
