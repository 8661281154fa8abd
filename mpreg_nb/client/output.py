"""Where the prints of remote functions go.

A call remembers the writer that was current when it was made, so that its lines
reach the cell that made it, however much later they come.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Writer: TypeAlias = Callable[[str, str, str], None]
"""Takes node, stream ("stdout" or "stderr") and text, on any thread."""


def prefixed(node: str, text: str) -> str:
    """Return `text` with the node's name before every line.

    >>> prefixed("n1", "a\\nb\\n")
    '[n1] a\\n[n1] b\\n'
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(f"[{node}] {line}" for line in lines)


def write_to_streams(node: str, stream: str, text: str) -> None:
    """Write to this process's own streams; what scripts want."""
    target = sys.stderr if stream == "stderr" else sys.stdout
    target.write(prefixed(node, text))
    target.flush()


_current: ContextVar[Writer | None] = ContextVar("mpreg_writer", default=None)
_make_default: list[Callable[[], Writer]] = [lambda: write_to_streams]


def current_writer() -> Writer:
    """Return the writer for a call that is made now."""
    return _current.get() or _make_default[0]()


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
