"""The verbs of `%%mpreg`, and how a verb is found among all of them."""

from collections.abc import Iterator

from mpreg_nb.names import nearest
from mpreg_nb.notebook.line import (
    LineParser,
    Misuse,
    Verb,
    add_registration,
    add_target,
    resources,
)
from mpreg_nb.notebook.line_verbs import LINE_VERBS

CELLS = "cells"


def _verb(name: str, description: str, *examples: str) -> Verb:
    parser = LineParser(f"%%mpreg {name}", description)
    return Verb(name=name, group=CELLS, parser=parser, examples=examples)


def _verbs() -> Iterator[Verb]:
    register = _verb(
        "register",
        "Run the cell here and register the functions that it defines.\n\n"
        "Functions whose name begins with _ are not registered; they are sent with\n"
        "the functions that use them.",
        "register --resources gpu",
    )
    add_registration(register.parser)
    yield register

    remote = _verb(
        "remote",
        "Run the cell once on a node that fits.\n\n"
        "Its prints and displays appear here as they happen; its last expression is\n"
        "the value. Variables of the notebook that it reads are sent with it, by\n"
        "value.\n\n"
        "These lines of IPython run on the node: !command, names = !command, %time,\n"
        "%timeit, %cd, %pwd, %env, %pip (of the Python of the node), %conda, and\n"
        "%%time, %%timeit, %%bash, %%sh or %%writefile as the next line. All other\n"
        "magics raise a usage error before anything runs.",
        "remote --on gpu -o model",
        "remote --node n2 --timeout 60",
        "remote --keep work",
    )
    add = remote.parser.add_argument
    _add_place(remote.parser)
    add("--node", metavar="NAME", help="only on this node")
    add(
        "--keep",
        metavar="NAME",
        help="share names with all cells that keep NAME: one process on one node",
    )
    _add_timeout(remote.parser)
    add_target(remote.parser)
    yield remote

    everywhere = _verb(
        "everywhere",
        "Run the cell on every node that fits, at the same time.\n\n"
        "Like remote, but the value is a dict of node -> value. If some nodes fail,\n"
        "the values of the others are shown before the error, and stored with -o.",
        "everywhere",
        "everywhere --on gpu -o sizes",
    )
    _add_place(everywhere.parser)
    _add_timeout(everywhere.parser)
    add_target(everywhere.parser)
    yield everywhere

    step = _verb(
        "step",
        "Make the cell a step of a workflow. Run again, the cell replaces the step.\n\n"
        "Inputs: variables that the cell reads and other step cells assign, and names\n"
        "of steps, which stand for their whole results. Other variables of the\n"
        "notebook are sent by value.\n"
        "Outputs: variables that the cell assigns, for later step cells; not those\n"
        "that begin with _. Several outputs make the result a dict; without outputs,\n"
        "the last expression is the result.",
        "step clean --flow report --on cpu",
        "step raw --flow report --input sensor,day",
        "step stats --flow report --retry 2 --timeout 30",
    )
    add = step.parser.add_argument
    add("step", metavar="NAME", help="name of the step")
    add(
        "--flow",
        required=True,
        metavar="FLOW",
        help="the workflow; created if there is none",
    )
    _add_place(step.parser)
    add(
        "--input",
        type=_names,
        default=(),
        metavar="name,name",
        help="names that the cell reads and %%mpreg run FLOW(NAME=…) gives",
    )
    add("--retry", type=int, default=0, metavar="N", help="more attempts if it fails")
    _add_timeout(step.parser)
    add(
        "--after",
        type=_names,
        default=(),
        metavar="step,step",
        help="run after these steps",
    )
    yield step


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _add_place(parser: LineParser) -> None:
    parser.add_argument(
        "--on",
        type=resources,
        default=frozenset(),
        metavar="res,res",
        help="only on nodes that hold all of these",
    )


def _add_timeout(parser: LineParser) -> None:
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds until it is cancelled"
    )


CELL_VERBS = {verb.name: verb for verb in _verbs()}


def split_verb(line: str, *, of_cell: bool = False) -> tuple[Verb, str]:
    """Return the verb of `line` and the rest; an empty line means `status`.

    Raises:
        Misuse: there is no such verb; the nearest is named.
    """
    verbs = CELL_VERBS if of_cell else LINE_VERBS
    word, _, rest = line.strip().partition(" ")
    if word.startswith("#"):  # a comment is all there is
        word = rest = ""
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
    hint = f"Did you mean {mark} {meant}? All: %mpreg help" if meant else ""
    raise Misuse(f"{mark} has no verb {word!r}. {hint or f'It has: {known}'}")


def overview() -> str:
    """Return one line a verb, by group."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for mark, verbs in (("%mpreg", LINE_VERBS), ("%%mpreg", CELL_VERBS)):
        for verb in verbs.values():
            line = f"{mark} {verb.examples[0]}"
            groups.setdefault(verb.group, []).append((line, verb.title))
    width = max(len(line) for lines in groups.values() for line, _ in lines)
    parts = [
        "\n".join(
            [f"{group}:", *(f"  {line:{width}}  {title}" for line, title in lines)]
        )
        for group, lines in groups.items()
    ]
    return "\n\n".join([*parts, "%mpreg help VERB explains one; %mpreg? has examples."])
