"""Whether a function still is what was packed."""

import functools
import gc
import string
import sys
import types
import weakref
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mpreg_nb.serialize.change_detection import SMALL_BYTES, Witnesses
from mpreg_nb.serialize.code import Census
from mpreg_nb.serialize.pickle import pack_function
from tests.support.cells import run_cell

CELL = """\
import functools, types

SCALE = 2
OPTIONS = {"depth": [1, 2], "name": "a"}

class Base:
    limit = 1
    def bounded(self, x): return min(x, self.limit)

class Model(Base):
    def predict(self, x): return helper(x)

class Meta(type):
    def __call__(cls, *args): return super().__call__(*args)

def decorate(function):
    @functools.wraps(function)
    def outer(*args): return function(*args)
    return outer

def inner(x): return x * SCALE

@decorate
def helper(x, *, power=1): return inner(x) ** power

def default(x, by=3): return x * by

def make():
    count = 0
    def closed(x): return x + count
    def change(to):
        nonlocal count
        count = to
    return closed, change

closed, change = make()
twice = functools.partial(inner)

def work(x):
    model = Model()
    late = [inner(y) for y in range(3)]
    return model.predict(x), closed(x), default(x), twice(x), len(OPTIONS), late
def reads_missing(): return not_yet_there
"""


@pytest.fixture
def cell() -> dict[str, Any]:
    return run_cell(CELL)


def witnesses_of(function: Any) -> Witnesses:
    return pack_function(function).witnesses


@pytest.mark.parametrize(
    "change",
    [
        "SCALE = 3",
        "SCALE = 2.0",
        "OPTIONS['depth'].append(3)",
        "OPTIONS['depth'][0] = True",
        "del OPTIONS['name']",
        "def inner(x): return -x",
        "inner.__code__ = (lambda x: x).__code__",
        "helper.__wrapped__.__kwdefaults__['power'] = 2",
        "default.__defaults__ = (4,)",
        "default.by = 'an attribute of a function travels too'",
        "change(5)",
        "Model.predict = lambda self, x: x",
        "Model.more = 1",
        "Model.predict.__code__ = (lambda self, x: 0).__code__",
        "Base.limit = 2",
        "Base.bounded.__code__ = (lambda self, x: 0).__code__",
        "Model = Base",
        "twice = functools.partial(default)",
        "len = max",
    ],
)
def test_a_change_of_anything_that_a_function_reaches_is_seen(
    cell: dict[str, Any], change: str
) -> None:
    witnesses = witnesses_of(cell["work"])
    assert witnesses.hold(cell["work"])

    run_cell(change, cell)

    assert not witnesses.hold(cell["work"])


@pytest.mark.parametrize(
    "change",
    [
        "unrelated = 1",
        "OPTIONS = {'depth': [1, 2], 'name': 'a'}",
        "OPTIONS['depth'] = [1, 2]",
        "SCALE = int('2')",
        "work(1)",
    ],
)
def test_what_is_equal_or_not_reached_is_no_change(
    cell: dict[str, Any], change: str
) -> None:
    witnesses = witnesses_of(cell["work"])

    run_cell(change, cell)

    assert witnesses.hold(cell["work"])


def test_a_name_that_is_defined_later_is_seen(cell: dict[str, Any]) -> None:
    witnesses = witnesses_of(cell["reads_missing"])
    before = witnesses.hold(cell["reads_missing"])

    cell["not_yet_there"] = None

    assert before
    assert not witnesses.hold(cell["reads_missing"])


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1], lambda value: value.append(2)),
        ({1}, lambda value: value.add(2)),
        ([[{"a": []}]], lambda value: value[0][0]["a"].append(2)),
        ([b"x", []], lambda value: value[1].append(2)),
        (bytearray(b"abc"), lambda value: value.append(1)),
        (np.zeros(5), lambda value: value.__setitem__(2, 1.0)),
        ({"w": np.zeros(5)}, lambda value: value["w"].__setitem__(2, 1.0)),
        (OrderedDict(a=1), lambda value: value.update(b=2)),
        (defaultdict(list), lambda value: value["a"]),
        (types.SimpleNamespace(a=[1]), lambda value: value.a.append(2)),
        (pd.Series([1, 2]), lambda value: value.__setitem__(0, 5)),
        (pd.DataFrame({"a": [1, 2]}), lambda value: value.__setitem__("b", 5)),
        (functools.partial(max, [1]), lambda value: value.args[0].append(2)),
        (np.random.default_rng(1), lambda value: value.random()),
    ],
    ids=lambda each: type(each).__name__,
)
def test_small_values_are_compared_by_content(value: Any, change: Any) -> None:
    cell = run_cell("def size(): return VALUE")
    cell["VALUE"] = value
    witnesses = witnesses_of(cell["size"])
    before = witnesses.hold(cell["size"])

    change(value)

    assert before
    assert not witnesses.hold(cell["size"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: list(range(SMALL_BYTES)),
        lambda: bytearray(SMALL_BYTES + 1),
        lambda: np.zeros(SMALL_BYTES),
        lambda: [b"x"] * SMALL_BYTES,
    ],
    ids=["list", "bytearray", "array", "list of bytes"],
)
def test_large_values_are_compared_by_identity(make: Any) -> None:
    cell = run_cell("def size(): return len(VALUE)")
    cell["VALUE"] = make()
    witnesses = witnesses_of(cell["size"])

    cell["VALUE"][7] = 9 if not isinstance(cell["VALUE"], list) else b"y"
    changed_in_place = witnesses.hold(cell["size"])
    del cell["VALUE"]  # so that the next may get the same place in memory
    cell["VALUE"] = make()

    assert changed_in_place
    assert not witnesses.hold(cell["size"])


