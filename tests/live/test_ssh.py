"""Clusters that span machines: every verb, drill and view, over real sshds."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.errors import HostsFailed, NoCluster
from tests.support.ssh_hosts import SshHosts
from tests.support.until import until

pytestmark = pytest.mark.live

SEEN_S = 60.0


@pytest.fixture(scope="module")
def hosts(_own_folders_of_the_run: None) -> Iterator[SshHosts]:
    with SshHosts("gpu-1", "box") as hosts, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(hosts.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        (hosts["box"].home / ".bashrc").write_text("echo Welcome to the box\n")
        yield hosts
        left = {name: host.left() for name, host in hosts.hosts.items()}
    assert left == {"gpu-1": [], "box": []}


SPEC = {"lab": "cpu"}
SSH = {"gpu-1": {"gpu"}, "root@box": {"a": {"disk"}, "b": "cpu"}}


@pytest.fixture
def cluster(hosts: SshHosts) -> Iterator[Cluster]:
    with mp.up(SPEC, ssh=SSH) as cluster:
        yield cluster


def home() -> str:
    sys.stdout.write("here\n")
    return os.environ["HOME"]


def test_a_cluster_spans_machines(
    cluster: Cluster, hosts: SshHosts, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu, box = str(hosts["gpu-1"].home), str(hosts["box"].home)

    homes = [cluster.on(name).call(home) for name in ("gpu", "disk")]
    flow = cluster.workflow("homes")
    first = flow.step("first", home).on("gpu")
    flow.step("second", lambda before: (before, os.environ["HOME"]), first).on("disk")
    run = flow.run()

    assert homes == [gpu, box]
    assert run["second"] == (gpu, box)
    assert "[gpu-1] here" in capfd.readouterr().out
    nodes = cluster.nodes().set_index("node")
    assert nodes.host[["gpu-1", "a", "b"]].tolist() == ["gpu-1", "root@box", "root@box"]
    assert "joined" in repr(cluster.logs("a"))
    where = mp.ps().set_index("node").state
    assert where[["lab", "a"]].tolist() == ["alive", "elsewhere"]
    assert set(mp.ps("gpu-1").node) == {"gpu-1"}


def test_drills_reach_nodes_on_other_machines(cluster: Cluster) -> None:
    cluster.pause("b", 5)
    cluster.wait_for("b", state="suspect", timeout=SEEN_S)
    cluster.kill("a")
    cluster.wait_for("a", state="dead", timeout=SEEN_S)
    cluster.partition("gpu-1", "lab", 1)

    again = mp.up(SPEC, ssh=SSH)  # the set-up cell

    assert again is cluster
    cluster.wait_for("a", "b", "gpu-1", "lab", timeout=SEEN_S)
    assert cluster.on("disk").call("echo", 1) == 1


def state_of(cluster: Cluster, node: str) -> str:
    return str(cluster.nodes().set_index("node")["state"][node])


def test_the_set_up_cell_mends_a_lost_connection(
    cluster: Cluster, hosts: SshHosts
) -> None:
    for session in hosts["gpu-1"].sessions():
        session.kill()
    # It ends itself, and may have said goodbye through what was left of the way.
    until(lambda: state_of(cluster, "gpu-1") in ("dead", "left"))

    mp.up(SPEC, ssh=SSH)

    assert cluster.on("gpu").call(home) == str(hosts["gpu-1"].home)


def test_each_host_fails_alone(hosts: SshHosts) -> None:
    hosts.config("Host nowhere\n  HostName 127.0.0.1\n  Port 9\n")
    wanted = {"gpu-1": "gpu", "nowhere": "x", "box": "disk"}

    with pytest.raises(HostsFailed) as failed:
        mp.up(ssh=wanted)
    with mp.current() as cluster:
        answers = [cluster.on(name).call("echo", name) for name in ("gpu", "disk")]

    assert answers == ["gpu", "disk"]
    assert [(f.host, f.stage) for f in failed.value.failures] == [
        ("nowhere", "connect")
    ]
    assert "gpu-1, box" in str(failed.value) or "box, gpu-1" in str(failed.value)


KEPT = """
import os, sys
import mpreg_nb as mp
hosts = {"gpu-1": "gpu", "box": "disk"}
cluster = mp.up(ssh=hosts, keep=True, name="lab", timeout=90)
cluster.register(len, "length")
sys.stdout.write("up\\n")
sys.stdout.flush()
os._exit(1)
"""


def test_a_kept_cluster_is_found_again_from_a_process_that_knows_nothing_of_it(
    hosts: SshHosts, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", KEPT], check=False, timeout=60)

    with pytest.raises(FileExistsError, match=r"mp\.adopt"):
        mp.up(1, name="lab")
    listed = set(mp.ps("gpu-1").cluster)
    cluster = mp.adopt("lab")
    answer = cluster.on("gpu", wait=SEEN_S).call("length", "four")
    cluster.wait_for("gpu-1", "box", timeout=SEEN_S)
    cluster.disconnect()
    part = mp.adopt("gpu-1/lab")
    one = part.on("gpu").call("echo", 1)
    part.disconnect()
    # Those nodes are still there: a new cluster with a node of the same name.
    with mp.up(ssh={"gpu-1": "gpu"}, name="new") as new:
        beside = new.on("gpu").call(home)
        both = set(mp.ps("gpu-1").cluster)
        seen = new.nodes().node.tolist()
    ended = mp.down("lab")

    assert beside == str(hosts["gpu-1"].home)
    assert (both, seen) == ({"lab@gpu-1", "new@gpu-1"}, ["gpu-1"])
    assert listed == {"lab@gpu-1"}
    assert (answer, one) == (4, 1)
    assert set(ended) == {"gpu-1", "box"}
    with pytest.raises(NoCluster, match="no cluster named"):
        mp.down("gpu-1/lab")
