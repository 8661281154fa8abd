import asyncio

import pytest

from mpreg_nb.notebook.body import run_body, run_step


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
