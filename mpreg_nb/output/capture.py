"""Sends prints of functions to the callers of their calls while they run.

`sys.stdout` and `sys.stderr` are replaced once, for the life of the process, in workers
and in nodes that run functions in threads. Each write looks which call it belongs to.
Logging and warnings arrive here too, since they write to `sys.stderr`. What a worker
writes past Python, to the file descriptors, is read by the node at the other end of a
pipe.
"""

import io
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mpreg_nb.call_context import CallContext, running_call
from mpreg_nb.protocol.displays import CLEARS
from mpreg_nb.protocol.worker import JobPrinted, frame, sizes

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer


Stream: TypeAlias = Literal["stdout", "stderr", "display"]

Cut: TypeAlias = tuple[int, int]
"""Lines and characters that were left out, or displays and bytes."""

NOTHING: Cut = (0, 0)

FIRST_FLUSH_S = 0.01
"""From the first print of a call until it is sent, so that lines travel together."""

FLUSH_S = 0.1
"""Between two messages with prints of one call."""

LINES_PER_S = 10_000
CHARACTERS_PER_S = 1_000_000
"""A call that prints more has the rest counted instead of sent."""

PIECE = 64 * 1024
"""Longest text in one message."""

SHORT_DISPLAY = 1024
"""Longest display in a message. Others go beside theirs, as large values do, since a
link takes these only as fast as they are read."""

DISPLAY_BYTES_PER_S = 8 << 20
DISPLAY_BYTES_AT_ONCE = 32 << 20
"""Displays of one call beyond this rate are counted instead of sent."""

DISPLAY_LEAST = 4096
"""A display counts as so many bytes at least: each costs the page a place."""


class Outbox(Protocol):
    """Sends what calls print and display."""

    def send(
        self,
        frames: "Sequence[Buffer]",
        before: "Callable[[], Sequence[Buffer]] | None" = None,
    ) -> None:
        """Send what `before` returns, then `frames`."""

    def call_by(self, when: float, tick: Callable[[float], float]) -> None:
        """Call `tick(now)` by `when`; it returns when to call it again."""


class LastPrints(Protocol):
    """Keeps what a process printed last, for whoever looks after it has crashed."""

    def note(self, text: str) -> None:
        """Keep the end of all text."""


class DisplayRate:
    """How much one call may display now."""

    def __init__(self) -> None:
        self._left = float(DISPLAY_BYTES_AT_ONCE)
        self._as_of = monotonic()
        self._is_cutting = False
        self._cut = self._bytes_cut = 0
        self._last = b""  # that was cut

    def take(self, shown: bytes) -> bool:
        """Whether a display may be shown; counted if not."""
        now = monotonic()
        gained = (now - self._as_of) * DISPLAY_BYTES_PER_S
        self._left = min(self._left + gained, DISPLAY_BYTES_AT_ONCE)
        self._as_of = now
        if (self._is_cutting and self._left < DISPLAY_BYTES_PER_S) or self._left <= 0:
            self._is_cutting = True
            self._cut += 1
            self._bytes_cut += len(shown)
            self._last = shown
            return False
        self._is_cutting = False
        self._last = b""
        self._left -= max(len(shown), DISPLAY_LEAST)
        return True

    def last(self) -> bytes:
        """Return the last display if it was cut: the end is what should be seen."""
        last, self._last = self._last, b""
        if last:
            self._cut -= 1
            self._bytes_cut -= len(last)
        return last

    def left_out(self) -> Cut:
        """Return how many were left out since this was asked, and their bytes."""
        cut = self._cut, self._bytes_cut
        self._cut = self._bytes_cut = 0
        return cut


