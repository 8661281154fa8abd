"""The state of this kernel: its shell, where remote code prints, interrupts of cells.

Clusters are kept by `cluster.current`; a session only finds what a line names.

A kernel answers Stop during a cell that awaits by cancelling it, but from a signal
handler that runs while the event loop sleeps, so the loop sleeps on. Python can wake
it: it writes a byte for each signal to a socket that the loop reads.
"""

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mpreg_nb.names import nearest
from mpreg_nb.notebook.parser import Misuse

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from mpreg_nb.cluster.cluster import Cluster
    from mpreg_nb.cluster.run import Run
    from mpreg_nb.workflows.builder import Flow


_NONE = -1  # signal.set_wakeup_fd: no wakeup


class InterruptAlarm:
    """Wakes the event loop of a kernel on signals, once the loop runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def set(self, *_: object) -> None:
        """Install the alarm if a loop runs in the main thread and has none."""
        if self._ends or threading.current_thread() is not threading.main_thread():
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # a terminal: each cell has a loop, and Stop ends it
            return
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        if before != _NONE:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            read.close()
            write.close()
            return
        self._ends = read, write
        self._loop.add_reader(read.fileno(), read.recv, 512)

    def stop(self) -> None:
        """Remove the alarm."""
        if self._ends is None or self._loop is None:
            return
        (read, write), self._ends = self._ends, None
        if threading.current_thread() is threading.main_thread():
            found = signal.set_wakeup_fd(_NONE)
            if found not in (_NONE, write.fileno()):
                signal.set_wakeup_fd(found, warn_on_full_buffer=False)
        if not self._loop.is_closed():
            self._loop.remove_reader(read.fileno())
        read.close()
        write.close()


def attach_interrupts(shell: Any) -> Callable[[], None]:
    """Let Stop reach awaiting cells of a kernel; return what ends that."""
    if getattr(shell, "kernel", None) is None:
        return lambda: None
    alarm = InterruptAlarm()
    alarm.set()
    shell.events.register("pre_run_cell", alarm.set)

    def detach() -> None:
        shell.events.unregister("pre_run_cell", alarm.set)
        alarm.stop()

    return detach


class Session:
    """One shell: its cluster, its variables, and the output of nodes in its cells."""

    def __init__(self, shell: "InteractiveShell") -> None:
        # Here, since they load the client: loading the extension costs little.
        from mpreg_nb.notebook import output, panels, tracebacks

        self.shell = shell
        self._attached = [
            output.attach_output(shell),
            output.attach_figures(shell),
            tracebacks.attach(shell),
            attach_interrupts(shell),
            panels.attach(shell),
        ]

    def attach(self, detach: Callable[[], None]) -> None:
        """Call `detach` when the session is closed."""
        self._attached.append(detach)

    def close(self) -> None:
        """Leave the shell as it was."""
        for detach in self._attached:
            detach()

    @property
    def cluster(self) -> "Cluster":
        """The current cluster.

        Raises:
            NoCluster: there is none.
        """
        from mpreg_nb.cluster.api import current

        return current()

    # ---------------------------------------------------------------- variables

    @property
    def variables(self) -> dict[str, Any]:
        """The user's variables by name, without those of IPython itself."""
        hidden = self.shell.user_ns_hidden
        return {
            name: value
            for name, value in self.shell.user_ns.items()
            if not (name in hidden and hidden[name] is value)
        }

    def keep(self, name: str, value: object) -> None:
        """Set a variable of the user.

        Raises:
            Misuse: `name` cannot be one.
        """
        check_variable(name)
        self.shell.user_ns[name] = value

    def variable(self, name: str) -> Any:
        """Return the value of the variable `name`; dots lead to attributes.

        Raises:
            Misuse: there is nothing of that name.
        """
        first, *rest = name.split(".")
        variables = self.shell.user_ns
        if first not in variables:
            meant = nearest(first, self.variables)
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise Misuse(f"the notebook has no variable {first!r}.{hint}")
        value = variables[first]
        for attribute in rest:
            if not hasattr(value, attribute):
                raise Misuse(f"{first!r} has no attribute {attribute!r}")
            value = getattr(value, attribute)
        return value

    # ---------------------------------------------------------------- workflows

    def flow(self, name: str) -> "Flow[Any, Any]":
        """Return the workflow that is in variable `name`, or that has this name.

        Raises:
            Misuse: there is none, or more than one.
        """
        from mpreg_nb.workflows.builder import Flow

        if name in self.shell.user_ns:
            found = _whole(self.shell.user_ns[name])
            if isinstance(found, Flow):
                return found
            raise Misuse(
                f"{name!r} is not a workflow but of type {type(found).__name__}"
            )
        flows = {
            id(f): (variable, f) for variable, f in self._flows() if f.name == name
        }
        if len(flows) > 1:
            variables = ", ".join(sorted(variable for variable, _ in flows.values()))
            raise Misuse(f"several are named {name!r}; say which variable: {variables}")
        for _, flow in flows.values():
            return flow
        meant = nearest(name, self.flow_names())
        hint = f"Did you mean {meant!r}?" if meant else "Create one: mp.workflow(name)"
        raise Misuse(f"no variable and no workflow is named {name!r}. {hint}")

    def flow_or_run(self, name: str) -> "Flow[Any, Any] | Run":
        """Return the run that is in variable `name`, a workflow, or another run.

        Raises:
            Misuse: there is none of them.
        """
        from mpreg_nb.cluster.current import all_clusters
        from mpreg_nb.cluster.run import Run

        found = self.shell.user_ns.get(name)
        if isinstance(found, Run):
            return found
        try:
            return self.flow(name)
        except Misuse:
            # Of a run of another process there is no workflow here.
            if name in self.shell.user_ns or not all_clusters():
                raise
            with suppress(Misuse):
                return self.run(name)
            raise

    def run(self, name: str) -> "Run":
        """Return the run in variable `name`, or the newest run of that name or id.

        That is the last run of the workflow that is in the variable, or of that
        name, or the run of this id.

        Raises:
            Misuse: there is none.
        """
        from mpreg_nb.cluster.run import Run
        from mpreg_nb.errors import NoRun
        from mpreg_nb.workflows.builder import Flow

        found = _whole(self.shell.user_ns.get(name))
        if isinstance(found, Run):
            return found
        try:
            return self.cluster.get_run(found.name if isinstance(found, Flow) else name)
        except NoRun as error:
            variables = [v for v, held in self.variables.items() if type(held) is Run]
            meant = nearest(name, variables)
            hint = f" Did you mean variable {meant!r}?" if meant else ""
            raise Misuse(f"{error}.{hint}" if hint else str(error)) from None

    def runs(self) -> "dict[str, Run]":
        """Return the runs that are known here, by variable and by workflow's name."""
        from mpreg_nb.cluster.current import all_clusters
        from mpreg_nb.cluster.run import Run

        found = {run.name: run for c in all_clusters() for run in c.own_runs[::-1]}
        for name, value in self.variables.items():
            if isinstance(value, Run) and not name.startswith("_"):
                found[name] = value
        return found

    def flow_names(self) -> list[str]:
        """Return the names of workflows: variables, and their own names."""
        return sorted({name for v, flow in self._flows() for name in (v, flow.name)})

    def _flows(self) -> "Iterator[tuple[str, Flow[Any, Any]]]":
        from mpreg_nb.workflows.builder import Flow

        for variable, value in self.variables.items():
            flow = _whole(value)
            if isinstance(flow, Flow) and not variable.startswith("_"):
                yield variable, flow


def check_variable(name: str) -> None:
    """Raise Misuse where `name` cannot name a variable."""
    from keyword import iskeyword

    if not name.isidentifier() or iskeyword(name):
        raise Misuse(f"{name!r} is not a name for a variable")


def _whole(value: Any) -> Any:
    """Return the flow of a step: a chain that ends in a step stands for its flow."""
    from mpreg_nb.workflows.builder import StepHandle

    return value.flow if isinstance(value, StepHandle) else value


_sessions: list[Session] = []
"""The one of this kernel, once there is one."""


def session_of(shell: "InteractiveShell") -> Session:
    """Return the session of `shell`; made at the first call."""
    for session in _sessions:
        if session.shell is shell:
            return session
    end_session()
    _sessions.append(Session(shell))
    return _sessions[0]


def end_session() -> None:
    """Close the session of this kernel, if there is one."""
    while _sessions:
        _sessions.pop().close()


def meet() -> None:
    """Start a session if this process is a notebook or an IPython terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        session_of(shell)
