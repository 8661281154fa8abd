import asyncio
import concurrent.futures
import contextlib
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Any

import pydantic
import pytest

from mpreg_nb.errors import NoRoute, NotPicklable, RemoteError
from mpreg_nb.serialize.exceptions import remote_error
from mpreg_nb.serialize.pickle import (
    pack,
    pack_exception,
    pack_function,
    unpack_function,
)
from tests.support.cells import run_cell
from tests.support.cells_that_raise import RAISING
from tests.support.other_process import OtherProcess, other_process


def raised(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a caller gets for what `function` raises; not really remote."""
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001  that is what is tested
        parts = pack_exception(error)
        return remote_error(parts, function="work", node="n1")
    raise AssertionError("it raised nothing")


def raising(source: str) -> Any:
    return raised(run_cell(dedent(source))["f"])


def test_the_class_that_was_raised_catches_it() -> None:
    error = raising("def f(): raise ValueError('bad row', 3)")

    assert isinstance(error, ValueError)
    assert isinstance(error, RemoteError)
    assert error.args == ("bad row", 3)
    assert str(error) == "('bad row', 3)"
    assert repr(error) == "ValueError('bad row', 3)"
    assert type(error.original) is ValueError
    assert (error.function, error.node) == ("work", "n1")
    assert error.type_name == "builtins.ValueError"


@pytest.mark.parametrize(
    "expression",
    [
        "KeyError('k')",
        "OSError(2, 'No such file', 'a.txt')",
        "UnicodeDecodeError('utf-8', b'abc', 1, 2, 'bad')",
        "StopIteration(5)",
        "Exception('plain')",
        "ImportError('m', name='a', path='b')",
        "SyntaxError('s', ('file', 1, 2, 'text'))",
        "ZeroDivisionError()",
    ],
)
def test_exceptions_of_python_keep_their_fields(expression: str) -> None:
    local = eval(expression)  # noqa: S307  one of those above

    error = raising(f"def f(): raise {expression}")

    assert isinstance(error, type(local))
    assert (str(error), repr(error), error.args) == (
        str(local),
        repr(local),
        local.args,
    )
    for field in ("errno", "filename", "reason", "value", "name", "lineno"):
        assert getattr(error, field, None) == getattr(local, field, None)


def test_an_exception_of_the_notebook_that_does_not_unpickle_is_still_itself() -> None:
    space = run_cell(
        "class Broken(Exception):\n"
        "    def __init__(self, code, detail):\n"
        "        super().__init__(f'code {code}')\n"
        "        self.detail = detail\n"
        "def f(): raise Broken(3, detail=[1])\n"
    )

    error = raised(space["f"])

    assert isinstance(error, space["Broken"])
    assert error.detail == [1]
    assert str(error) == "code 3"


def test_our_own_errors_and_their_fields_come_through() -> None:
    def fail() -> None:
        raise NoRoute("train", frozenset({"gpu"}), {"n1": frozenset()})

    error = raised(fail)

    assert isinstance(error, NoRoute)
    assert error.resources == {"gpu"}


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
def test_what_is_no_exception_becomes_a_plain_remote_error(
    kind: type[BaseException],
) -> None:
    def fail() -> None:
        raise kind(3)

    error = raised(fail)

    assert type(error) is RemoteError
    assert type(error.original) is kind
    assert str(error) == f"{error.type_name.removeprefix('builtins.')}: 3"


def test_it_survives_pickling_also_twice() -> None:
    error = raising("def f(): raise KeyError('k')")

    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))

    assert (again.node, again.args) == ("n1", ("k",))
    assert again.remote_traceback == error.remote_traceback
    assert isinstance(again, KeyError)


def test_a_nested_remote_error_is_what_was_raised_first() -> None:
    first = raising("def f(): raise ValueError('deep')")

    def fail() -> None:
        raise first

    error = raised(fail)

    assert type(error.original) is ValueError
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == (
        "f"
    )


CAUSED = """
    def inner():
        return {}["gone"]

    def f():
        try:
            inner()
        except KeyError as error:
            raise ValueError("outer") from error
    """


def test_the_traceback_has_the_lines_of_the_cell_and_none_of_ours() -> None:
    error = raising(CAUSED)

    text = "".join(traceback.format_exception(error))

    assert '    raise ValueError("outer") from error\n' in text
    assert '    return {}["gone"]\n           ~~^^^^^^^^\n' in text
    assert "direct cause" in text
    assert isinstance(error.__cause__, KeyError)
    assert "raised by work on n1" in text
    assert "mpreg_nb/" not in error.remote_traceback


def test_ipython_shows_the_lines_of_the_cell() -> None:
    from IPython.core.ultratb import VerboseTB

    error = raising(CAUSED)

    shown = VerboseTB(theme_name="nocolor", include_vars=False).text(
        type(error), error, error.__traceback__
    )

    assert '----> 3     return {}["gone"]' in shown
    assert 'raise ValueError("outer") from error' in shown
    assert shown.rstrip().endswith("raised by work on n1")


def test_a_process_that_never_saw_the_cell_shows_its_lines() -> None:
    space = run_cell(dedent(CAUSED))
    function = unpack_function(pack_function(space["f"]).parts)
    with pytest.raises(ValueError, match="outer") as caught:
        function()
    parts = pack_exception(caught.value)
    program = dedent("""
        import pickle, sys, traceback
        from mpreg_nb.serialize.exceptions import remote_error
        parts = pickle.load(sys.stdin.buffer)
        traceback.print_exception(remote_error(parts, function="f", node="n1"))
        """)

    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(parts),
        capture_output=True,
        check=True,
    )

    assert b'    return {}["gone"]\n' in ran.stderr


def test_groups_travel_with_their_members() -> None:
    error = raising("""
        class Two(Exception):
            def __init__(self, a, b): super().__init__(a)
        def f(): raise ExceptionGroup("both", [ValueError(1), Two(2, 3)])
        """)

    assert isinstance(error, ExceptionGroup)
    assert [str(one) for one in error.exceptions] == ["1", "2"]
    assert error.subgroup(ValueError) is not None


def test_cyclic_causes_come_to_an_end() -> None:
    error = raising("""
        def f():
            first, second = ValueError(1), KeyError(2)
            first.__cause__, second.__cause__ = second, first
            raise first
        """)

    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)


def test_a_huge_message_is_cut() -> None:
    error = raising("def f(): raise ValueError('x' * 100_000_000)")

    assert len(str(error)) < 100_000
    assert len(error.remote_traceback) <= 64 * 1024
    assert isinstance(error, ValueError)


def test_an_argument_that_cannot_travel_becomes_its_name() -> None:
    def fail() -> None:
        error = ValueError("locked", threading.Lock())
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    error = raised(fail)

    assert isinstance(error, ValueError)
    assert error.args == ("locked", "<lock that cannot be pickled>")


def test_a_class_that_the_caller_lacks_is_caught_by_its_builtin_base() -> None:
    space = run_cell("class Lost(KeyError): pass\ndef f(): raise Lost('k')")
    with pytest.raises(KeyError) as caught:
        space["f"]()
    (data,) = map(bytes, pack_exception(caught.value))
    broken = data.replace(b"mpreg_nb.serialize.pickle", b"mpreg_nb.serialize.picklt")

    error: Any = remote_error((broken,), function="f", node="n1")

    assert error.original is None
    assert str(error) == "__main__.Lost: 'k'"
    assert isinstance(error, KeyError)


def test_a_broken_str_is_survived() -> None:
    error = raising("""
        class Bad(Exception):
            def __str__(self): raise RuntimeError("no text")
        def f(): raise Bad()
        """)

    assert "Bad" in error.remote_traceback


def test_a_deep_recursion_is_shortened() -> None:
    error = raising("def f(n=0): return f(n + 1)")

    assert isinstance(error, RecursionError)
    assert len(traceback.extract_tb(error.__traceback__)) <= 100


@pytest.fixture(scope="module")
def there() -> Iterator[OtherProcess]:
    with other_process() as there:
        yield there


def caught_from(there: OtherProcess, space: dict[str, Any]) -> Any:
    """Return what a caller catches, after all that passes errors on has had it."""

    @contextlib.contextmanager
    def passing_on() -> Iterator[None]:
        yield

    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    try:
        there.call(space["f"])
    except Exception as error:  # noqa: BLE001  that it is the right one is tested
        future.set_exception(error)
    try:
        with passing_on():
            future.result(timeout=0)
    except space["E"] as error:
        return error


@pytest.mark.parametrize("name", RAISING)
def test_however_an_exception_is_made_its_class_catches_it(
    there: OtherProcess, name: str
) -> None:
    space = run_cell(dedent(RAISING[name]))

    error = caught_from(there, space)

    assert issubclass(type(error), space["E"])
    assert type(error).__name__ == space["E"].__name__
    for field, value in space.get("has", {}).items():
        assert getattr(error, field) == value
    assert issubclass(type(pickle.loads(pickle.dumps(error))), space["E"])


@pytest.mark.parametrize("name", RAISING)
def test_an_exception_travels_as_a_value_too(there: OtherProcess, name: str) -> None:
    space = run_cell(dedent(RAISING[name]))
    with pytest.raises(space["E"]) as local:
        space["f"]()
    afar = caught_from(there, space)

    back = there.call(lambda *given: list(given), local.value, afar)

    for error in back:
        assert issubclass(type(error), space["E"])
        for field, value in space.get("has", {}).items():
            assert getattr(error, field) == value


def test_a_final_class_of_c_comes_back_as_itself(there: OtherProcess) -> None:
    space = run_cell(dedent(RAISING["pydantic"]))

    error = caught_from(there, space)

    assert type(error) is pydantic.ValidationError
    assert error.error_count() == 1
    assert "raised by work on n1" in error.__notes__
    assert "validation error for M" in vars(error)["remote_traceback"]


def test_our_fields_are_shown_next_to_those_of_the_user(there: OtherProcess) -> None:
    space = run_cell("class E(Exception):\n    node = 1\ndef f(): raise E('x')\n")

    error = caught_from(there, space)

    assert (error.node, error.function, error.type_name) == (1, "work", "__main__.E")
    assert str(pickle.loads(pickle.dumps(error)).original) == "x"


class Exits:
    is_armed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return exits, ()


def exits() -> Exits:
    if Exits.is_armed:
        sys.exit(3)
    return Exits()


def test_code_that_exits_while_an_error_is_rebuilt_ends_in_a_remote_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = pack_exception(ValueError("text", Exits()))
    monkeypatch.setattr(Exits, "is_armed", True)

    error: Any = remote_error(parts, function="work", node="n1")

    assert isinstance(error, RemoteError)
    assert isinstance(error, ValueError)
    assert "text" in str(error)
    assert error.original is None


def test_a_value_whose_pickling_exits_is_named() -> None:
    space = run_cell(
        "import sys\nclass Exits:\n    def __reduce__(self): sys.exit(3)\n"
    )

    with pytest.raises(NotPicklable, match=r"value\[0\]: Exits"):
        pack([space["Exits"]()])
