"""Text for a terminal: fitted to its width, with colours and bold type.

Only what a person looks at is made so: the repr of a card, and what a shell's command
prints. `str` of the same thing stays plain text, since it may go into a file.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from mpreg_nb.view.plain_mode import asked, is_terminal

_RESET = "\x1b[0m"


class Terminal(msgspec.Struct, frozen=True):
    """What standard output is connected to."""

    width: int
    colours: bool

    def bold(self, text: str) -> str:
        """Return `text` in bold."""
        return f"\x1b[1m{text}{_RESET}" if self.colours else text

    def inked(self, text: str, ink: str) -> str:
        """Return `text` in the colour `ink`, "#" and six hexadecimal digits.

        Of the 256 colours that every terminal has, the nearest in their cube.
        """
        if not self.colours:
            return text
        red, green, blue = (
            round(part * 5 / 255) for part in bytes.fromhex(ink.removeprefix("#"))
        )
        return f"\x1b[38;5;{16 + 36 * red + 6 * green + blue}m{text}{_RESET}"


_writing: ContextVar[Terminal | None] = ContextVar("_writing", default=None)


def here() -> Terminal | None:
    """Return the terminal that text is made for now, or None for plain text."""
    return _writing.get()


def found() -> Terminal | None:
    """Return the terminal behind standard output, if there is one.

    There is none in plain mode. NO_COLOR and TERM=dumb are heeded.
    """
    if asked() or not is_terminal(sys.stdout):
        return None
    dull = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Terminal(shutil.get_terminal_size().columns, colours=not dull)


@contextmanager
def writing_to(terminal: Terminal | None) -> Iterator[None]:
    """Inside the block, write tables for `terminal`."""
    token = _writing.set(terminal)
    try:
        yield
    finally:
        _writing.reset(token)


def shown(thing: object) -> str:
    """Return `str(thing)`, made for the terminal if there is one."""
    with writing_to(found()):
        return str(thing)