class CallOutput:
    """Prints and displays of one call that are not sent yet."""

    def __init__(self, call_id: bytes, outbox: Outbox) -> None:
        self.id = call_id
        self.outbox = outbox
        self._pieces: deque[tuple[Stream, str | Cut | bytes]] = deque()
        self._displays: DisplayRate | None = None  # from its first display on
        self._since = -math.inf  # when the present second of counting began
        self._lines_left = 0
        self._characters_left = 0
        self._is_cutting = False
        self._ends_line = True  # what was written last, shown or not
        self._lines_cut = 0
        self._characters_cut = 0

    def add(self, stream: Stream, text: str) -> None:
        """Keep `text` for the next message, or count it if the call prints too much."""
        if self._is_cutting:
            if not self._ends_line or not self._is_new_second():
                self._cut(text)
                return
            self._tell_cut(stream)
        elif self._characters_left < len(text) or self._lines_left <= 0:
            if not self._is_new_second():
                self._is_cutting = True
                if not self._ends_line:  # the start of this line was sent
                    self._pieces.append((stream, "\n"))
                    self._lines_cut -= 1
                self._cut(text)
                return
            if len(text) > CHARACTERS_PER_S:
                self._cut(text[CHARACTERS_PER_S:])
                text = text[:CHARACTERS_PER_S]
                if not text.endswith("\n"):  # a line of which the rest is cut
                    self._lines_cut -= 1
                    text += "\n"
        self._characters_left -= len(text)
        self._lines_left -= text.count("\n")
        self._ends_line = text.endswith("\n")
        self._pieces.append((stream, text))

    def show(self, shown: bytes) -> None:
        """Keep a display in its place among the prints, or count it."""
        if self._displays is None:
            self._displays = DisplayRate()
        if shown.startswith(CLEARS.encode()):  # never cut: the next would be added
            if not self._pieces or self._pieces[-1] != ("display", shown):
                self._pieces.append(("display", shown))
        elif self._displays.take(shown):
            self._tell_displays()
            self._pieces.append(("display", shown))

    def _tell_displays(self, *, whole: bool = False) -> None:
        if self._displays is None:
            return
        last = self._displays.last() if whole else b""
        cut = self._displays.left_out()
        if cut != NOTHING:
            self._pieces.append(("display", cut))
        if last:
            self._pieces.append(("display", last))

    def _is_new_second(self) -> bool:
        now = monotonic()
        if now < self._since + 1.0:
            return False
        self._since = now
        self._lines_left = LINES_PER_S
        self._characters_left = CHARACTERS_PER_S
        return True

    def _cut(self, text: str) -> None:
        self._lines_cut += text.count("\n")
        self._characters_cut += len(text)
        self._ends_line = text.endswith("\n")

    def _tell_cut(self, stream: Stream) -> None:
        self._is_cutting = False
        if self._characters_cut:
            cut = max(0, self._lines_cut), self._characters_cut
            self._lines_cut = self._characters_cut = 0
            self._pieces.append((stream, cut))

    def frames(self, *, whole: bool) -> "list[Buffer]":
        """Return messages for prints and displays that are kept, with their parts.

        Unless `whole`, the end of an unfinished line is kept back, if there are
        finished ones before it.
        """
        if whole:
            self._tell_cut("stdout")
            self._tell_displays(whole=True)
        taken = []
        while self._pieces:  # others may add while this runs
            taken.append(self._pieces.popleft())
        runs: list[tuple[Stream, str | Cut | bytes]] = []
        for (stream, is_text), run in groupby(taken, key=_kind):
            if is_text:
                runs.append((stream, "".join(str(text) for _, text in run)))
            else:
                runs += run
        if runs and not whole:
            stream, text = runs[-1]
            if isinstance(text, str):
                lines, newline, rest = text.rpartition("\n")
                if newline and rest:
                    runs[-1] = (stream, lines + newline)
                    self._pieces.appendleft((stream, rest))
        return [part for run in runs for part in self._messages(*run)]

    def _messages(self, stream: Stream, said: str | Cut | bytes) -> "Iterator[Buffer]":
        if isinstance(said, str):
            for piece in _pieces(said):
                yield frame(JobPrinted(id=self.id, stream=stream, text=piece))
        elif isinstance(said, tuple):
            cut = JobPrinted(
                id=self.id,
                stream=stream,
                text="",
                lines_cut=said[0],
                characters_cut=said[1],
            )
            yield frame(cut)
        elif len(said) <= SHORT_DISPLAY:
            yield frame(JobPrinted(id=self.id, stream=stream, text=said.decode()))
        else:
            beside = sizes((said,))
            yield frame(JobPrinted(id=self.id, stream=stream, text="", sizes=beside))
            yield said


