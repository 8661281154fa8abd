"""Where the prints of remote functions go, and how much of them.

A call remembers the writer that was current when it was made, so that its lines
reach the cell that made it, however much later they come. Of a flood the first
lines are shown, then one line says how many were left out, here or on the way.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from mpreg_nb.call_context import running_call
from mpreg_nb.protocol.displays import CLEARS, UPDATES, passing_on, text_of

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Parts
    from mpreg_nb.protocol.messages import Line, Output


Writer: TypeAlias = Callable[[str, str, str], None]
"""Takes node, stream ("stdout" or "stderr") and text, on any thread.

Text "" says that the call has ended: a line that is unfinished ends too. On the
stream "display" the text is one display, see `protocol.displays`."""

CHARACTERS_PER_LINE = 200
"""A call may print so many for each line that it may print; few lines are longer."""

DISPLAY_BYTES_PER_LINE = 50_000
"""A call may display so much for each line that it may print; a display is a line."""

LAST_LINES = 10
"""Of a call that is lost with its node, so many are in the error."""

TAIL_LENGTH = 2000


def prefixed(node: str, text: str, *, continues: bool = False) -> str:
    """Return `text` with the node's name before every line.

    A carriage return begins the line anew, as progress bars want it. continues:
    the first line began before.

    >>> prefixed("n1", "a\\nb\\n")
    '[n1] a\\n[n1] b\\n'
    >>> prefixed("n1", "%\\r2 %", continues=True)
    '%\\r[n1] 2 %'
    """
    head = f"[{node}] "
    body = text.replace("\r\n", "\n")
    end = "\n" if body.endswith("\n") else ""
    body = body.removesuffix("\n").replace("\n", f"\n{head}")
    return ("" if continues else head) + body.replace("\r", f"\r{head}") + end


class PrintState:
    """Where several calls write at the same time: whole lines, none torn by another.

    `put` takes the stream and the text as it is to be shown. `show` takes a display
    and a line that may go before it, and returns False where only text can be shown.
    """

    def __init__(
        self,
        put: Callable[[str, str], None],
        show: Callable[[dict[str, Any], str], bool] = lambda shown, head: False,
    ) -> None:
        self._put = put
        self._show = show
        self._lock = threading.Lock()
        self._unfinished: dict[str, str] = {}  # stream -> node whose line it is
        self._last = ""  # the node that the reader takes what comes next for

    def __call__(self, node: str, stream: str, text: str) -> None:
        """Write what `node` printed, or show what it displayed; "" ends its line."""
        if stream == "display":
            shown = json.loads(text)
            with self._lock:
                self._display(node, shown)
            return
        with self._lock:
            self._last = node
            before = self._unfinished.get(stream)
            continues = before == node
            if not text:
                if continues:
                    del self._unfinished[stream]
                    self._put(stream, "\n")
                return
            if text.endswith("\n"):
                self._unfinished.pop(stream, None)
            else:
                self._unfinished[stream] = node
            gap = "\n" if before is not None and not continues else ""
            self._put(stream, gap + prefixed(node, text, continues=continues))

    def _display(self, node: str, shown: dict[str, Any]) -> None:
        for stream in tuple(self._unfinished):
            del self._unfinished[stream]
            self._put(stream, "\n")
        is_new = "data" in shown and not shown["update"]
        head = f"[{node}]\n" if is_new and node != self._last else ""
        self._last = "" if "clear" in shown else node
        if not self._show(shown, head) and (text := text_of(shown)):
            self._put("stdout", prefixed(node, text))


def write_at_once(target: TextIO | None, text: str) -> None:
    """Write to a stream of this process, after what stands in the way is cleared.

    Without a stream (the standard files may be closed) nothing is written, as `print`
    does it.
    """
    if target is None:
        return
    for clear in tuple(_in_the_way):
        clear()
    target.write(text)
    target.flush()


def say(text: str) -> None:
    """Tell the user what happened by itself, in one line on standard error."""
    write_at_once(sys.stderr, f"mpreg_nb: {text}\n")


def interrupted_by_prints(clear: Callable[[], None]) -> Callable[[], None]:
    """Call `clear` before each print of remote code; returns what ends that."""
    _in_the_way.append(clear)
    return lambda: _in_the_way.remove(clear)


_in_the_way: list[Callable[[], None]] = []


def _put(stream: str, text: str) -> None:
    write_at_once(sys.stderr if stream == "stderr" else sys.stdout, text)


def _pass_on(shown: dict[str, Any], head: str) -> bool:
    """In a worker: show in the cell that its call was made from."""
    pass_on = passing_on()
    return pass_on is not None and pass_on(json.dumps(shown), head)


write_to_streams: Writer = PrintState(_put, _pass_on)
"""Writes to this process's own streams; what scripts want."""


