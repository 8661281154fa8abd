"""Lines with % and ! in a cell that runs elsewhere, as they run there."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from mpreg_nb.notebook.cell_body import run_body
from mpreg_nb.notebook.ipython_lines import filled
from mpreg_nb.notebook.parser import Misuse
from mpreg_nb.notebook.remote_cell import CellSource


class Shell:
    """Of a shell what a cell that runs elsewhere needs."""

    def __init__(self, **variables: Any) -> None:
        manager: Any = TransformerManager
        self.transform_cell = manager().transform_cell
        self.variables = variables
        self.shell = self


def source(cell: str, **variables: Any) -> CellSource:
    return CellSource.of(Shell(**variables), cell, "remote cell")  # type: ignore[arg-type]


def run(cell: str, **variables: Any) -> Any:
    """Run a cell as a worker does, with those variables that it reads."""
    session: Any = Shell(**variables)
    made = source(cell)
    return run_body(made.text, made.filename, False, **made.variables(session))


def test_a_command_prints_what_it_prints_with_its_values_filled_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cell = (
        "n = 2\n"
        "if n:\n"
        "    !echo $name {n + 1} {rows[0]!r} '$name' $$name $HOME_OF_NOBODY-\n"
        "!echo '{print $1}' {name}\n"
        "!exit 3\n"
        "_exit_code"
    )

    value = run(cell, name="ada", rows=["x"], unread=object())

    assert capsys.readouterr().out == "ada 3 x $name -\n{print $1} {name}\n"
    assert value == 3


def test_a_cell_reads_what_its_commands_and_timed_lines_read() -> None:
    session: Any = Shell(a=1, b=2, c=3, d=4, e=5, f=6, g=7)

    made = source(
        "!ls $a {b} '$g'\n%time x = c\ny = !cat {d}\n%timeit -n 1 -r 1 e\n%cd $f"
    )

    assert sorted(made.variables(session)) == ["a", "b", "c", "d", "e", "f"]


def test_lines_of_a_command_are_a_value() -> None:
    value = run("found = !printf 'one\\ntwo'\nfound + list(found.s)", name="")

    assert value == ["one", "two", *"one two"]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("%time 1 + x", 4),
        ("y = %time x * 2\ny", 6),
        ("%time y = x\ny + 1", 4),
        ("%%time\ny = x\ny + 2", 5),
        ("%%time\n!true\n", None),
        ("\n%%time\nx", 3),
    ],
)
def test_what_is_timed_is_code_of_the_cell(
    cell: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cell, x=3) == value

    assert re.fullmatch(
        r"CPU times: user .+, sys: .+, total: .+\nWall time: .+s\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    "cell",
    ["%timeit -n 3 -r 2 rows.append(x)", "%%timeit -n 3 -r 2 z = x\nrows.append(z)"],
)
def test_a_line_is_measured(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[int] = []

    run(cell, x=3, rows=rows)

    assert rows == [3] * 6
    told = capsys.readouterr().out
    assert re.fullmatch(
        r".+s ± .+s per loop \(mean ± std\. dev\. of 2 runs, 3 loops each\)\n", told
    )


def test_an_error_below_a_timed_line_has_the_line_of_the_cell() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("%%time\nx = 0\n1 / x")

    assert [f.lineno for f in caught.traceback][-1] == 2  # counted from 0


def test_the_environment_and_what_a_cell_sets_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_A", "old")
    monkeypatch.delenv("LAB_B", raising=False)

    value = run("%env LAB_A=new\n%set_env LAB_B b c\n!echo $LAB_A $LAB_B\n%env LAB_A")

    out = capsys.readouterr().out
    assert out == "env: LAB_A=new\nenv: LAB_B=b c\nnew b c\n"
    assert value == "new"
    assert (os.environ["LAB_A"], "LAB_B" in os.environ) == ("old", False)


def test_a_cell_changes_its_folder_and_writes_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir("/")

    where = run("%cd $folder\n%matplotlib inline\nx = %pwd\nx", folder=tmp_path)
    run("%%writefile a.txt\n{x} $y\n")
    run("%%writefile -a a.txt\n!more\n")
    run("%%bash\ncat a.txt\necho $((1 + 1))")

    assert where == str(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        *(str(tmp_path), "Writing a.txt", "Appending to a.txt"),
        *("{x} $y", "!more", "2"),
    ]


def test_pip_is_that_of_this_python(capsys: pytest.CaptureFixture[str]) -> None:
    run("%pip --version")

    first, second = capsys.readouterr().out.splitlines()
    assert first == f"pip of {sys.executable}"
    assert second.startswith("pip ")


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("%pip install --no-such-option", RuntimeError),
        ("%%bash\nexit 4", subprocess.CalledProcessError),
    ],
)
def test_a_command_that_must_work_and_does_not_is_an_error(
    cell: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="exit"):
        run(cell)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%who", "%who does not run on a node: run it here, in a cell of its own"),
        ("x = 1\n%autoreload 2", "%autoreload does not run on a node"),
        ("%%html\n<b>", "%%html does not run on a node"),
        ("print?", "print? asks for help, which is shown here"),
        ("%matplotlib widget", "write %matplotlib inline, or leave it out"),
        ("!sleep 9 &", "Leave out the & at its end"),
        ("x = %timeit 1", "write it on its own line"),
        ("x = %time y = 1", "has no value that could be assigned"),
        ("%timeit -o 1", "-o does not work on a node"),
        ("f(%time 1)", "line 1 of the cell"),
        ("%time 1 +", "line 1 of the cell"),
    ],
)
def test_what_makes_no_sense_there_is_refused_before_anything_runs(
    cell: str, says: str
) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        source(cell)


def failing() -> object:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("ls", {}, "ls"),
        ("{a}-{b:>3}", {"a": lambda: 1, "b": lambda: 2}, "1-  2"),
        ("{{a}} $b", {"b": lambda: 2}, "{a} 2"),
        ("$a.b $c", {"a.b": lambda: 1, "c": failing}, "1 $c"),
        ("{a} $b", {"a": failing, "b": lambda: 1}, "{a} $b"),
    ],
)
def test_a_command_is_filled_in_as_ipython_does(
    text: str, values: dict[str, Callable[[], object]], expected: str
) -> None:
    assert filled(text, values) == expected
