"""The newest picture of each live view of one cluster, made again after changes.

Whether something changed is seen by comparing what a picture was made from, so
that an idle cluster costs next to nothing, and the call path nothing at all.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpreg_nb.view.live import head, members
from mpreg_nb.view.live.panel import Picture
from mpreg_nb.wire.pictures import Snapshot

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

PERIOD_S = 0.25
"""A picture is made at most so often."""

SHARE = 40
"""A picture is made at most once in so many times what it costs: 2.5 % of a core."""

NOTHING = Snapshot(id=b"", node="", nodes=(), offers=())


@dataclass(slots=True)
class _Made:
    """A picture, what it was made from, and when it may be made again."""

    picture: Picture
    origin: object
    not_before: float


class Pictures:
    """Makes the pictures of one cluster. One thread at a time; others wait."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._made: dict[str, _Made] = {}
        self._readings = members.Readings()
        self._reading = 0
        self._makers: dict[str, Callable[[], tuple[object, Callable[[], Picture]]]] = {
            "head": self._head,
            "members": self._members,
        }

    def look(
        self, views: Iterable[str], *, at_once: bool = False
    ) -> dict[str, Picture]:
        """Return the newest pictures of `views` and of the head.

        A picture that says the same as before is the same object.
        at_once: make them now, although they may have been made just before.
        """
        with self._lock:
            now = time.monotonic()
            self._reading += self._readings.take(self._snapshot.nodes, now)
            wanted = ("head", *views)
            return {view: self._look(view, now, at_once=at_once) for view in wanted}

    def _look(self, view: str, now: float, *, at_once: bool) -> Picture:
        made = self._made.get(view)
        if made is not None and now < made.not_before and not at_once:
            return made.picture
        origin, make = self._makers[view]()
        if made is not None and made.origin == origin:
            return made.picture
        began = time.thread_time()
        picture = make()
        if made is not None and made.picture == picture:
            picture = made.picture
        pause_s = max(PERIOD_S, SHARE * (time.thread_time() - began))
        self._made[view] = _Made(picture, origin, now + pause_s)
        return picture

    @property
    def _snapshot(self) -> Snapshot:
        return self._cluster.client.mirror.snapshot or NOTHING

    # ------------------------------------------------------------------ origins

    def _head(self) -> tuple[object, Callable[[], Picture]]:
        snapshot, calls = self._snapshot, len(self._cluster.call_rows())
        drills = self._cluster.started_here
        origin = (snapshot, calls, drills)
        return origin, lambda: head.picture(snapshot, calls, drills=drills)

    def _members(self) -> tuple[object, Callable[[], Picture]]:
        snapshot, own = self._snapshot, self._cluster.own_nodes
        origin = (snapshot, self._reading, own)
        return origin, lambda: members.picture(snapshot, self._readings, own)
