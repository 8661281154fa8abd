"""What an executor runs: a function that came along with its arguments."""

from collections.abc import Callable, Iterable
from typing import Any


def apply(function: Callable[..., Any], args: Iterable[Any], kwargs: Any) -> Any:
    """Return `function(*args, **kwargs)`."""
    return function(*args, **kwargs)


def apply_each(
    function: Callable[..., Any], items: Iterable[tuple[Any, ...]]
) -> list[Any]:
    """Return `function(*item)` for each of `items`."""
    return [function(*item) for item in items]
