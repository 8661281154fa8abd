"""The launchers by name: those of this package, and those that others installed.

Another package adds one by an entry point of the group `mpreg_nb.launchers`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from mpreg_nb.launcher.launcher import LaunchContext, LaunchedNode, Launcher
from mpreg_nb.launcher.node_spec import NodeSpec, checked
from mpreg_nb.names import nearest

GROUP = "mpreg_nb.launchers"

OWN: Mapping[str, str] = {
    "slurm": "mpreg_nb.launcher.slurm:SlurmLauncher",
    "ssh": "mpreg_nb.launcher.ssh:SshLauncher",
}
"""Loaded when they are asked for: a node needs neither."""

LauncherClass: TypeAlias = type[Launcher[LaunchedNode]]


def find(name: str) -> LauncherClass:
    """Return the class of the launcher that has this name.

    Raises:
        ValueError: there is none; the message lists those that there are.
        ImportError: it lacks a package.
    """
    if name in OWN:
        module, _, attribute = OWN[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
        return found  # type: ignore[no-any-return]
    others = entry_points(group=GROUP)
    for entry in others:
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    known = sorted({*OWN, *(entry.name for entry in others)})
    meant = nearest(name, known)
    raise ValueError(
        f"no launcher is named {name!r}."
        + (f" Did you mean {meant!r}?" if meant else "")
        + f" There are: {', '.join(known)}. A package adds one by an entry point of "
        f"the group {GROUP}"
    )


def make(name: str, context: LaunchContext) -> Launcher[LaunchedNode]:
    """Return a new launcher of this name for the cluster of `context`."""
    made: Any = find(name)
    launcher: Launcher[LaunchedNode] = made(context)
    return launcher


def jobs(words: Sequence[str], options: str) -> Mapping[str, Any] | list[str] | None:
    """Return what a line of words wants of a queue, as `up` takes it.

    options: of all of these jobs.

    Raises:
        ValueError: there are options and no jobs.
    """
    if options and not words:
        raise ValueError("--sbatch names options of jobs, and --slurm names none")
    return ({options: list(words)} if options else list(words)) if words else None


def read_places(
    here: tuple[NodeSpec, ...], places: Mapping[str, Any]
) -> tuple[NodeSpec, ...]:
    """Return the nodes of this machine and those of each launcher in `places`.

    Raises:
        TypeError, ValueError: what is asked for makes no sense.
    """
    nodes = list(here)
    for name, wanted in places.items():
        nodes += (node.placed(name) for node in find(name).read(wanted))
    return checked(nodes)
