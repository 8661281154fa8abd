"""Waits for conditions that no event reports."""

import time
from collections.abc import Callable

LONGEST_S = 60.0
"""Tells only what hangs: also a machine that is very busy is faster."""

LOOK_S = 0.02


def until(condition: Callable[[], bool]) -> None:
    """Look again and again whether `condition` holds; fail if it never does."""
    end = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(LOOK_S)
