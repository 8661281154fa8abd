"""Live views of a cluster: their data, and the displays that draw it.

The data of a view is made again only if its sources have changed, so an idle cluster
costs next to nothing, and the call path nothing at all.

A view without a display is still: it shows the state at the moment it is printed. A
front end that can draw again adds a `Display`. From then on one thread of this process,
which all live views share, looks for changes and sends them, whatever the cells do.
"""

import threading
import time
import weakref
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from mpreg_nb.boundary import public
from mpreg_nb.client.client import Client
from mpreg_nb.client.statistics import LinkStatsPoll
from mpreg_nb.client.under_way import under_way
from mpreg_nb.cluster.run import BaseRun
from mpreg_nb.errors import MpregError
from mpreg_nb.protocol.messages import RunSnapshot, Snapshot
from mpreg_nb.units import count
from mpreg_nb.view.frames import latencies
from mpreg_nb.view.live import (
    calls,
    head,
    latency,
    members,
    panel,
    routes,
    runs,
    topology,
)
from mpreg_nb.view.live.head import CallRate
from mpreg_nb.view.live.lanes import Lanes
from mpreg_nb.view.live.panel import Picture
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.terminal import found, writing_to
from mpreg_nb.workflows.graph import Diagram

if TYPE_CHECKING:
    import pandas as pd


PERIOD_S = 0.25
"""Between two pictures of a view, at least."""

SHARE = 40
"""Between two pictures, as a multiple of the time that one takes: 2.5 % of a core."""

LESS_OFTEN_S = {"latency": 1.0, "calls": 1.0}
"""Between two pictures of a view whose picture is large."""

TABLE = "latency by function"
"""Not a view: the part of one that is expensive, and is made less often."""

NOTHING = Snapshot(id=b"", node="", nodes=(), offers=())


_Origin: TypeAlias = tuple[object, Callable[[], Picture]]
"""The sources of a picture, to be compared, and the function that makes it."""


class _ViewModel(msgspec.Struct):
    """A picture, its sources, and when it may be made again."""

    picture: Picture
    origin: object
    not_before: float


