"""Magics in a real shell against real nodes."""

from typing import Any

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import mpreg_nb as mp
from mpreg_nb.cluster.run import Run
from mpreg_nb.launcher.node_spec import NodeSpec
from tests.support.shell import RunCell

pytestmark = pytest.mark.live

TRAIN = """%%mpreg register --resources gpu
SCALE = 10

def train(rows, lr=1):
    print("rows:", rows)
    return _scaled(rows) * lr

def _scaled(rows):
    return rows * SCALE

def fail(x):
    return 1 / x
"""


@pytest.fixture
def cluster(run_cell: RunCell, capsys: pytest.CaptureFixture[str]) -> Any:
    made = run_cell("%mpreg up gpu-1:gpu cpu-1")
    yield made
    made.down()


def test_up_again_is_the_same_cluster_and_says_so(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    again = run_cell("%mpreg up cpu-1 gpu-1:gpu")
    said = capsys.readouterr().out
    more = run_cell("%mpreg up cpu-2")

    assert again is more is cluster
    assert said.startswith("already up\n")
    assert cluster.own_nodes == ("gpu-1", "cpu-1", "cpu-2")
    assert run_cell("%mpreg down cpu-2") == ("cpu-2",)
    assert run_cell("%mpreg down") == ("gpu-1", "cpu-1")


def test_functions_of_a_cell_are_registered_and_called_by_name(
    cluster: mp.Cluster,
    shell: InteractiveShell,
    run_cell: RunCell,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered = run_cell(TRAIN)
    cards = repr(registered).splitlines()
    capsys.readouterr()
    value = run_cell("rows = 2\n%mpreg call train(rows, lr=3)  # a comment")

    assert [line.split()[0] for line in cards] == ["train", "fail"]
    assert all("→ gpu-1 ·" in line for line in cards)
    assert value == 60
    assert capsys.readouterr().out.startswith("[gpu-1] rows: 2\n")
    assert run_cell("train(2)") == 20  # as defined, here
    assert run_cell("train.call(2)") == 20
    assert run_cell("%mpreg call echo({'a': rows}['a'])") == 2  # no braces of IPython
    assert "_scaled" not in set(run_cell("%mpreg functions").function)


def test_a_registered_cell_that_runs_again_unchanged_keeps_its_version(
    cluster: mp.Cluster, run_cell: RunCell
) -> None:
    first, again = run_cell(TRAIN), run_cell(TRAIN)
    changed = run_cell(TRAIN.replace("SCALE = 10", "SCALE = 11"))

    assert [f.card.version for f in first] == [f.card.version for f in again]
    assert first[0].card.version != changed[0].card.version
    assert first[1].card.version == changed[1].card.version


def test_a_decorated_function_keeps_its_options_unless_others_are_given(
    cluster: mp.Cluster, run_cell: RunCell
) -> None:
    cell = "%%mpreg register {}\n@mp.function(resources='gpu')\ndef f(x):\n    return x"
    run_cell("import mpreg_nb as mp")

    assert run_cell(cell.format("")).resources == {"gpu"}
    assert run_cell(cell.format("--resources big")).resources == {"big"}
    assert run_cell("%mpreg register f --idempotent").idempotent


def test_every_table_and_card_is_what_the_method_returns(
    cluster: mp.Cluster, run_cell: RunCell
) -> None:
    run_cell("def f(x):\n    return x\n%mpreg register f")
    run_cell("[f.call(x) for x in range(4)]")

    frames = {
        verb: run_cell(f"%mpreg {verb}")
        for verb in (
            *("nodes", "functions", "routes", "latency", "calls", "events", "ps"),
            *("latency --by node", "functions f*"),
        )
    }

    assert all(isinstance(frame, pd.DataFrame) for frame in frames.values())
    assert list(frames["nodes"].node) == ["cpu-1", "gpu-1"]
    assert list(frames["nodes"].resources) == ["", "gpu"]
    assert list(frames["functions"].function) == ["echo", "echos", "f"]
    assert list(frames["functions f*"].calls) == [4]
    assert frames["routes"].calls.sum() == len(frames["calls"]) == 4
    assert set(frames["calls"].status) == {"done"}
    assert list(frames["latency"]["count"]) == [4]
    assert "function added" in set(frames["events"].event)
    assert set(frames["ps"].node) == {"cpu-1", "gpu-1"}
    card = str(run_cell("%mpreg"))
    assert card.startswith("Cluster of 2 nodes: 2 alive · 3 functions · 4 calls from")
    figure: Any = cluster.plot_latency()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_cell_runs_remotely_with_the_variables_that_it_reads(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("import os\nbase = {'a': 1}\ndef twice(x):\n    return 2 * x\nhere = 0")
    capsys.readouterr()

    value = run_cell(
        "%%mpreg remote --on gpu\n"
        "import sys\n"
        "print('working')\n"
        "here = os.getpid()\n"
        "class Model:\n"
        "    size = twice(base['a'])\n"
        "Model()"
    )

    assert value.size == 2
    assert capsys.readouterr().out.startswith("[gpu-1] working\n")
    assert run_cell("here") == 0
    assert run_cell("%%mpreg remote -o kept\nbase['a'] + 1") is None
    assert run_cell("kept") == 2
    assert run_cell("%%mpreg remote\nx = 1") is None


def test_a_remote_cell_awaits_and_is_silenced_as_any_cell(
    cluster: mp.Cluster, run_cell: RunCell
) -> None:
    sleep = "import asyncio\nx = await asyncio.sleep(0, 5)\n"

    assert run_cell(f"%%mpreg remote\n{sleep}x") == 5
    assert run_cell(f"%%mpreg remote\n{sleep}x;  # no lock travels") is None
    assert run_cell("%%mpreg remote\nimport threading\nthreading.Lock();") is None
    assert run_cell("%%mpreg remote -o kept\n6;") is None
    assert run_cell("kept") == 6
    assert run_cell(f"%%mpreg everywhere\n{sleep}x") == {"gpu-1": 5, "cpu-1": 5}
    assert run_cell("%%mpreg everywhere\n6;") is None
    run_cell(f"%%mpreg step slow --flow sleeper\n{sleep}")
    assert run_cell("%mpreg run sleeper")["slow"] == 5


def test_a_cell_runs_everywhere_but_on_nodes_without_workers(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.grow(NodeSpec("entry", frozenset({"disk"}), workers=0), 60)

    assert run_cell("%%mpreg everywhere\n1") == {"gpu-1": 1, "cpu-1": 1}

    capsys.readouterr()
    run_cell("%%mpreg everywhere --on disk\n1")
    assert "entry has none (workers=0)" in capsys.readouterr().out


def test_what_cannot_travel_to_a_remote_cell_is_named(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("import threading\nlock = threading.Lock()")

    run_cell("%%mpreg remote\nlock")

    error = capsys.readouterr().err
    assert error.startswith("UsageError: lock: _thread.lock, which the cell reads")
    assert error.endswith("Create it inside the cell\n")

    run_cell("%%mpreg remote\nimport threading as t\nt.Lock()")

    error = capsys.readouterr().err
    assert error.startswith("UsageError: the result of remote cell cannot be pickled")


MISTAKES = {
    "%%mpreg remote --timeout -1\n1": "timeout takes seconds above 0",
    "%%mpreg remote --on a/b\n1": "'a/b' cannot name a resource",
    "%%mpreg remote --on moon\n1": "Start one: %mpreg up n3:moon",
    "%%mpreg remote --node moon\n1": "no live node is named 'moon'",
    "%%mpreg register --resources a/b\ndef f(): ...": "cannot name a resource",
    "%%mpreg register\nx = 1": "the cell defines no function",
    "f = lambda: 1\n%mpreg register f": "a lambda has no name of its own",
    "%mpreg call nobody()": "no live node has a function 'nobody'",
    "%mpreg down moon": "this process did not start a node named 'moon'",
}


def test_what_the_cluster_cannot_do_is_one_line_with_the_cure(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell, said in MISTAKES.items():
        run_cell(cell)

        error = capsys.readouterr().err
        assert error.startswith("UsageError: ")
        assert said in error
        assert error.count("\n") == 1


def test_an_error_shows_lines_of_cells_here_and_there_and_none_of_ours(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(TRAIN)

    shown = {}
    for cell in ("%mpreg call fail(0)", "fail.call(0)", "%%mpreg remote\nfail(0)"):
        capsys.readouterr()
        run_cell(cell)
        shown[cell] = capsys.readouterr().out

    for out in shown.values():
        assert "ZeroDivisionError: division by zero" in out
        assert "return 1 / x" in out
        assert "mpreg_nb/" not in out
        assert "concurrent" not in out
    assert "<remote cell " in shown["%%mpreg remote\nfail(0)"]


FLOW = """import mpreg_nb as mp
flow = mp.workflow("report")
start = flow.step("start", train, 1).on("gpu")
end = flow.step("end", "fail", start)
"""


def test_workflows_are_planned_drawn_run_and_kept(
    cluster: mp.Cluster,
    shell: InteractiveShell,
    run_cell: RunCell,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_cell(TRAIN)
    run_cell(FLOW)

    plan = run_cell("%mpreg plan flow")
    drawn = run_cell("%mpreg draw report")
    run = run_cell("%mpreg run report")
    kept = run_cell("%mpreg run flow -o kept")
    started = run_cell("%mpreg run end -a")

    assert list(plan.chosen) == ["gpu-1", "gpu-1"]
    assert list(plan.rejected) == ["cpu-1: lacks gpu"] * 2
    assert str(drawn).splitlines()[0] == "report: 2 steps"
    assert isinstance(run, Run)
    assert run.outputs == {"end": 0.1}
    assert kept is None
    assert run_cell("kept").status == "done"
    assert started.wait().status == "done"
    assert list(run.frame().node) == ["gpu-1", "gpu-1"]
    assert "done on gpu-1" in run._repr_mimebundle_()["text/plain"]


def test_a_failed_workflow_shows_the_error_of_its_step_and_the_run_is_kept(
    cluster: mp.Cluster, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(TRAIN)
    run_cell(
        "import mpreg_nb as mp\n"
        "flow = mp.workflow('bad')\n"
        "flow.step('first', fail, 0)\n"
        "flow.step('second', train, mp.ref('first'))"
    )
    capsys.readouterr()

    run_cell("%mpreg run bad -o kept")

    out = capsys.readouterr().out
    assert "WorkflowFailed: workflow 'bad' failed (failed: first" in out
    assert "Step 'first':" in out
    assert "return 1 / x" in out
    assert "mpreg_nb/" not in out
    assert list(run_cell("kept").frame().status) == ["failed", "skipped"]


def test_tab_offers_what_the_kernel_knows_of_the_cluster(
    cluster: mp.Cluster, shell: InteractiveShell, run_cell: RunCell
) -> None:
    run_cell("def train(x):\n    return x\nflow = 1\n%mpreg register train")
    run_cell("import mpreg_nb as mp\nflow = mp.workflow('sensors')")

    def offered(line: str) -> list[str]:
        completer: Any = shell.Completer
        with provisionalcompleter():
            return [word.text for word in completer.completions(line, len(line))]

    assert offered("%mpreg la") == ["latency"]
    assert offered("%%mpreg re") == ["register", "remote"]
    assert offered("%mpreg up --ke") == ["--keep"]
    assert offered("%mpreg up x:g") == ["gpu"]
    assert offered("%%mpreg remote --on g") == ["gpu"]
    assert offered("%%mpreg remote --node cp") == ["cpu-1"]
    assert offered("%mpreg down ") == ["cpu-1", "gpu-1"]
    assert offered("%mpreg call tr") == ["train"]
    assert offered("%mpreg run ") == ["-a", "-o", "flow", "sensors"]
    assert offered("%mpreg register tra") == ["train"]
