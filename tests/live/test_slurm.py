"""Nodes that are jobs of a real Slurm, whose daemons run on this machine."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.errors import HostsFailed
from mpreg_nb.launcher.pilot import PilotTicket
from mpreg_nb.launcher.pilot import main as run_pilot
from mpreg_nb.launcher.slurm import JobState, SlurmLauncher, address_toward
from tests.support.leaks import Leaks
from tests.support.slurm import Slurm
from tests.support.until import until

pytestmark = pytest.mark.live

SEEN_S = 60.0
HELD = "--hold"
"""Such a job waits until it is released."""


@pytest.fixture(scope="module")
def slurm(_own_folders_of_the_run: None) -> Iterator[Slurm]:
    with Slurm() as slurm, pytest.MonkeyPatch.context() as patch:
        slurm.use(patch)
        yield slurm


@pytest.fixture(autouse=True)
def _the_queue_is_as_before_afterwards(slurm: Slurm) -> Iterator[None]:
    before = slurm.states()
    yield
    until(lambda: slurm.states().items() <= before.items())


JOBS = {"--cpus-per-task=1": {"train": {"gpu"}}, "--time=1:00:00": {"prep": "cpu"}}


@pytest.fixture(scope="module")
def cluster(slurm: Slurm) -> Iterator[Cluster]:
    with mp.up(slurm=JOBS) as cluster:
        yield cluster


def job() -> str:
    sys.stdout.write("in a job\n")
    return os.environ["SLURM_JOB_NAME"]


def both() -> tuple[str, str]:
    return job(), mp.on("cpu").call(job)


def test_jobs_are_nodes_like_others(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    names = cluster.on("gpu").call(both)
    flow = cluster.workflow("jobs")
    first = flow.step("first", job).on("cpu")
    flow.step("second", lambda before: (before, job()), first).on("gpu")
    run = flow.run()
    cluster.pause("prep", 3)
    cluster.wait_for("prep", state="suspect", timeout=SEEN_S)
    cluster.wait_for("prep", timeout=SEEN_S)

    nodes = cluster.nodes().set_index("node")
    assert names == ("train", "prep")
    assert run["second"] == ("prep", "train")
    assert nodes.workers[["entry", "prep", "train"]].tolist() == [0, 1, 1]
    assert "joined" in repr(cluster.logs("prep"))
    assert "[train] in a job" in capfd.readouterr().out


def test_a_job_that_waits_joins_when_it_starts(cluster: Cluster, slurm: Slurm) -> None:
    with pytest.warns(UserWarning, match=r"late: job \d+ waits in the queue \(JobHeld"):
        mp.up(slurm={HELD: {"late": "large"}}, timeout=1)
    with pytest.warns(UserWarning, match="It joins when it starts"):
        again = mp.up(slurm={HELD: {"late": "large"}})
    registered = cluster.register(job).on("large")
    slurm.ask("scontrol", "release", slurm.id_of("late"))
    cluster.wait_for("late", timeout=SEEN_S)

    assert again is cluster
    assert registered.call() == "late"
    assert cluster.waiting == {}
    cluster.remove("late")


def test_a_job_that_waits_is_cancelled_when_its_node_is_removed(
    cluster: Cluster, slurm: Slurm
) -> None:
    with pytest.warns(UserWarning, match="waits in the queue"):
        mp.up(slurm={HELD: {"late": "large"}}, timeout=1)
    queued = slurm.states()

    cluster.remove("late")

    assert queued["late"] == "PENDING"
    assert "late" not in slurm.states()


def test_a_job_that_is_rejected_says_why_and_the_others_run(cluster: Cluster) -> None:
    with pytest.raises(HostsFailed) as failed:
        mp.up(slurm={"--partition=nowhere": {"a": "x"}, **JOBS})

    [failure] = failed.value.failures
    assert cluster.on("cpu").call("echo", 1) == 1
    assert (failure.host, failure.stage) == ("a", "queue")
    assert "Slurm rejected the job" in failure.reason
    assert "nvalid partition" in failure.reason
    assert "--partition=nowhere" in failure.cure


def test_a_job_that_cannot_start_its_node_shows_its_last_lines(
    cluster: Cluster,
) -> None:
    with pytest.raises(HostsFailed) as failed:
        mp.up(slurm={"a": "x"}, python="/nowhere/python")

    [failure] = failed.value.failures
    assert "ended before its node was ready" in failure.reason
    assert "/nowhere/python" in failure.log[-1]


def port_of_starter() -> int:
    [port] = {
        link.laddr.port
        for link in psutil.Process().net_connections("tcp")
        if link.status == psutil.CONN_LISTEN
    }
    return port


def test_a_stranger_who_connects_receives_nothing(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of_starter()
    trust = ssl.create_default_context(cadata=cluster.ca)

    with (
        socket.create_connection(("127.0.0.1", port), SEEN_S) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as link,
    ):
        link.sendall(b"some key\n")
        said = link.recv(1)

    assert said == b""
    assert "who is no job of this cluster" in caplog.text


def test_a_job_whose_starter_is_gone_says_what_may_be_wrong(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ticket = tmp_path / "ticket"
    told = PilotTicket(address="127.0.0.1", port=port, ca=cluster.ca, key="k")
    ticket.write_bytes(msgspec.json.encode(told))
    ticket.chmod(0o600)

    assert run_pilot([str(ticket)]) == 1
    assert run_pilot([str(tmp_path / "none")]) == 1

    said = capsys.readouterr().err
    assert f"no connection to 127.0.0.1 port {port}" in said
    assert "MPREG_NB_ADDRESS" in said
    assert "must be shared by the machines" in said


# ------------------------------------------------------------- clusters of their own


@pytest.fixture
def one(slurm: Slurm) -> Iterator[Cluster]:
    with mp.up(slurm={"a": "gpu"}, fresh=True) as cluster:
        yield cluster


def test_a_job_that_is_cancelled_in_the_queue_is_reported_and_started_again(
    slurm: Slurm, one: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    slurm.ask("scancel", slurm.id_of("a"))
    one.wait_for("a", state="left", timeout=SEEN_S)
    until(lambda: "it was cancelled in the queue" in caplog.text)
    mp.up(slurm={"a": "gpu"})
    after_cancel = one.on("gpu").call(job)
    one.kill("a")
    one.wait_for("a", state="dead", timeout=SEEN_S)
    mp.up(slurm={"a": "gpu"})

    assert after_cancel == "a"
    assert one.on("gpu").call(job) == "a"
    assert caplog.text.count("has ended, job") == 1


def test_a_failed_machine_is_reported(
    slurm: Slurm, one: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    state = ("scontrol", "update", "nodename=localhost")
    slurm.ask(*state, "state=down", "reason=test")
    try:
        until(lambda: "its machine failed" in caplog.text)
    finally:
        slurm.ask(*state, "state=resume")

    assert "Run the same line again, for another machine" in caplog.text
    until(lambda: "idle" in slurm.ask("sinfo", "-h", "-p", "main", "-o", "%T"))


def test_other_endings_are_described_in_words() -> None:
    assert str(JobState("TIMEOUT")) == "its time limit is over"
    assert str(JobState("OUT_OF_MEMORY")) == "it took more memory than it had"
    assert JobState("PREEMPTED").is_over
    assert not JobState("COMPLETING").is_over


STARTED = """
import os, signal, warnings
import mpreg_nb as mp
warnings.simplefilter("ignore")
mp.up(slurm={"a": "gpu"}, timeout=90)
mp.up(slurm={"--hold": {"late": "x"}}, timeout=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_jobs_end_with_the_process_that_queued_them_however_it_ends(
    slurm: Slurm, leaks: Leaks
) -> None:
    leaks.forget_files()  # they go with the next start
    subprocess.run([sys.executable, "-c", STARTED], check=False, timeout=120)

    until(lambda: list(slurm.states()) == ["late"])
    slurm.ask("scontrol", "release", slurm.id_of("late"))

    until(lambda: slurm.states() == {})


# ------------------------------------------------------------------ before the queue


def test_a_cluster_without_tls_takes_no_jobs(slurm: Slurm) -> None:
    with mp.up(1, fresh=True) as cluster:
        with pytest.raises(HostsFailed) as failed:
            mp.up(1, slurm={"a": "gpu"})

        assert "this cluster was started without" in str(failed.value)
        assert "mp.up(..., fresh=True)" in str(failed.value)
        assert cluster.call("echo", 1) == 1


def test_kept_jobs_and_tunnels_to_jobs_are_refused(slurm: Slurm) -> None:
    with pytest.raises(HostsFailed, match="keep=True is not for jobs"):
        mp.up(slurm={"a": "gpu"}, keep=True)
    mp.current().down()
    with pytest.raises(ValueError, match="reached by TLS alone"):
        mp.up(slurm={"a": "gpu"}, via="tunnel")


def test_a_machine_without_slurm_says_so(
    monkeypatch: pytest.MonkeyPatch, slurm: Slurm
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostsFailed, match="there is no sbatch on this machine"):
        mp.up(slurm={"a": "gpu"})
    mp.current().down()


def test_options_of_sbatch_stand_before_their_nodes() -> None:
    with pytest.raises(ValueError, match="begin with a dash"):
        SlurmLauncher.read({"--time=1": {"a": "x"}, "b": "y"})
    with pytest.raises(ValueError, match="No closing quotation"):
        SlurmLauncher.read({"--comment='x": {"a": "x"}})


def test_the_address_is_the_one_on_the_way() -> None:
    assert address_toward("127.0.0.5").startswith("127.")
    assert address_toward("no such host") == ""


def test_a_silent_stranger_does_not_delay_the_end(slurm: Slurm) -> None:
    with mp.up(slurm={"a": "gpu"}, fresh=True) as cluster:
        trust = ssl.create_default_context(cadata=cluster.ca)
        plain = socket.create_connection(("127.0.0.1", port_of_starter()), SEEN_S)
        link = trust.wrap_socket(plain, server_hostname="127.0.0.1")

    with link:
        assert link.recv(1) == b""
