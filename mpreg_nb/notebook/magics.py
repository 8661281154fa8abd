"""`%mpreg` and `%%mpreg`: parse a line, call one method, return what it returns."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from mpreg_nb.errors import (
    CallCancelled,
    CallTimeout,
    MpregError,
    NodeLost,
    NodesFailed,
    RemoteError,
    WorkerCrashed,
    WorkflowFailed,
)
from mpreg_nb.notebook import flows, kept, life, looking
from mpreg_nb.notebook.calls import call
from mpreg_nb.notebook.cell_verbs import CELL_VERBS, overview, split_verb
from mpreg_nb.notebook.cells import register_cell, register_names
from mpreg_nb.notebook.elsewhere import everywhere, remote
from mpreg_nb.notebook.line import Misuse, Options, Verb
from mpreg_nb.notebook.line_verbs import LINE_VERBS
from mpreg_nb.notebook.session import Session
from mpreg_nb.notebook.steps import step

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

OF_LINE: Mapping[str, Callable[[Session, Options], Any]] = {
    "up": life.up,
    "down": life.down,
    "ps": life.ps,
    "adopt": life.adopt,
    "connect": life.connect,
    "register": register_names,
    "kept": kept.kept,
    "forget": kept.forget,
    "functions": looking.functions,
    "plan": flows.plan,
    "draw": flows.draw,
    "run": flows.run,
    "runs": looking.method("runs"),
    "why": flows.why,
    "cancel": flows.cancel,
    "status": looking.method("status"),
    "nodes": looking.method("nodes"),
    "routes": looking.method("routes"),
    "calls": looking.method("calls"),
    "events": looking.method("events"),
    "latency": looking.latency,
    "watch": looking.watch,
    "logs": looking.logs,
    "bench": looking.bench,
    "doctor": looking.doctor,
    "config": looking.config,
    "help": lambda _, options: explain(options.verb),
    "kill": life.kill,
    "pause": life.pause,
    "partition": life.partition,
}
"""All but `call`, whose rest is Python."""

OF_CELL: Mapping[str, Callable[[Session, Options, str], Any]] = {
    "register": register_cell,
    "remote": remote,
    "everywhere": everywhere,
    "step": step,
}

HAPPENED = (
    CallCancelled,
    CallTimeout,
    NodeLost,
    NodesFailed,
    RemoteError,
    WorkerCrashed,
    WorkflowFailed,
)
"""What goes wrong while user code runs is raised as it is; all else is one line."""


@magics_class
class MpregMagics(Magics):
    """The one magic of this package."""

    shell: "InteractiveShell"

    def __init__(self, shell: "InteractiveShell", session: Session) -> None:
        super().__init__(shell)
        self._session = session

    # Expansion is done below, since IPython would do it in arguments of `call` too.
    @no_var_expand
    @line_cell_magic
    def mpreg(self, line: str, cell: str | None = None) -> Any:
        """Start a cluster and use it: `%mpreg VERB …`, `%mpreg help VERB` for more.

        Nodes::

            %mpreg up                         n1, n2, n3 on this machine
            %mpreg up gpu-1:gpu,big cpu-1     nodes, and the resources they hold
            %mpreg up -n 3 --workers 2 --keep
            %mpreg connect ws://HOST:PORT     connect to a running cluster
            %mpreg ps                         all your nodes on this machine
            %mpreg adopt                      a kept cluster, after a kernel restart
            %mpreg down                       end it; down n2: only this node

        Functions::

            %mpreg register train --resources gpu
            %mpreg call train(rows, lr=0.2)
            model = %mpreg call train(rows)

            %%mpreg register --resources gpu
            def train(rows, lr=0.1): ...

        Cells::

            %%mpreg remote --on gpu -o model
            model = fit(rows)                 runs there, with `rows` of this notebook
            model                             the value; kept in `model` here

            %%mpreg remote --keep work        later cells with --keep work find its
            data = load()                     names; %mpreg kept lists, forget drops

            %%mpreg everywhere                on every node, at the same time
            import psutil
            psutil.cpu_percent(1)             a dict of node -> value

        Workflows::

            %%mpreg step raw --flow report --input url
            rows = load(url)                  the cell becomes a step

            %%mpreg step mean --flow report --on cpu
            mean = sum(rows) / len(rows)      reads what the step before made

            %mpreg draw report
            %mpreg plan report                where each step would run, and why
            %mpreg run report(url="...")      -a: do not wait; -o NAME: keep it
            %mpreg runs                       all runs; cancel RUN ends one
            %mpreg why report.mean            why it ran where it did

        Look::

            %mpreg                            the cluster at a glance
            %mpreg nodes                      a frame; also functions, routes, calls,
                                              events
            %mpreg latency --by node
            %mpreg watch                      live, while cells run
            %mpreg logs n1 -f                 what a node logs, until Stop
            %mpreg bench                      how fast it is here
            %mpreg doctor                     check for problems and suggest fixes
            %mpreg config workers 2           from now on, in this kernel

        Test failures, on clusters that this notebook started::

            %mpreg kill n2                    as a crash would
            %mpreg pause n2 5                 seconds
            %mpreg partition n1|n2,n3 10      no connection between them for 10 s

        Each returns what the same method in Python returns.
        """
        __tracebackhide__ = True
        try:
            return self._dispatch(line, cell)
        except Misuse as error:
            raise UsageError(str(error)) from None
        except MpregError as error:
            if isinstance(error, HAPPENED):
                raise
            raise UsageError(str(error)) from error

    def _dispatch(self, line: str, cell: str | None) -> Any:
        __tracebackhide__ = True
        verb, rest = split_verb(line, of_cell=cell is not None)
        if rest in ("-h", "--help"):
            return explain(verb)
        # In Python, braces and dollar signs are the user's own.
        if verb.name == "call":
            return call(self._session, rest)
        inputs: dict[str, Any] = {}
        if verb.name in ("run", "plan"):
            rest, inputs = flows.inputs_of(self._session, verb.name, rest)
        # Four frames up stands the line: this one, mpreg, run_line_magic, the cell.
        expanded = self.shell.var_expand(rest, 3)  # type: ignore[no-untyped-call]
        if verb.name == "partition":
            expanded = life.sides_joined(expanded)
        options = verb.parser.read(expanded)
        options.inputs = inputs
        if cell is not None:
            return OF_CELL[verb.name](self._session, options, cell)
        return OF_LINE[verb.name](self._session, options)


def explain(verb: Verb | str | None) -> None:
    """Print what a verb does, of the line and of the cell, or what all do.

    Raises:
        Misuse: there is no such verb.
    """
    if verb is None:
        print(overview())  # noqa: T201 - text to read, no object to keep
        return
    found = [verb] if isinstance(verb, Verb) else []
    if not isinstance(verb, Verb):
        found = [verbs[verb] for verbs in (LINE_VERBS, CELL_VERBS) if verb in verbs]
    # Of a word that is none, this says what is meant.
    found = found or [split_verb(str(verb))[0]]
    print("\n\n".join(each.help for each in found))  # noqa: T201 - as above
