"""What a real kernel shows of errors: lines of the user, here and there, not ours."""

import re
import sys
from collections.abc import Iterator

import pytest

from tests.support.kernel import Kernel, kernel
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

SETUP = """%load_ext mpreg_nb
import asyncio, ctypes, os, time
import mpreg_nb as mp
cluster = mp.up(2)

@mp.function
def invert(x):
    y = x - 1
    return 1 / y

@mp.function
def crash(code):
    print("about to end")
    os._exit(code)

@mp.function
def violate():
    print("about to fail")
    ctypes.string_at(0)

@mp.function
def hang():
    print("hanging")
    time.sleep(60)

class Own(Exception):
    pass

@mp.function
def own():
    raise Own("mine")

@mp.function
def nested(x):
    import mpreg_nb
    return mpreg_nb.current().call("invert", x)

flow = mp.workflow("fails")
flow.step("one", invert, 1)
flow.step("two", crash, 3)
flow.step("three", invert, mp.ref("one"))
"""


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left over is looked for once, when the kernel of all tests has ended."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with nothing_left(tmp_path_factory.mktemp("errors")), kernel() as made:
        made.set_up(SETUP)
        yield made


def has_no_frame_of_ours(text: str) -> bool:
    return (
        "mpreg_nb/" not in text
        and "asyncio/" not in text
        and "concurrent/" not in text
        and sys.prefix not in text
    )


DIVISIONS = {
    "call": "invert.call(1)",
    "future": "invert.submit(1).result()",
    "map": "invert.map([3, 2, 1])",
    "awaited": "await invert.submit(1)",
    "gathered": "await asyncio.gather(invert.submit(1), invert.submit(3))",
    "async cluster": "async with mp.connect_async(*cluster.urls) as own_cluster:\n"
    "    await own_cluster.call('invert', 1)",
    "async map": "async with mp.connect_async(*cluster.urls) as own_cluster:\n"
    "    await own_cluster.map('invert', [3, 1])",
    "line magic": "%mpreg call invert(1)",
    "nested": "nested.call(1)",
}


@pytest.mark.parametrize("source", DIVISIONS.values(), ids=DIVISIONS)
def test_an_error_shows_the_calling_line_and_the_lines_that_raised(
    front: Kernel, source: str
) -> None:
    cell = front.run(source)
    again = front.run("%tb")

    name, text = cell.error()
    assert name == "ZeroDivisionError"
    assert "----> 1" in text or "----> 2" in text
    assert "----> 9     return 1 / y" in text
    assert "ZeroDivisionError: division by zero" in text
    assert has_no_frame_of_ours(text)
    assert again.error() == cell.error()


def test_an_error_of_a_remote_cell_shows_the_line_of_the_cell(front: Kernel) -> None:
    name, text = front.run("%%mpreg remote\nzero = 0\n1 / zero").error()

    assert name == "ZeroDivisionError"
    assert "----> 2 1 / zero" in text
    assert has_no_frame_of_ours(text)


def test_an_error_is_of_its_original_class(front: Kernel) -> None:
    cell = front.run(
        "try:\n    own.call()\nexcept Own as error:\n    print(error.args)"
    )

    assert cell.stream() == "('mine',)\n"


def test_a_group_of_errors_shows_its_parts_with_their_lines(front: Kernel) -> None:
    cell = front.run(
        "@mp.function\n"
        "def split():\n"
        "    raise ExceptionGroup('both', [ValueError('one'), KeyError('two')])\n"
        "split.call()"
    )

    name, text = cell.error()
    assert name == "ExceptionGroup"
    assert "ExceptionGroup: both (2 sub-exceptions)" in text
    assert "ValueError: one" in text
    assert "KeyError: 'two'" in text
    assert "raised by split on" in text
    assert has_no_frame_of_ours(text)


def test_a_crashed_worker_is_reported_with_cause_and_last_lines(front: Kernel) -> None:
    ended = front.run("crash.call(3)")
    violated = front.run("violate.call()")

    name, text = ended.error()
    assert name == "WorkerCrashed"
    assert re.search(r"ended while it ran crash: exit code 3, using \d+ MB", text)
    assert text.endswith("Last printed:\n  about to end")
    assert has_no_frame_of_ours(text)
    name, text = violated.error()
    assert name == "WorkerCrashed"
    assert "signal SIGSEGV" in text
    assert "\n  about to fail\n  Fatal Python error: Segmentation fault\n" in text
    assert " in violate" in text
    assert "mpreg_nb/" not in text
    assert "Fatal" not in violated.stream() + violated.stream("stderr")


FAILING = {
    "run": "flow.run()",
    "awaited": "await flow.start()",
    "waited": "flow.start().wait()",
}


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
def test_a_failed_workflow_shows_what_failed_in_each_step(
    front: Kernel, source: str
) -> None:
    cell = front.run(source)
    again = front.run("%tb")

    name, text = cell.error()
    assert name == "WorkflowFailed"
    assert f"----> 1 {source}" in text
    assert "failed: one (ZeroDivisionError: division by zero), two (Worker" in text
    assert "Step 'one':" in text
    assert "----> 9     return 1 / y" in text
    assert "Step 'two':" in text
    assert "exit code 3" in text
    assert has_no_frame_of_ours(text)
    assert again.error() == cell.error()


def test_part_of_a_failed_workflow_can_be_handled(front: Kernel) -> None:
    cell = front.run(
        "try:\n"
        "    flow.run()\n"
        "except* ZeroDivisionError as group:\n"
        "    print(group.failed, type(group.exceptions[0]).__mro__[1].__name__)\n"
        "except* mp.errors.WorkerCrashed as group:\n"
        "    print(group.failed, group.exceptions[0].cause)"
    )

    assert cell.stream().splitlines()[-1] == "('two',) exit code 3"
    assert cell.stream().startswith("('one',) ")


def test_a_group_of_the_users_shows_no_frame_of_ours(front: Kernel) -> None:
    cell = front.run(
        "async with asyncio.TaskGroup() as group:\n"
        "    group.create_task(asyncio.wait_for(invert.submit(1), 5))"
    )

    assert "ZeroDivisionError: division by zero" in cell.stream("stderr")
    assert "return 1 / y" in cell.stream("stderr")
    assert "mpreg_nb/" not in cell.stream("stderr")


def test_the_debugger_stands_where_the_user_can_look_around(front: Kernel) -> None:
    front.run("def outer(value):\n    return invert.call(value)")
    front.run("outer(1)")

    debugged = front.run_with_input("%debug", ["up", "p value", "q"])

    text = re.sub("\x1b\\[[0-9;]*m", "", debugged.stream())
    assert "return 1 / y" in text
    assert "return invert.call(value)" in text
    assert "ipdb> 1\n" in text or "\n1\n" in text
    assert "mpreg_nb/" not in text


# Last: one node is gone afterwards.
def test_a_lost_node_is_reported_with_its_last_prints(front: Kernel) -> None:
    cell = front.start("future = hang.on(node='n2').submit()\nfuture.result()")
    front.wait_for("hanging", cell)
    front.interrupt()
    front.wait(cell)
    cell = front.run("future = hang.on(node='n2').submit()")
    front.wait_for("hanging", cell)
    lost = front.run("cluster.kill('n2')\nfuture.result()")

    name, text = lost.error()
    assert name == "NodeLost"
    assert "----> 2 future.result()" in text
    assert "node n2 was lost during the call of hang (" in text
    assert "Last printed:\n  hanging\nThe function may have run: call it again" in text
    assert has_no_frame_of_ours(text)
