"""Functions of which it is sure that they change nothing, and others."""

import math
import os
from collections.abc import Callable
from enum import Enum
from math import sqrt
from typing import Any

import pytest

from mpreg_nb.worker.purity import is_pure

RATE = 0.5
KNOWN: list[int] = []
LIMITS = (1, 2.0, "text")


class Colour(Enum):
    RED = 1


def rooted(value: float) -> float:
    return math.sqrt(value) * RATE + sqrt(LIMITS[0]) - math.pi


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def even(number: int) -> bool:
    return number == 0 or odd(number - 1)


def odd(number: int) -> bool:
    return number != 0 and even(number - 1)


def words(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in sorted(text.lower().split(), key=lambda each: each[0]):
        found[word] = found.get(word, 0) + 1
    if not found:
        raise ValueError(f"no word in {text!r}")
    return found


def moved(value: int) -> int:
    os.chdir("/")
    return value


def imported(value: int) -> int:
    import gc

    gc.disable()
    return value


def moved_by_another(value: int) -> int:
    return moved(value)


def appended(value: int) -> list[int]:
    KNOWN.append(value)
    return KNOWN


def defaulted(value: int, known: list[int] = KNOWN) -> int:
    return value + len(known)


def counted(value: int) -> int:
    global RATE
    RATE += 1
    return value


def coloured(value: int) -> Any:
    return Colour(value)


def reached(value: int) -> Any:
    return value.__class__.__base__.__subclasses__()  # type: ignore[union-attr]


def framed(value: int) -> Any:
    return (each for each in "a").gi_frame  # type: ignore[attr-defined]


async def awaited(value: int) -> int:
    return value


def marked(value: int) -> int:
    fibonacci.calls = value  # type: ignore[attr-defined]
    return value


def with_a_counter() -> Callable[[int], int]:
    count = 0

    def count_up(value: int) -> int:
        nonlocal count
        count += value
        return count

    return count_up


def scaled(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


@pytest.mark.parametrize(
    "function",
    [rooted, fibonacci, even, words, scaled(2.0), abs, len, str, math.sin],
)
def test_arithmetic_and_builtins_without_effects_are_pure(
    function: Callable[..., Any],
) -> None:
    assert is_pure(function)


@pytest.mark.parametrize(
    "function",
    [
        moved,
        imported,
        moved_by_another,
        appended,
        defaulted,
        counted,
        coloured,
        reached,
        framed,
        awaited,
        marked,
        with_a_counter(),
        scaled(KNOWN),  # type: ignore[arg-type]
        print,
        eval,
        os.chdir,
        KNOWN.append,
        Colour,
    ],
)
def test_what_may_change_something_is_not(function: Callable[..., Any]) -> None:
    assert not is_pure(function)


def test_a_global_with_another_value_makes_a_function_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_pure(rooted)

    monkeypatch.setitem(globals(), "RATE", KNOWN)

    assert not is_pure(rooted)
