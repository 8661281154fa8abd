"""Prints and progress of remote code in the cell that made the call.

In a kernel each text that is printed carries the header of the request that it
belongs to, and the front end shows it at that cell. A writer takes this header
when its call is made, in the thread of the caller, and writes with it from the
thread of the client.

Progress is published by the thread that waits, so it belongs to the cell that waits,
and nothing can come after the wait has ended.
"""

import ast
import re
import sys
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TextIO

from IPython.core.displaypub import CapturingDisplayPublisher

from mpreg_nb.client.output import (
    DisplayAllowance,
    OutputQuota,
    PrintState,
    Writer,
    most_lines,
    set_default,
    write_at_once,
    write_to_streams,
)
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.cluster.progress import Progress, Screen, set_screen
from mpreg_nb.notebook.parser import without_comment
from mpreg_nb.notebook.reloaded_page import LateEnd, LateEnds
from mpreg_nb.notebook.replaceable_output import Place, still
from mpreg_nb.view import plain_mode
from mpreg_nb.view.plain_mode import plain


class CellDisplay:
    """The place of one wait in a cell, or of several that share it."""

    def __init__(self, publisher: Any, late_ends: LateEnds) -> None:
        self._publisher = publisher
        self._place = Place(publisher)
        self._late_ends = late_ends
        self._late_end: LateEnd | None = None
        self._shown: dict[str, str] | None = None
        self.watched: Progress | None = None
        """What it showed last."""

    def show(self, watched: Progress) -> int:
        """Update the display, if there is anything new."""
        self.watched = watched
        sent = self._update(watched.bundle())
        if watched.is_kept and self._late_end is None:
            self._late_end = self._late_ends.make(self._publisher, self._place.id)
        return sent

    def end(self, watched: Progress, ended: str) -> None:
        """Show how it ended; that stays."""
        bundle = watched.bundle(ended)
        self._update(bundle)
        if self._late_end is not None:
            self._late_end.show(bundle["text/html"])

    def vanish(self) -> None:
        """Remove the display."""
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

    def show(self, watched: Progress) -> int:
        """Update its display."""
        return self._displays.of(watched).show(watched)

    def end(self, watched: Progress, ended: str) -> None:
        """Show how it ended."""
        self._displays.of(watched).end(watched, ended)


class Displays:
    """The displays of the cell that runs, by what they show."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._by_key: dict[object, CellDisplay] = {}
        self._late_ends = LateEnds()

    def screen(self) -> Screen | None:
        """Return a screen for one wait; None where there is no front end."""
        if plain() or isinstance(self._shell.display_pub, CapturingDisplayPublisher):
            return None
        return CellScreen(self)

    def of(self, watched: Progress) -> CellDisplay:
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


def attach_progress(shell: Any, displays: Displays) -> Callable[[], None]:
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


CALLS_PER_CELL = 20
"""All calls of a cell together may print as much as so many calls may.

