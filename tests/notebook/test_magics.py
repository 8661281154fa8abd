"""Magics in a real shell, as far as they go without a cluster."""

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

import mpreg_nb as mp
from mpreg_nb.cluster.config import KEYS
from mpreg_nb.notebook.verbs import CELL_VERBS, LINE_VERBS
from tests.support.shell import RunCell

NO_CLUSTER = (
    "UsageError: no cluster yet. Start one: %mpreg up, or connect to one: "
    "%mpreg connect URL\n"
)


@pytest.mark.parametrize(
    "cell",
    [
        "%mpreg",
        "%mpreg nodes",
        "%mpreg functions",
        "%mpreg routes",
        "%mpreg latency",
        "%mpreg calls",
        "%mpreg events",
        "%mpreg runs",
        "%mpreg why run.step",
        "%mpreg cancel run",
        "%mpreg watch",
        "%mpreg logs",
        "%mpreg logs n1 -f",
        "%mpreg kill n1",
        "%mpreg pause n1 1",
        "%mpreg partition n1|n2 1",
        "%mpreg call f()",
        "f = len\n%mpreg register f",
        "%%mpreg remote\n1",
        "%%mpreg everywhere\n1",
        "%%mpreg step a --flow f\n1",
        "%%mpreg register\ndef f(): ...",
    ],
)
def test_without_a_cluster_one_line_says_how_to_get_one(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    run_cell(cell)

    assert capsys.readouterr() == ("", NO_CLUSTER)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%mpreg nods", "no verb 'nods'. Did you mean %mpreg nodes?"),
        ("%mpreg up -n 3 gpu-1", "give names or a number, not both"),
        ("%mpreg up gpu-1:", "'gpu-1:' has a colon but no resource"),
        ("%mpreg up -n 0", "cannot start 0 nodes"),
        ("%mpreg up a a", "node 'a' is given twice"),
        ("%mpreg up --workers -1", "workers must be at least 0"),
        ("%mpreg call", "write a call as in Python: %mpreg call train(rows, lr"),
        ("%mpreg call f", "arguments are missing: %mpreg call f()"),
        ("%mpreg call f(", "Write a call as in Python"),
        ("%mpreg call f.g()", "write a call as in Python: %mpreg call train(rows"),
        ("rows = 1\n%mpreg call f(rowz)", "no variable 'rowz'. Did you mean 'rows'?"),
        ("%mpreg register f", "no variable 'f'"),
        ("f = 3\n%mpreg register f", "'f' is not a function but of type int"),
        ("%mpreg run flow", "no variable and no workflow is named 'flow'"),
        ("flow = 3\n%mpreg plan flow", "'flow' is not a workflow but of type int"),
        ("%mpreg adopt", "you have no kept cluster"),
        ("%mpreg connect nowhere", "nowhere"),
        ("%mpreg why step", "'step' is not a step of a run. Write RUN.STEP"),
        ("%mpreg partition n1 5", "as n1,n2|n3 does"),
        ("%mpreg partition n1|n1,n2 5", "as n1,n2|n3 does"),
        ("%mpreg partition n1|n2 soon", "invalid float value: 'soon'"),
        ("%mpreg config wrkers", "no key 'wrkers'. Did you mean 'workers'?"),
        ("%mpreg config workers many", "workers must be a whole number of processes"),
        ("%mpreg config keep maybe", "keep must be True or False, not 'maybe'"),
        ("%mpreg run flow(1)", "inputs are given by name: %mpreg run flow(NAME=…)"),
        ("%mpreg run flow(a=b)", "no variable 'b'"),
        ("%mpreg help halp", "Did you mean %mpreg help?"),
        ("%%mpreg step a\n1", "required: --flow"),
        ("%%mpreg step a --flow 3f\n1", "'3f' is not a name for a variable"),
        ("%%mpreg remotely\n1", "Did you mean %%mpreg remote?"),
        ("%%mpreg remote -o 3x\n1", "'3x' is not a name for a variable"),
    ],
)
def test_a_mistake_of_the_user_is_one_line_without_a_traceback(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str], cell: str, said: str
) -> None:
    run_cell(cell)

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("UsageError: ")
    assert said in err
    assert err.count("\n") == 1


