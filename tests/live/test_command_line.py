"""Clusters that outlive the script that started them, from the command line."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live

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
        refused = run("call", url, "ad", "5", "6")
    finally:
        ended = run("down", "kept")

    assert listed.stdout.count("alive") == 2
    assert result == 42
    assert called.stdout == "11\n"
    assert refused.returncode == 1
    assert "Did you mean 'add'?" in refused.stderr
    assert ended.stdout == "ended: n1, n2\n"
    assert run("ps").stdout == "no clusters\n"


def test_node_joins_by_hand_and_leaves_on_sigterm() -> None:
    with mp.up(1, fresh=True) as cluster:
        cluster.register(len, resources={"gpu"})
        node = subprocess.Popen(
            [
                *(PROGRAM, "node", "--name", "gpu-2", "--resources", "gpu"),
                *("--join", cluster.urls[0]),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert node.stdout is not None
            ready = json.loads(node.stdout.readline())
            length = cluster.on("gpu", wait=5).call("len", "abc")
        finally:
            node.send_signal(signal.SIGTERM)
            code = node.wait(20)
            assert node.stdout is not None
            node.stdout.close()
        cluster.wait_for("gpu-2", state="left")

    assert ready["name"] == "gpu-2"
    assert length == 3
    assert code == 0


def test_wrong_options_are_told_in_a_line() -> None:
    outside = run("node", "--name", "x", "--host", "0.0.0.0")  # noqa: S104
    nobody = run("call", "ws://127.0.0.1:1", "f")

    assert outside.returncode == 2
    assert "--tls-cert" in outside.stderr
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr


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
