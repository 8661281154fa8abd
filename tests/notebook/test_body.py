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
    assert run_body(source, "<cell>", rows=3) == value


def test_what_it_defines_belongs_to_the_notebook() -> None:
    made = run_body("class Model: ...\nModel", "<cell>")

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
