"""Prints of remote code in a real kernel: each line in its own cell, and not too many.

Which cell a line belongs to is told by the header that its message answers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Cell, Kernel, kernel
from tests.support.leaks import nothing_left

WIDGET = "application/vnd.jupyter.widget-view+json"
pytestmark = pytest.mark.live

SETUP = """%load_ext mpreg_nb
import asyncio, os, subprocess, sys, time
import mpreg_nb as mp
mp.config("progress_after_s", 0.2)
cluster = mp.up(2)

@mp.function
def tell(name, times=10):
    for number in range(times):
        print(name, number)
        time.sleep(0.02)
    return name

@mp.function
def flood(lines, until=""):
    while lines > 0 or (until and not os.path.exists(until)):
        print("line", lines)
        lines -= 1
    return lines

@mp.function
def flood_past_python(lines):
    subprocess.run(f"yes | head -n {lines}", shell=True, check=True)

@mp.function
def bar(steps):
    for step in range(steps):
        sys.stderr.write(f"\\r{step + 1} of {steps}")
        time.sleep(0.02)
    sys.stderr.write("\\n")

@mp.function
def nested(name):
    return mp.current().on(node="n2").call("tell", name, 1)

def flow_of(name, function, *args):
    flow = mp.workflow(name)
    flow.step("first", function, *args)
    flow.step("second", function, *args)
    return flow
