"""The code on the pages of the documentation runs, in the order of its page.

Blocks of `python` run; those of `py` only have to be Python, since they need what is
not here. Commands and magics that pages show exist, with the options that they show.
"""

import argparse
import ast
import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cli import command_parser
from mpreg_nb.notebook.verbs import split_verb
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    str(page.relative_to(DOCS)): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md"))
    if "tutorials" not in page.parts
}
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> Iterator[tuple[str, int]]:
    """Yield the blocks in these languages, each with the number of its first line."""
    for found in BLOCK.finditer(text):
        if found[1] in languages:
            yield found[2], text.count("\n", 0, found.start()) + 1


RUNNING = [name for name, text in PAGES.items() if any(blocks(text, "python"))]


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster of most pages, whose `up` finds it there."""
    with nothing_left(tmp_path_factory.mktemp("pages")):
        with mp.up({"gpu-1": "gpu", "cpu-1": "cpu", "cpu-2": "cpu"}, fresh=True):
            yield
        # Of pages that started other nodes.
        with contextlib.suppress(mp.errors.NoCluster):
            mp.down()


@pytest.fixture
def leaks() -> None:
    """Pages change the cluster of all; the last one leaves nothing, see there."""


@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize("page", RUNNING)
def test_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # as in a notebook or script
    for code, line in blocks(PAGES[page], "python"):
        # Tracebacks and functions show the lines of the page.
        exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)  # noqa: S102


def test_code_that_needs_more_than_this_machine_is_python() -> None:
    for page, text in PAGES.items():
        for code, line in blocks(text, "py"):
            ast.parse("\n" * line + code, filename=page)


def commands() -> Iterator[tuple[str, list[str]]]:
    for page, text in PAGES.items():
        for code, _ in blocks(text, "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["mpreg-nb"]:
                    yield page, words[1:]


@pytest.mark.parametrize(("page", "words"), [*commands()])
def test_a_command_of_a_page_exists_with_its_options(
    page: str, words: list[str]
) -> None:
    parser = command_parser()

    def reject(message: str) -> None:
        raise AssertionError(f"{page}: mpreg-nb {shlex.join(words)}: {message}")

    for each in (parser, *every_parser(parser)):
        each.error = reject  # type: ignore[method-assign, assignment]
    parser.parse_args(words)


def every_parser(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from every_parser(each)


def magics() -> Iterator[tuple[str, str]]:
    for text in PAGES.values():
        yield from re.findall(r"(%%?)mpreg ([a-z]+)", text)


@pytest.mark.parametrize(("mark", "verb"), sorted(set(magics())))
def test_a_magic_of_a_page_exists(mark: str, verb: str) -> None:
    found, _ = split_verb(verb, of_cell=mark == "%%")

    assert found.name == verb
