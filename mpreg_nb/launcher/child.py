"""A child process with a log file and a lifeline, started as nodes are.

A child leads a session of its own, so that no terminal and no Stop button reaches it.
Standard error is the log file itself: a kernel that is busy or stopped never holds up
its nodes.
"""

import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

import mpreg_nb
from mpreg_nb.node.environment import share_cores

TOKEN_VARIABLE = "MPREG_NB_TOKEN"  # noqa: S105 - its name, not a token

PACKAGE_ROOT = str(Path(mpreg_nb.__file__).resolve().parent.parent)


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """One child, and our ends of its pipes."""

    popen: subprocess.Popen[bytes]
    output: int  # what it prints
    lifeline: int  # never written to; -1 for a child that outlives us
    log_start_bytes: int  # where in the log file its lines begin


def node_command() -> list[str]:
    """Return the words that start a node with the interpreter that runs this.

    Flags that change what user code means are handed on; those that only make
    this process talk or wait, as -v, -i and -X importtime do, are not. -P keeps
    the folder that a node starts in from hiding modules.
    """
    if not sys.executable:
        raise FileNotFoundError(
            "sys.executable is empty, so no node can be started with this Python"
        )
    flags = ["-P"]
    if sys.flags.optimize:
        flags.append("-" + "O" * sys.flags.optimize)
    if sys.flags.dont_write_bytecode:
        flags.append("-B")
    if sys.flags.no_user_site:
        flags.append("-s")
    if sys.flags.dev_mode:
        flags.extend(("-X", "dev"))
    if sys.flags.utf8_mode:
        flags.extend(("-X", "utf8"))
    return [sys.executable, *flags, "-m", "mpreg_nb.node"]


def node_environment(token: str = "", workers: int = 0) -> dict[str, str]:
    """Return the variables of a node that this process starts.

    The node imports what this process can import: folders that were added to
    `sys.path`, a source checkout among them, go first. The current folder is left
    out, since notebooks are named freely and modules beside them travel by value.

    workers: of all nodes that share the cores of this machine, where that is known.
    """
    environment = dict(os.environ)
    if sys.flags.ignore_environment:
        for name in list(environment):
            if name.startswith("PYTHON"):
                del environment[name]
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    if environment.get("MPLBACKEND", "").startswith("module://"):
        # A backend that draws into the notebook has nothing to draw into there.
        environment["MPLBACKEND"] = "agg"
    if workers:
        share_cores(environment, workers)
    if token:
        environment[TOKEN_VARIABLE] = token
    return environment


def launch(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    keep: bool,
    inherited: Sequence[int] = (),
) -> Launched:
    """Start `command` in a session of its own, in the folder of `log`.

    It has three descriptors and those `inherited`: standard error goes to the end
    of `log`, standard output to `output`, and standard input is a pipe that closes
    when this process ends, or nothing with `keep`.

    Raises OSError when it cannot be started.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        # Interrupted anywhere, both sides close, and the lifeline ends the child.
        errors, log_start_bytes = _open_log(log)
        theirs.callback(os.close, errors)
        output, written = os.pipe()
        ours.callback(os.close, output)
        theirs.callback(os.close, written)
        if keep:
            read, lifeline = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
        else:
            read, lifeline = os.pipe()
            ours.callback(os.close, lifeline)
        theirs.callback(os.close, read)
        os.set_blocking(output, False)
        popen = subprocess.Popen(  # noqa: S603 - our own program, no shell
            command,
            stdin=read,
            stdout=written,
            stderr=errors,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
            pass_fds=inherited,
        )
        ours.pop_all()
        return Launched(
            popen=popen,
            output=output,
            lifeline=lifeline,
            log_start_bytes=log_start_bytes,
        )


def _open_log(log: Path) -> tuple[int, int]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(log, flags, 0o600)
    return descriptor, os.fstat(descriptor).st_size


def _import_path() -> list[str]:
    usual = {os.path.realpath(path) for path in _usual_path()}
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the folder of this process was removed: nothing to leave out
        here = ""
    added = [
        path
        for path in sys.path
        if os.path.isabs(path)
        and os.path.realpath(path) not in usual
        and os.path.realpath(path) != here
        and os.path.exists(path)
        and os.pathsep not in path
    ]
    if os.path.realpath(PACKAGE_ROOT) not in usual:
        added.insert(0, PACKAGE_ROOT)
    return list(dict.fromkeys(added))


def _usual_path() -> list[str]:
    """Return the folders that any start of this interpreter imports from."""
    paths = sysconfig.get_paths()
    standard = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    digits = f"{sys.version_info.major}{sys.version_info.minor}"
    return [
        *standard,
        os.path.join(paths["platstdlib"], "lib-dynload"),
        os.path.join(sys.base_prefix, "lib", f"python{digits}.zip"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
