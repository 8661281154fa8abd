import importlib
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mpreg_nb.serialize.pickle import pack, pack_function, unpack_function
from tests.support.cells import run_cell

CELLS = {
    "closure": """
        def make(n):
            def f(x):
                return x + n
            return f
        f = make(3)
        """,
    "class": """
        class Base:
            kind = "base"
        class Point(Base):
            def __init__(self, x):
                super().__init__()
                self.x = x
            @property
            def double(self):
                return self.x * 2
        def f(x):
            return Point(x).double
        """,
    "dataclass": """
        from dataclasses import dataclass, field
        @dataclass(order=True)
        class Row:
            a: int
            b: list = field(default_factory=list)
        def f(x):
            return Row(x)
        """,
    "enum": """
        from enum import Enum
        class Colour(Enum):
            RED = 1
            BLUE = "blue"
        def f(x):
            return Colour(x)
        """,
    "recursion": """
        def f(n):
            return n if n < 2 else f(n - 1) + f(n - 2)
        """,
    "mutual recursion": """
        def even(n):
            return n == 0 or f(n - 1)
        def f(n):
            return n != 0 and even(n - 1)
        """,
    "classes that know one another": """
        class A:
            def other(self):
                return B()
        class B:
            def other(self):
                return A()
        def f():
            return A().other()
        """,
    "decorator": """
        import functools
        def twice(function):
            @functools.wraps(function)
            def run(*args):
                return function(*args) * 2
            return run
        @twice
        def f(x):
            return x
        """,
    "lambda": """
        f = lambda x: x in {"one", "two", "three"} and "one"
        """,
    "set of strings": """
        import datetime
        WORDS = {"a", "b", "c", "alpha beta", "gamma delta"}
        DAYS = frozenset(datetime.date(2024, 1, day) for day in range(1, 9))
        def f(x):
            return x in WORDS or x in {"p q", "r s", "t u"} or x in DAYS
        """,
    "equal strings, some of them one object": """
        NAME = "a name with blanks"
        TABLE = {"a name with blanks": 1, "other": "a name with blanks"}
        def f(x, name="a name with blanks"):
            return TABLE[NAME] == name
        """,
    "cache": """
        from functools import lru_cache
        @lru_cache
        def f(n):
            return n if n < 2 else f(n - 1) + f(n - 2)
        """,
    "generic": """
        from typing import Generic, TypeVar
        T = TypeVar("T")
        class Box(Generic[T]):
            def __init__(self, value: T) -> None:
                self.value = value
        def f(x):
            return Box[int](x).value
        """,
}


def version(function: Any) -> str:
    return pack_function(function).version


@pytest.mark.parametrize("name", CELLS)
def test_the_same_cell_run_again_makes_the_same_version(name: str) -> None:
    source = dedent(CELLS[name])

    first, again = run_cell(source)["f"], run_cell(source)["f"]

    assert version(first) == version(first) == version(again)
    assert len(version(first)) == 32


def test_a_script_that_is_run_again_in_a_notebook_makes_the_same_version() -> None:
    space = run_cell(dedent(CELLS["mutual recursion"]))
    versions = []

    for package in ({"__package__": None}, {}):  # as IPython's %run does in turn
        space.pop("__package__", None)
        space.update(package)
        versions.append(version(space["f"]))

    assert versions[0] == versions[1]


def test_a_restarted_kernel_makes_the_same_versions() -> None:
    program = dedent("""
        from textwrap import dedent
        from tests.support.cells import run_cell
        from tests.serialize.test_versions import CELLS, version
        print(*(version(run_cell(dedent(cell))["f"]) for cell in CELLS.values()))
        """)

    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return x + n", "return x - n"),
        ("make(3)", "make(4)"),
        ("def f(x):", "def f(x, y=1):"),
        ("def f(x):", "def f(x):\n        '''Add.'''"),
    ],
    ids=["body", "closure", "default", "documentation"],
)
def test_an_edited_function_is_another_version(before: str, after: str) -> None:
    source = dedent(CELLS["closure"])
    assert before in source

    edited = run_cell(source.replace(before, after))["f"]

    assert version(edited) != version(run_cell(source)["f"])


HELPED = dedent("""
    SCALE = 2
    OPTIONS = {"deep": [1, 2]}
    def helper(x):
        return x * SCALE
    class Model:
        rate = 0.1
        def fit(self, x):
            return helper(x) * self.rate
    def f(x):
        return Model().fit(x), OPTIONS
    """)


@pytest.mark.parametrize(
    "edit",
    [
        "SCALE = 3",
        "OPTIONS['deep'].append(3)",
        "def helper(x):\n    return x / SCALE",
        "Model.rate = 0.2",
        "Model.fit = lambda self, x: 0",
        "Model.seen = []",
    ],
)
def test_what_a_function_uses_is_a_part_of_its_version(edit: str) -> None:
    space = run_cell(HELPED)
    before = version(space["f"])

    run_cell(edit, space)

    assert version(space["f"]) != before


def test_what_a_function_does_not_use_is_no_part_of_its_version() -> None:
    space = run_cell(HELPED)
    before = version(space["f"])

    run_cell("OTHER = 1\ndef unused(): return OTHER", space)
    run_cell("# a line more\n\n" + HELPED, space)

    assert version(space["f"]) == before


def test_pickling_an_instance_changes_no_version() -> None:
    space = run_cell(HELPED)
    before = version(space["f"])

    pack(space["Model"]())

    assert version(space["f"]) == before


def test_a_class_that_changed_has_its_new_content_where_it_is_unpacked() -> None:
    space = run_cell("class Model:\n    rate = 1\ndef f():\n    return Model.rate")
    first = pack_function(space["f"])
    space["Model"].rate = 2
    second = pack_function(space["f"])

    # In another process: this one defined the class and leaves it alone.
    program = dedent("""
        import pickle, sys
        from mpreg_nb.serialize.pickle import unpack_function
        first, second = pickle.load(sys.stdin.buffer)
        f = unpack_function(first)
        print(f(), unpack_function(second)(), f())
        """)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=__import__("pickle").dumps((first.parts, second.parts)),
        capture_output=True,
        check=True,
    )

    assert ran.stdout.split() == [b"1", b"2", b"2"]


def test_what_comes_back_leaves_the_classes_of_the_notebook_alone() -> None:
    space = run_cell("class Model:\n    rate = 1\ndef f():\n    return Model")
    shipped = pack_function(space["f"])
    space["Model"].rate = 5

    model = unpack_function(shipped.parts)()

    assert model is space["Model"]
    assert model.rate == 5


def test_an_edited_module_beside_the_notebook_is_a_part_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_beside_this.py"
    file.write_text("def scaled(x):\n    return x * 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("edited_beside_this")
    space = {"__name__": "__main__", "helpers": module}
    f = run_cell("def f(x):\n    return helpers.scaled(x)", space)["f"]
    before = version(f)

    importlib.reload(module)
    same = version(f)
    file.write_text("def scaled(x):\n    return x * 3\n")
    importlib.reload(module)

    assert same == before
    assert version(f) != before


def test_only_code_that_travels_is_bound_to_this_python() -> None:
    def here(x: int) -> int:
        return x

    by_value = pack_function(here)
    by_name = pack_function(os.path.join)

    assert by_value.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert by_name.python == ""
