import pytest

from mpreg_nb.notebook.body import run_body


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
