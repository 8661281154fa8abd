"""What can be asked of a step besides its function and arguments, checked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpreg_nb.names import check_name
from mpreg_nb.workflow.graph import Function, Undo, Value, placeholders

MOST_RETRIES = 100
"""More would hide a fault instead of riding it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where a step may run, how often, how long, after what, and what if it fails."""

    resources: frozenset[str] = frozenset()
    node: str | None = None
    more_attempts: int = 0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout_s: float | None = None
    after: tuple[str, ...] = ()  # in the order given, each once
    fallback: Value | Callable[..., Any] | None = None
    undo: Undo | None = None

    def on(self, resources: tuple[str, ...], node: str | None) -> "Options":
        """Return these narrowed to nodes with `resources`, and to `node`."""
        names = frozenset(check_name("resource", name) for name in resources)
        return replace(
            self,
            resources=self.resources | names,
            node=self.node if node is None else check_name("node", node),
        )

    def retry(self, more_attempts: object, on: object) -> "Options":
        """Return these with `more_attempts` after exceptions of the classes `on`."""
        if isinstance(more_attempts, bool) or not isinstance(more_attempts, int):
            raise TypeError(
                "retry takes the number of further attempts, a whole number, not "
                f"{type(more_attempts).__name__}: .retry(2)"
            )
        if not 0 <= more_attempts <= MOST_RETRIES:
            raise ValueError(
                f"retry takes 0 to {MOST_RETRIES} more attempts, not {more_attempts}"
            )
        given = on if isinstance(on, tuple) else (on,)
        types = tuple(
            cls
            for cls in given
            if isinstance(cls, type) and issubclass(cls, BaseException)
        )
        if not types or len(types) < len(given):
            raise TypeError(
                "retry(on=...) takes an exception class or a tuple of them, not "
                f"{on!r:.80}: .retry(2, on=ValueError)"
            )
        return replace(self, more_attempts=more_attempts, retry_on=types)

    def timeout(self, seconds: object) -> "Options":
        """Return these with at most `seconds` for each attempt."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(
                f"timeout takes seconds, a number, not {type(seconds).__name__}: "
                ".timeout(5)"
            )
        if not 0 < seconds < math.inf:
            raise ValueError(
                f"timeout takes seconds above 0 and finite, not {seconds!r}. "
                "Leave .timeout() out for no limit"
            )
        return replace(self, timeout_s=float(seconds))

    def waiting_for(self, steps: tuple[str, ...]) -> "Options":
        """Return these with `steps` added to what has to be done before."""
        names = (check_name("step", step) for step in steps)
        return replace(self, after=tuple(dict.fromkeys((*self.after, *names))))

    def falling_back(self, on: object) -> "Options":
        """Return these with a value, or what a callable returns, after a failure."""
        if callable(on):
            return replace(self, fallback=on)
        if any(True for _ in placeholders(on)):
            raise TypeError(
                "a fallback value cannot refer to results of steps. Give a "
                "function: it receives the exception and returns the value"
            )
        return replace(self, fallback=Value(on))

    def undoing(
        self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "Options":
        """Return these with a call that takes back what the step did."""
        if isinstance(function, str):
            check_name("function", function)
        elif not callable(function):
            raise TypeError(
                "undo takes a function or the name of one, then its arguments, not "
                f"{type(function).__name__}: .undo(cancel_booking, step)"
            )
        return replace(self, undo=Undo(function, args, kwargs))
