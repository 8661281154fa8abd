"""What leaves the package by a public function: errors without our frames."""

import asyncio
import json
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from mpreg_nb import boundary
from mpreg_nb.boundary import public
from mpreg_nb.errors import MpregError, WorkflowFailed

OURS = """
from mpreg_nb.errors import MpregError
from mpreg_nb.boundary import public

def refuse(text):
    raise ValueError(text)

@public
def refused():
    refuse("a bad name")

@public
def broken():
    return {}["a fault of ours"]

@public
def calling(function):
    return function()

@public
def taking(number):
    return number

@public
def explained():
    try:
        return {}["inner"]
    except KeyError as error:
        raise MpregError("the reason in words") from error

@public
def iterated():
    yield 1
    raise MpregError("later")

@public
async def awaited():
    raise MpregError("of a coroutine")

@public
class Thing:
    @property
    def size(self):
        return refuse("no size")

    def __getitem__(self, key):
        return refused()

    @classmethod
    def made(cls):
        return refuse("not made")

    def _private(self):
        return refuse("inside")
"""


@pytest.fixture
def ours() -> ModuleType:
    """A module that counts as one of this package, by the names of its file."""
    module = ModuleType("mpreg_nb.pretended")
    exec(compile(OURS, boundary.PACKAGE + "pretended.py", "exec"), vars(module))  # noqa: S102
    return module


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def raised(function: Callable[[], object]) -> BaseException:
    """Return what `function` raises, as this line of the user's meets it."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "use",
    [
        lambda ours: ours.refused(),
        lambda ours: ours.explained(),
        lambda ours: ours.taking(nombre=1),
        lambda ours: list(ours.iterated()),
        lambda ours: ours.Thing().size,
        lambda ours: ours.Thing()["a"],
        lambda ours: ours.Thing.made(),
        lambda ours: ours.calling(ours.refused),
    ],
    ids=[
        "raise",
        "reason",
        "arguments",
        "generator",
        "property",
        "item",
        "classmethod",
        "nested",
    ],
)
def test_the_line_of_the_user_is_the_last(
    ours: ModuleType, use: Callable[[ModuleType], object]
) -> None:
    error = raised(lambda: use(ours))

    assert names(error)[0] == "raised"
    assert set(names(error)[1:]) == {"<lambda>"}
    assert "pretended" not in "".join(traceback.format_exception(error))


def takes(*, resources: str = "") -> str:
    return resources


def asks(**options: Any) -> str:
    return takes(**options)


@pytest.mark.parametrize(
    ("function", "wrong", "said"),
    [
        (takes, "resource", "argument 'resource'. Did you mean 'resources'?"),
        (takes, "timeout", "argument 'timeout'"),
        (asks, "resource", "argument 'resource'"),  # what the function itself does
    ],
    ids=["near", "far", "inside"],
)
def test_the_keyword_that_was_meant_is_named(
    function: Callable[..., object], wrong: str, said: str
) -> None:
    with pytest.raises(TypeError) as caught:
        public(function)(**{wrong: "x"})

    assert str(caught.value).endswith(said)


def test_a_coroutine_ends_at_the_line_that_awaits_it(ours: ModuleType) -> None:
    async def main() -> list[str]:
        try:
            await ours.awaited()
        except MpregError as error:
            return names(error)
        return []

    assert asyncio.run(main()) == ["main"]


def test_a_fault_of_ours_shows_where_it_is(ours: ModuleType) -> None:
    assert names(raised(ours.broken))[-1] == "broken"


def test_private_methods_show_all(ours: ModuleType) -> None:
    assert names(raised(ours.Thing()._private))[-2:] == ["_private", "refuse"]


def test_all_frames_are_shown_on_request(
    ours: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPREG_NB_DEBUG", "1")

    error = raised(ours.explained)

    assert names(error)[-1] == "explained"
    assert isinstance(error.__cause__, KeyError)


def test_code_of_the_user_that_ours_calls_stays(ours: ModuleType) -> None:
    def divide() -> float:
        return 1 / 0

    assert names(raised(lambda: ours.calling(divide))) == [
        "raised",
        "<lambda>",
        "divide",
    ]


def test_code_of_a_library_that_code_of_the_user_calls_stays(ours: ModuleType) -> None:
    error = raised(lambda: ours.calling(lambda: json.loads("{")))

    assert names(error)[:3] == ["raised", "<lambda>", "<lambda>"]
    assert isinstance(error, json.JSONDecodeError)
    assert "calling" not in names(error)


def test_what_the_user_was_handling_stays_the_context(ours: ModuleType) -> None:
    def handle() -> None:
        try:
            raise OSError("of the user")
        except OSError:
            ours.refused()

    def handle_explained() -> None:
        try:
            raise OSError("of the user")
        except OSError:
            ours.explained()

    assert isinstance(raised(handle).__context__, OSError)
    assert raised(handle_explained).__cause__ is None


def test_errors_that_refuse_attributes_lose_our_frames_too(ours: ModuleType) -> None:
    class Strict(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    def fail() -> None:
        raise Strict

    error = raised(lambda: ours.calling(fail))

    assert isinstance(error, Strict)
    assert names(error) == ["raised", "<lambda>", "fail"]


def test_parts_of_a_group_lose_our_frames_too(ours: ModuleType) -> None:
    def part() -> MpregError:
        try:
            ours.Thing()._private()
        except ValueError as error:
            failed = MpregError("part")
            return failed.with_traceback(error.__traceback__)
        raise AssertionError

    def fail() -> None:
        raise WorkflowFailed("two", [part()])

    group = raised(lambda: ours.calling(fail))

    assert isinstance(group, WorkflowFailed)
    assert names(group.exceptions[0]) == ["part"]


def test_wrapping_keeps_names_docs_and_kinds() -> None:
    @boundary.public
    def one(a: int) -> int:
        """Say one."""
        return a

    @boundary.public
    def many() -> Iterator[int]:
        yield 1

    @boundary.public
    async def later() -> int:
        return 2

    assert (one.__name__, one.__doc__, one(3)) == ("one", "Say one.", 3)
    assert list(many()) == [1]
    assert asyncio.iscoroutinefunction(later)
    assert asyncio.run(later()) == 2


def test_a_warning_points_at_the_line_of_the_user() -> None:
    source = "def level():\n    return levels_to_user()\n"
    space = {"levels_to_user": boundary.levels_to_user}
    exec(compile(source, boundary.PACKAGE + "pretended.py", "exec"), space)  # noqa: S102
    level: Callable[[], int] = space["level"]

    assert level() == 2
