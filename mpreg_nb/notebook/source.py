"""A cell that shall run elsewhere: its Python, its name, what it reads."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mpreg_nb.errors import NotPicklable
from mpreg_nb.notebook.body import compiled, parsed
from mpreg_nb.notebook.ipython_lines import Refused, has_lines
from mpreg_nb.notebook.line import Misuse
from mpreg_nb.notebook.reads import reads
from mpreg_nb.notebook.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpreg_nb.cluster.functions import Function


@dataclass(frozen=True, slots=True)
class Source:
    """The Python of a cell, and the file name that tracebacks know it by."""

    text: str
    filename: str

    @classmethod
    def of(cls, session: Session, cell: str, name: str) -> "Source":
        """Take what the user wrote.

        Raises:
            Misuse: it is no Python, or has lines of IPython that make no sense there.
        """
        text = _python(session.shell, cell)
        filename = f"<{name} {sha256(text.encode()).hexdigest()[:8]}>"
        try:
            with misuse_of_syntax():
                compiled(text, filename)  # found here, not there
        except Refused as error:
            raise Misuse(str(error)) from None
        return cls(text, filename)

    @property
    def code(self) -> str:
        """What runs, with lines of IPython as what they do."""
        return ast.unparse(parsed(self.text)) if has_lines(self.text) else self.text

    @property
    def is_silent(self) -> bool:
        """Whether its last expression ends with a `;`, as in any cell."""
        from IPython.core.displayhook import DisplayHook

        ends: Any = DisplayHook.semicolon_at_end_of_expression
        silent: bool = ends(self.text)
        return silent

    def variables(self, session: Session) -> dict[str, Any]:
        """Return those variables of the notebook that it reads."""
        known = session.variables
        return {name: known[name] for name in reads(self.code, known.keys())}


def _python(shell: Any, cell: str) -> str:
    """Return the Python of `cell`, as IPython has it.

    What `%%time` or `%%timeit` times stays code of the cell, below that line.
    """
    text: str = shell.transform_cell(cell)
    first, _, rest = cell.lstrip("\n").partition("\n")
    timed = re.match(r"%%(time|timeit)\b[ \t]*(.*)", first)
    if timed is None:
        return text
    name, line = timed.groups()
    above = "\n" * (len(cell) - len(cell.lstrip("\n")))
    below: str = shell.transform_cell(rest)
    return f"{above}get_ipython().run_cell_magic({name!r}, {line!r})\n{below}"


def check_syntax(text: str, filename: str) -> None:
    """Refuse what is no Python.

    Raises:
        Misuse: with the line and the place in it.
    """
    with misuse_of_syntax():
        compile(text, filename, "exec")


@contextmanager
def misuse_of_syntax() -> Iterator[None]:
    """Turn what is no Python into Misuse, with the line and the place in it."""
    try:
        yield
    except SyntaxError as error:
        line = (error.text or "").rstrip("\n")
        place = " " * (min(error.offset or 1, len(line) + 1) - 1) + "^"
        raise Misuse(
            f"line {error.lineno} of the cell: {error.msg}\n    {line}\n    {place}"
        ) from None


@functools.cache
def shipped(name: str, body: "Callable[..., Any]") -> "Function[Any, Any]":
    """Return `body` as a function of the current cluster, shown as `name`.

    It is one object, so that a cluster gets it once, whatever cells it runs.
    """
    from mpreg_nb.cluster.current import current
    from mpreg_nb.cluster.functions import Function

    made: Function[Any, Any] = Function(body, name=name, cluster=current)
    vars(made)["__name__"] = name  # what drawings show
    return made


def refusal(error: NotPicklable, names: Mapping[str, Any]) -> Misuse | None:
    """Return what to tell where a variable of the cell cannot travel.

    None where it is something else: the result.
    """
    variable = re.match(r"\w+", error.path)
    if variable is None or variable[0] not in names:
        return None
    return Misuse(
        f"{error.path}, which the cell reads, cannot be sent: {error.reason}. "
        "Create it inside the cell"
    )


@contextmanager
def travelling(names: dict[str, Any]) -> Iterator[None]:
    """Say which variable of the cell it is that cannot travel."""
    try:
        yield
    except NotPicklable as error:
        refused = refusal(error, names)
        if refused is None:
            raise
        raise refused from error