More would be cut by the server of the notebook, or make it too large to open."""


DISPLAYS_PER_CELL = 2
"""All calls of a cell together may display as much as so many calls may."""


class CellWriter:
    """Writes to the streams of the cell that was running when it was made.

    publisher: that of the shell at this time, which shows displays.
    """

    def __init__(self, publisher: Any = None) -> None:
        self._streams = _streams()
        self._publisher = publisher
        self._header = _header(publisher)
        self._page = PrintState(self._put, self._show)
        self._allowance = OutputQuota(CALLS_PER_CELL * most_lines())
        self._displays = DisplayAllowance(DISPLAYS_PER_CELL * most_lines())
        self._told_to = "", "stdout"  # where the last that was cut came from
        self._lock = threading.Lock()
        self._has_ended = False

    @property
    def is_of_this_cell(self) -> bool:
        """Whether the streams are those of the request that runs here now."""
        return all(
            mine[0] is now[0] and mine[1] is now[1]
            for mine, now in zip(self._streams, _streams(), strict=True)
        )

    def __call__(self, node: str, stream: str, text: str) -> None:
        """Write what `node` printed, prefixed with its name. On any thread."""
        if stream == "display":
            with self._lock:
                is_shown = self._displays.take(text)
                if not is_shown:
                    self._told_to = node, "stdout"
            if is_shown:
                self._page(node, stream, text)
            return
        with self._lock:
            shown = self._allowance.take(text)
            if len(shown) < len(text):
                self._told_to = node, stream
        if shown or not text:
            self._page(node, stream, shown)
        if not text and self._has_ended:
            self._tell()

    def cell_ended(self) -> None:
        """Say what was left out; from now on at the end of each call."""
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            told = (self._allowance.told(), self._displays.told())
        for line in filter(None, told):
            self._page(*self._told_to, f"{line[:-1]}, of several calls\n")

    def _put(self, stream: str, text: str) -> None:
        target, header = self._streams[stream == "stderr"]
        if target.closed:  # it captured the cell, and has ended
            write_at_once(sys.stderr if stream == "stderr" else sys.stdout, text)
        elif header is None:
            write_at_once(target, text)
        else:
            Context().run(_write, target, header, text)

    def _show(self, shown: dict[str, Any], head: str) -> bool:
        """Show a display in this cell; False where it shows only text."""
        publisher = self._publisher
        captured = isinstance(publisher, CapturingDisplayPublisher)
        if self._header is None and not captured:
            return False
        if head:
            self._put("stdout", head)
        if captured:
            _publish(publisher, shown)
        else:
            Context().run(_publish_for, publisher, self._header, shown)
        return True


def _publish(publisher: Any, shown: dict[str, Any]) -> None:
    if "clear" in shown:
        publisher.clear_output(shown["clear"])
        return
    publisher.publish(
        data=shown["data"],
        metadata=shown["metadata"],
        transient=shown["transient"],
        update=shown["update"],
    )


def _publish_for(publisher: Any, header: Any, shown: dict[str, Any]) -> None:
    publisher._parent_header.set(header)  # of this context, see `_write`
    _publish(publisher, shown)


def _streams() -> tuple[tuple[TextIO, Any], tuple[TextIO, Any]]:
    """Return both streams, each with the header of the running request."""
    return (sys.stdout, _header(sys.stdout)), (sys.stderr, _header(sys.stderr))


def _header(stream: Any) -> Any:
    """Return the header of the running request; None where `stream` is no kernel's.

    The publisher of displays has one as the streams have.
    """
    if isinstance(getattr(stream, "_parent_header", None), ContextVar):
        return getattr(stream, "parent_header", None)
    return None


def _write(stream: Any, header: Any, text: str) -> None:
    # Set in a context of its own: the property would set it for all threads. The
    # stream gathers what belongs to one cell and sends it a few times a second.
    stream._parent_header.set(header)
    stream.write(text)


class Cells:
    """The writer of the cell that runs; all calls of a cell share it."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._newest: CellWriter | None = None

    def writer(self) -> CellWriter:
        """Return the writer of the cell that runs here now."""
        newest = self._newest
        if newest is None or not newest.is_of_this_cell:
            publisher = getattr(self._shell, "display_pub", None)
            newest = self._newest = CellWriter(publisher)
        return newest

    def cell_begins(self, *_: object) -> None:
        """Start a new page, also where cells look the same, as in a terminal."""
        self._newest = None

    def cell_ended(self, *_: object) -> None:
        """Let the cell say what was left out."""
        if self._newest is not None:
            self._newest.cell_ended()


