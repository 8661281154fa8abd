"""The state of this kernel: its shell, and where remote code prints.

Clusters are kept by `cluster.current`; a session only finds what a line names.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mpreg_nb.names import nearest
from mpreg_nb.notebook import interrupts, output, panels, tracebacks
from mpreg_nb.notebook.line import Misuse

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from mpreg_nb.cluster.cluster import Cluster
    from mpreg_nb.cluster.run import Run
    from mpreg_nb.workflow.builder import Flow


class Session:
    """One shell. Until it is closed, what comes from nodes reads well in its cells."""

    def __init__(self, shell: "InteractiveShell") -> None:
        self.shell = shell
        self._attached = [
            output.attach(shell),
            tracebacks.attach(shell),
            interrupts.attach(shell),
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
        from mpreg_nb.cluster.current import current

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
        """Return what `name` stands for; dots lead to attributes.

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
        from mpreg_nb.workflow.builder import Flow

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
        """Return the run that is in variable `name`, or the newest that it says.

        That is the last run of the workflow that is in the variable, or of that
        name, or the run of this id.

        Raises:
            Misuse: there is none.
        """
        from mpreg_nb.cluster.run import Run
        from mpreg_nb.errors import NoRun
        from mpreg_nb.workflow.builder import Flow

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
        """Return what workflows can be called by: variables, and their own names."""
        return sorted({name for v, flow in self._flows() for name in (v, flow.name)})

    def _flows(self) -> "Iterator[tuple[str, Flow[Any, Any]]]":
        from mpreg_nb.workflow.builder import Flow

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
    from mpreg_nb.workflow.handles import StepHandle

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
    """Begin a session where this process is a notebook or an IPython terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        session_of(shell)
