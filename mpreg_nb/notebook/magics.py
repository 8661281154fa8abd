"""`%mpreg` and `%%mpreg`: parse a line, call one method, return what it returns."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from mpreg_nb.errors import (
    CallCancelled,
    CallTimeout,
    MpregError,
    NodeLost,
    RemoteError,
    WorkerCrashed,
    WorkflowFailed,
)
from mpreg_nb.names import nearest
from mpreg_nb.notebook.cells import register_cell, register_names, run_remote
from mpreg_nb.notebook.line import (
    CELL_VERBS,
    LINE_VERBS,
    Misuse,
    Options,
    Verb,
    arguments,
    split_verb,
)
from mpreg_nb.notebook.session import Session, check_variable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

HAPPENED = (
    CallCancelled,
    CallTimeout,
    NodeLost,
    RemoteError,
    WorkerCrashed,
    WorkflowFailed,
)
"""What goes wrong while user code runs is raised as it is; all else is one line."""

OWN_TEXT = ("call",)
"""Verbs whose rest is Python, where braces and dollar signs are the user's own."""


@magics_class
class MpregMagics(Magics):
    """The one magic of this package."""

    shell: "InteractiveShell"

    def __init__(self, shell: "InteractiveShell", session: Session) -> None:
        super().__init__(shell)
        self._session = session
        self._of_line: dict[str, Callable[[Options], Any]] = {
            "up": self._up,
            "down": self._down,
            "ps": self._ps,
            "adopt": self._adopt,
            "connect": self._connect,
            "status": lambda _: session.cluster.status(),
            "nodes": lambda _: session.cluster.nodes(),
            "functions": lambda options: session.cluster.functions(options.pattern),
            "routes": lambda _: session.cluster.routes(),
            "latency": lambda options: session.cluster.latency(options.by),
            "calls": lambda _: session.cluster.calls(),
            "events": lambda _: session.cluster.events(),
            "register": lambda options: register_names(session, options),
            "plan": lambda options: session.flow(options.flow).plan(),
            "draw": lambda options: session.flow_or_run(options.flow),
            "run": self._run,
            "help": self._help,
        }
        self._of_cell: dict[str, Callable[[Options, str], Any]] = {
            "register": lambda options, cell: register_cell(session, options, cell),
            "remote": lambda options, cell: run_remote(session, options, cell),
        }

    # Expansion is done below, since IPython would do it in arguments of `call` too.
    @no_var_expand
    @line_cell_magic
    def mpreg(self, line: str, cell: str | None = None) -> Any:
        """Start a cluster and use it: `%mpreg VERB …`, `%mpreg help VERB` for more.

        Nodes::

            %mpreg up                        n1, n2, n3 on this machine
            %mpreg up gpu-1:gpu,big cpu-1    nodes, and the resources they hold
            %mpreg                           the cluster at a glance
            %mpreg nodes                     a frame; also functions, routes, latency,
                                             calls, events, ps
            %mpreg down                      end it

        Functions::

            %mpreg register train --resources gpu
            %mpreg call train(rows, lr=0.2)
            model = %mpreg call train(rows)

            %%mpreg register --resources gpu
            def train(rows, lr=0.1): ...

            %%mpreg remote --on gpu -o model
            model = fit(rows)                runs there, with `rows` of this notebook
            model

        Workflows::

            %mpreg plan flow                 where each step would run, and why
            %mpreg draw flow
            %mpreg run flow                  -a: do not wait; -o NAME: keep it

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
            return _explain(verb)
        if verb.name in OWN_TEXT:
            return self._call(rest)
        # Four frames up stands the line: this one, mpreg, run_line_magic, the cell.
        expanded = self.shell.var_expand(rest, 3)  # type: ignore[no-untyped-call]
        options = verb.parser.read(expanded)
        if cell is not None:
            return self._of_cell[verb.name](options, cell)
        return self._of_line[verb.name](options)

    # -------------------------------------------------------------------- nodes

    def _up(self, options: Options) -> Any:
        from mpreg_nb.cluster.current import all_clusters
        from mpreg_nb.cluster.starting import up

        if options.nodes and options.count is not None:
            raise Misuse("give names or a number, not both: %mpreg up -n 3")
        before = [(cluster, cluster.urls) for cluster in all_clusters()]
        with arguments():
            cluster = up(
                options.nodes or (3 if options.count is None else options.count),
                workers=options.workers,
                slots=options.slots,
                keep=options.keep,
                fresh=options.fresh,
            )
        if (cluster, cluster.urls) in before:
            print("already up")  # noqa: T201 - said, since nothing else shows it
        return cluster

    def _down(self, options: Options) -> Any:
        from mpreg_nb.cluster.starting import down

        if not options.names:
            return down()
        with arguments():
            self._session.cluster.remove(*options.names)
        return tuple(options.names)

    def _ps(self, _: Options) -> Any:
        from mpreg_nb.cluster.starting import ps

        return ps()

    def _adopt(self, options: Options) -> Any:
        from mpreg_nb.cluster.starting import adopt

        with arguments():
            return adopt(options.name)

    def _connect(self, options: Options) -> Any:
        from mpreg_nb.cluster.starting import connect

        with arguments():
            return connect(*options.urls)

    # ---------------------------------------------------------------- functions

    def _call(self, text: str) -> Any:
        __tracebackhide__ = True
        from mpreg_nb.cluster.functions import Function

        name, args, kwargs = self._read_call(text)
        cluster = self._session.cluster
        held = self.shell.user_ns.get(name)
        # Decorated before there was a cluster, a function is registered at first use.
        if isinstance(held, Function) and cluster.client.offer(held.name) is None:
            return held.call(*args, **kwargs)
        return cluster.call(name, *args, **kwargs)

    def _read_call(self, text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Read `name(arguments)`; arguments are evaluated in the notebook."""
        try:
            call = ast.parse(text, "<call>", "eval").body if text else None
        except SyntaxError as error:
            raise Misuse(
                f"{error.msg}: {text}. Write a call as in Python: "
                "%mpreg call train(rows, lr=0.2)"
            ) from None
        match call:
            case ast.Call(func=ast.Name(id=name) | ast.Constant(value=str(name))):
                pass
            case ast.Name(id=name):
                raise Misuse(f"arguments are missing: %mpreg call {name}()")
            case _:
                raise Misuse("usage: %mpreg call FUNCTION(ARGUMENTS)")
        keys = [
            None if keyword.arg is None else ast.Constant(keyword.arg)
            for keyword in call.keywords
        ]
        values = [keyword.value for keyword in call.keywords]
        given = ast.Tuple([*call.args], ast.Load()), ast.Dict([*keys], values)
        try:
            args, kwargs = (self.shell.ev(ast.unparse(part)) for part in given)  # type: ignore[no-untyped-call]
        except NameError as error:
            wrong = error.name or ""
            meant = nearest(wrong, self._session.variables)
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise Misuse(f"the notebook has no variable {wrong!r}.{hint}") from None
        return name, args, kwargs

    # ---------------------------------------------------------------- workflows

    def _run(self, options: Options) -> Any:
        __tracebackhide__ = True
        flow = self._session.flow(options.flow)
        if options.target is not None:
            check_variable(options.target)
        try:
            run = flow.start() if options.a else flow.run()
        except WorkflowFailed as error:
            if options.target is not None:
                self._session.keep(options.target, error.run)
            raise
        if options.target is None:
            return run
        self._session.keep(options.target, run)
        return None

    # --------------------------------------------------------------------- help

    def _help(self, options: Options) -> None:
        if options.verb is None:
            print(overview())  # noqa: T201 - text to read, no object to keep
            return
        found = [v[options.verb] for v in (LINE_VERBS, CELL_VERBS) if options.verb in v]
        _explain(*(found or [split_verb(options.verb)[0]]))  # which says what is meant


def _explain(*verbs: Verb) -> None:
    print("\n\n".join(verb.help for verb in verbs))  # noqa: T201 - as above


def overview() -> str:
    """Return one line a verb."""
    lines = []
    for mark, verbs in (("%mpreg", LINE_VERBS), ("%%mpreg", CELL_VERBS)):
        written = [f"{mark} {verb.example}" for verb in verbs.values()]
        width = max(map(len, written))
        lines += [
            f"{text:{width}}  {verb.title}"
            for text, verb in zip(written, verbs.values(), strict=True)
        ]
        lines.append("")
    return "\n".join([*lines, "%mpreg help VERB explains one; %mpreg? has examples."])
