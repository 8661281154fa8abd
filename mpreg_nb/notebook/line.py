"""What may stand on a `%mpreg` line: verbs, options, and help for them."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from mpreg_nb.errors import MpregError, NodeLost
from mpreg_nb.names import nearest


class Misuse(ValueError):
    """A line that makes no sense; the message says what would."""


@contextmanager
def arguments() -> Iterator[None]:
    """Turn a refused argument into Misuse; only around what checks arguments."""
    try:
        yield
    except NodeLost as error:  # nobody listens at the URL that was given
        raise Misuse(str(error)) from None
    except MpregError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise Misuse(str(error)) from None


class Options(argparse.Namespace):
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

    def error(self, message: str) -> NoReturn:
        """Refuse the line, with the usage.

        Raises:
            Misuse: always.
        """
        usage = " ".join(self.format_usage().split())
        raise Misuse(f"{message}. {usage[0].upper()}{usage[1:]}")

    def read(self, line: str) -> Options:
        """Return what `line` says; words after a `#` are a comment.

        Raises:
            Misuse: it is not understood.
        """
        return self.parse_args(_words(line), Options())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb of the line, or of the first line of a cell."""

    name: str
    parser: LineParser
    example: str

    @property
    def title(self) -> str:
        """What it does, in a few words."""
        return (self.parser.description or "").partition("\n")[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """Its options, as they are written."""
        return tuple(self.parser._option_string_actions)

    @property
    def help(self) -> str:
        """Usage, description and options."""
        return self.parser.format_help().rstrip()


def resources(text: str) -> frozenset[str]:
    """Read `gpu` or `gpu,dataset-A`."""
    return frozenset(name for name in text.split(",") if name)


def keys(text: str) -> tuple[str, ...]:
    """Read `function`, `node` or `function,node`."""
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not set(names) <= {"function", "node"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not function, node or both")
    return names


def _verb(name: str, title: str, example: str = "", of_cell: bool = False) -> Verb:
    mark = "%%mpreg" if of_cell else "%mpreg"
    parser = LineParser(f"{mark} {name}", title)
    return Verb(name=name, parser=parser, example=example or name)


def _line_verbs() -> dict[str, Verb]:
    up = _verb("up", "Start nodes here; what runs already stays.", "up gpu-1:gpu n2")
    _add = up.parser.add_argument
    _add("nodes", nargs="*", metavar="NAME[:res,res]", help="a node and what it holds")
    _add("-n", dest="count", type=int, metavar="3", help="so many nodes: n1, n2, …")
    _add("--workers", type=int, default=1, metavar="1", help="processes per node")
    _add("--slots", type=int, default=1, metavar="1", help="calls at once per worker")
    _add("--keep", action="store_true", help="nodes outlive this kernel; see adopt")
    _add("--fresh", action="store_true", help="end the nodes that run first")

    down = _verb("down", "End the cluster, or only these nodes.", "down gpu-1")
    down.parser.add_argument("names", nargs="*", metavar="NAME")

    adopt = _verb("adopt", "Take over a cluster that was started with --keep.")
    adopt.parser.add_argument("name", nargs="?", metavar="CLUSTER")

    connect = _verb("connect", "Join a cluster that runs already, by a node's URL.")
    connect.parser.add_argument("urls", nargs="+", metavar="URL")

    functions = _verb("functions", "List functions.", "functions train*")
    functions.parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN")

    latency = _verb("latency", "Percentiles of how long calls from here took.")
    latency.parser.add_argument(
        "--by",
        type=keys,
        default=("function",),
        metavar="function|node|function,node",
        help="a row for each of these",
    )

    register = _verb(
        "register", "Ship functions of this notebook to the nodes.", "register train"
    )
    register.parser.add_argument("names", nargs="+", metavar="NAME")
    _add_registration(register.parser)

    call = _verb("call", "Call a function of the cluster.", "call train(rows, lr=0.2)")
    call.parser.usage = "%%mpreg call FUNCTION(ARGUMENTS)"

    run = _verb("run", "Execute a workflow.", "run flow")
    run.parser.add_argument("flow", metavar="FLOW", help="variable or workflow name")
    run.parser.add_argument("-a", action="store_true", help="do not wait for its end")
    _add_target(run.parser)

    plan = _verb("plan", "Say where each step would run now, and why.", "plan flow")
    draw = _verb("draw", "Draw a workflow, or a run with its states.", "draw flow")
    for verb in (plan, draw):
        verb.parser.add_argument("flow", metavar="FLOW", help="variable or name")

    help_ = _verb("help", "Explain a verb.", "help up")
    help_.parser.add_argument("verb", nargs="?", metavar="VERB")

    verbs = (
        up,
        down,
        _verb("ps", "List every node that you started on this machine."),
        adopt,
        connect,
        _verb("status", "Show the cluster; so does %mpreg alone."),
        _verb("nodes", "List nodes: state, resources, load."),
        functions,
        _verb("routes", "Which node took how many calls from here."),
        latency,
        _verb("calls", "The last calls from here, with the parts of their time."),
        _verb("events", "What happened to nodes and functions."),
        register,
        call,
        plan,
        draw,
        run,
        help_,
    )
    return {verb.name: verb for verb in verbs}


def _cell_verbs() -> dict[str, Verb]:
    register = _verb(
        "register",
        "Run the cell here and register the functions that it defines.\n\n"
        "Those whose name begins with _ travel along where they are used.",
        "register --resources gpu",
        of_cell=True,
    )
    _add_registration(register.parser)

    remote = _verb(
        "remote",
        "Run the cell once on a node that fits.\n\n"
        "Its prints come back as they happen, its last expression is the value.\n"
        "Variables of the notebook that it reads travel along, by value.",
        "remote --on gpu -o model",
        of_cell=True,
    )
    _add = remote.parser.add_argument
    _add("--on", type=resources, default=frozenset(), metavar="res,res")
    _add("--node", metavar="NAME", help="on this node and no other")
    _add("--timeout", type=float, metavar="S", help="seconds until it is cancelled")
    _add_target(remote.parser)
    return {verb.name: verb for verb in (register, remote)}


def _add_registration(parser: LineParser) -> None:
    parser.add_argument(
        "--resources",
        type=resources,
        default=frozenset(),
        metavar="res,res",
        help="only on nodes that hold all of these",
    )
    parser.add_argument(
        "--idempotent", action="store_true", help="running it twice does no harm"
    )
    parser.add_argument(
        "--isolation",
        choices=("process", "thread"),
        help="thread: in the node itself; it cannot be killed",
    )


def _add_target(parser: LineParser) -> None:
    parser.add_argument(
        "-o", dest="target", metavar="NAME", help="keep it in NAME, show nothing"
    )


LINE_VERBS = _line_verbs()
CELL_VERBS = _cell_verbs()


def split_verb(line: str, *, of_cell: bool = False) -> tuple[Verb, str]:
    """Return the verb of `line` and the rest; an empty line means `status`.

    Raises:
        Misuse: there is no such verb; the nearest is named.
    """
    verbs = CELL_VERBS if of_cell else LINE_VERBS
    word, _, rest = line.strip().partition(" ")
    if not word and not of_cell:
        word = "status"
    elif word in ("-h", "--help"):
        word = "help"
    if word in verbs:
        return verbs[word], rest.strip()
    mark = "%%mpreg" if of_cell else "%mpreg"
    known = ", ".join(verbs)
    if not word:
        raise Misuse(f"{mark} needs a verb: {known}")
    if word in (LINE_VERBS if of_cell else CELL_VERBS):
        other = "%mpreg" if of_cell else "%%mpreg"
        raise Misuse(f"{mark} has no verb {word!r}, but {other} has: {other} {word}")
    meant = nearest(word, verbs)
    hint = f" Did you mean {mark} {meant}?" if meant else ""
    raise Misuse(f"{mark} has no verb {word!r}.{hint} It has: {known}")


def _words(line: str) -> Sequence[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Misuse(f"{error}, in: {line}") from None
    for place, word in enumerate(words):
        if word.startswith("#"):
            return words[:place]
    return words