class ViewSource(Protocol):
    """A cluster, as its live views need it."""

    @property
    def client(self) -> Client:
        """Its client."""

    @property
    def started_here(self) -> bool:
        """Whether this process started its nodes, and may kill them."""

    @property
    def own_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that this process started."""

    @property
    def own_runs(self) -> tuple[BaseRun, ...]:
        """Runs that are at hand in this process."""

    def refresh(self) -> object:
        """Ask the cluster for its current state."""

    def kill(self, node: str) -> None:
        """Kill a node that this process started."""


class ViewLoop(Protocol):
    """The event loop of a client, as live views need it."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop; return at once."""

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and wait for it, where that is possible."""


class _SeenRun(NamedTuple):
    """A run, as its view reads it."""

    run: BaseRun

    @property
    def picture(self) -> RunSnapshot:
        return self.run._snapshot

    def diagram(self) -> Diagram:
        return self.run.diagram()


class ViewModels:
    """Makes the pictures of one cluster. One thread at a time; others wait."""

    def __init__(self, cluster: ViewSource, loop: ViewLoop) -> None:
        self._cluster = cluster
        self._loop = loop
        self._at_once = False
        self._lock = threading.Lock()
        self._made: dict[str, _ViewModel] = {}
        self._readings = members.Readings()
        self._reading = 0
        self._read_from = NOTHING
        self._read_at = 0.0
        self._poll = LinkStatsPoll(cluster.client.links, cluster.client.requests)
        self._round = 0
        self._rates = topology.Rates(cluster.client.links.name)
        self._course = latency.Course()
        self._pace = CallRate()
        self._lanes = Lanes()
        self._makers: dict[str, Callable[[], _Origin]] = {
            "head": self._head,
            "members": self._members,
            "topology": self._topology,
            "routes": self._routes,
            "latency": self._latency,
            TABLE: self._table,
            "calls": self._calls,
            "runs": self._runs,
        }

    def look(
        self, views: Iterable[str], *, at_once: bool = False
    ) -> dict[str, Picture]:
        """Return the newest pictures of `views` and of the head.

        A picture that has not changed is the same object as before.
        at_once: make them now, even if they were made a moment ago.
        """
        with self._lock:
            now = time.monotonic()
            self._read(now)
            self._at_once = at_once
            return {view: self._look(view, now) for view in ("head", *views)}

    def refresh(self, views: Iterable[str]) -> None:
        """Ask the cluster for its newest state; never on the live thread: it waits."""
        self._cluster.refresh()
        if "topology" in views:
            self._loop.run(self._poll.ask())

    def _look(self, view: str, now: float) -> Picture:
        made = self._made.get(view)
        if made is not None and now < made.not_before and not self._at_once:
            return made.picture
        origin, make = self._makers[view]()
        if made is not None and made.origin == origin:
            return made.picture
        began = time.thread_time()
        picture = make()
        if made is not None and made.picture == picture:
            picture = made.picture
        least_s = LESS_OFTEN_S.get(view, PERIOD_S)
        pause_s = max(least_s, SHARE * (time.thread_time() - began))
        self._made[view] = _ViewModel(picture, origin, now + pause_s)
        return picture

    def _read(self, now: float) -> None:
        """Note the loads with each new snapshot, so that both change at once."""
        news = self._snapshot is not self._read_from
        if not news and now < self._read_at + 2 * members.EVERY_S:
            return
        if self._readings.take(self._snapshot.nodes, now):
            self._reading += 1
            self._read_from, self._read_at = self._snapshot, now

    @property
    def _snapshot(self) -> Snapshot:
        return self._cluster.client.state.snapshot or NOTHING

    # ------------------------------------------------------------------ origins

    def _head(self) -> _Origin:
        snapshot, call_log = self._snapshot, self._cluster.client.call_log
        count, drills = call_log.count, self._cluster.started_here
        self._pace.take(call_log.rows, count, time.time())
        origin = (snapshot, count, drills, self._pace.origin)
        return origin, lambda: head.picture(snapshot, count, self._pace, drills=drills)

    def _members(self) -> _Origin:
        snapshot, own = self._snapshot, self._cluster.own_nodes
        origin = (snapshot, self._reading, own)
        return origin, lambda: members.picture(snapshot, self._readings, own)

    def _topology(self) -> _Origin:
        client = self._cluster.client
        if not client.links.lost:
            self._loop.call_soon(self._poll.begin)
        if self._poll.round != self._round:
            self._round = self._poll.round
            self._rates.take(self._poll.told, self._poll.told_at)
        link, snapshot = client.links.entry, self._snapshot
        entry = "" if link is None else link.peer.name

        def make() -> Picture:
            return topology.picture(snapshot, entry, self._rates.rates())

        return (snapshot, self._round, entry), make

    def _routes(self) -> _Origin:
        call_log = self._cluster.client.call_log
        return call_log.last, lambda: routes.picture(call_log.rows())

    def _latency(self) -> _Origin:
        rows = self._cluster.client.call_log.rows()
        self._course.take(rows, time.time())
        table = self._look(TABLE, time.monotonic())
        origin = (self._course.origin, table)
        return origin, lambda: latency.picture(self._course, table["rows"])

    def _table(self) -> _Origin:
        call_log = self._cluster.client.call_log

        def make() -> Picture:
            found = latencies(call_log.histograms(), ("function",))
            return {"rows": latency.table(found)}

        return call_log.last, make

    def _calls(self) -> _Origin:
        client, snapshot, now = self._cluster.client, self._snapshot, time.time()
        running = under_way(
            client.calls.active, client.runs.open, now - time.monotonic()
        )
        rows = client.call_log.rows()
        self._lanes.take(rows, running, calls.slots_of(snapshot), now)
        origin = (snapshot, self._lanes.origin)
        return origin, lambda: calls.picture(self._lanes, snapshot, now)

    def _runs(self) -> _Origin:
        own = tuple(_SeenRun(run) for run in self._cluster.own_runs)
        now = time.time()
        return runs.origin(own, now), lambda: runs.picture(own, now)


NOTE_S = 10.0
"""How long the note about an action stays."""

JOIN_S = 2.0
"""How long the end of the last view waits for the thread."""


_NO_HEAD: Picture = {"line": "nothing could be shown", "drills": False}


class Display(Protocol):
    """Draws a view in some front end. Called on the thread of live views."""

    def take(self, pictures: Mapping[str, Picture]) -> None:
        """Draw the changes; a picture that has not changed is the same object."""

    def end(self, pictures: Mapping[str, Picture]) -> None:
        """Draw the last state; no call follows."""


class ViewUpdates:
    """What a live view shows, the displays that it is sent to, and their buttons."""

    def __init__(
        self, cluster: ViewSource, views: tuple[str, ...], models: ViewModels
    ) -> None:
        self.views = views
        self.closed = False
        self._cluster = cluster
        self._pictures = models
        self._lock = threading.RLock()
        self._displays: list[Display] = []
        self._last: dict[str, Picture] = {}
        self._head: Picture = {}
        self._note = self._error = ""
        self._note_until = 0.0

    @property
    def size(self) -> str:
        """The number of nodes in words."""
        return count(len(self._cluster.client.state.nodes), "node")

    def frame(self, view: str | None) -> "pd.DataFrame":
        """Return the current data of one view; None: of the first."""
        (name,) = panel.chosen_views([view or self.views[0]])
        if self.closed:
            if name not in self._last:
                raise ValueError(f"this view has ended, and did not show {name}")
            return panel.frame(name, self._last[name])
        self._pictures.refresh([name])
        return panel.frame(name, self._pictures.look([name], at_once=True)[name])

    def close(self) -> None:
        """Show the last state, and wait for the thread if it serves no other view."""
        self._end()
        _thread.join()

    # ------------------------------------------------------------------ buttons

    def kill(self, node: str) -> None:
        """Kill a node, as a button of the panel does; the panel shows the outcome."""
        self._do(f"{node} was killed", lambda: self._cluster.kill(node))

    def cancel(self, run: str) -> None:
        """Cancel a run by its id, as a button of the panel does."""

        def cancel() -> None:
            for own in self._cluster.own_runs:
                if own.id == run:
                    own.cancel()
                    return
            raise MpregError("this view no longer knows the run; see cluster.runs()")

        self._do("the run is being cancelled", cancel)

    def _do(self, note: str, action: Any) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - shown in the panel instead
            ours = isinstance(error, MpregError)
            self._tell(error=str(error) if ours else _described(error))
        else:
            self._tell(note=note)

    def _tell(self, *, note: str = "", error: str = "") -> None:
        with self._lock:
            self._note, self._error = note, error
            self._note_until = time.monotonic() + NOTE_S
        _thread.wake()

    # ----------------------------------------------------------------- displays

    def add(self, display: Display) -> None:
        """Send the current state and each change to `display` until the view ends."""
        with self._lock:
            if self.closed:
                display.end(self._last)
                return
            display.take(self.current())
            self._displays.append(display)
        _thread.serve(self)

    def drop(self, display: Display) -> None:
        """Send nothing more to `display`."""
        with self._lock:
            if display in self._displays:
                self._displays.remove(display)

    @property
    def live(self) -> bool:
        """Whether the view sends changes to a display."""
        return bool(self._displays)

    def current(self, *, at_once: bool = False) -> dict[str, Picture]:
        """Return the pictures of its views and, under "head", of its head."""
        with self._lock:
            if not self.closed:
                self._last = self._pictures.look(self.views, at_once=at_once)
            self._last["head"] = self._headed(self._last.get("head", _NO_HEAD))
            return dict(self._last)

    def paint(self) -> None:
        """Send new data to the displays; called repeatedly by the thread."""
        with self._lock:
            if self.closed:
                return
            if self._cluster.client.links.lost:
                self._end()
                return
            pictures = self.current()
            for display in tuple(self._displays):
                display.take(pictures)

    def fail(self, error: Exception) -> None:
        """End the view because of an error, and show the error."""
        self._error = _described(error)
        self._end()

    def _end(self) -> None:
        with self._lock:
            if self.closed:
                return
            try:
                self.current(at_once=True)
            except Exception as error:  # noqa: BLE001 - shown in the view, which ends
                self._error = self._error or _described(error)
            self.closed = True
            displays, self._displays = self._displays, []
            pictures = self.current()
            for display in displays:
                try:
                    display.end(pictures)
                except Exception as error:  # noqa: BLE001 - a front end that is gone
                    self._error = _described(error)

    def _headed(self, common: Picture) -> Picture:
        """Return the common head of all panels with the notes of this one."""
        if self._note and time.monotonic() > self._note_until:
            self._note = ""
        own = {
            "state": "ended" if self.closed else "live",
            "note": self._note,
            "error": self._error,
        }
        made = {**common, **own}
        if made != self._head:
            self._head = made
        return self._head

    def newest(self) -> dict[str, Picture]:
        """Return what the cluster says now, if it can be reached."""
        if not self.closed and not self._cluster.client.links.lost:
            try:
                self._pictures.refresh(() if plain() else self.views)
            except MpregError as error:  # shown above the last known state
                self._tell(error=str(error))
        return self.current(at_once=True)


@public
class LiveView:
    """A live panel of a cluster; made by `cluster.watch`.

    It ends when the cluster goes down or becomes unreachable, and keeps showing the
    last state.
    """

    def __init__(self, updates: ViewUpdates) -> None:
        """Use `cluster.watch`."""
        self._updates = updates

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views that the panel shows."""
        return self._updates.views

    @property
    def closed(self) -> bool:
        """Whether the view has ended and shows its last state."""
        return self._updates.closed

    def to_frame(self, view: str | None = None) -> "pd.DataFrame":
        """Return the current data of one view as a frame; by default of the first view.

        Columns: members as `cluster.nodes()`, routes as `cluster.routes()`, latency
        as `cluster.latency()`, runs as `cluster.runs()`; topology has node, peer,
        bytes_per_s, messages_per_s; calls has node, slot, function, run, step,
        status, calls, failed, started_at, run_ms.

        Raises:
            ValueError: there is no view of that name.
        """
        return self._updates.frame(view)

    def close(self) -> None:
        """End the view; it keeps showing the last state. May be repeated."""
        self._updates.close()

    def __enter__(self) -> "LiveView":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        from mpreg_nb.view.html import chosen

        pictures = self._updates.newest()
        bundle = {"text/plain": _text(pictures), "text/html": panel.html(pictures)}
        return chosen(bundle, include, exclude)

    def to_text(self) -> str:
        """Return the current state as text, for the terminal if there is one."""
        return _text(self._updates.newest())

    def __repr__(self) -> str:
        state = "closed" if self.closed else self._updates.size
        return f"<live view of {', '.join(self.views)}: {state}>"


