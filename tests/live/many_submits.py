"""Very many small calls: does `submit` hold back, and does the kernel stay small?

`python -m tests.live.many_submits 200000` (`make many-submits CALLS=200000`) submits so
many calls at once and keeps all futures. None may be Overloaded, each has its result,
the kernel stays below `MOST_MB`, and no call is overtaken by very many later ones.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.client.future import when_over
from tests.support.leaks import own_folders

MOST_MB = 400.0
"""Memory of the kernel at its peak, with all 200,000 futures."""

MOST_OVERTAKEN = 5_000
"""Half of the calls that may be without an outcome: who is put behind all of them is
overtaken by more."""

NODES = ("n1", "n2")


def same(number: int) -> int:
    """Return the argument."""
    return number


@dataclass(frozen=True, slots=True)
class Submitted:
    """What came of the calls."""

    outcomes: Counter[str]
    wrong: int  # results that are those of other calls
    overtaken: int  # by how many later calls, at most
    peak_mb: float
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether all is as it should be."""
        lost = set(self.outcomes) - {"ok"}
        is_small = self.peak_mb < MOST_MB and self.overtaken < MOST_OVERTAKEN
        return not lost and not self.wrong and is_small


def _note(ended: list[int], number: int, _future: object) -> None:
    ended.append(number)


def submit_many(cluster: mp.Cluster, calls: int) -> Submitted:
    """Submit so many calls at once, and wait for all of them."""
    function = cluster.register(same)
    for node in NODES:  # the first call on a node waits for imports in its worker
        function.on(node=node).call(0)
    ended: list[int] = []
    began_s = time.monotonic()
    futures = []
    for number in range(calls):
        future = function.submit(number)
        when_over(future, partial(_note, ended, number))
        futures.append(future)
    errors = [future.exception() for future in futures]
    outcomes = Counter("ok" if e is None else type(e).__name__ for e in errors)
    results = [f.result() for f, e in zip(futures, errors, strict=True) if e is None]
    expected = [n for n, error in enumerate(errors) if error is None]
    return Submitted(
        outcomes,
        sum(a != b for a, b in zip(results, expected, strict=True)),
        max((place - number for place, number in enumerate(ended)), default=0),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        time.monotonic() - began_s,
    )


def main(words: Sequence[str], *, say: Callable[[str], object] = print) -> int:
    """Submit and print what came of it; return 1 if it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("calls", type=int, nargs="?", default=200_000)
    options = parser.parse_args(words)
    with (
        tempfile.TemporaryDirectory(prefix="submits-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        own_folders(Path(name), patch)
        with mp.up(" ".join(NODES), fresh=True) as cluster:
            found = submit_many(cluster, options.calls)
    told = ", ".join(f"{count} {name}" for name, count in found.outcomes.items())
    say(f"{options.calls} calls in {found.seconds:.0f} s: {told}, {found.wrong} wrong")
    say(f"the kernel took {found.peak_mb:.0f} MB at most; limit {MOST_MB:.0f}")
    say(f"no call was overtaken by more than {found.overtaken}; limit {MOST_OVERTAKEN}")
    return int(not found.is_good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
