"""Clusters that outlive the script that started them, from the command line."""

import json
import os
import platform
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mpreg_nb as mp
from mpreg_nb.cli import main
from mpreg_nb.launcher.cluster_files import ClusterFiles, RecordedNode
from mpreg_nb.launcher.pid import ProcessId, stamp

pytestmark = pytest.mark.live

COLUMNS = ("cluster", "node", "state", "resources", "pid", "started", "notebook")
PROGRAM = str(Path(sys.executable).with_name("mpreg-nb"))

STARTER = """
import mpreg_nb as mp

cluster = mp.up(2, keep=True, name="kept")

@mp.function
def add(a, b):
    return a + b

print(add.call(1, 2))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, timeout=110, check=False
    )


def test_kept_cluster_is_listed_adopted_called_and_ended() -> None:
    started = subprocess.run(
        [sys.executable, "-c", STARTER],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert started.stdout == "3\n"
    try:
        listed = run("ps")
        adopted = mp.adopt()
        try:
            result = adopted.call("add", 40, 2)
            url = adopted.urls[0]
        finally:
            adopted.disconnect()
        called = run("call", url, "add", "5", "6")
        failed = run("call", url, "add", "5", "b")
        texts = run("call", url, "add", "a", "b")
        behind = run("call", url, "add", "5", "--timeout", "60", "-6")
        unknown = run("call", url, "add", "5", "--time-out", "6")
        refused = run("call", url, "ad", "5", "6")
    finally:
        ended = run("down", "kept")

    assert listed.stdout.count("alive") == 2
    assert result == 42
    assert called.stdout == "11\n"
    assert failed.returncode == 1
    assert failed.stderr.startswith("mpreg-nb call: TypeError on n")
    assert "in add\n" in failed.stderr
    assert not re.search(r"Traceback|mpreg_nb/", failed.stderr)
    assert texts.stdout == '"ab"\n'
    assert behind.stdout == "-1\n"
    assert unknown.returncode == 2
    assert "Did you mean --timeout?" in unknown.stderr
    assert refused.returncode == 1
    assert "Did you mean 'add'?" in refused.stderr
    assert ended.stdout == "ended: n1, n2\n"
    assert run("ps").stdout == "no clusters\n"


def test_a_cluster_is_shown_in_a_shell_until_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(*words: str) -> str:
        main(words)
        return "".join(capsys.readouterr())

    with mp.up({"a": "gpu"}, keep=True, name="seen") as cluster:
        flow = cluster.workflow("report")
        flow.step("one", len, "abc")
        run_id = flow.run().id[:8]
        status, nodes, logs = (
            told(word, "seen") for word in ("status", "nodes", "logs")
        )
        runs = told("runs", cluster.urls[0])
        watched = told("watch", "--view", "members")
        misnamed = told("watch", "--view", "memberz")
        unknown = told("nodes", "sen")
        ours, theirs = pty.openpty()
        watching = subprocess.Popen([PROGRAM, "watch"], stdout=theirs, stderr=theirs)
        os.close(theirs)
        begun = read(ours)
        while b"Ctrl-C ends this view." not in begun:
            begun += read(ours)
    try:
        rest = b"".join(iter(lambda: read(ours), b""))
        code = watching.wait(60)
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)

    assert "Cluster of 1 node" in status
    assert re.search(r"^a +● alive +gpu ", nodes, re.MULTILINE)
    assert "INFO a: started ws://" in logs
    assert re.search(rf"^{run_id} +report +✓ done ", runs, re.MULTILINE)
    assert re.search(r"^a +● alive +gpu ", watched, re.MULTILINE)
    assert "Did you mean 'members'?" in misnamed
    assert unknown.endswith("Did you mean 'seen'? Your cluster: seen.\n")
    assert b"alive" in begun
    assert b"No node answers any more" in rest
    assert code == 0


def test_node_joins_by_hand_and_leaves_on_sigterm() -> None:
    with mp.up(1, fresh=True) as cluster:
        cluster.register(len, resources={"gpu"})
        node = subprocess.Popen(
            [
                *(PROGRAM, "node", "--name", "gpu-2", "--resources", "gpu"),
                *("--join", cluster.urls[0]),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert node.stdout is not None
            ready = json.loads(node.stdout.readline())
            length = cluster.on("gpu", wait=60).call("len", "abc")
        finally:
            node.send_signal(signal.SIGTERM)
            _, told = node.communicate(timeout=20)
            code = node.returncode
        cluster.wait_for("gpu-2", state="left")

    assert ready["name"] == "gpu-2"
    assert length == 3
    assert code == 0
    assert f"mpreg-nb node --name NAME --join {ready['url']}\n" in told
    assert f"mpreg_nb.connect('{ready['url']}')\n" in told
    assert f"%mpreg connect {ready['url']}\n" in told
    assert told.endswith("node gpu-2 has left the cluster and ended\n")


def test_node_started_by_hand_is_listed_and_ended_by_its_name_only() -> None:
    node = subprocess.Popen(
        [PROGRAM, "node", "--name", "alone", "--resources", "gpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert node.stdout is not None
        pid = json.loads(node.stdout.readline())["pid"]
        listed = run("ps").stdout.splitlines()
        (framed,) = mp.ps().to_dict("records")
        ended_all = run("down", "--all")
        misspelt = run("down", f"{framed['cluster']}x")
        ended = run("down", framed["cluster"])
        code = node.wait(60)
    finally:
        node.kill()
        node.communicate()

    assert listed[0].split() == [*COLUMNS]
    assert listed[1].split()[1:6] == ["alone", "●", "alive", "gpu", str(pid)]
    assert listed[1].endswith("by hand")
    assert (framed["node"], framed["state"], framed["pid"]) == ("alone", "alive", pid)
    assert ended_all.stdout == "no clusters\n"
    assert f"Did you mean '{framed['cluster']}'?" in misspelt.stderr
    assert ended.stdout == "ended: alone\n"
    assert code == 0
    assert run("ps").stdout == "no clusters\n"


def test_all_clusters_of_this_machine_end_although_one_is_on_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger = ClusterFiles()
    replace: Any = msgspec.structs.replace
    elsewhere = ledger.claim("ab" * 16, name="elsewhere", keep=True)
    ledger.record(replace(elsewhere, host=f"not-{platform.node()}"))
    here = ledger.claim("cd" * 16, name="here", keep=True)
    words = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(words, start_new_session=True) as process:
        node = RecordedNode(name="n1", resources=(), url="", process=stamp(process.pid))
        gone = ProcessId(pid=2**22 + 1, started_s=1.0)
        ledger.record(replace(here, owner=gone, nodes=(node,)))
        try:
            code = main(["down", "--all"])
        finally:
            process.kill()
    left = [entry.cluster for entry in ledger.entries()]
    ledger.remove(elsewhere)
    said = capsys.readouterr()

    assert said.out == "ended: n1\n"
    assert "End it there: mpreg-nb down 'elsewhere'" in said.err
    assert code == 1
    assert left == ["elsewhere"]


@pytest.mark.parametrize(
    ("arguments", "goodbye"),
    [
        ("1", r"cluster \S+ has ended, with its 1 node\r\n"),
        (
            "1, keep=True",
            r"cluster (\S+) continues to run. Take it over: mp.adopt\('\1'\)\r\n",
        ),
    ],
    ids=["ended", "kept"],
)
def test_terminal_says_at_its_end_what_becomes_of_the_nodes(
    arguments: str, goodbye: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPREG_NB_PLAIN", raising=False)
    ours, theirs = pty.openpty()
    ipython = subprocess.Popen(
        [
            *(sys.executable, "-m", "IPython", "--no-banner", "--simple-prompt"),
            *("-c", f"import mpreg_nb as mp; c = mp.up({arguments})", "-i"),
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        os.write(ours, b"exit\n")
        told = b"".join(iter(lambda: read(ours), b"")).decode()
        code = ipython.wait(60)
    finally:
        ipython.kill()
        ipython.wait()
        os.close(ours)
        run("down", "--all")

    assert code == 0
    assert re.search(f"mpreg_nb: {goodbye}$", told)


def read(terminal: int) -> bytes:
    """Return what was written to a terminal; nothing once nobody has it open."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # so Linux tells the end of it
        return b""


