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
    "": [
        r"3 nodes are processes of their own",
        r"2\.0 times as fast in the 1990s as in the 1960s",
        r"each step ran after those that it needs",
        r"each step ran on a node that holds what it needs",
        r"Nearest is \w+, which\s+lacks: gpu",
        r"lab-3 started, and ran it",
        r"all at once +\d+ calls a second",
        r"lab-1 is lost after \d+ of 26 steps",
        r"all 24 results are there",
        r"In the 1990s it rose 2\.0 ± 0\.1 times as fast as in the 1960s\.",
        r"mpreg-nb demo monitoring",
    ],
    "cluster": [
        r"lab-4 is lost after \d+ of 41 steps",
        r"lab-3 is lost after \d+ of 41 steps",
        r"lab-2 is lost after \d+ of 41 steps",
        r"Three of four nodes were lost and all answers are right\.",
        r"03_watching\.ipynb",
    ],
    "events": [
        r"told was only ordered\.charge",
        r"all followed: charged, (packed|receipt written), ",
        r"the next order is counted too",
        r"3 screens, told at the same time",
        r"under way at most +16\n",
        r"depot-1 is lost with \d+ of 40 orders under way",
        r"each fact is in the book 40 times, once for each order",
        r"Facts that are noted twice: none\.",
        r"09_events\.ipynb",
    ],
    "inference": [
        r"parcel 2826 goes to the shelf IRIS",
        r"no vision node was asked without a picture",
        r"vision-2 loaded the model once, for 9 calls",
        r"the answers are the same",
        r"neighbours +98\.3%\n",
        r"none that came after it met the old model",
        r"The best model reads 98\.3% of the digits right",
        r"07_model_serving\.ipynb",
    ],
    "monitoring": [
        r"200 calls and 20 errors, summed over 3 nodes",
        r"says +ok\n",
        r"no alert while all is well",
        r"the alert fires: NodeDead",
        r"the alert is over",
        r"dead nodes +·+█+·+\n",
        r"The alert came after \d+\.\d s",
        r"13_monitoring\.ipynb",
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


@pytest.mark.parametrize("name", ["", *DEMOS])
def test_each_demo_says_what_was_seen_with_its_figures(name: str) -> None:
    ran = subprocess.run(
        [PROGRAM, "demo", *name.split(), "--fast"],
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
    _, alive = psutil.wait_procs(nodes, timeout=60)
    assert alive == []


def _read(terminal: int) -> bytes:
    """Return what was written to a terminal; nothing once nobody has it open."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # so Linux tells the end of it
        return b""
