"""The functions that are called when calls are measured."""

from typing import Any

# Names under which they are registered, on a cluster of the user perhaps.
SAME = "bench_same"
SAME_THREAD = "bench_same_thread"
GATHER = "bench_gather"


def same(value: Any) -> Any:
    """Return `value`; what a call costs beyond this is ours."""
    return value


def gather(*values: Any) -> int:
    """Return how many values there are."""
    return len(values)
