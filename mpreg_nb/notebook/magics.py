"""`%mpreg` and `%%mpreg`: loads the extension, parses a line, completes words.

Completion uses the client's cached view of the cluster and sends no request, so that
Tab never waits.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from mpreg_nb.cluster.config import KEYS
from mpreg_nb.cluster.current import parts_of
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
from mpreg_nb.notebook.parser import Misuse, Verb, VerbOptions
from mpreg_nb.notebook.remote_cell import names_of
from mpreg_nb.notebook.session import Session, end_session, session_of
from mpreg_nb.notebook.verbs import (
    CELL_VERBS,
    LINE_VERBS,
    VIEWS,
    explain,
    split_verb,
)

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from mpreg_nb.cluster.cluster import Cluster


HAPPENED = (
    CallCancelled,
    CallTimeout,
    NodeLost,
    NodesFailed,
    RemoteError,
    WorkerCrashed,
    WorkflowFailed,
)
"""Errors of user code are raised unchanged; all others become one line."""


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
        if verb.is_python:
            return verb.handler(self._session, VerbOptions(rest=rest))
        inputs: dict[str, Any] = {}
        if verb.reads is not None:
            rest, inputs = verb.reads(self._session, verb.name, rest)
        # Four frames up stands the line: this one, mpreg, run_line_magic, the cell.
        expanded = self.shell.var_expand(rest, 3)  # type: ignore[no-untyped-call]
        options = verb.parser.read(verb.joins(expanded))
        options.inputs = inputs
        of_cell = () if cell is None else (cell,)
        return verb.handler(self._session, options, *of_cell)


_LINE = re.compile(r"\s*(?:[\w\s,.]+=\s*)?(?P<mark>%{1,2}mpreg)\s+(?P<rest>.*)")
"""A line, or `name = ` and a line."""

Words = Callable[[], Iterable[str]]

Source = tuple[str, Words]
"""The type of some words, and where they come from."""

MOST_HELP = 70
"""Characters beside an item of completion."""

MOST = 500
"""Words that are offered at once; for more names, type a letter first."""


class Completion:
    """Offers words for the place where the cursor is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        known = Known(session)
        self._words_of: Mapping[str, Source] = {
            "callable": ("function", known.callables),
            "called function": (
                "function",
                lambda: filter(str.isidentifier, known.functions()),
            ),
            "function": ("function", known.functions),
            "grouping": ("grouping", lambda: ("function", "node", "function,node")),
            "isolation": ("isolation", lambda: ("process", "thread")),
            "kept names": ("kept names", lambda: names_of(session)),
            "key": ("key", lambda: KEYS),
            "node": ("node", known.nodes),
            "own node": ("node", known.own_nodes),
            "resource": ("resource", known.resources),
            "run": ("run", known.runs),
            "step": ("step", known.steps),
            "step of a run": ("step of a run", known.steps_of_runs),
            "verb": ("verb", lambda: (*LINE_VERBS, *CELL_VERBS)),
            "view": ("view", lambda: VIEWS),
            "workflow": ("workflow", known.flows),
            "workflow or run": (
                "workflow or run",
                lambda: {*known.flows(), *known.runs()},
            ),
        }

    def offer(self, text: str, symbol: str) -> list[str]:
        """Return what may stand in place of `symbol`, with which `text` ends."""
        return [word for word, _ in self.explained(text, symbol)]

    def explained(self, text: str, symbol: str) -> list[tuple[str, str]]:
        """Return the same words, each with its type and a few words of help."""
        line = _LINE.match(text[: len(text) - len(symbol)])
        if line is None:
            return []
        of_cell, before = line["mark"] == "%%mpreg", line["rest"].split()
        verbs = CELL_VERBS if of_cell else LINE_VERBS
        if not before:
            offered: Iterable[tuple[str, str]] = (
                (name, _typed("verb", verb.title)) for name, verb in verbs.items()
            )
        else:
            verb = verbs.get(before[0])
            # Inside the brackets of a call stands Python, of which Python knows more.
            if verb is None or ((verb.is_python or verb.reads) and "(" in text):
                return []
            offered = self._words(verb, before)
        fitting = (pair for pair in offered if pair[0].startswith(symbol))
        return [(_quoted(word), kind) for word, kind in islice(fitting, MOST)]

    def _words(self, verb: Verb, before: list[str]) -> Iterator[tuple[str, str]]:
        # Of `gpu,big` and `n1|n2` the cursor is in the part after the last mark.
        last = before[-1]
        joined = last.endswith((",", "|", ":")) and len(before) > 1
        flag = before[-2] if joined else last
        if verb.takes_value(flag):  # else a number, or a name that is new
            yield from self._all(verb.completes_value(flag))
            return
        if verb.name == "up" and re.search(r":[^ ]*$", last):
            yield from self._all("resource")
            return
        yield from self._all(verb.completes)
        if not joined:
            for left in _left(verb, before):
                yield left, _typed("option", verb.help_of(left))

    def _all(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield the words of a kind; none for "", where nothing can be offered."""
        if not kind:
            return
        shown, words = self._words_of[kind]
        for word in words():
            yield word, _typed(shown, _HELP.get(shown, _no_help)(word))


def _no_help(word: str) -> str:
    return ""


def _help_of_verb(word: str) -> str:
    return (LINE_VERBS.get(word) or CELL_VERBS[word]).title


_HELP: Mapping[str, Callable[[str], str]] = {
    "key": lambda word: KEYS[word].brief,
    "verb": _help_of_verb,
}


def _typed(kind: str, help_: str) -> str:
    """Return what stands beside an item: its type, and a few words of help."""
    return shorten(f"{kind}: {help_}", MOST_HELP, placeholder="…") if help_ else kind


class Known:
    """Names in the client's cached view; no request is sent, so nothing waits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def _cluster(self) -> "Cluster | None":
        """The current cluster. Where none was started, nothing is imported either."""
        current = sys.modules.get("mpreg_nb.cluster.current")
        clusters = current.all_clusters() if current is not None else ()
        return clusters[-1] if clusters else None

    def _records(self) -> list[Any]:
        if self._cluster is None:
            return []
        return [
            picture.record for picture in parts_of(self._cluster).client.state.nodes
        ]

    def nodes(self) -> Iterable[str]:
        """Return the nodes of the cluster."""
        return [record.name for record in self._records()]

    def own_nodes(self) -> Iterable[str]:
        """Return the nodes that this process started."""
        return self._cluster.own_nodes if self._cluster is not None else ()

    def resources(self) -> Iterable[str]:
        """Return the resources that nodes hold."""
        return {name for record in self._records() for name in record.resources}

    def functions(self) -> Iterable[str]:
        """Return the functions of the catalog."""
        if self._cluster is None:
            return ()
        return parts_of(self._cluster).client.state.functions

    def callables(self) -> Iterable[str]:
        """Return variables that can be registered."""
        variables = self._session.variables.items()
        return [name for name, v in variables if callable(v) and name[:1] != "_"]

    def flows(self) -> Iterable[str]:
        """Return variables and names of workflows."""
        loaded = "mpreg_nb.workflows.builder" in sys.modules
        return self._session.flow_names() if loaded else ()

    def steps(self) -> Iterable[str]:
        """Return the steps of all workflows."""
        flows = [self._session.flow(name) for name in self.flows()]
        return {box.name for flow in flows for box in flow.diagram().boxes}

    def runs(self) -> Iterable[str]:
        """Return variables that hold runs, and workflows that were run here."""
        loaded = "mpreg_nb.cluster.run" in sys.modules
        return self._session.runs() if loaded else ()

    def steps_of_runs(self) -> Iterable[str]:
        """Return RUN.STEP for each step that is known here."""
        loaded = "mpreg_nb.cluster.run" in sys.modules
        runs = self._session.runs() if loaded else {}
        return [f"{n}.{state.name}" for n, run in runs.items() for state in run.steps]


def _left(verb: Verb, before: Iterable[str]) -> list[str]:
    given = set(before)
    return [flag for flag in verb.flags if flag not in given]


def _quoted(name: str) -> str:
    return shlex.quote(name) if any(map(str.isspace, name)) else name


def complete(shell: "InteractiveShell", session: Session) -> Callable[[], None]:
    """Offer words on lines that begin with `%mpreg`; return what ends that."""
    completion = Completion(session)

    @context_matcher(  # type: ignore[untyped-decorator]
        identifier="mpreg_nb", priority=10
    )
    def match(context: "CompletionContext") -> "SimpleMatcherResult":
        words = dict(completion.explained(context.text_until_cursor, context.token))
        return {
            "completions": [
                SimpleCompletion(word, type=words[word]) for word in sorted(words)
            ],
            "suppress": bool(words),  # what else Python would offer there is no use
            "ordered": True,
        }

    matchers: list[Any] = shell.Completer.custom_matchers
    matchers.append(match)
    return lambda: matchers.remove(match)


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Add `%mpreg` and `%%mpreg` to `shell`; called by `%load_ext mpreg_nb`."""
    session = session_of(shell)
    shell.register_magics(MpregMagics(shell, session))
    session.attach(complete(shell, session))
    print(  # noqa: T201 - the one line that tells how to go on
        "mpreg_nb is ready: %mpreg up starts nodes here, %mpreg? shows all it can do"
    )


def unload_ipython_extension(shell: "InteractiveShell") -> None:
    """Remove the magics; called by `%unload_ext mpreg_nb`. Nodes continue to run."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("mpreg", None)
    end_session()
