import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpreg_nb.client.output import current_writer, limit_lines
from mpreg_nb.notebook.output import CALLS_PER_CELL, attach_output


class Events:
    """The events of a shell, as IPython has them."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[..., None]]] = {}

    def register(self, event: str, callback: Callable[..., None]) -> None:
        self.callbacks.setdefault(event, []).append(callback)

    def unregister(self, event: str, callback: Callable[..., None]) -> None:
        self.callbacks[event].remove(callback)

    def trigger(self, event: str) -> None:
        for callback in self.callbacks[event]:
            callback(object())


class Trap:
    """Calls `hook` with the value of each cell."""

    def __init__(self) -> None:
        self.hook: Callable[[object], object] = print


class Shell:
    def __init__(self) -> None:
        self.events = Events()
        self.display_trap = Trap()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    made = Shell()
    detach = attach_output(made)
    yield made
    detach()
    limit_lines(lambda: 1000)
    assert made.events.callbacks == {"pre_run_cell": [], "post_run_cell": []}


def test_prints_come_at_once_with_the_name_of_their_node(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = current_writer()

    writer("gpu-1", "stdout", "one\ntwo")
    writer("gpu-1", "stderr", "careful\n")
    writer("gpu-1", "stdout", "")

    assert capsys.readouterr() == ("[gpu-1] one\n[gpu-1] two\n", "[gpu-1] careful\n")


def test_a_line_that_goes_on_is_not_torn_unless_another_comes_between(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = current_writer(), current_writer()

    first("n1", "stdout", "epoch 1")
    first("n1", "stdout", " done\nepoch 2")
    second("n2", "stdout", "hello\n")
    first("n1", "stdout", " done")
    first("n1", "stdout", "")
    first("n1", "stdout", "")

    assert capsys.readouterr().out == (
        "[n1] epoch 1 done\n[n1] epoch 2\n[n2] hello\n[n1]  done\n"
    )


def test_all_calls_of_a_cell_together_are_cut_with_one_count(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    limit_lines(lambda: 3)

    for _ in range(30):
        current_writer()("n1", "stdout", "a\nb\nc\n")
    shell.events.trigger("post_run_cell")
    shell.events.trigger("pre_run_cell")
    current_writer()("n1", "stdout", "next cell\n")

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * CALLS_PER_CELL + 2
    assert lines[-2] == (
        "[n1] … 30 more lines not shown (60 characters), of several calls"
    )
    assert lines[-1] == "[n1] next cell"


def test_prints_go_where_the_call_was_made_and_not_where_they_arrive(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", captured)  # as %%capture does
        writer = current_writer()

    writer("n1", "stdout", "here\n")

    assert captured.getvalue() == "[n1] here\n"


def test_prints_that_come_after_their_stream_was_closed_are_not_lost(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captured = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", captured)
        writer = current_writer()
    captured.close()

    writer("n1", "stdout", "late\n")

    assert capsys.readouterr().out == "[n1] late\n"


@pytest.fixture
def plain_shell(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    return shell


def test_in_plain_mode_prints_come_in_the_order_of_the_calls(
    plain_shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = current_writer(), current_writer()

    second("n1", "stdout", "of the second\n")
    first("n2", "stdout", "of the first on n2\n")
    first("n1", "stdout", "of the first on n1\n")
    before = capsys.readouterr().out
    plain_shell.events.trigger("post_run_cell")

    assert before == ""
    assert capsys.readouterr().out == (
        "[n1] of the first on n1\n[n2] of the first on n2\n[n1] of the second\n"
    )


def test_in_plain_mode_the_value_of_a_cell_comes_after_its_prints(
    plain_shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = current_writer()
    writer("n1", "stdout", "working\n")

    plain_shell.display_trap.hook(42)

    assert capsys.readouterr().out == "[n1] working\n42\n"


def test_in_plain_mode_prints_after_the_cell_come_at_once(
    plain_shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    of_the_cell = current_writer()
    plain_shell.events.trigger("post_run_cell")
    between_cells = current_writer()

    of_the_cell("n1", "stdout", "a\n")
    between_cells("n1", "stdout", "b\n")

    assert capsys.readouterr().out == "[n1] a\n[n1] b\n"


def test_in_plain_mode_the_next_cell_holds_back_again(
    plain_shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_shell.events.trigger("post_run_cell")
    plain_shell.events.trigger("pre_run_cell")
    writer: Any = current_writer()

    writer("n1", "stdout", "a\n")

    assert capsys.readouterr().out == ""