def test_help_lists_all_verbs_and_explains_one(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("%mpreg help")
    overview = capsys.readouterr().out
    run_cell("%mpreg help register")
    explained = capsys.readouterr().out
    run_cell("%mpreg up --help")
    asked = capsys.readouterr().out
    run_cell("%mpreg --help")
    asked_all = capsys.readouterr().out

    assert all(f"mpreg {verb}" in overview for verb in (*LINE_VERBS, *CELL_VERBS))
    assert "usage: %mpreg register" in explained
    assert "usage: %%mpreg register" in explained
    assert asked.startswith("usage: %mpreg up")
    assert asked_all == overview


def test_help_explains_every_key_that_can_be_set(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("%mpreg help config")

    words = " ".join(capsys.readouterr().out.split())
    assert all(f"{key.name}: {key.rule}" in words for key in KEYS.values())
    assert all(key.cost in words for key in KEYS.values())


def test_a_question_mark_shows_examples(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("%mpreg?")

    assert "%mpreg call train(rows, lr=0.2)" in capsys.readouterr().out


def test_variables_are_put_into_a_line_where_it_is_not_python(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("name = 'lost'\n%mpreg plan {name}-$name")

    assert "is named 'lost-lost'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cell",
    [
        "%mpreg call echo(1 / 0)",
        "%mpreg run flow(day=1 / 0)",
        "%mpreg plan flow(day=1 / 0)",
    ],
)
def test_an_error_of_the_line_shows_the_line_and_no_frame_of_ours(
    run_cell: RunCell, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    run_cell(cell)

    out = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in out
    assert out.count("1 / 0)") >= 2  # the cell, and the call in it
    assert "mpreg_nb/" not in out
    assert "get source" not in out


def test_a_semicolon_at_the_end_of_a_line_silences_its_value(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("%mpreg config workers")
    shown = capsys.readouterr().out
    run_cell("%mpreg config workers;")
    run_cell("x = 1\n%mpreg config workers ;  # as it's known")
    silenced = capsys.readouterr().out
    run_cell("kept = %mpreg config workers;\nkept")

    assert shown.endswith(": 1\n")
    assert silenced == ""
    assert capsys.readouterr().out.endswith(": 1\n")
    assert shell.user_ns["kept"] == 1


FIGURE = "from matplotlib.figure import Figure\nfigure = Figure()\nfigure.subplots();"
FORMS = "get_ipython().display_formatter.format(figure)[0]"


def test_figures_are_images_also_where_nothing_was_drawn_here(
    shell: InteractiveShell, run_cell: RunCell
) -> None:
    run_cell(FIGURE)

    shown = run_cell(FORMS)

    assert shown["image/png"].startswith(b"\x89PNG")


def test_figures_have_the_format_that_the_user_chose_for_pyplot(
    shell: InteractiveShell, run_cell: RunCell
) -> None:
    run_cell(FIGURE)
    run_cell(
        "%unload_ext mpreg_nb\n"
        "from IPython.core.pylabtools import select_figure_formats\n"
        "select_figure_formats(get_ipython(), {'svg'})\n"
        "%load_ext mpreg_nb"
    )

    shown = run_cell(FORMS)

    assert set(shown) == {"text/plain", "image/svg+xml"}


def test_loading_again_changes_nothing(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("%reload_ext mpreg_nb")
    capsys.readouterr()

    run_cell("%mpreg nodes")

    assert capsys.readouterr().err == NO_CLUSTER


def test_the_package_finds_the_shell_without_the_extension(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    vars(mp).pop("call", None)  # as in a fresh kernel, where nothing was used yet
    run_cell("%unload_ext mpreg_nb\nimport mpreg_nb as mp\nmp.call")
    capsys.readouterr()

    run_cell("mp.call('f')")

    out = capsys.readouterr().out
    assert "NoCluster: no cluster yet" in out
    assert "shortcuts.py" not in out  # frames of ours are not shown


def test_loading_starts_nothing_and_imports_little() -> None:
    program = (
        "import sys, threading; from IPython.core.interactiveshell import "
        "InteractiveShell; shell = InteractiveShell.instance(); "
        "shell.history_manager.enabled = False; "
        "shell.run_line_magic('load_ext', 'mpreg_nb'); "
        "print({'matplotlib', 'pandas', 'websockets', 'uvloop'} "
        "& set(sys.modules))"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    said, loaded = run.stdout.splitlines()
    assert said.startswith("mpreg_nb is ready: %mpreg up")
    assert loaded == "set()"


def test_loading_costs_little() -> None:
    # 125 ms where IPython itself takes 120: a busy machine is slower with both.
    program = (
        "import time; began = time.process_time(); "
        "from IPython.core.interactiveshell import InteractiveShell; "
        "shell = InteractiveShell.instance(); shell.history_manager.enabled = False; "
        "ready = time.process_time(); shell.run_line_magic('load_ext', 'mpreg_nb'); "
        "print((time.process_time() - ready) / (ready - began))"
    )

    shares = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        shares.append(float(run.stdout.splitlines()[-1]))

    assert min(shares) <= 1.5
