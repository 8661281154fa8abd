"""What is shown of a wait, and that nothing is shown of a short one."""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mpreg_nb.client.output import write_to_streams
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.progress import (
    Progress,
    ProgressReporter,
    as_bundle,
    folded,
    set_screen,
    wait_shown,
)
from mpreg_nb.view import plain_mode
from mpreg_nb.view.terminal import found


@dataclass
class Waited:
    """Something that is over after so many looks."""

    looks: int
    pauses: list[float | None] = field(default_factory=list)
    key: object = "waited"
    error: type[BaseException] | None = None  # ends it after these looks

    def over(self, seconds: float | None) -> bool:
        self.pauses.append(seconds)
        if self.error is not None and len(self.pauses) > self.looks:
            raise self.error
        return len(self.pauses) > self.looks

    def shows(self, value: object) -> bool:
        return False

    is_kept = False

    def line(self, ended: str = "") -> str:
        return ended or f"look {len(self.pauses)}"

    def bundle(self, ended: str = "") -> dict[str, str]:
        return as_bundle(self.line(ended))


@dataclass
class Shown:
    """A screen that remembers."""

    lines: list[str] = field(default_factory=list)

    def show(self, watched: Progress) -> int:
        self.lines.append(watched.line())
        return 0

    def end(self, watched: Progress, ended: str) -> None:
        self.lines.append(watched.line(ended))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    shown = Shown()
    set_screen(lambda: shown)
    yield shown
    set_screen(None)
    CONFIG.reset()


def test_of_a_short_wait_nothing_is_shown(screen: Shown) -> None:
    waited = Waited(looks=0)

    assert wait_shown(waited, waited.over, None)

    assert waited.pauses == [2.0]
    assert screen.lines == []


def test_a_long_wait_is_shown_until_it_is_over(screen: Shown) -> None:
    waited = Waited(looks=3)

    assert wait_shown(waited, waited.over, None)

    assert screen.lines == ["look 2", "look 3", "done"]
    assert all(0 < (pause or 0) <= 0.25 for pause in waited.pauses[2:])


@pytest.mark.parametrize(
    ("error", "ended"), [(KeyboardInterrupt, "stopped"), (ValueError, "failed")]
)
def test_what_ends_a_wait_ends_the_showing(
    screen: Shown, error: type[BaseException], ended: str
) -> None:
    waited = Waited(looks=1, error=error)

    with pytest.raises(error), ProgressReporter(waited, after_s=0.0) as patience:
        patience.wait(waited.over)

    assert screen.lines == ["look 1", ended]


def test_a_wait_never_exceeds_its_timeout(screen: Shown) -> None:
    waited = Waited(looks=10**9)

    assert not wait_shown(waited, waited.over, 1.5)
    assert waited.pauses == [1.5]

    CONFIG.progress_after_s = 0.0
    never = threading.Event()
    assert not wait_shown(waited, never.wait, 0.3)
    assert screen.lines[-1] == "done"


def test_progress_can_be_switched_off(screen: Shown) -> None:
    CONFIG.progress_after_s = float("inf")
    waited = Waited(looks=0)

    assert wait_shown(waited, waited.over, None)

    assert waited.pauses == [None]


def test_without_standard_files_a_wait_and_a_print_show_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.stdout", None)
    waited = Waited(looks=3)

    with ProgressReporter(waited, after_s=0.0) as patience:
        patience.wait(waited.over)
    write_to_streams("n1", "stdout", "hello\n")

    assert len(waited.pauses) == 4
    assert not plain_mode.on_terminal()
    assert found() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_that_makes_room_for_prints_and_stays_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.delenv("MPREG_NB_PLAIN", raising=False)
    waited = Waited(looks=1)

    with ProgressReporter(waited, after_s=0.0) as patience:
        patience.wait(waited.over)
        write_to_streams("n1", "stdout", "hello\n")

    assert terminal.getvalue() == ("\rlook 1\x1b[K\r\x1b[K[n1] hello\n\rdone\x1b[K\n")
    assert not patience.shows


@pytest.mark.parametrize("plain", [True, False])
def test_where_nobody_looks_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    nobody = Terminal() if plain else io.StringIO()
    monkeypatch.setattr("sys.stderr", nobody)
    monkeypatch.setenv("MPREG_NB_PLAIN", "1" if plain else "0")
    waited = Waited(looks=1)

    with ProgressReporter(waited, after_s=0.0) as patience:
        patience.wait(waited.over)

    assert nobody.getvalue() == ""


def test_names_of_the_user_are_escaped() -> None:
    bundle = as_bundle("<b>train\n</b>", share=0.5)

    assert bundle["text/plain"] == "<b>train\\n</b>"
    assert "&lt;b&gt;train\\n&lt;/b&gt;" in bundle["text/html"]
    assert "width:50.0%" in bundle["text/html"]


def test_what_is_folded_is_a_line_of_text_and_opens_in_a_front_end() -> None:
    bundle = folded("<a> · 3 steps", {"text/plain": "drawing", "text/html": "<svg/>"})

    assert bundle["text/plain"] == "<a> · 3 steps"
    assert (
        "<summary>&lt;a&gt; · 3 steps</summary><svg/></details>"
        in (bundle["text/html"])
    )