class Gathering:
    """In plain mode: holds back what a cell's calls print, until the cell ends.

    Then, or before the value of the cell is shown, it is written in the order of the
    calls, and for each by node: what is printed at the same time comes in the same
    order in every run.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._lock = threading.Lock()
        self._held: list[_HeldOutput] = []
        self._in_cell = True  # it is made in one

    def writer(self) -> Writer:
        """Return the writer for a call that is made now."""
        writer = self._cells.writer()
        with self._lock:
            if not self._in_cell:
                return writer
            held = _HeldOutput(self._lock, writer)
            self._held.append(held)
        return held

    def cell_begins(self, *_: object) -> None:
        """Hold back from now on."""
        self._in_cell = True

    def cell_ended(self, *_: object) -> None:
        """Write what is held back; what comes later is written at once."""
        self._in_cell = False
        self._release()

    def before_value(self) -> None:
        """Write what is held back, if no call is under way: it belongs above."""
        from mpreg_nb.cluster.current import all_clusters

        if not any(len(parts_of(cluster).client.calls) for cluster in all_clusters()):
            self._release()

    def _release(self) -> None:
        with self._lock:
            for held in self._held:
                held.release()
            self._held.clear()


class _HeldOutput:
    """What one call printed, as (node, stream, text), until it is released."""

    def __init__(self, lock: threading.Lock, writer: CellWriter) -> None:
        self._lock = lock
        self._writer = writer
        self._texts: list[tuple[str, str, str]] = []
        self._released = False

    def __call__(self, node: str, stream: str, text: str) -> None:
        with self._lock:
            if self._released:
                self._writer(node, stream, text)
            else:
                self._texts.append((node, stream, text))

    def release(self) -> None:
        """Write the buffered output. The caller holds the lock."""
        self._released = True
        for node, stream, text in sorted(self._texts, key=lambda said: said[0]):
            self._writer(node, stream, text)
        self._texts.clear()


_FIGURE = "matplotlib.figure", "Figure"


def attach_figures(shell: Any) -> Callable[[], None]:
    """Show figures that functions return; return what ends that.

    IPython can do so once this kernel has imported pyplot, and replaces this then.
    """
    formatters = shell.display_formatter.formatters
    images, name = formatters["image/png"], ".".join(_FIGURE)
    if any(name in formatter for formatter in formatters.values()):
        return lambda: None
    images.for_type_by_name(*_FIGURE, _png)

    def detach() -> None:
        if name in images and images.lookup_by_type(name) is _png:
            images.pop(name)

    return detach


def _png(figure: Any) -> bytes | None:
    from mpreg_nb.output.display import png_of

    own = getattr(figure, "_repr_png_", None)
    return png_of(figure) if own is None else own()


_LAST_LINE = re.compile(
    r"(?:.*\n)*get_ipython\(\)\.run_line_magic\('mpreg', (?P<line>.*)\)\s*"
)


def is_silenced(shell: Any) -> bool:
    """Return whether the last line of the cell is a `%mpreg` line that ends with a `;`.

    IPython looks for it outside of magics only.
    """
    history = getattr(shell, "history_manager", None)
    found = _LAST_LINE.fullmatch(history.input_hist_parsed[-1]) if history else None
    if found is None:
        return False
    line: str = ast.literal_eval(found["line"])
    return without_comment(line).endswith(";")


def attach_output(shell: Any) -> Callable[[], None]:
    """Let the calls of a kernel print in the cells that make them.

    Returns what ends that.
    """
    cells = Cells(shell)
    gathering = Gathering(cells)
    shell.events.register("pre_run_cell", gathering.cell_begins)
    shell.events.register("pre_run_cell", cells.cell_begins)
    shell.events.register("post_run_cell", gathering.cell_ended)
    shell.events.register("post_run_cell", cells.cell_ended)
    displays = Displays(shell)
    end_progress = attach_progress(shell, displays)
    display = shell.display_trap.hook

    def display_after_prints(value: object) -> object:
        if is_silenced(shell):
            return None
        gathering.before_value()
        displays.before_value(value)
        return display(value)

    def make() -> Writer:
        return gathering.writer() if plain_mode.asked() else cells.writer()

    shell.display_trap.hook = display_after_prints

    def detach() -> None:
        shell.display_trap.hook = display
        end_progress()
        set_default(lambda: write_to_streams)
        gathering.cell_ended()
        shell.events.unregister("pre_run_cell", gathering.cell_begins)
        shell.events.unregister("pre_run_cell", cells.cell_begins)
        shell.events.unregister("post_run_cell", gathering.cell_ended)
        shell.events.unregister("post_run_cell", cells.cell_ended)

    set_default(make)
    return detach