"""


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left over is looked for once, when the kernel of all tests has ended."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPREG_NB_PLAIN", "0")
        with nothing_left(tmp_path_factory.mktemp("output")), kernel() as made:
            made.set_up(SETUP)
            yield made


def lines_of(cell: Cell, stream: str = "stdout") -> list[str]:
    """The lines of a cell, without the names of nodes."""
    return [line.split("] ", 1)[1] for line in cell.stream(stream).splitlines()]


def test_background_runs_of_two_cells_print_each_in_its_own(front: Kernel) -> None:
    a = front.run("a = flow_of('a', tell, 'a').start()")
    b = front.run("b = flow_of('b', tell, 'b').start()")
    other = front.run("print('mine'); a.wait(); b.wait(); None")
    front.wait_until(lambda: a.stream().count("\n") + b.stream().count("\n") == 40)

    assert sorted(lines_of(a)) == sorted(f"a {n}" for n in range(10) for _ in range(2))
    assert sorted(lines_of(b)) == sorted(f"b {n}" for n in range(10) for _ in range(2))
    assert other.stream() == "mine\n"


def test_calls_of_two_cells_at_once_and_a_call_awaited_elsewhere(front: Kernel) -> None:
    a = front.run("futures = [tell.submit('a'), tell.submit('a')]")
    b = front.run("futures += [tell.submit('b')]")
    awaiting = front.run("await asyncio.gather(*futures)")
    front.wait_until(lambda: a.stream().count("\n") + b.stream().count("\n") == 30)

    assert sorted(lines_of(a)) == sorted(f"a {n}" for n in range(10) for _ in range(2))
    assert lines_of(b) == [f"b {n}" for n in range(10)]
    assert awaiting.stream() == ""
    assert awaiting.data()[0]["text/plain"] == "['a', 'a', 'b']"


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("flood.call(50_000)", 1),
        ("flood.map([25_000] * 2)", 2),
        ("flow_of('floods', flood, 25_000).run(); None", 2),
        ("flood_past_python.call(50_000); None", 1),
        ("%%mpreg remote\nfor n in range(50_000):\n    print('line', n)", 1),
    ],
)
def test_a_flood_is_cut_and_the_count_of_the_rest_is_true(
    front: Kernel, source: str, calls: int
) -> None:
    cell = front.run(source)
    front.wait_until(lambda: cell.stream().count("not shown") == calls)

    lines = lines_of(cell)
    counts = [line for line in lines if line.startswith("…")]
    assert len(lines) == calls * 1001
    hidden = sum(int(line.split()[1].replace(",", "")) for line in counts)
    assert hidden + calls * 1000 == 50_000
    assert cell.stream("stderr") == ""


def test_how_many_lines_are_shown_can_be_set(front: Kernel) -> None:
    cell = front.run("mp.config('output_lines', 3)\nflood.call(10)")
    front.run("mp.config('output_lines', 1000)")

    assert lines_of(cell) == [
        *("line 10", "line 9", "line 8"),
        "… 7 more lines not shown (49 characters)",
    ]


def test_all_calls_of_a_cell_together_are_cut_too(front: Kernel) -> None:
    cell = front.run("for _ in range(30):\n    flood.call(900)")
    front.wait_until(lambda: "not shown" in cell.stream())

    lines = lines_of(cell)
    assert len(lines) == 20_001
    assert lines[-1].startswith("… 7,000 more lines not shown")
    assert lines[-1].endswith("of several calls")


def test_a_flood_does_not_hold_up_kernel_or_node(front: Kernel, tmp_path: Path) -> None:
    end = tmp_path / "end"
    flooding = front.run(f"flooded = [flood.submit(1, {str(end)!r}) for _ in range(2)]")
    front.wait_until(lambda: "line" in flooding.stream())
    cells = [front.run(f"{number} + 1") for number in range(20)]
    table = front.run("cluster.nodes().state.tolist()")
    end.touch()
    front.run("[future.result() for future in flooded]")
    front.wait_until(lambda: flooding.stream().count("not shown") == 2)
    size = len(flooding.stream())

    assert [cell.data()[0]["text/plain"] for cell in cells] == [
        str(number + 1) for number in range(20)
    ]
    assert table.data()[0]["text/plain"] == "['alive', 'alive']"
    assert size < 500_000


def test_a_progress_bar_stays_on_its_line(front: Kernel) -> None:
    cell = front.run("bar.on(node='n1').call(20)")

    text = cell.stream("stderr")
    assert text.count("\n") == 1
    assert text.endswith("\r[n1] 20 of 20\n")


def test_a_long_map_shows_how_far_it_is_in_place(front: Kernel) -> None:
    cell = front.run("done = tell.map(['a'] * 4)")

    (shown,) = cell.data()
    updates = [m for m in cell.messages if m["msg_type"] == "update_display_data"]
    texts = [m["content"]["data"]["text/plain"] for m in updates]
    first = r"tell · \d of 4 · \d+\.\d s · .*\d in progress( on n1| on n2| on n1 n2)?"
    assert re.fullmatch(first, shown["text/plain"])
    assert re.fullmatch(r"tell · 4 calls · \d+\.\d s · [\d.]+/s", texts[-1])
    ids = {m["content"]["transient"]["display_id"] for m in updates}
    assert len(ids) == 1


@pytest.mark.parametrize("is_value", [True, False])
def test_a_run_is_drawn_while_it_runs_and_is_a_line_or_the_value_at_the_end(
    front: Kernel, is_value: bool
) -> None:
    shown = "run" if is_value else "None"
    cell = front.run(f"run = flow_of('drawn', tell, 'x', 40).run()\n{shown}")

    first, late_end, *results = cell.data()
    place, *_ = [m for m in cell.messages if m["msg_type"] == "display_data"]
    picture = place["content"]["transient"]
    updates = [m for m in cell.messages if m["msg_type"] == "update_display_data"]
    contents = [m["content"] for m in updates]
    left = [c["data"] for c in contents if c["transient"] == picture][-1]["text/plain"]
    emptied = [c["data"] for c in contents if c["transient"] != picture]
    assert WIDGET in late_end  # for a page that is loaded again; else it is nothing
    assert emptied == [{"text/plain": "", "text/html": ""}]
    assert first["text/plain"].startswith("drawn · 0 of 2 steps · 0.")
    assert "first" in first["text/plain"]
    assert "<img " in first["text/html"]
    if is_value:
        assert left == ""
        assert "<run of drawn: done (2 done)>" in results[0]["text/plain"]
    else:
        assert re.fullmatch(r"drawn · 2 steps · \d\.\d s · [\d.]+/s", left)
        assert results == []


def test_short_waits_and_captured_cells_show_nothing(front: Kernel) -> None:
    short = front.run("tell.call('x', 1)")
    captured = front.run("%%capture held\ntell.call('x', 20)")
    held = front.run("len(held.outputs), held.stdout.count('x')")

    assert short.kinds() == ["stream", "execute_result"]
    assert captured.kinds() == []
    assert held.data()[0]["text/plain"] == "(1, 20)"  # its value


def test_prints_of_nested_calls_come_too(front: Kernel) -> None:
    cell = front.run("nested.on(node='n1').call('inner')")

    assert cell.stream() == "[n1] [n2] inner 0\n"


def test_a_plain_notebook_shows_no_progress(front: Kernel) -> None:
    front.run("import os; os.environ['MPREG_NB_PLAIN'] = '1'")
    cell = front.run(
        "tell.map(['a', 'a']); flow_of('plain', tell, 'b').run(); flood.call(2000)"
    )
    front.run("os.environ['MPREG_NB_PLAIN'] = '0'")

    lines = lines_of(cell)
    assert cell.kinds() == ["stream", "execute_result"]
    assert lines[:20] == [f"a {n}" for n in range(10)] * 2
    assert sorted(lines[20:40]) == sorted(f"b {n}" for n in range(10) for _ in range(2))
    assert lines[40:42] == ["line 2000", "line 1999"]
    assert len(lines) == 1041
    assert lines[-1] == "… 1,000 more lines not shown (8,893 characters)"
