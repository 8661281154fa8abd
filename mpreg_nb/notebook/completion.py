"""Tab on a `%mpreg` line: verbs, flags, nodes, resources, functions, workflows.

What is offered is what the kernel has heard of the cluster already; nothing is
asked, so that Tab never waits.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from mpreg_nb.notebook.cell_verbs import CELL_VERBS
from mpreg_nb.notebook.line import Verb
from mpreg_nb.notebook.line_verbs import LINE_VERBS
from mpreg_nb.notebook.session import Session

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

CHOICES = {
    "--by": ("function", "node", "function,node"),
    "--isolation": ("process", "thread"),
}


class Completion:
    """Offers words for the place where the cursor is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._of_flag: dict[str, Callable[[], Iterable[str]]] = {
            "--node": self._nodes,
            "--on": self._resources,
            "--resources": self._resources,
        }
        self._of_verb: dict[str, Callable[[], Iterable[str]]] = {
            "call": self._functions,
            "down": self._nodes,
            "draw": session.flow_names,
            "functions": self._functions,
            "help": lambda: [*LINE_VERBS, *CELL_VERBS],
            "plan": session.flow_names,
            "register": self._callables,
            "run": session.flow_names,
        }

    def offer(self, text: str, symbol: str) -> list[str]:
        """Return what may stand in place of `symbol`, with which `text` ends."""
        mark, *before = text[: len(text) - len(symbol)].split() or ("",)
        if mark not in ("%mpreg", "%%mpreg"):
            return []
        of_cell = mark == "%%mpreg"
        verbs = CELL_VERBS if of_cell else LINE_VERBS
        if not before:
            return [verb for verb in verbs if verb.startswith(symbol)]
        verb = verbs.get(before[0])
        if verb is None or (verb.name == "call" and "(" in text):
            return []
        words = [*self._words(verb, before, of_cell=of_cell)]
        return [word for word in words if word.startswith(symbol)]

    def _words(self, verb: Verb, before: list[str], *, of_cell: bool) -> Iterable[str]:
        # Of `gpu,big` and `gpu-1:gpu` the cursor is in the part after the last mark.
        last = before[-1]
        flag = before[-2] if last.endswith(",") and len(before) > 1 else last
        if flag in CHOICES:
            return CHOICES[flag]
        if flag in self._of_flag:
            return self._of_flag[flag]()
        if verb.name == "up" and re.search(r":[^ ]*$", last):
            return self._resources()
        own = self._of_verb.get(verb.name)
        given = set(before)
        flags = [flag for flag in verb.flags if flag not in given]
        return [
            *(own() if own is not None and verb in LINE_VERBS.values() else ()),
            *flags,
        ]

    # ------------------------------------------------------------- what is known

    def _records(self) -> list[Any]:
        from mpreg_nb.cluster.current import all_clusters

        clusters = all_clusters()
        if not clusters:
            return []
        return [picture.record for picture in clusters[-1].client.mirror.nodes]

    def _nodes(self) -> Iterable[str]:
        return [record.name for record in self._records()]

    def _resources(self) -> Iterable[str]:
        return {name for record in self._records() for name in record.resources}

    def _functions(self) -> Iterable[str]:
        from mpreg_nb.cluster.current import all_clusters

        clusters = all_clusters()
        if not clusters:
            return ()
        return {offer.function for _, offer in clusters[-1].client.mirror.entries()}

    def _callables(self) -> Iterable[str]:
        variables = self._session.variables.items()
        return [
            name
            for name, value in variables
            if callable(value) and not name.startswith("_")
        ]


def complete(shell: "InteractiveShell", session: Session) -> Callable[[], None]:
    """Offer words on lines that begin with `%mpreg`; return what ends that."""
    completion = Completion(session)

    @context_matcher(  # type: ignore[untyped-decorator]
        identifier="mpreg_nb", priority=10
    )
    def match(context: "CompletionContext") -> "SimpleMatcherResult":
        words = completion.offer(context.text_until_cursor, context.token)
        return {
            "completions": [SimpleCompletion(word) for word in sorted(set(words))],
            "suppress": bool(words),  # what else Python would offer there is no use
            "ordered": True,
        }

    matchers: list[Any] = shell.Completer.custom_matchers
    matchers.append(match)
    return lambda: matchers.remove(match)
