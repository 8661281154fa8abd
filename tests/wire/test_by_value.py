import sys
from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Any

import pytest

from mpreg_nb.wire.payload import pack_function
from tests.wire.cells import run_cell
from tests.wire.cells_by_value import CELLS, TYPE_STATEMENTS
from tests.wire.elsewhere import Elsewhere, elsewhere


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    with elsewhere() as there:
        yield there


def equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def give(value: Any) -> Any:
    return value


def assert_runs_alike(there: Elsewhere, source: str) -> None:
    space = run_cell(dedent(source))
    same: Callable[[Any, Any], bool] = space.get("same", equal)

    here, back = space["f"](), there.call(space["f"])
    given = there.call(give, here)

    assert same(here, back)
    assert same(here, given)
    assert type(here) is type(back) is type(given)


@pytest.mark.parametrize("name", CELLS)
def test_what_a_cell_defines_works_elsewhere_and_comes_back_as_itself(
    there: Elsewhere, name: str
) -> None:
    assert_runs_alike(there, CELLS[name])


# Pydantic writes where a class lies in memory among its validators.
@pytest.mark.parametrize("name", CELLS.keys() - {"pydantic models"})
def test_the_same_cell_run_again_makes_the_same_version(name: str) -> None:
    source = dedent(CELLS[name])

    first, again = (pack_function(run_cell(source)["f"]) for _ in range(2))

    assert first.version == again.version


if sys.version_info >= (3, 12):

    def test_names_that_the_type_statement_makes_work_elsewhere(
        there: Elsewhere,
    ) -> None:
        assert_runs_alike(there, TYPE_STATEMENTS)
