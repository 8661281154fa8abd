"""Clusters that ssh starts and TLS joins: two hosts with addresses of their own.

The hosts are network namespaces where the system allows that.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.errors import HostsFailed
from mpreg_nb.transport.token import load_token
from tests.support.hosts import Host, two_hosts
from tests.support.ssh_hosts import SshHosts

pytestmark = pytest.mark.live

SEEN_S = 60.0


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as places:
        yield places


@pytest.fixture(scope="module")
def hosts(
    places: tuple[Host, Host], _own_folders_of_the_run: None
) -> Iterator[SshHosts]:
    with (
        SshHosts("gpu-1", "box", places=places) as hosts,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HOME", str(hosts.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield hosts
        left = {name: host.left() for name, host in hosts.hosts.items()}
    assert left == {"gpu-1": [], "box": []}


SPEC = {"lab": "cpu"}
SSH = {"gpu-1": {"gpu"}, "box": {"a": {"disk"}, "b": "more"}}


@pytest.fixture(scope="module")
def secret(_own_folders_of_the_run: None) -> str:
    return load_token().reveal()


@pytest.fixture(scope="module")
def cluster(hosts: SshHosts, secret: str) -> Iterator[Cluster]:
    with mp.up(SPEC, ssh=SSH, via="tls") as cluster:
        yield cluster


def nested() -> str:
    home = os.environ["HOME"]
    return f"{home} {mp.on('cpu').call('echo', 'from lab')}"


def made(size: int) -> bytes:
    return bytes(size)


def test_every_node_is_reached_at_an_address_of_its_machine(
    cluster: Cluster, hosts: SshHosts
) -> None:
    nodes = cluster.nodes().set_index("node").host.to_dict()
    flow = cluster.workflow("large")
    large = flow.step("large", made, 20_000_000).on("gpu")
    flow.step("length", lambda value: (len(value), os.environ["HOME"]), large).on(
        "disk"
    )

    answer = cluster.on("gpu").call(nested)
    run = flow.run()

    seen = {url.rpartition(":")[0] for url in cluster.urls}
    addresses = {f"wss://{host.address}" for host in hosts.hosts.values()}
    assert addresses < seen
    assert {url[:6] for url in seen} == {"wss://"}
    assert nodes["a"] == "box"
    assert answer == f"{hosts['gpu-1'].home} from lab"
    assert run["length"] == (20_000_000, str(hosts["box"].home))


def test_calls_and_results_do_not_pass_through_ssh(
    cluster: Cluster, hosts: SshHosts, secret: str
) -> None:
    cluster.register(nested)
    stopped = [
        process
        for host in hosts.hosts.values()
        for session in host.sessions()
        for process in (session, *session.children())
        if process.name() == "sshd"
    ]

    for process in stopped:
        process.suspend()
    try:
        with mp.connect(cluster.urls[-1], token=secret, ca=cluster.ca) as other:
            echoed = other.on("disk", timeout=SEEN_S).call("echo", bytes(3_000_000))
        answer = cluster.on("gpu", timeout=SEEN_S).call(nested)
    finally:
        for process in stopped:
            process.resume()

    assert len(stopped) >= 2
    assert len(echoed) == 3_000_000
    assert answer.endswith("from lab")


def test_a_running_cluster_keeps_its_way_between_machines(cluster: Cluster) -> None:
    with pytest.warns(UserWarning, match="via='tls' and keeps that"):
        mp.up(SPEC, via="tunnel")


def test_drills_and_the_set_up_cell_work_as_on_one_machine(
    hosts: SshHosts,
) -> None:
    cluster = mp.up(SPEC, ssh=SSH, via="tls", fresh=True)
    cluster.pause("b", 5)
    cluster.wait_for("b", state="suspect", timeout=SEEN_S)
    cluster.kill("a")
    cluster.kill("lab")
    cluster.wait_for("a", "lab", state="dead", timeout=SEEN_S)

    again = mp.up(SPEC, ssh=SSH)

    assert again is cluster
    cluster.wait_for("a", "b", "gpu-1", "lab", timeout=SEEN_S)
    assert cluster.on("disk").call("echo", 1) == 1
    assert {url[:6] for url in cluster.urls} == {"wss://"}
    cluster.down()


def test_a_host_whose_ports_cannot_be_reached_says_so_and_names_the_tunnels(
    hosts: SshHosts, places: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "10.255.77.1" if places[0].prefix else hosts["gpu-1"].address
    if places[0].prefix:  # an address that only the host itself knows
        add = ("ip", "addr", "add", f"{hidden}/32", "dev", "lo")
        subprocess.run([*places[0].prefix, *add], check=True)
    else:
        monkeypatch.setattr("mpreg_nb.launcher.ssh.REACHED_S", 0.0)
    port = hosts["gpu-1"].port
    hosts.config(f"Host inner\n  HostName {hidden}\n  Port {port}\n  ProxyJump gpu-1\n")
    with (hosts.ssh / "known_hosts").open("a") as known:
        known.write(f"[{hidden}]:{port} {hosts['gpu-1'].host_key}")

    try:
        with pytest.raises(HostsFailed) as failed:
            mp.up(ssh={"inner": "x"}, via="tls")
    finally:
        hosts.config()

    [failure] = failed.value.failures
    assert (failure.host, failure.stage) == ("inner", "bind")
    assert f"at {hidden} port" in failure.reason
    assert "cannot be reached from here" in failure.reason
    assert "leave out via='tls'" in failure.cure


KEPT = """
import os, sys
import mpreg_nb as mp
cluster = mp.up(ssh={"gpu-1": "gpu", "box": "disk"}, via="tls", keep=True, name="lab",
                timeout=90)
cluster.register(len, "length")
os._exit(1)
"""


def test_a_kept_cluster_needs_nobody_and_is_found_again(
    hosts: SshHosts,
) -> None:
    subprocess.run([sys.executable, "-c", KEPT], check=False, timeout=120)

    adopted = mp.adopt("lab")
    answer = adopted.on("gpu", wait=SEEN_S).call("length", "four")
    adopted.wait_for("gpu-1", "box", timeout=SEEN_S)
    adopted.disconnect()
    part = mp.adopt("box/lab")  # as from a machine that knows nothing of it
    one = part.on("gpu", wait=SEEN_S).call("echo", 1)
    part.disconnect()
    ended = mp.down("lab")

    assert (answer, one) == (4, 1)
    assert set(ended) == {"gpu-1", "box"}


def test_the_way_between_machines_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="via is 'tunnel' or 'tls', not 'tsl'"):
        mp.up(ssh={"gpu-1": "gpu"}, via="tsl")  # type: ignore[arg-type]