class OutputQuota:
    """So many lines may be shown. What comes after them is counted."""

    def __init__(self, lines: int) -> None:
        self._lines_left = lines
        self._characters_left = lines * CHARACTERS_PER_LINE
        self._unfinished = 0  # characters of the line that may still be begun anew
        self._is_cutting = False
        self._lines_cut = self._characters_cut = 0
        self._ends_line = True  # what was left out last

    def take(self, text: str) -> str:
        """Return what of `text` is to be shown."""
        if self._is_cutting:
            self._cut(text)
            return ""
        if "\r" in text:
            text = self._begun_anew(text)
        rest = text.split("\n", self._lines_left)[self._lines_left :]
        shown = text[: len(text) - len(rest[0])] if rest else text
        shown = shown[: self._characters_left]
        lines = shown.count("\n")
        self._lines_left -= lines
        self._characters_left -= len(shown)
        tail = len(shown) - shown.rfind("\n") - 1
        self._unfinished = tail if lines else self._unfinished + tail
        if len(shown) < len(text):
            self._is_cutting = True
            self._lines_cut -= self._unfinished > 0  # its line is shown, if not all
            self._cut(text[len(shown) :])
        return shown

    def _begun_anew(self, text: str) -> str:
        """Return `text` without what it writes over; a bar may go on for hours."""
        first, newline, rest = text.replace("\r\n", "\n").partition("\n")
        if "\r" in first:
            self._characters_left += self._unfinished
            self._unfinished = 0
            last = first.rstrip("\r")
            end = "\r" if last != first else ""
            first = "\r" + last.rpartition("\r")[2] + end
        return first + newline + rest

    def left_out(self, lines: int, characters: int) -> None:
        """Count what was left out on its way here."""
        self._lines_cut += lines
        self._characters_cut += characters

    def _cut(self, text: str) -> None:
        if text:
            self.left_out(text.count("\n"), len(text))
            self._ends_line = text.endswith("\n")

    def told(self) -> str:
        """Return a line that says what was left out since the last one, or ""."""
        lines = self._lines_cut + (not self._ends_line)
        characters = self._characters_cut
        self._lines_cut = self._characters_cut = 0
        self._ends_line = True
        if not characters:
            return ""
        what = _counted(lines, "more line") if lines > 0 else "more of it"
        return f"… {what} not shown ({_counted(characters, 'character')})\n"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class DisplayAllowance:
    """So much may be displayed. What comes after it is counted.

    What clears the cell gives all of it back, and an update takes nothing: it comes
    in the place of something.
    """

    def __init__(self, lines: int) -> None:
        self._most = self._left = lines * DISPLAY_BYTES_PER_LINE
        self._number = self._bytes = 0  # of those left out

    def take(self, shown: str) -> bool:
        """Whether `shown` is to be shown."""
        if shown.startswith(CLEARS):
            self._left = self._most
            return True
        if self._left <= 0:
            self.left_out(1, len(shown))
            return False
        if not shown.startswith(UPDATES):
            self._left -= max(len(shown), DISPLAY_BYTES_PER_LINE)
        return True

    def left_out(self, number: int, size: int) -> None:
        """Count what was left out, here or on its way here."""
        self._number += number
        self._bytes += size

    def told(self) -> str:
        """Return a line that says what was left out since the last one, or ""."""
        number, size = self._number, self._bytes
        self._number = self._bytes = 0
        if not number:
            return ""
        what = _counted(number, "more display")
        return f"… {what} not shown ({size / 1e6:,.1f} MB)\n"


class OutputBuffer:
    """What one call prints, or one step of a run. On one thread."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self._allowance = OutputQuota(most_lines())
        self._displays: DisplayAllowance | None = None  # from its first display on
        self._places: dict[tuple[str, str], None] = {}  # node, stream; last used last
        self._tail = ""

    def add(self, said: "Output | Line", parts: "Parts" = ()) -> None:
        """Show the text as far as it may be, and count the rest and what was cut."""
        if said.stream == "display":
            self._places.setdefault((said.node, "stdout"))
            if self._displays is None:
                self._displays = DisplayAllowance(most_lines())
            self._displays.left_out(said.lines_cut, said.characters_cut)
            shown = bytes(parts[0]).decode() if parts else said.text
            if shown and self._displays.take(shown):
                self._write(said.node, "display", shown)
            return
        self._places.pop((said.node, said.stream), None)
        self._places[said.node, said.stream] = None
        if said.characters_cut:
            self._allowance.left_out(said.lines_cut, said.characters_cut)
        self._tail = (self._tail + said.text)[-TAIL_LENGTH:]
        shown = self._allowance.take(said.text)
        if shown:
            self._write(said.node, said.stream, shown)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What was printed last, shown or not."""
        return tuple(self._tail.splitlines()[-LAST_LINES:])

    def end(self) -> None:
        """Say what was left out. Nothing comes any more."""
        told = self._allowance.told()
        if self._displays is not None:
            told += self._displays.told()
        for node, stream in self._places:
            self._write(node, stream, "")
        if told:
            self._write(*next(reversed(self._places)), told)


_most_lines: list[Callable[[], int]] = [lambda: 1000]
_current: ContextVar[Writer | None] = ContextVar("mpreg_writer", default=None)
_make_default: list[Callable[[], Writer]] = [lambda: write_to_streams]


def limit_lines(most: Callable[[], int]) -> None:
    """Let `most` say how many lines a call may print."""
    _most_lines[0] = most


def most_lines() -> int:
    """Return how many lines a call may print now."""
    return _most_lines[0]()


def current_writer() -> Writer:
    """Return the writer for a call that is made now."""
    writer = _current.get() or _make_default[0]()
    if running_call.get() is None:
        return writer
    # In a worker: what is printed for this call belongs to the one that makes it.
    context = copy_context()
    return lambda node, stream, text: context.run(writer, node, stream, text)


def set_default(make: Callable[[], Writer]) -> None:
    """Let `make` give the writer of each call; a notebook binds it to the cell."""
    _make_default[0] = make


@contextmanager
def writing_to(writer: Writer) -> Iterator[None]:
    """Use `writer` for the calls that are made inside."""
    token = _current.set(writer)
    try:
        yield
    finally:
        _current.reset(token)
