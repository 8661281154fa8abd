"""What a real kernel sends to its front end."""

import re
import sys

import pytest

from tests.support.kernel import kernel
from tests.support.leaks import Leaks

pytestmark = pytest.mark.live

SETUP = """%load_ext mpreg_nb
import sys, time
import mpreg_nb as mp
cluster = mp.up(2)

@mp.function
def say(text, after=0.0):
    time.sleep(after)
    print(text)
    print("careful", file=sys.stderr)
    return text
"""


def test_prints_of_remote_code_land_in_the_cell_that_called(
    leaks: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    with kernel() as front:
        front.run(SETUP)

        blocking = front.run("print('before'); say.on(node='n1').call('now')")
        early = front.run("late = say.on(node='n2').submit('late', after=0.5)")
        other = front.run("print('another cell'); time.sleep(0.2)")
        front.wait_for("late", early)
        thread = front.run(
            "import threading\n"
            "calling = threading.Thread(target=say.on(node='n1').call, args=('t',))\n"
            "calling.start(); calling.join()"
        )

    assert blocking.stream() == "before\n[n1] now\n"
    assert blocking.stream("stderr") == "[n1] careful\n"
    assert blocking.data()[0]["text/plain"] == "'now'"
    assert early.stream() == "[n2] late\n"
    assert early.stream("stderr") == "[n2] careful\n"
    assert other.stream() == "another cell\n"
    assert thread.stream() == "[n1] t\n"


def test_a_plain_notebook_shows_the_same_in_every_run(
    leaks: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    with kernel() as front:
        front.run(SETUP)

        interleaved = front.run(
            "calls = [say.on(node=n).submit(f'{i} on {n}', after=0.1 - i / 50)\n"
            "         for i in range(3) for n in ('n2', 'n1')]\n"
            "[call.result() for call in calls][-1]"
        )
        captured = front.run("%%capture held\nsay.on(node='n1').call('quiet')")
        shown = front.run("held.stdout")
        status = front.run("%mpreg")

    assert interleaved.stream().splitlines() == [
        f"[{node}] {number} on {node}" for number in range(3) for node in ("n2", "n1")
    ]
    assert interleaved.kinds()[-1] == "execute_result"
    assert captured.stream() == ""
    assert shown.data()[0]["text/plain"] == "'[n1] quiet\\n'"
    assert status.data()[0]["text/plain"].splitlines() == [
        "Cluster of 2 nodes: 2 alive · 3 functions · 7 calls from here",
        "node  state    resources  functions",
        "n1    ● alive                     3",
        "n2    ● alive                     3",
        "functions: echo, echos, say",
    ]
    assert "<table" in status.data()[0]["text/html"]


def test_a_figure_is_shown_once_and_a_mistake_is_one_line(leaks: Leaks) -> None:
    with kernel() as front:
        mistake = front.run("%load_ext mpreg_nb\n%mpreg stats")
        front.run(SETUP + "say.call('x')")

        last = front.run("cluster.plot_latency()")
        not_last = front.run("figure = cluster.plot_latency(); 1")
        failed = front.run("say.call(1, after='soon')")

    assert mistake.kinds() == ["stream", "stream"]  # that it is ready; and:
    assert mistake.stream("stderr").startswith("UsageError: %mpreg has no verb 'stats'")
    assert last.kinds() == ["execute_result"]
    assert "image/png" in last.data()[0]
    assert not_last.kinds() == ["execute_result"]
    (error,) = (m["content"] for m in failed.messages if m["msg_type"] == "error")
    assert error["ename"] == "TypeError"
    text = re.sub("\x1b\\[[0-9;]*m", "", "\n".join(error["traceback"]))
    assert "time.sleep(after)" in text
    assert "mpreg_nb/" not in text
    assert sys.prefix not in text
