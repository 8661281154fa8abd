import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.notebook import cell_body
from mpreg_nb.notebook.cell_body import run_body, run_kept, run_step


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 1", 2),
        ("x = rows * 2\nx", 6),
        ("x = 1", None),
        ("if rows:\n    rows", None),
        ("def f(n):\n    return 1 if n == 0 else n * f(n - 1)\nf(rows)", 6),
        ("[rows + k for k in range(2)]", [3, 4]),
        ("", None),
    ],
)
def test_the_value_is_that_of_the_last_expression(source: str, value: object) -> None:
    assert run_body(source, "<cell>", False, rows=3) == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("import asyncio\nawait asyncio.sleep(0, rows)", 3),
        ("import asyncio\nx = await asyncio.sleep(0, rows)\nx + 1", 4),
        ("import asyncio\n[await asyncio.sleep(0, x) for x in range(rows)]", [0, 1, 2]),
        (
            "import asyncio\nasync with asyncio.timeout(9):\n    x = rows\nx",
            3,
        ),
        ("import asyncio\nawait asyncio.sleep(0)\nx = 1", None),
    ],
)
def test_a_body_awaits_at_its_own_level(source: str, value: object) -> None:
    assert asyncio.run(run_body(source, "<cell>", False, rows=3)) == value


def test_a_step_awaits_at_its_own_level() -> None:
    source = "import asyncio\nx = await asyncio.sleep(0, rows)"

    assert asyncio.run(run_step(source, "<cell>", ("x",), rows=3)) == 3


def test_a_silent_body_returns_nothing_but_runs_to_its_end() -> None:
    rows: list[int] = []

    value = run_body("rows.append(1)\nrows;", "<cell>", True, rows=rows)

    assert value is None
    assert rows == [1]


def test_what_it_defines_belongs_to_the_notebook() -> None:
    made = run_body("class Model: ...\nModel", "<cell>", False)

    assert made.__module__ == "__main__"


@pytest.mark.parametrize(
    ("source", "outputs", "value"),
    [
        ("x = rows * 2", ("x",), 6),
        ("x, y = rows, 1\nx", ("x", "y"), {"x": 3, "y": 1}),
        ("x = 1\nif rows < 0:\n    y = 2", ("x", "y"), {"x": 1}),
        ("rows += 1", ("rows",), 4),
        ("rows + 1", (), 4),
        ("print", (), print),
        ("pass", (), None),
    ],
)
def test_a_step_gives_what_it_sets_or_else_its_last_expression(
    source: str, outputs: tuple[str, ...], value: object
) -> None:
    assert run_step(source, "<cell>", outputs, rows=3) == value


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a cell after those before it, as a process of kept names does."""
    for name in ("_sent", "_here"):
        monkeypatch.setattr(
            cell_body, name, {"__name__": "__main__"} if name == "_here" else {}
        )
    monkeypatch.setattr(cell_body, "_folder", [])

    def run(source: str, **names: Any) -> Any:
        made = run_kept(source, "<cell>", False, **names)
        return asyncio.run(made) if asyncio.iscoroutine(made) else made

    return run


def test_kept_cells_find_what_those_before_them_have_set(
    kept: Callable[..., Any],
) -> None:
    first = kept("x = rows + 1\ndef f(): return x", rows=1)
    second = kept("import asyncio\nx += 1\nawait asyncio.sleep(0, f())")

    assert first == (None, ("x", "f"))
    assert second == (3, ("x", "f", "asyncio"))


def test_a_kept_cell_reads_the_notebook_unless_a_cell_has_set_the_name(
    kept: Callable[..., Any],
) -> None:
    kept("y = x", x=1, y=0)
    again = kept("x, y", x=2, y=0)
    with pytest.raises(ZeroDivisionError):
        kept("x = 7\n1 / 0", x=3)
    last = kept("x, y", x=4, y=0)

    assert (again[0], last[0]) == ((2, 1), (7, 1))


def test_a_kept_cell_goes_on_in_the_folder_of_the_one_before(
    kept: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    kept("import os\nos.chdir(folder)", folder=str(tmp_path))
    monkeypatch.chdir("/")  # as a worker does before each call

    assert kept("os.getcwd()")[0] == str(tmp_path)
