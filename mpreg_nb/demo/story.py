"""How a demo is told: what it is about, what will be seen, what was seen, what next.

In colour on a terminal. In plain mode, with NO_COLOR and in a file it is plain text.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mpreg_nb.view.palette import BUSY, GOOD
from mpreg_nb.view.terminal import Terminal, found, shown

WORD_S, LONGEST_S = 0.2, 8.0
"""How long a person on a terminal has to read a word, and at most at each rest."""


class Story:
    """Tells one demo on standard output.

    fast: do not wait for a reader.
    """

    def __init__(self, *, fast: bool = False) -> None:
        terminal = found()
        self._reads = terminal is not None and not fast
        self._unread = 0
        self._terminal = terminal or Terminal(width=80, colours=False)
        self._act = 0
        self._began = time.perf_counter()

    def title(self, title: str, about: str) -> None:
        """Say what the demo is, and what a person will know at its end."""
        self._say(self._terminal.bold(title))
        self._say(about)

    def act(self, title: str, will_be_seen: str) -> None:
        """Begin a part: its title, and what to look for in it."""
        self._rest()
        self._act += 1
        heading = f"{self._act}. {title}"
        self._say(f"\n{self._terminal.inked(heading, BUSY.mark)}")
        self._say(f"   {will_be_seen}\n")
        self._rest()

    def show(self, thing: object) -> None:
        """Show a drawing, a frame or a run."""
        self._say(shown(thing) + "\n")

    def saw(self, fact: str, figures: Mapping[str, object] | None = None) -> None:
        """Say what was just seen, with its figures below."""
        self._say(f"   {self._terminal.inked('✓', GOOD.mark)} {fact}")
        figures = figures or {}
        wide = max(map(len, figures), default=0)
        for name, value in figures.items():
            self._say(f"       {name:{wide}}  {self._terminal.bold(str(value))}")

    def check(self, holds: bool, promise: str) -> None:
        """Say a promise that was kept; one that was not ends the demo.

        Raises:
            RuntimeError: the promise was not kept.
        """
        if not holds:
            raise RuntimeError(f"the demo saw that this is not so: {promise}")
        self.saw(promise)

    @staticmethod
    @contextmanager
    def timed() -> Iterator[Callable[[], float]]:
        """Give a function that returns how many seconds the block has taken."""
        began = time.perf_counter()
        ended: list[float] = []
        yield lambda: (ended[0] if ended else time.perf_counter()) - began
        ended.append(time.perf_counter())

    def end(self, answer: str, *next_steps: str) -> None:
        """Say what a person wants to know at the end, and what to do next."""
        self._rest()
        took = time.perf_counter() - self._began
        self._say(f"\n{self._terminal.bold(answer)}  ({took:.1f} s in all)")
        self._say("\nNext:")
        for step in next_steps:
            self._say(f"  {step}")

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self._unread += len(text.split())

    def _rest(self) -> None:
        """Leave a person the time to read what was said since the last rest."""
        if self._reads:
            time.sleep(min(self._unread * WORD_S, LONGEST_S))
        self._unread = 0
