"""How a `%mpreg` line is read: its verb's options, and what is wrong with them."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import msgspec

from mpreg_nb.errors import MpregError, NodeLost
from mpreg_nb.names import meant_by


class Misuse(ValueError):
    """A line that makes no sense; the message says what would."""


@contextmanager
def arguments() -> Iterator[None]:
    """Turn a refused argument into Misuse; only around what checks arguments."""
    try:
        yield
    except NodeLost as error:  # no node listens at the URL
        raise Misuse(str(error)) from None
    except MpregError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise Misuse(str(error)) from None


class VerbOptions(argparse.Namespace):
    """What was given on a line, by name."""


class LineParser(argparse.ArgumentParser):
    """Reads the words after a verb. Raises Misuse and never ends the process."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # From Python 3.14 on, usage would have colours in it where there are any.
        vars(self)["color"] = False

    def error(self, message: str) -> NoReturn:
        """Refuse the line, with the usage.

        Raises:
            Misuse: always.
        """
        usage = " ".join(self.format_usage().split())
        hint = meant_by(message, self._option_string_actions)
        raise Misuse(f"{message}. {hint}{usage[0].upper()}{usage[1:]}")

    def read(self, line: str) -> VerbOptions:
        """Return what `line` says.

        Raises:
            Misuse: it is not understood.
        """
        return self.parse_args(_words(line), VerbOptions())


class Option(msgspec.Struct, frozen=True):
    """One option or positional argument of a verb, as argparse takes it."""

    flags: tuple[str, ...]
    settings: Mapping[str, Any]
    completes: str  # the kind of words that Tab offers for its value


def option(*flags: str, completes: str = "", **settings: Any) -> Option:
    """Return an option; `settings` are those of `ArgumentParser.add_argument`."""
    return Option(flags, settings, completes)


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One verb of the line, or of the first line of a cell."""

    name: str
    group: str  # under which the overview lists it
    parser: LineParser
    handler: Callable[..., Any]
    examples: tuple[str, ...]  # lines without the mark
    options: tuple[Option, ...]
    completes: str  # the kind of words that Tab offers for its arguments
    twin: str  # what does the same in Python
    reads: Callable[[Any, str, str], tuple[str, dict[str, Any]]] | None
    joins: Callable[[str], str]
    is_python: bool

    @property
    def title(self) -> str:
        """What it does, in a few words."""
        return (self.parser.description or "").partition("\n")[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """Its options, as they are written."""
        return tuple(self.parser._option_string_actions)

    def takes_value(self, flag: str) -> bool:
        """Whether a value stands after the option `flag`."""
        action = self.parser._option_string_actions.get(flag)
        return action is not None and action.nargs != 0

    def completes_value(self, flag: str) -> str:
        """Return the kind of words that Tab offers after the option `flag`."""
        return next((o.completes for o in self.options if flag in o.flags), "")

    def help_of(self, flag: str) -> str:
        """Return what the option `flag` does, in a few words."""
        return self.parser._option_string_actions[flag].help or ""

    @property
    def help(self) -> str:
        """Usage, description, options, examples, and the same in Python."""
        mark = self.parser.prog.partition(" ")[0]
        parts = [self.parser.format_help().rstrip()]
        parts.append(
            "\n".join(["examples:", *(f"  {mark} {e}" for e in self.examples)])
        )
        if self.twin:
            parts.append(f"in Python:\n  {self.twin}")
        return "\n\n".join(parts)


Handler = TypeVar("Handler", bound=Callable[..., Any])


class Verbs:
    """The verbs of the line, or of cells, in the order in which they were added."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.by_name: dict[str, Verb] = {}

    def verb(
        self,
        group: str,
        title: str,
        *examples: str,
        name: str = "",
        options: Iterable[Option] = (),
        completes: str = "",
        reads: Callable[[Any, str, str], tuple[str, dict[str, Any]]] | None = None,
        joins: Callable[[str], str] = str,
        usage: str = "",
        twin: str = "",
        more: str = "",
    ) -> Callable[[Handler], Handler]:
        """Add the function that follows as a verb, by its name if `name` is not given.

        completes: the kind of words that Tab offers for its arguments.
        reads: takes what is Python out of the line, before variables are expanded.
        joins: joins parts of the line that belong to one word.
        usage: of a verb whose line is one Python expression, `options.rest`.
        more: the rest of its description.
        """

        def add(handler: Handler) -> Handler:
            own = name or handler.__name__
            description = f"{title}\n\n{more}" if more else title
            parser = LineParser(f"{self._mark} {own}", description)
            taken = tuple(options)
            for each in taken:
                parser.add_argument(*each.flags, **each.settings)
            if usage:
                parser.usage = usage
            self.by_name[own] = Verb(
                name=own,
                group=group,
                parser=parser,
                handler=handler,
                examples=examples or (own,),
                options=taken,
                completes=completes,
                twin=twin,
                reads=reads,
                joins=joins,
                is_python=bool(usage),
            )
            return handler

        return add


def resources(text: str) -> frozenset[str]:
    """Read `gpu` or `gpu,dataset-A`."""
    return frozenset(name for name in text.split(",") if name)


def names(text: str) -> tuple[str, ...]:
    """Read `raw` or `raw,clean`."""
    return tuple(filter(None, text.split(",")))


def keys(text: str) -> tuple[str, ...]:
    """Read `function`, `node` or `function,node`."""
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not set(names) <= {"function", "node"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not function, node or both")
    return names


def sides(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read `n1,n2|n3`: nodes here, nodes there."""
    parts = [tuple(filter(None, part.split(","))) for part in text.split("|")]
    if len(parts) != 2 or not all(parts) or set(parts[0]) & set(parts[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} does not name two groups, as n1,n2|n3 does"
        )
    return parts[0], parts[1]


_BEFORE_COMMENT = re.compile(
    r"""((?:\\.|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^'"\\#]|(?<=\S)\#)*)(?:\#.*)?"""
)


def without_comment(line: str) -> str:
    """Return `line` up to a `#` that begins a word, outside of quotes.

    >>> without_comment("call f('#', 2)  # don't wait")
    "call f('#', 2)"
    """
    found = _BEFORE_COMMENT.fullmatch(line)
    return line if found is None else found[1].rstrip()


def _words(line: str) -> Sequence[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Misuse(f"{error}, in: {line}") from None
