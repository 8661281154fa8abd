"""The progress of a call, a map and a run: state, rate, and time left."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from mpreg_nb.client.calls import ActiveCall
from mpreg_nb.client.client import Client
from mpreg_nb.cluster.progress import as_bundle, folded, in_seconds
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.units import count as counted

if TYPE_CHECKING:
    from mpreg_nb.protocol.messages import StepSnapshot
    from mpreg_nb.workflows.graph import Diagram


RECENT_SHARE = 0.5
"""The rate is measured over this latest part of the time so far."""

NOTES = 200
"""Samples that are kept of the time so far."""

LEAST_ENDED = 3
"""With fewer ended calls the time left cannot be estimated."""


class Pace:
    """The rate of a growing count. All times are of one monotonic clock."""

    def __init__(self, began: float, ended: int = 0) -> None:
        """ended: the count at the time `began`."""
        self._began = began
        self._first = ended
        self._notes: deque[tuple[float, int]] = deque([(began, ended)])
        self._latest = (began, ended)

    def note(self, ended: int, now: float) -> None:
        """Add the count at the time `now`."""
        self._latest = (now, ended)
        elapsed_s = now - self._began
        if now - self._notes[-1][0] >= elapsed_s / NOTES:
            self._notes.append(self._latest)
        # The oldest note that is kept is the last one before the latest part.
        while (
            len(self._notes) > 1 and self._notes[1][0] <= now - RECENT_SHARE * elapsed_s
        ):
            self._notes.popleft()

    @property
    def per_s(self) -> float:
        """The number that ended per second, in the latest half of the time so far.

        Over the whole time if too few ended in that half.
        """
        now, ended = self._latest
        at, before = self._notes[0]
        if ended - before < LEAST_ENDED:
            return self.mean_per_s
        return (ended - before) / max(1e-9, now - at)

    @property
    def mean_per_s(self) -> float:
        """The number that ended per second, in all the time so far."""
        now, ended = self._latest
        return max(0, ended - self._first) / max(1e-9, now - self._began)

    def left_s(self, total: int) -> float | None:
        """Return the seconds until `total` have ended; None if too few have ended."""
        left = total - self._latest[1]
        if left <= 0 or self._latest[1] - self._first < LEAST_ENDED:
            return None
        return left / self.per_s


def per_second(rate: float) -> str:
    """Return a rate as text, "" for no rate.

    >>> per_second(1234.5), per_second(83.2), per_second(0.456), per_second(0.0)
    ('1,234/s', '83/s', '0.46/s', '')
    """
    if rate <= 0:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


MOST_NAMES = 8
"""Names of nodes or steps in one line."""

CANCELLED_S = 0.3
"""How long Stop waits for the end of a cancelled run; most steps end at once."""


class CallProgress:
    """The progress of one call: its node, its state and the time so far."""

    def __init__(self, client: Client, call: ActiveCall) -> None:
        self._client = client
        self._call = call

    @property
    def key(self) -> object:
        """Calls that one thread waits for in turn share a place."""
        return "call", threading.get_ident()

    @property
    def is_kept(self) -> bool:
        """False: its result is lost with the page."""
        return False

    def shows(self, value: object) -> bool:
        """Return False: no value shows where a call ran."""
        return False

    def line(self, ended: str = "") -> str:
        """Return `train on gpu-1 · running 4.0 s`, or what the call waits for."""
        call = self._call
        spent = in_seconds(time.monotonic() - call.began)
        node = self._node()
        at = f" on {node}" if node else ""
        if ended:
            word = "" if ended == "done" else f"{ended} after "
            return f"{call.shown_name}{at} · {word}{spent}"
        if call.link is None:
            return (
                f"{call.shown_name} · waiting for a connection to the cluster · {spent}"
            )
        if call.waiting:
            queue = f"the queue of {node}" if node else "a queue"
            return f"{call.shown_name} · waiting in {queue} · {spent}"
        return f"{call.shown_name}{at} · {'running' if node else 'in progress'} {spent}"

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the line."""
        return as_bundle(self.line(ended))

    def _node(self) -> str:
        """Return the name of its node, "" if that is not known."""
        alive = [
            picture.record.name
            for picture in self._client.state.nodes
            if picture.record.state == MemberState.ALIVE
        ]
        only = alive[0] if len(alive) == 1 else ""
        return self._call.shown_node or only


