"""The functions that the benchmark calls."""

from typing import Any

# Names under which they are registered, on a cluster of the user perhaps.
SAME = "bench_same"
SAME_THREAD = "bench_same_thread"
GATHER = "bench_gather"


def same(value: Any) -> Any:
    """Return `value`; all other cost of a call is ours."""
    return value


def gather(*values: Any) -> int:
    """Return how many values there are."""
    return len(values)
