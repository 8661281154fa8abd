import pytest

from mpreg_nb.notebook.remote_cell import assigned, free_variables

KNOWN = {"a", "b", "c", "i", "np"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = 1\na + b", "b"),
        ("a = a + 1", "a"),
        ("a += 1", "a"),
        ("a.b = c", "a c"),
        ("a[i] = 2", "a i"),
        ("import numpy as np\nnp.sum(a)", "a"),
        ("from x import a, y as b\na, b, c", "c"),
        ("with open(a) as b:\n    c = 1\nb, c", "a"),
        ("for i in a:\n    b = i\nb", "a b i"),
        ("if c:\n    a = 1\na", "a c"),
        ("[a for a in b if a > c]", "b c"),
        ("{a for a in b if [i for i in c]}", "b c"),
        ("{a: i for a, i in b}", "b"),
        ("[[a * i for i in a] for a in b]", "b"),
        ("[(c := a) for a in b]\nc", "b c"),
        ("[a for a in b]\na", "a b"),
        ("def f():\n    return [a for a in b]", "b"),
        ("class C:\n    rows = [a for a in b]", "b"),
        ("[a async for a in b]", "b"),
        ("[await a for a in b]\nawait c", "b c"),
        ("lambda a: a + b", "b"),
        ("def f(a, b=c):\n    return a + b + i", "c i"),
        ("def a():\n    return b\na()", "b"),
        ("class a:\n    b = 1\n    def f(self):\n        return b + c", "b c"),
        ("print(f'{a:{b}}')", "a b"),
        ("async def f():\n    return a", "a"),
        ("a: int = b\na", "b"),
        ("unknown + 1", ""),
        ("", ""),
    ],
)
def test_what_a_cell_reads_before_it_sets_it_is_found(
    source: str, expected: str
) -> None:
    assert free_variables(source, KNOWN) == tuple(expected.split())


def test_what_is_no_python_is_refused() -> None:
    with pytest.raises(SyntaxError):
        free_variables("for in", KNOWN)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = 1\nb: int = a\nc += 1", "a b c"),
        ("a, (b, *c) = rows", "a b c"),
        ("a = b = 1\na = 2", "a b"),
        ("a: int", ""),
        ("a.b = 1\na[0] = 2", ""),
        ("if x:\n    a = 1\nelse:\n    b = 2", "a b"),
        ("for i in rows:\n    a = i", "a"),
        ("with open(p) as f:\n    a = f.read()", "a"),
        ("try:\n    a = 1\nexcept OSError as error:\n    b = 2", "a b"),
        ("if (n := len(rows)):\n    pass", "n"),
        ("import math\nfrom os import path", ""),
        ("def f():\n    a = 1\nclass C:\n    b = 2\nlambda: (c := 3)", ""),
        ("a = [i for i in rows]\n_b = 1", "a"),
        ("", ""),
    ],
)
def test_what_a_cell_assigns_at_its_own_level_is_found_in_order(
    source: str, expected: str
) -> None:
    assert assigned(source) == tuple(expected.split())
