"""Nodes end with the process that started them, however that one ends."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support.leaks import Leaks

DRIVER = """
import os, sys, time
import mpreg_nb as mp

def busy(seconds):
    import time
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

cluster = mp.up(3)
future = cluster.submit(busy, 60)
print("busy", flush=True)
{ending}
"""

ENDINGS = {
    "return": "",
    "exception": "raise ValueError('the end')",
    "sys.exit": "sys.exit(3)",
    "os._exit": "os._exit(4)",
    "kill -9": "time.sleep(60)",
}


@pytest.mark.live
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_process_is_left_when_the_starter_has_ended(
    ending: str, leaks: Leaks
) -> None:
    code = DRIVER.format(ending=ENDINGS[ending])
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "busy\n"
    if ending == "kill -9":
        os.kill(driver.pid, signal.SIGKILL)

    driver.communicate(timeout=30)

    leaks.forget_files()  # a process that was killed could not delete its own
    assert leaks.wait(bound_s=5.0) == []