def test_wrong_options_are_reported_in_a_line() -> None:
    outside = run("node", "--name", "x", "--host", "0.0.0.0")  # noqa: S104
    nobody = run("call", "ws://127.0.0.1:1", "f")

    assert outside.returncode == 2
    assert "--tls-cert" in outside.stderr
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nod"], "Did you mean node?"),
        (["node", "--name", "x", "--joi", "ws://h:1"], "Did you mean --join?"),
        (["token", "shw"], "Did you mean show?"),
        (["demo", "order"], "Did you mean orders?"),
        (["bench", "--only", "no such row"], "The rows are: call, worker process; "),
        (["call", "ftp://x", "f"], "is not a node's URL: ws://HOST:PORT"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_what_is_not_understood_is_answered_in_a_line(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(words)
    except SystemExit as ended:
        code = ended.code

    told = capsys.readouterr().err
    assert code in (1, 2)
    assert hint in told
    assert "Traceback" not in told


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mpreg-nb {mp.__version__}\n"
    assert main([]) == 2
    assert "mpreg-nb node --name n1 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["node", "--help"])
    told = capsys.readouterr().out
    assert told.index("--join") < told.index("--tls-cert") < told.index("--lifeline")


SCRIPT = """
import mpreg_nb as mp

with mp.up(1) as cluster:
    cluster.call("trian", 1)
"""


def test_a_script_ends_at_its_own_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    ended = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    frames = re.findall(r'File "(.*)", line (\d+)', ended.stderr)
    assert frames == [(str(script), "5")]
    assert "NoRoute: no live node has a function 'trian'" in ended.stderr