class MapCount(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a map at one moment."""

    ended: int
    failed: int  # of the ended ones
    total: int | None  # None if the number of items is unknown
    active: Sequence[ActiveCall]


class MapProgress:
    """The progress of one map: its ended calls, and the nodes of the others."""

    def __init__(self, function: str, look: Callable[[], MapCount]) -> None:
        """look: returns the counts of this moment."""
        self._function = function
        self._look = look
        self._began = time.monotonic()
        self._pace = Pace(self._began)

    @property
    def key(self) -> object:
        """Each map has a place of its own."""
        return self

    @property
    def is_kept(self) -> bool:
        """False: its results are lost with the page."""
        return False

    def shows(self, value: object) -> bool:
        """Return False: no value shows how far a map came."""
        return False

    def line(self, ended: str = "") -> str:
        """Return `train · 412 of 999 · 5.1 s · 83/s · about 7 s left · 3 in progress`.

        At the end: `train · 999 calls · 12.1 s · 83/s`.
        """
        count, now = self._look(), time.monotonic()
        self._pace.note(count.ended, now)
        if count.total is None or (ended and count.ended == count.total):
            parts = [self._function, counted(count.ended, "call")]
        else:
            parts = [self._function, f"{count.ended:,} of {count.total:,}"]
        parts += _told(self._pace, count.total, ended, now - self._began)
        parts += _failures(count.failed, ended)
        if not ended:
            begun = [c for c in count.active if c.link is not None and not c.waiting]
            nodes = _listed(sorted({c.shown_node for c in begun} - {""}), " ")
            calls = sum(len(call.items) or 1 for call in begun)
            parts.append(f"{calls:,} in progress" + (f" on {nodes}" * bool(nodes)))
        return " · ".join(filter(None, parts))

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the line; during the wait with a bar, if the total is known."""
        count = self._look()
        share = None if not count.total else min(1.0, count.ended / count.total)
        return as_bundle(self.line(ended), None if ended else share)


class FollowedRun(Protocol):
    """A run, as its progress needs it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """The name of its workflow."""

    @property
    def steps(self) -> "Sequence[StepSnapshot]":
        """The states of its steps."""

    def diagram(self) -> "Diagram":
        """The workflow that it executes."""

    def has_ended(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has ended."""

    def _repr_mimebundle_(self) -> dict[str, str]: ...


class RunProgress:
    """The progress of one run: a line; in a front end a drawing, folded at the end."""

    def __init__(self, run: FollowedRun) -> None:
        self._run = run
        self._began = time.monotonic()
        self._pace = Pace(self._began, self._work().over)

    @property
    def key(self) -> object:
        """A second wait for the same run has the same place."""
        return "run", self._run.id

    @property
    def is_kept(self) -> bool:
        """True: a run belongs to the cluster, and continues."""
        return True

    def shows(self, value: object) -> bool:
        """Return whether the value is the run, which shows itself."""
        return value is self._run

    def line(self, ended: str = "") -> str:
        """Return `plan · 3 of 7 steps · 4.2 s · 0.8/s · about 5 s left · raw running`.

        Items of maps count for rate and time left like steps.
        """
        steps = self._run.steps
        states = Counter(step.status for step in steps)
        over = len(steps) - states["waiting"] - states["running"]
        running = [step for step in steps if step.status == "running"]
        now, work = time.monotonic(), self._work()
        self._pace.note(work.over, now)
        if ended and over == len(steps):
            parts = [self._run.name, counted(len(steps), "step")]
        else:
            parts = [self._run.name, f"{over:,} of {len(steps):,} steps"]
        parts += _told(self._pace, work.total, ended, now - self._began)
        parts += _failures(states["failed"], ended)
        retried = sum(bool(step.error) for step in running)
        parts.append(f"{retried:,} tried again" if retried else "")
        if running and not ended:
            parts.append(f"{_listed(list(map(_running, running)), ', ')} running")
        return " · ".join(filter(None, parts))

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the line over the drawing of the run with the state of each step.

        At the end the line is left; it opens the drawing.
        """
        from mpreg_nb.view.html import run_bundle

        if ended == "stopped":
            self._run.has_ended(CANCELLED_S)
        line = self.line(ended)
        if ended:
            return folded(line, self._run._repr_mimebundle_())
        return run_bundle(line, self._run.steps, self._run.diagram())

    def _work(self) -> "_Work":
        maps = {box.name for box in self._run.diagram().boxes if box.kind == "map"}
        return _work(self._run.steps, maps)


class _Work(msgspec.Struct, frozen=True):
    """The ended part of a run: steps, and the items of its maps."""

    over: int
    total: int | None  # None while the number of items of a map is unknown


def _work(steps: Iterable[StepSnapshot], maps: Container[str]) -> _Work:
    over, total, is_known = 0, 0, True
    for step in steps:
        is_over = step.status not in ("waiting", "running")
        total += step.items or 1
        over += (step.items or 1) if is_over else step.items_done
        is_known &= is_over or bool(step.items) or step.name not in maps
    return _Work(over, total if is_known else None)


def _running(step: StepSnapshot) -> str:
    of = f" {step.items_done:,} of {step.items:,}" if step.items else ""
    return f"{step.name}{of}"


def _told(pace: Pace, total: int | None, ended: str, spent_s: float) -> list[str]:
    """Return how the wait ended, the time so far, the rate, and the time left."""
    if ended:
        word = "" if ended in ("done", "failed") else ended
        return [word, in_seconds(spent_s), per_second(pace.mean_per_s)]
    left_s = None if total is None else pace.left_s(total)
    left = "" if left_s is None else f"about {in_seconds(left_s, whole=True)} left"
    return [in_seconds(spent_s), per_second(pace.per_s), left]


def _failures(failed: int, ended: str) -> list[str]:
    if failed:
        return [f"{failed:,} failed"]
    return ["failed"] if ended == "failed" else []


def _listed(names: Sequence[str], between: str) -> str:
    more = len(names) - MOST_NAMES
    return between.join(names[:MOST_NAMES]) + (f" and {more:,} more" * (more > 0))
