"""Tab on a `%mpreg` line: verbs, flags, nodes, resources, functions, workflows.

What is offered is what the kernel has heard of the cluster already; nothing is
asked, so that Tab never waits.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from mpreg_nb.cluster.config import KEYS
from mpreg_nb.notebook.cell_verbs import CELL_VERBS
from mpreg_nb.notebook.kept import names_of
from mpreg_nb.notebook.line import Verb
from mpreg_nb.notebook.line_verbs import LINE_VERBS
from mpreg_nb.notebook.look_verbs import VIEWS
from mpreg_nb.notebook.session import Session

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from mpreg_nb.cluster.cluster import Cluster

_LINE = re.compile(r"\s*(?:[\w\s,.]+=\s*)?(?P<mark>%{1,2}mpreg)\s+(?P<rest>.*)")
"""A line, or `name = ` and a line."""

Words = Callable[[], Iterable[str]]

Source = tuple[str, Words]
"""The type of some words, and where they come from."""

MOST_HELP = 70
"""Characters beside an item of completion."""

MOST = 500
"""Words that are offered at once; who has more names types a letter first."""


class Completion:
    """Offers words for the place where the cursor is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        known = Known(session)
        self._of_flag: Mapping[str, Source] = {
            "--after": ("step", known.steps),
            "--by": ("grouping", lambda: ("function", "node", "function,node")),
            "--flow": ("workflow", known.flows),
            "--keep": ("kept names", lambda: names_of(session)),
            "--isolation": ("isolation", lambda: ("process", "thread")),
            "--node": ("node", known.nodes),
            "--on": ("resource", known.resources),
            "--resources": ("resource", known.resources),
        }
        self._of_line: Mapping[str, Source] = {
            "call": (
                "function",
                lambda: filter(str.isidentifier, known.functions()),
            ),
            "cancel": ("run", known.runs),
            "config": ("key", lambda: KEYS),
            "down": ("node", known.own_nodes),
            "draw": (
                "workflow or run",
                lambda: {*known.flows(), *known.runs()},
            ),
            "forget": ("kept names", lambda: names_of(session)),
            "functions": ("function", known.functions),
            "help": ("verb", lambda: (*LINE_VERBS, *CELL_VERBS)),
            "kill": ("node", known.own_nodes),
            "logs": ("node", known.nodes),
            "partition": ("node", known.own_nodes),
            "pause": ("node", known.own_nodes),
            "plan": ("workflow", known.flows),
            "register": ("function", known.callables),
            "run": ("workflow", known.flows),
            "watch": ("view", lambda: VIEWS),
            "why": ("step of a run", known.steps_of_runs),
        }
        self._of_cell: Mapping[str, Source] = {"step": ("step", known.steps)}
        self._resources = known.resources

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
            if verb is None or (verb.name in ("call", "run", "plan") and "(" in text):
                return []
            offered = self._words(verb, before, of_cell=of_cell)
        fitting = (pair for pair in offered if pair[0].startswith(symbol))
        return [(_quoted(word), kind) for word, kind in islice(fitting, MOST)]

    def _words(
        self, verb: Verb, before: list[str], *, of_cell: bool
    ) -> Iterator[tuple[str, str]]:
        # Of `gpu,big` and `n1|n2` the cursor is in the part after the last mark.
        last = before[-1]
        joined = last.endswith((",", "|", ":")) and len(before) > 1
        flag = before[-2] if joined else last
        if flag in self._of_flag and verb.takes_value(flag):
            yield from _all(self._of_flag[flag])
            return
        if verb.takes_value(flag):
            return  # a number, or a name that is new
        if verb.name == "up" and re.search(r":[^ ]*$", last):
            yield from _all(("resource", self._resources))
            return
        own = (self._of_cell if of_cell else self._of_line).get(verb.name)
        if own is not None:
            yield from _all(own)
        if not joined:
            for left in _left(verb, before):
                yield left, _typed("option", verb.help_of(left))


def _all(source: Source) -> Iterator[tuple[str, str]]:
    kind, words = source
    for word in words():
        yield word, _typed(kind, _HELP.get(kind, _no_help)(word))


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
    """Names that this kernel has heard of. Nothing is asked, so nothing waits."""

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
        return [picture.record for picture in self._cluster.client.mirror.nodes]

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
        return {offer.function for _, offer in self._cluster.client.mirror.entries()}

    def callables(self) -> Iterable[str]:
        """Return variables that can be registered."""
        variables = self._session.variables.items()
        return [name for name, v in variables if callable(v) and name[:1] != "_"]

    def flows(self) -> Iterable[str]:
        """Return variables and names of workflows."""
        loaded = "mpreg_nb.workflow.builder" in sys.modules
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
