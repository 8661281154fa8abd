import datetime
import pickle
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mpreg_nb.errors import NotPicklable
from mpreg_nb.serialize.diagnose import find_unpicklable
from mpreg_nb.serialize.pickle import (
    IN_BAND_BYTES,
    pack,
    pack_arguments,
    pack_function,
    size_bytes,
    unpack,
    unpack_function,
)
from tests.support.cells import run_cell


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, "two", 3.0, b"four", [5], {"six": {7}}),
        frozenset({1, 2}),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
        Decimal("1.10"),
        Path("a/b"),
        range(3),
        "lone surrogate \ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_equal_and_of_the_same_type(value: object) -> None:
    back = unpack(pack(value))

    assert back == value
    assert type(back) is type(value)


def test_arrays_and_frames_come_back_equal() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    array = np.arange(12.0).reshape(3, 4).T

    same_frame, same_array = unpack(pack((frame, array)))

    pd.testing.assert_frame_equal(same_frame, frame)
    np.testing.assert_array_equal(same_array, array)
    assert same_array.dtype == array.dtype


def test_large_arrays_go_beside_the_pickle_uncopied_and_come_back_writable() -> None:
    array = np.zeros(IN_BAND_BYTES, dtype=np.uint8)
    parts = pack({"large": array, "small": np.zeros(8)})
    received = [bytearray(part) for part in parts]

    back = unpack(received)["large"]
    back[0] = 7

    assert [len(part) for part in parts[1:]] == [IN_BAND_BYTES]
    assert np.shares_memory(np.frombuffer(parts[1], np.uint8), array)
    assert received[1][0] == 7
    assert size_bytes(parts) == len(parts[0]) + IN_BAND_BYTES


def test_what_only_the_notebook_has_goes_by_value() -> None:
    space = run_cell("class Point:\n    x = 1\nmake = lambda: Point()")

    (head,) = pack([space["Point"](), space["make"]])

    assert b"Point" in bytes(head)
    point, make = unpack((head,))
    assert type(point) is space["Point"]
    assert type(make()) is space["Point"]


def test_a_class_that_was_run_again_is_the_class_of_what_comes_back() -> None:
    main = sys.modules["__main__"]
    source = "class PointOfThisTest:\n    x = 1\n"
    space = run_cell(source)
    parts = pack(space["PointOfThisTest"]())

    run_cell(source, vars(main))
    back = unpack(parts)

    assert type(back) is vars(main).pop("PointOfThisTest")


def own_module(tmp_path: Path, name: str, text: str) -> ModuleType:
    (tmp_path / f"{name}.py").write_text(text)
    return __import__(name)


def test_modules_beside_the_notebook_go_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "import threading\n"
        "lock = threading.Lock()\n"
        "RATE = 3\n"
        "class Point:\n    rate = RATE\n"
        "def scaled(x):\n    with lock:\n        return x * RATE\n"
    )
    module = own_module(tmp_path, "beside_this_notebook", text)
    source = "def f(x):\n    return beside.scaled(x) + scaled(x), beside.Point()"
    space = {"__name__": "__main__", "beside": module, "scaled": module.scaled}
    function = run_cell(source, space)["f"]
    shipped = pack_function(function)
    by_argument = pack(module.Point())
    monkeypatch.delitem(sys.modules, "beside_this_notebook")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])

    value, point = unpack_function(shipped.parts)(2)

    assert value == 12
    assert type(point).__name__ == "Point"
    assert unpack(by_argument).rate == 3


def test_modules_that_a_function_imports_as_it_runs_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "package_of_this_notebook"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = 'package'\n")
    (package / "inner.py").write_text(
        "def f():\n    from . import NAME\n    return NAME\n"
    )
    (tmp_path / "late_module.py").write_text("import json\nVALUE = json.loads('7')\n")
    source = (
        "def f():\n"
        "    import late_module, math\n"
        "    from package_of_this_notebook import inner\n"
        "    return late_module.VALUE + math.floor(0.5), inner.f()\n"
    )
    shipped = pack_function(run_cell(source)["f"])
    names = [
        "late_module",
        "package_of_this_notebook",
        "package_of_this_notebook.inner",
    ]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])

    f = unpack_function(shipped.parts)

    assert f() == (7, "package")
    assert [name for name in names if name in sys.modules] == names
    for name in names:
        monkeypatch.delitem(sys.modules, name)


def test_installed_modules_are_referred_to() -> None:
    (head,) = pack(np.linalg.norm)

    assert len(bytes(head)) < 100


def test_the_standard_library_stumbles_over_nothing() -> None:
    space = run_cell(
        "import functools, dataclasses, threading\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def cached(x): return x + 1\n"
        "@functools.singledispatch\n"
        "def kind(x): return 'other'\n"
        "@kind.register\n"
        "def _(x: int): return 'int'\n"
        "class Model:\n"
        "    @functools.cached_property\n"
        "    def slow(self): return 42\n"
        "@dataclasses.dataclass\n"
        "class Row:\n"
        "    a: int\n"
        "    b: list = dataclasses.field(default_factory=list)\n"
        "def f():\n"
        "    first = dataclasses.fields(Row)[0]\n"
        "    return (cached(1), cached.cache_parameters()['maxsize'], kind(1),\n"
        "            kind(''), Model().slow, first.default is dataclasses.MISSING)\n"
    )

    f = unpack_function(pack_function(space["f"]).parts)

    assert f() == (2, 7, "int", "other", 42, True)


