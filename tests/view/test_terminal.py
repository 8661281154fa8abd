"""Tables on a terminal: as wide as it is, with colour; plain text everywhere else."""

import io
import re
from contextlib import redirect_stdout

import pytest

from mpreg_nb.view.plain_mode import on_terminal, plain
from mpreg_nb.view.tables import Marked, Table
from mpreg_nb.view.terminal import Terminal, found, shown, writing_to

TABLE = Table(
    head=["node", "state", "resources", "functions", "memory, MB"],
    rows=[
        ["gpu-1", Marked("●", "alive", "#1a9e77"), "gpu, " + "r" * 80, "2", "48"],
        ["cpu-1", Marked("✗", "dead", "#cc3311"), "cpu", "12", "1,048"],
    ],
    numbers=["functions", "memory, MB"],
)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MPREG_NB_PLAIN", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_lines_fit_the_width_and_stay_aligned(width: int) -> None:
    with writing_to(Terminal(width, colours=True)):
        lines = without_colours(str(TABLE)).splitlines()

    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("node   state    resources")
    # The line below the table, where there is one, says what was left out.
    starts = [lines[row].index(word) for row, word in enumerate(("st", "●", "✗"))]
    assert len(set(starts)) == 1


def test_texts_are_clipped_before_columns_are_left_out_with_a_note() -> None:
    with writing_to(Terminal(60, colours=False)):
        clipped = str(TABLE)
    with writing_to(Terminal(40, colours=False)):
        narrow = str(TABLE)

    assert "r…r" in clipped
    assert "1,048" in clipped
    assert "1,048" not in narrow
    assert narrow.endswith("(not shown here: memory, MB)")


def test_head_is_bold_and_marks_have_their_colour() -> None:
    with writing_to(Terminal(80, colours=True)):
        lines = str(TABLE).splitlines()

    assert lines[0].startswith("\x1b[1mnode")
    assert "\x1b[38;5;72m●\x1b[0m alive" in lines[1]
    assert "\x1b[38;5;166m✗\x1b[0m dead" in lines[2]


@pytest.mark.usefixtures("person")
def test_what_is_looked_at_is_made_for_the_terminal_and_str_is_plain() -> None:
    with redirect_stdout(Tty()):
        looked_at, text = shown(TABLE), str(TABLE)

    assert "\x1b[" in looked_at
    assert "\x1b[" not in text
    assert "r" * 80 in text


@pytest.mark.usefixtures("person")
def test_a_terminal_is_not_plain_mode() -> None:
    with redirect_stdout(Tty()):
        found_plain, found_terminal = plain(), on_terminal()

    assert not found_plain
    assert found_terminal


@pytest.mark.usefixtures("person")
def test_without_a_terminal_all_is_plain() -> None:
    with redirect_stdout(io.StringIO()):
        told = plain(), on_terminal(), found()

    assert told == (True, False, None)


@pytest.mark.usefixtures("person")
@pytest.mark.parametrize(
    ("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")], ids=str
)
def test_who_wants_no_colour_gets_none(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with redirect_stdout(Tty()):
        terminal = found()

    assert terminal == Terminal(60, colours=False)


@pytest.mark.usefixtures("person")
def test_plain_mode_has_neither_width_nor_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    with redirect_stdout(Tty()):
        terminal, text = found(), shown(TABLE)

    assert terminal is None
    assert text == str(TABLE)
