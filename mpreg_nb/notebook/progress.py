"""Progress in a cell: one display that is updated in place.

It is published by the thread that waits, so it belongs to the cell that waits, and
nothing can come after the wait has ended.
"""

from collections.abc import Callable
from typing import Any

from IPython.core.displaypub import CapturingDisplayPublisher

from mpreg_nb.cluster.progress import Screen, Watched, set_screen
from mpreg_nb.notebook.place import Place, still
from mpreg_nb.notebook.reloaded import LateEnd, LateEnds
from mpreg_nb.view.plain import plain


class CellDisplay:
    """The place of one wait in a cell, or of several that share it."""

    def __init__(self, publisher: Any, late_ends: LateEnds) -> None:
        self._publisher = publisher
        self._place = Place(publisher)
        self._late_ends = late_ends
        self._late_end: LateEnd | None = None
        self._shown: dict[str, str] | None = None
        self.watched: Watched | None = None
        """What it showed last."""

    def show(self, watched: Watched) -> int:
        """Update the display, if there is anything new."""
        self.watched = watched
        sent = self._update(watched.bundle())
        if watched.is_kept and self._late_end is None:
            self._late_end = self._late_ends.make(self._publisher, self._place.id)
        return sent

    def end(self, watched: Watched, ended: str) -> None:
        """Show how it ended; that stays."""
        bundle = watched.bundle(ended)
        self._update(bundle)
        if self._late_end is not None:
            self._late_end.show(bundle["text/html"])

    def vanish(self) -> None:
        """Show nothing any more."""
        self._place.clear()

    def _update(self, bundle: dict[str, str]) -> int:
        if bundle == self._shown:
            return 0
        self._shown = bundle
        if self.watched is not None and self.watched.is_kept:
            html = still(self._place.id, bundle["text/html"])
            self._place.put({**bundle, "text/html": html})
        else:
            self._place.put(bundle)
        return sum(map(len, bundle.values()))


class CellScreen:
    """Finds the place of what is waited for among the displays of the cell."""

    def __init__(self, displays: "Displays") -> None:
        self._displays = displays

    def show(self, watched: Watched) -> int:
        """Update its display."""
        return self._displays.of(watched).show(watched)

    def end(self, watched: Watched, ended: str) -> None:
        """Show how it ended."""
        self._displays.of(watched).end(watched, ended)


class Displays:
    """The displays of the cell that runs, by what they show."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._by_key: dict[object, CellDisplay] = {}
        self._late_ends = LateEnds()

    def screen(self) -> Screen | None:
        """Return a screen for one wait; None where nobody would see it."""
        if plain() or isinstance(self._shell.display_pub, CapturingDisplayPublisher):
            return None
        return CellScreen(self)

    def of(self, watched: Watched) -> CellDisplay:
        """Return the display of what is waited for."""
        display = self._by_key.get(watched.key)
        if display is None:
            display = CellDisplay(self._shell.display_pub, self._late_ends)
            self._by_key[watched.key] = display
        return display

    def close(self) -> None:
        """Let go of what pages that are loaded again would show."""
        self._late_ends.close()

    def cell_begins(self, *_: object) -> None:
        """Let the displays of the cell before stay as they are."""
        self._by_key = {}

    def before_value(self, value: object) -> None:
        """Let a display vanish that shows the same as the value that comes now."""
        for key, display in list(self._by_key.items()):
            if display.watched is not None and display.watched.shows(value):
                display.vanish()
                del self._by_key[key]


def attach(shell: Any, displays: Displays) -> Callable[[], None]:
    """Show waits of a kernel in its cells; in a terminal, a line. Returns the end."""
    if getattr(shell, "kernel", None) is None:
        return lambda: None
    shell.events.register("pre_run_cell", displays.cell_begins)
    set_screen(displays.screen)

    def detach() -> None:
        set_screen(None)
        displays.close()
        shell.events.unregister("pre_run_cell", displays.cell_begins)

    return detach
