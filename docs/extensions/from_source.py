"""Reference pages that are made from the source, so that they cannot be outdated.

Directives: `mpreg-verbs` (the magics), `mpreg-commands` (the command line) and
`mpreg-settings` (the keys of `mp.config`). Docstrings of the package, which are plain
text, become fields that Sphinx lists: `name: text` lines, and what stands under
`Raises:`.
"""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mpreg_nb.cli import command_parser
from mpreg_nb.cluster.config import KEYS
from mpreg_nb.notebook.verbs import CELL_VERBS, LINE_VERBS

PARAMETER = re.compile(r"^(\*{0,2}[a-z_][a-z0-9_]*): (\S.*)$")
RAISED = re.compile(r"^    ([A-Z]\w*(?:, [A-Z]\w*)*): (.*)$")


def fields(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with its arguments and errors as fields."""
    found: list[str] = []
    in_field = raising = False
    for line in lines:
        parameter = PARAMETER.match(line)
        error = RAISED.match(line) if raising else None
        if line == "Raises:":
            raising, in_field = True, False
            found.append("")
            continue
        if parameter or error:
            if not in_field and found and found[-1]:
                found.append("")
            in_field = True
            found.append(
                f":param {parameter[1].lstrip('*')}: {parameter[2]}"
                if parameter
                else f":raises {error[1]}: {error[2]}"
            )
        elif in_field and line.startswith("    "):
            found.append("    " + line.strip())
        else:
            if in_field and line:
                found.append("")
            in_field = False
            raising = raising and not line
            found.append(line)
    return found


def _process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = fields(lines)


class _Generated(SphinxDirective):
    """A directive whose content is made, not written."""

    def run(self) -> list[nodes.Node]:
        """Return what the made text means."""
        parent = nodes.section()
        parent.document = self.state.document
        text = StringList(list(self.lines()), source="the source of mpreg_nb")
        self.state.nested_parse(text, self.content_offset, parent, match_titles=True)
        return parent.children

    def lines(self) -> Iterator[str]:
        """Return the text, in the language of the page (MyST)."""
        raise NotImplementedError


class Verbs(_Generated):
    """All verbs of `%mpreg` and `%%mpreg`, with usage and examples, by group."""

    def lines(self) -> Iterator[str]:
        """Return one section a group, one part a verb."""
        groups: dict[str, list[tuple[str, Any]]] = {}
        for mark, verbs in (("%mpreg", LINE_VERBS), ("%%mpreg", CELL_VERBS)):
            for verb in verbs.values():
                groups.setdefault(verb.group, []).append((mark, verb))
        for group, members in groups.items():
            yield from (f"## {group[0].upper()}{group[1:]}", "")
            for mark, verb in members:
                yield from (f"### `{mark} {verb.name}`", "", "```text")
                yield from verb.help.splitlines()
                yield from ("```", "")


class Commands(_Generated):
    """All commands of `mpreg-nb`, as `--help` shows them."""

    def lines(self) -> Iterator[str]:
        """Return one section a command."""
        for name, each in _commands(command_parser()):
            yield from (f"## `{name}`", "", "```text")
            yield from each.format_help().rstrip().splitlines()
            yield from ("```", "")


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._subparsers._actions if parser._subparsers else ():
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each.prog, each
                yield from _commands(each)


class Settings(_Generated):
    """The keys of `mp.config`, with default, accepted values and meaning."""

    def lines(self) -> Iterator[str]:
        """Return one table."""
        yield "| key | default | accepts | meaning |"
        yield "|---|---|---|---|"
        for key in KEYS.values():
            accepts = key.rule.replace("|", "\\|")
            yield f"| `{key.name}` | `{key.default!r}` | {accepts} | {key.meaning} |"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives and the reader of docstrings to Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    for name, directive in _DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


_DIRECTIVES = {
    "mpreg-verbs": Verbs,
    "mpreg-commands": Commands,
    "mpreg-settings": Settings,
}
