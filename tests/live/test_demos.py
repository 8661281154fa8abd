"""The demos as a person starts them: what they say, and that they leave nothing."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mpreg_nb.demo.catalog import DEMOS

pytestmark = pytest.mark.live

PROGRAM = str(Path(sys.executable).with_name("mpreg-nb"))

SAID = {
    "cluster": [
        r"lab-4 is lost after \d+ of 41 steps",
        r"lab-3 is lost after \d+ of 41 steps",
        r"lab-2 is lost after \d+ of 41 steps",
        r"Three of four nodes were lost and all answers are right\.",
        r"03_watching\.ipynb",
    ],
    "orders": [
        r"order 1: paid 49\.00 euro, lamp to London \(mail follows\)",
        r"undone: charge, reserve",
        r"the books are as they were before",
        r"got a kite +100\n",
        r"were told that it is sold out +400\n",
        r"kites left on the shelf +0\n",
        r"exactly 100 paid, each of them once",
        r"08_shop\.ipynb",
    ],
    "pipeline": [
        r"wrong +month 5 is 26720\n",
        r"skipped +repair, explain, sqlite, parquet\n",
        r"only the empty batch was set aside",
        r"720 months are in SQLite, and the same 720 in parquet",
        r"1997 +8 months, up to \+4\.4 °C",
        r"El Niño was strongest in 1983 and 1997\.",
        r"06_data_pipeline\.ipynb",
    ],
}


@pytest.mark.parametrize("name", DEMOS)
def test_each_demo_says_what_was_seen_with_its_figures(name: str) -> None:
    ran = subprocess.run(
        [PROGRAM, "demo", name, "--fast"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    missing = [said for said in SAID[name] if not re.search(said, ran.stdout)]
    assert missing == [], ran.stdout
    assert "\x1b" not in ran.stdout


def test_a_demo_that_is_stopped_takes_its_nodes_along() -> None:
    terminal, behind = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "demo", "orders", "--fast"],
        stdout=behind,
        stderr=behind,
        start_new_session=True,
    ) as demo:
        os.close(behind)
        said = b""
        while b"2. An order that fails" not in said:
            part = _read(terminal)
            assert part, said.decode()
            said += part
        nodes = psutil.Process(demo.pid).children(recursive=True)
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        while part := _read(terminal):
            said += part
        ended = demo.wait(timeout=60)
    os.close(terminal)

    assert ended == 130
    assert b"Traceback" not in said
    assert b"\x1b[" in said
    assert len(nodes) >= 4
    _, alive = psutil.wait_procs(nodes, timeout=10)
    assert alive == []


def _read(terminal: int) -> bytes:
    """Return what was written to a terminal; nothing once nobody has it open."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # so Linux tells the end of it
        return b""