def updates_of(view: LiveView) -> ViewUpdates:
    """Return what feeds a view, for the front end that draws it."""
    return view._updates


def _text(pictures: Mapping[str, Picture]) -> str:
    with writing_to(found()):
        return panel.text(pictures)


class LiveViews:
    """The live views of one cluster, which share their pictures."""

    def __init__(self, cluster: ViewSource, loop: ViewLoop) -> None:
        self._cluster = cluster
        self._models = ViewModels(cluster, loop)
        self._views: weakref.WeakSet[ViewUpdates] = weakref.WeakSet()

    def watch(self, names: tuple[str, ...]) -> LiveView:
        """Return a new view.

        Raises:
            ValueError: there is no view of such a name.
        """
        updates = ViewUpdates(self._cluster, panel.chosen_views(names), self._models)
        self._views.add(updates)
        return LiveView(updates)

    @property
    def held(self) -> tuple[ViewUpdates, ...]:
        """The views that are still in use."""
        return tuple(self._views)

    def end(self) -> None:
        """End all views; they keep showing the last state."""
        for view in self.held:
            view.close()


class _Thread:
    """The one thread of this process that looks for changes, while views are live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._served: list[ViewUpdates] = []
        self._running: threading.Thread | None = None

    def serve(self, view: ViewUpdates) -> None:
        """Look for changes of `view` from now on, until it is no longer live."""
        with self._lock:
            if view not in self._served:
                self._served.append(view)
            if self._running is None:
                self._running = threading.Thread(
                    target=self._serve, name="mpreg-live", daemon=True
                )
                self._running.start()

    def wake(self) -> None:
        """Look at once."""
        self._woken.set()

    def join(self) -> None:
        """Wait for the end of the thread, if no view is live."""
        self.wake()
        running = self._running
        idle = not any(view.live for view in self._served)
        if idle and running is not None and running is not threading.current_thread():
            running.join(JOIN_S)

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._served = [view for view in self._served if view.live]
                served = tuple(self._served)
                if not served:
                    self._running = None
                    return
            for view in served:
                try:
                    view.paint()
                except Exception as error:  # noqa: BLE001 - no caller; shown in the view
                    view.fail(error)
            self._woken.wait(PERIOD_S)
            self._woken.clear()


_thread = _Thread()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
