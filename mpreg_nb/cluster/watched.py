"""What can be waited for, as it is shown while that lasts: a call, a map, a run."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpreg_nb.client.calls import ActiveCall
from mpreg_nb.client.client import Client
from mpreg_nb.cluster.progress import as_bundle, in_seconds
from mpreg_nb.wire.gossip import MemberState

if TYPE_CHECKING:
    from mpreg_nb.cluster.run import Run

MOST_NAMES = 8
"""Of nodes or steps in one line."""

CANCELLED_S = 0.3
"""How long Stop waits for the end of a run, which most steps come to at once."""


class CallWatched:
    """One call: where it is, and for how long."""

    def __init__(self, client: Client, call: ActiveCall) -> None:
        self._client = client
        self._call = call

    @property
    def key(self) -> object:
        """Calls that one thread waits for, one after the other, share a place."""
        return "call", threading.get_ident()

    def shows(self, value: object) -> bool:
        """No value says where a call was."""
        return False

    def line(self, ended: str = "") -> str:
        """Say `train on gpu-1 · running 4.0 s`, or for what it waits."""
        call = self._call
        spent = in_seconds(time.monotonic() - call.began)
        node = self._node()
        at = f" on {node}" if node else ""
        if ended:
            word = "" if ended == "done" else f"{ended} after "
            return f"{call.function}{at} · {word}{spent}"
        if call.link is None:
            return f"{call.function} · waiting for a link to the cluster · {spent}"
        if call.waiting:
            queue = f"the queue of {node}" if node else "a queue"
            return f"{call.function} · waiting in {queue} · {spent}"
        return f"{call.function}{at} · {'running' if node else 'under way'} {spent}"

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the line."""
        return as_bundle(self.line(ended))

    def _node(self) -> str:
        """Return the name of its node, "" if that is not known."""
        alive = [
            picture.record.name
            for picture in self._client.mirror.nodes
            if picture.record.state == MemberState.ALIVE
        ]
        only = alive[0] if len(alive) == 1 else ""
        return self._call.at or self._call.to or only


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCount:
    """How far a map is at one moment."""

    ended: int
    total: int | None  # None where the items do not say
    active: Sequence[ActiveCall]


class MapWatched:
    """One map: how many of its calls have ended, and where the others are."""

    def __init__(self, function: str, look: Callable[[], MapCount]) -> None:
        """look: says how far it is."""
        self._function = function
        self._look = look
        self._began = time.monotonic()

    @property
    def key(self) -> object:
        """Each map has a place of its own."""
        return self

    def shows(self, value: object) -> bool:
        """No value says how far a map came."""
        return False

    def line(self, ended: str = "") -> str:
        """Say `train · 412 of 2,000 · 3 under way · n1 n2 · 5.1 s`."""
        count = self._look()
        total = "" if count.total is None else f" of {count.total:,}"
        parts = [self._function, f"{count.ended:,}{total}"]
        if ended:
            parts += [ended] if ended != "done" else []
        else:
            begun = [c for c in count.active if c.link is not None and not c.waiting]
            nodes = sorted({call.at or call.to for call in begun} - {""})
            parts += [f"{len(begun):,} under way", _listed(nodes, " ")]
        parts.append(in_seconds(time.monotonic() - self._began))
        return " · ".join(filter(None, parts))

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the line, with a bar where it is known how many calls there are."""
        count = self._look()
        share = None if not count.total else min(1.0, count.ended / count.total)
        return as_bundle(self.line(ended), share)


class RunWatched:
    """One run: in a line which steps run; for a front end, as it shows itself."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._began = time.monotonic()

    @property
    def key(self) -> object:
        """Whoever waits for a run again, finds it in the same place."""
        return "run", self._run.id

    def shows(self, value: object) -> bool:
        """The run shows itself."""
        return value is self._run

    def line(self, ended: str = "") -> str:
        """Say `report · 3 of 7 steps · clean, stats running · 4.2 s`."""
        steps = self._run.steps
        states = Counter(step.status for step in steps)
        over = len(steps) - states["waiting"] - states["running"]
        running = [step.name for step in steps if step.status == "running"]
        parts = [self._run.name, f"{over:,} of {len(steps):,} steps"]
        if running and not ended:
            parts.append(f"{_listed(running, ', ')} running")
        elif ended and ended != "done":
            parts.append(ended)
        parts.append(in_seconds(time.monotonic() - self._began))
        return " · ".join(parts)

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the drawing of the run with the state of each step."""
        if ended == "stopped":
            self._run.has_ended(CANCELLED_S)
        shown: dict[str, str] = self._run._repr_mimebundle_()
        return shown


def _listed(names: Sequence[str], between: str) -> str:
    more = len(names) - MOST_NAMES
    return between.join(names[:MOST_NAMES]) + (f" and {more:,} more" * (more > 0))