def _kind(piece: "tuple[Stream, str | Cut | bytes]") -> tuple[Stream, bool]:
    return piece[0], isinstance(piece[1], str)


def _pieces(text: str) -> Iterable[str]:
    if not text.isascii():  # msgpack has no lone surrogates
        text = text.encode(errors="backslashreplace").decode()
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


class PrintingCall(CallContext):
    """A call with its prints."""

    __slots__ = ("has_figures", "outbox", "output")

    def __init__(self, *told: Any) -> None:
        super().__init__(*told)
        self.output: CallOutput | None = None
        self.outbox: Outbox | None = None  # to who made it; None: to the node
        self.has_figures = False  # of matplotlib, that are open


class OutputCapture:
    """Knows which calls have printed."""

    def __init__(self, outbox: Outbox, page: LastPrints) -> None:
        self._outbox = outbox
        self._page = page
        self._printing: dict[bytes, CallOutput] = {}
        self.sole: PrintingCall | None = None  # where a write has no call around it
        self._standard = (_Catcher(self, "stdout"), _Catcher(self, "stderr"))
        self._stdin = open(os.devnull)  # for as long as the process lives

    def install(self) -> None:
        """Put our streams in place, again if a function has replaced them."""
        sys.stdout, sys.stderr = self._standard
        sys.stdin = self._stdin

    @property
    def is_installed(self) -> bool:
        """Whether our streams are still in place."""
        standard = self._standard
        return (
            sys.stdout is standard[0]
            and sys.stderr is standard[1]
            and sys.stdin is self._stdin
        )

    def write(self, stream: Stream, text: str) -> None:
        """Keep written text for the call that runs in this thread or task."""
        self._page.note(text)
        call = self.call
        if call is None:
            os.write(2, text.encode(errors="backslashreplace"))
            return
        self._output_of(call).add(stream, text)

    def show(self, shown: bytes) -> None:
        """Keep a display for the call that runs in this thread or task, if one does."""
        call = self.call
        if call is not None:
            self._output_of(call).show(shown)

    @property
    def call(self) -> PrintingCall | None:
        """The call that runs here."""
        call = running_call.get()
        return call if isinstance(call, PrintingCall) else self.sole

    def _output_of(self, call: PrintingCall) -> CallOutput:
        if call.output is None:
            call.output = CallOutput(call.id, call.outbox or self._outbox)
            self._printing[call.id] = call.output
            self._outbox.call_by(monotonic() + FIRST_FLUSH_S, self._flush)
        return call.output

    def _flush(self, now: float) -> float:
        for outbox in {output.outbox for output in list(self._printing.values())}:
            outbox.send((), partial(self._unsent, outbox))
        return now + FLUSH_S if self._printing else math.inf

    def _unsent(self, outbox: Outbox) -> "list[Buffer]":
        outputs = [
            each for each in list(self._printing.values()) if each.outbox is outbox
        ]
        return [data for output in outputs for data in output.frames(whole=False)]

    def finish(self, call: PrintingCall) -> "list[Buffer]":
        """Return messages for all that is left of an ended call."""
        output = call.output
        if output is None:
            return []
        self._printing.pop(call.id, None)
        call.output = None
        return output.frames(whole=True)


class _Catcher(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`."""

    errors = "backslashreplace"

    def __init__(self, capture: OutputCapture, stream: Stream) -> None:
        self._capture = capture
        self._stream = stream
        self.name = f"<{stream}>"
        self.mode = "w"
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._capture.write(self._stream, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def close(self) -> None:
        """Stay open: later calls print here too."""

    def reconfigure(self, **_: Any) -> None:
        """Accept the arguments that a text file accepts; they change nothing."""


class _Bytes(io.RawIOBase):
    """What programs write bytes to: `sys.stdout.buffer`."""

    def __init__(self, text: _Catcher) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        self._text.write(raw.decode(errors="backslashreplace"))
        return len(raw)

    def close(self) -> None:
        """Stay open."""
