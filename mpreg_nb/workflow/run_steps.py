"""What the machine of a run has to know of each step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mpreg_nb.workflow.states import Part

SPLIT_ATTEMPTS = 2
"""More tries to take items apart when a node or worker is lost: that does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackCall:
    """When the step failed for good, a call gives its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackResult:
    """When the step failed for good, this is its result."""

    result: Any  # a handle that the machine does not look into
    result_bytes: int | None = None


Fallback: TypeAlias = FallbackCall | FallbackResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """A call that takes back what the step did; `inputs` are steps it refers to."""

    inputs: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """One step. For a map, attempts and time are those of each item."""

    name: str
    dependencies: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)  # see graph.type_name
    timeout_s: float | None = None  # of each attempt, from being sent; see run.py
    is_map: bool = False
    fallback: Fallback | None = None
    undo: Undo | None = None

    def more(self, part: Part, types: Iterable[str], *, retryable: bool) -> int:
        """Return how many more attempts a failure of this kind may lead to.

        types: the names of the exception's classes, its own first.
        retryable: the node or its worker was lost.
        """
        match part:
            case "fallback":
                return 0
            case "undo":
                undo = self.undo or Undo()
                more, retry_on = undo.more_attempts, undo.retry_on
            case "split" if retryable:
                return max(self.more_attempts, SPLIT_ATTEMPTS)
            case _:
                more, retry_on = self.more_attempts, self.retry_on
        return more if retryable or not set(retry_on).isdisjoint(types) else 0


class Rng(Protocol):
    """The part of random.Random that is used."""

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        ...


def backoff_s(failures: int, draw: float) -> float:
    """Seconds to rest after the `failures`-th failure; `draw` is from [0, 1).

    draw * min(2 s, 50 ms * 2^(failures - 1)), called full jitter.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.

    >>> backoff_s(1, 0.5), backoff_s(2, 0.5), backoff_s(100, 0.5)
    (0.025, 0.05, 1.0)
    """
    return draw * min(2.0, 0.05 * 2.0 ** min(failures - 1, 10))
