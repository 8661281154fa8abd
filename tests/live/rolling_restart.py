"""A rolling restart under load: every node leaves and comes back, and nothing is lost.

`python -m tests.live.rolling_restart 10` (`make rolling-restart RUNS=10`) restarts five
nodes one after the other, so many times, while two clients call functions. It prints a
table, and the story of each call that failed, had no outcome or another than it should.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import mpreg_nb as mp
from tests.live.history import CHOSEN, Fault, History, check, record, story
from tests.support.leaks import own_folders

NODES = tuple(f"n{number}" for number in range(1, 6))
HEAD = ("run", "calls", "idempotent failed", "outcomes lost", "violations", "s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run."""

    run: int
    history: History
    seconds: float

    @property
    def failed(self) -> int:
        """Idempotent calls that failed; those that are meant to, or pinned, may."""
        idempotent = {
            one.call
            for one in self.history.invoked
            if one.idempotent and not one.pinned
        }
        own = {*CHOSEN, "RemoteError", "WorkerCrashed"}  # ends that are meant
        return sum(
            end.call in idempotent and bool(end.error) and end.error not in own
            for end in self.history.ended
        )

    @property
    def lost(self) -> int:
        """Calls without an outcome."""
        told = {end.call for end in self.history.ended}
        return sum(one.call not in told for one in self.history.invoked)

    def row(self, violations: int) -> tuple[int, ...]:
        """Return what the table shows of it."""
        calls = len(self.history.invoked)
        return self.run, calls, self.failed, self.lost, violations, round(self.seconds)


def run_once(number: int, *, calls: int, seconds: float) -> Outcome:
    """Restart all nodes of a new cluster, one after the other, under load."""
    began_s = time.monotonic()
    faults = [Fault("remove", node, after_s=0.5) for node in NODES]
    with (
        tempfile.TemporaryDirectory(prefix="rolling-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        own_folders(Path(name), patch)
        with mp.up(len(NODES), fresh=True) as cluster:
            history = record(
                cluster,
                number,
                calls=calls,
                seconds=seconds,
                folder=Path(name),
                faults=faults,
            )
    return Outcome(number, history, time.monotonic() - began_s)


def main(words: Sequence[str], *, say: Callable[[str], object] = print) -> int:
    """Do so many runs; return in how many something was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=int, nargs="?", default=10)
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--seconds", type=float, default=25.0)
    options = parser.parse_args(words)
    say("  ".join(HEAD))
    wrong = 0
    for number in range(1, options.runs + 1):
        outcome = run_once(number, calls=options.calls, seconds=options.seconds)
        violations = check(outcome.history)
        row = outcome.row(len(violations))
        say("  ".join(f"{v:>{len(h)}}" for h, v in zip(HEAD, row, strict=True)))
        for violation in violations[:3]:
            say(story(outcome.history, violation))
        wrong += bool(violations or outcome.failed or outcome.lost)
    say(f"{options.runs} rolling restarts, {wrong} with a loss")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
