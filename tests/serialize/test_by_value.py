import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import cloudpickle
import pytest
from IPython.extensions.autoreload import superreload

from mpreg_nb.errors import NotPicklable
from mpreg_nb.serialize.pickle import pack_function
from tests.support.cells import run_cell
from tests.support.cells_by_value import CELLS, TYPE_STATEMENTS
from tests.support.other_process import OtherProcess, other_process


@pytest.fixture(scope="module")
def there() -> Iterator[OtherProcess]:
    with other_process() as there:
        yield there


def equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def give(value: Any) -> Any:
    return value


def assert_runs_alike(there: OtherProcess, source: str) -> None:
    space = run_cell(dedent(source))
    same: Callable[[Any, Any], bool] = space.get("same", equal)

    here, back = space["f"](), there.call(space["f"])
    given = there.call(give, here)

    assert same(here, back)
    assert same(here, given)
    assert type(here) is type(back) is type(given)


@pytest.mark.parametrize("name", CELLS)
def test_what_a_cell_defines_works_elsewhere_and_comes_back_as_itself(
    there: OtherProcess, name: str
) -> None:
    assert_runs_alike(there, CELLS[name])


# Pydantic writes where a class lies in memory among its validators.
@pytest.mark.parametrize("name", sorted(CELLS.keys() - {"pydantic models"}))
def test_the_same_cell_run_again_makes_the_same_version(name: str) -> None:
    source = dedent(CELLS[name])

    first, again = (pack_function(run_cell(source)["f"]) for _ in range(2))

    assert first.version == again.version


if sys.version_info >= (3, 12):

    def test_names_that_the_type_statement_makes_work_elsewhere(
        there: OtherProcess,
    ) -> None:
        assert_runs_alike(there, TYPE_STATEMENTS)


RELOADED = """
    import enum


    class Unit:
        pass


    class Colour(enum.Enum):
        RED = 1


    class Refused(Exception):
        pass
    """


@pytest.mark.parametrize("is_updated", [False, True], ids=["reload", "autoreload"])
def test_after_a_reload_what_comes_back_is_of_the_class_that_was_sent(
    there: OtherProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_updated: bool,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"reloaded_beside_this_{is_updated}"
    (tmp_path / f"{name}.py").write_text(dedent(RELOADED))
    module = importlib.import_module(name)
    space = {"__name__": "__main__", **vars(module)}
    if is_updated:
        superreload(module, importlib.reload, {})  # type: ignore[no-untyped-call]
    else:
        importlib.reload(module)
    run_cell(
        "def unit(): return Unit()\n"
        "def red(): return Colour.RED\n"
        "def refuse(): raise Refused('no')\n",
        space,
    )

    assert module.Unit is not space["Unit"]
    assert type(there.call(space["unit"])) is space["Unit"]
    assert there.call(space["red"]) is space["Colour"].RED
    with pytest.raises(space["Refused"]):
        there.call(space["refuse"])
    assert type(there.call(module.Unit)) is module.Unit
    monkeypatch.delitem(sys.modules, name)


def test_a_module_that_is_registered_with_cloudpickle_travels_by_value(
    there: OtherProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "registered_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 1\n")
    (package / "inner.py").write_text(
        "import registered_package\n"
        "class Model: pass\n"
        "def work(model): return type(model).__name__, registered_package.VALUE\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    inner = importlib.import_module("registered_package.inner")
    registered = importlib.import_module("registered_package")

    cloudpickle.register_pickle_by_value(registered)
    try:
        back = there.call(lambda model: inner.work(model), inner.Model())
    finally:
        cloudpickle.unregister_pickle_by_value(registered)

    assert back == ("Model", 1)
    with pytest.raises(NotPicklable, match="it needs the module"):
        there.call(inner.work, inner.Model())
