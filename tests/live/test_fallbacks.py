"""What a fallback gets when a step did not fail by itself.

In a file of its own, with a cluster of its own: the worker that crashes is replaced.
"""

import os
import threading

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


def test_a_fallback_function_gets_a_timeout_or_a_crash_too() -> None:
    def sleeps() -> None:
        threading.Event().wait(60)

    def crashes() -> None:
        os._exit(3)

    def kind(error: Exception) -> tuple[str, str]:
        return type(error).__name__, str(error)

    with mp.up(2, fresh=True) as cluster:
        flow = cluster.workflow("rescued")
        flow.step("late", sleeps).on(node="n1").timeout(3).fallback(kind)
        flow.step("crash", crashes).on(node="n2").fallback(kind)
        run = flow.run()
        late, crash = run["late"], run["crash"]

    assert late[0] == "CallTimeout"
    assert "within 3 s" in late[1]
    assert crash[0] == "WorkerCrashed"
    assert "exit code 3" in crash[1]