class Holder:
    def __init__(self, **inside: object) -> None:
        vars(self).update(inside)


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((1, threading.Lock()), {}, "args[1]: _thread.lock"),
        ((), {"model": Holder(lock=threading.Lock())}, "model.lock: _thread.lock"),
        (([{"deep": (x for x in "ab")}],), {}, "args[0][0]['deep']: generator"),
        ((Holder(log=sys.__stderr__),), {}, "args[0].log"),
    ],
    ids=["argument", "attribute", "containers", "stream"],
)
def test_an_argument_that_cannot_travel_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    with pytest.raises(NotPicklable) as caught:
        pack_arguments(args, kwargs)

    assert path in str(caught.value)


async def _rows() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("made", "cure"),
    [
        (lambda: (x for x in "ab"), r"list\(…\)"),
        (_rows, "async for"),
        (threading.Lock, "Create it inside the function"),
    ],
    ids=["generator", "async generator", "lock"],
)
def test_what_cannot_travel_comes_with_a_cure_of_its_kind(
    made: Callable[[], Any], cure: str
) -> None:
    with pytest.raises(NotPicklable, match=cure):
        pack_arguments((made(),), {})


def test_an_open_file_is_to_be_opened_inside_the_function() -> None:
    with (
        Path(__file__).open("rb") as file,
        pytest.raises(NotPicklable, match="Use its path, and open it inside"),
    ):
        pack_arguments((file,), {})


def test_an_open_socket_and_a_cycle_around_it_are_named() -> None:
    with socket.socket() as opened:
        ring: list[object] = [opened]
        ring.append(ring)
        with pytest.raises(NotPicklable, match=r"result\[0\]: socket.socket"):
            pack(ring, name="result")


def test_a_captured_variable_that_cannot_travel_is_named() -> None:
    space = run_cell(
        "import threading\n"
        "class Model:\n    def __init__(self): self.lock = threading.Lock()\n"
        "model = Model()\n"
        "def helper(): return model\n"
        "def f(): return helper()\n"
    )

    with pytest.raises(NotPicklable, match=r"^model\.lock: _thread\.lock cannot"):
        pack_function(space["f"])


def test_in_a_module_what_importing_put_there_is_never_named() -> None:
    module = ModuleType("beside_the_notebook")
    hidden, guard = {"lock": threading.Lock()}, threading.Lock()
    vars(module).update(__builtins__=hidden, guard=guard)

    error = find_unpicklable(
        {"beside_the_notebook": module},
        TypeError("in there"),
        lambda value: TypeError("a lock") if value in (module, hidden, guard) else None,
    )

    assert str(error).startswith("beside_the_notebook.guard: _thread.lock cannot")


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(NotPicklable, match="result cannot be pickled: it is nested"):
        pack(deep, name="result")


class NotRebuilt:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_a_value_that_cannot_be_rebuilt_says_so() -> None:
    with pytest.raises(NotPicklable, match=r"the result .* rebuilding it raised Value"):
        unpack(pack(NotRebuilt()), name="the result")


def test_a_missing_package_is_named() -> None:
    head = pickle.dumps(Decimal).replace(b"decimal", b"decimat")

    with pytest.raises(NotPicklable, match="Install 'decimat' where it is unpickled"):
        unpack((head,))


def test_the_card_shows_captured_data_and_its_size() -> None:
    space = run_cell(
        "import numpy, json\n"
        "SCALE = 3\n"
        "TABLE = numpy.zeros(1_000_000)\n"
        "def helper(): return TABLE\n"
        "def outer(inner):\n"
        "    def f(rows, lr: float = 0.1):\n"
        "        '''Train.'''\n"
        "        return helper(), SCALE, inner, json\n"
        "    return f\n"
        "f = outer('closed over')\n"
    )

    shipped = pack_function(space["f"])

    assert [(c.name, c.type_name) for c in shipped.captures] == [
        ("TABLE", "numpy.ndarray"),
        ("inner", "str"),
        ("SCALE", "int"),
    ]
    assert shipped.captures[0].size_bytes > 8_000_000
    assert shipped.size_bytes > 8_000_000
    assert shipped.signature == "(rows, lr: float = 0.1)"
    assert shipped.doc == "Train."


def test_the_lines_of_the_cell_travel_with_the_function() -> None:
    source = "def f():\n    return 1 / 0  # here\n"

    shipped = pack_function(run_cell(source)["f"])

    assert list(shipped.sources.values()) == [source]


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, x: int) -> int:
        return self.n + x

    def __call__(self, x: int) -> int:
        return self.n - x


@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (len, "abc", 3),
        (np.sqrt, 4.0, 2.0),
        (Adder(1).add, 2, 3),
        (Adder(1), 2, -1),
        (partial(pow, 2), 3, 8),
        (str.upper, "a", "A"),
        (Decimal, "1.5", Decimal("1.5")),
    ],
    ids=["builtin", "ufunc", "method", "object", "partial", "unbound", "class"],
)
def test_anything_that_can_be_called_can_be_shipped(
    function: Any, argument: object, result: object
) -> None:
    shipped = pack_function(function)

    assert unpack_function(shipped.parts)(argument) == result
    assert pack_function(function).version == shipped.version