def test_a_large_text_is_compared_by_content() -> None:
    cell = run_cell("def size(): return len(VALUE)")
    cell["VALUE"] = "a" * 2 * SMALL_BYTES
    witnesses = witnesses_of(cell["size"])

    cell["VALUE"] = "a" * 2 * SMALL_BYTES
    equal = witnesses.hold(cell["size"])
    cell["VALUE"] = "a" * (2 * SMALL_BYTES - 1) + "b"

    assert equal
    assert not witnesses.hold(cell["size"])


def test_a_list_inside_of_itself_is_compared_to_its_end() -> None:
    cell = run_cell("def size(): return len(VALUE)")
    cell["VALUE"] = value = [b"x"]
    value.append(value)  # type: ignore[arg-type]
    witnesses = witnesses_of(cell["size"])
    before = witnesses.hold(cell["size"])

    value.append(b"y")

    assert before
    assert not witnesses.hold(cell["size"])


@pytest.mark.parametrize("copies", [1, SMALL_BYTES], ids=["array", "large list"])
def test_witnesses_hold_nothing_that_nobody_else_does(copies: int) -> None:
    cell = run_cell("def size(): return len(VALUE)")
    array = np.zeros(SMALL_BYTES)
    cell["VALUE"] = array if copies == 1 else [array] * copies
    gone = weakref.ref(array)
    witnesses = witnesses_of(cell["size"])

    del array, cell["VALUE"]
    witnesses.let_go()
    gc.collect()

    assert gone() is None
    assert not witnesses.hold(cell["size"])


def test_witnesses_keep_no_closure_alive() -> None:
    cell = run_cell(
        "def make(rows):\n"
        "    def first(n): return second(n - 1) if n else len(rows)\n"
        "    def second(n): return first(n)\n"
        "    return first"
    )
    function = cell["make"]([object])
    gone = weakref.ref(function)
    witnesses = witnesses_of(function)
    assert witnesses.hold(function)

    del function
    gc.collect()

    assert gone() is None


def test_functions_that_use_each_other_are_seen_through() -> None:
    cell = run_cell(
        "def even(n): return n == 0 or odd(n - 1)\n"
        "def odd(n): return n != 0 and even(n - 1)\n"
    )
    witnesses = witnesses_of(cell["even"])
    before = witnesses.hold(cell["even"])

    run_cell("def odd(n): return False", cell)

    assert before
    assert not witnesses.hold(cell["even"])


def test_a_method_is_another_one_when_its_object_has_changed() -> None:
    letter = string.Template("dear $name")
    witnesses = witnesses_of(letter.safe_substitute)
    before = witnesses.hold(letter.safe_substitute)

    letter.template = "hello $name"

    assert before
    assert not witnesses.hold(letter.safe_substitute)


def test_a_package_in_place_counts_as_own_once_a_file_of_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpreg_nb.serialize import code

    (tmp_path / "in_place.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "named_roots", lambda: (str(tmp_path.resolve()),))
    monkeypatch.setattr(code, "_began_at", lambda: 1000.0)
    times = {"at": 999.0}
    monkeypatch.setattr(code, "_changed_at", lambda path: times["at"])
    __import__("in_place")
    monkeypatch.delitem(sys.modules, "in_place")
    module = __import__("in_place")
    monkeypatch.setitem(sys.modules, "in_place", module)
    census = Census()

    census.look_at_files()
    before = census.owns("in_place"), census.watches("in_place")
    times["at"] = 1001.0
    census.look_at_files()

    assert before == (False, True)
    assert (census.owns("in_place"), census.watches("in_place")) == (True, False)
