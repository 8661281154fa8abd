"""What to do next, in the words of the place where the user reads it.

A notebook or IPython terminal with the extension gets a magic, a script or any other
Python a line of Python, a shell a command. This is the only place that decides which.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

Place = Literal["magic", "python", "shell"]

_commands: list[str] = []
"""Commands of the shell that run in this process now: one, or none."""


@contextmanager
def in_shell(name: str) -> Iterator[None]:
    """Give cures for a shell while its command `name` runs."""
    _commands.append(name)
    try:
        yield
    finally:
        _commands.remove(name)


def place() -> Place:
    """Return where the user reads what is written now."""
    if _commands:
        return "shell"
    # Looked up, not imported: where there is a notebook, it has done that.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and shell.find_line_magic("mpreg") is not None:
        return "magic"
    return "python"


def cure(*, magic: str, python: str, command: str) -> str:
    """Return the one of three lines that fits the place."""
    return {"magic": magic, "python": python, "shell": command}[place()]


def start_node(name: str, resources: Iterable[str] = (), engine: str = "") -> str:
    """Return the line that starts one more node.

    engine: URL of what runs the calls, if that is not nodes of mpreg_nb.

    >>> start_node("n3", {"gpu"})
    "cluster.add('n3', {'gpu'})"
    >>> start_node("n3", {"gpu"}, "dask://10.0.0.5:8786")
    "in a shell, dask worker 10.0.0.5:8786 --name n3 --resources 'gpu=1'"
    """
    held = sorted(resources)
    words = ",".join(held)
    if engine:
        scheme, _, place_of_scheduler = engine.partition("://")
        protocol = "tls://" if scheme.endswith("+tls") else ""
        wanted = " ".join(f"{resource}=1" for resource in held)
        line = f"dask worker {protocol}{place_of_scheduler} --name {name}" + (
            f" --resources '{wanted}'" if held else ""
        )
        inside = f"in a shell, {line}"
        return cure(magic=inside, python=inside, command=line)
    return cure(
        magic=f"%mpreg up {name}:{words}" if held else f"%mpreg up {name}",
        python=f"cluster.add({name!r}, {{{', '.join(map(repr, held))}}})"
        if held
        else f"cluster.add({name!r})",
        command=f"mpreg-nb node --name {name}"
        + (f" --resources {words}" if held else "")
        + " --join URL",
    )


def register(function: str) -> str:
    """Return the line that registers a function of this name."""
    line = f"cluster.register({function})"
    magic = f"%mpreg register {function}"
    return cure(magic=magic, python=line, command=f"in Python, {line}")


def start_cluster() -> str:
    """Return how to get a cluster."""
    return cure(
        magic="Start one: %mpreg up, or connect to one: %mpreg connect URL",
        python="Start one: mp.up(3), or connect to one: mp.connect(url)",
        command="Start a node: mpreg-nb node --name n1, or list your nodes: "
        "mpreg-nb ps",
    )


def list_nodes() -> str:
    """Return the line that lists the nodes of the cluster."""
    return cure(magic="%mpreg nodes", python="cluster.nodes()", command="mpreg-nb ps")


def list_own() -> str:
    """Return the line that lists all nodes of this user on this machine."""
    return cure(magic="%mpreg ps", python="mp.ps()", command="mpreg-nb ps")
