"""How much of what functions print is shown, and that the count of the rest is true."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.client.output import (
    CHARACTERS_PER_LINE,
    DISPLAY_BYTES_PER_LINE,
    DisplayAllowance,
    OutputBuffer,
    OutputQuota,
    PrintState,
)
from mpreg_nb.protocol.displays import packed, packed_clear
from mpreg_nb.protocol.messages import Output


def said(text: str, lines_cut: int = 0, characters_cut: int = 0) -> Output:
    return Output(
        id=bytes(16),
        node="n1",
        stream="stdout",
        text=text,
        lines_cut=lines_cut,
        characters_cut=characters_cut,
    )


def shown(*texts: str, lines: int) -> str:
    allowance = OutputQuota(lines)
    return "".join(map(allowance.take, texts)) + allowance.told()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("a\nb\n",), "a\nb\n"),
        (("a\nb\n", ""), "a\nb\n"),
        (("a\nb\nc\n",), "a\nb\n… 1 more line not shown (2 characters)\n"),
        (("a\nb\n", "c", "d\ne"), "a\nb\n… 2 more lines not shown (4 characters)\n"),
        (("a\nb", "c\nd"), "a\nbc\n… 1 more line not shown (1 character)\n"),
        (("1\n" * 2_000,), "1\n1\n… 1,998 more lines not shown (3,996 characters)\n"),
    ],
)
def test_so_many_lines_are_shown_and_the_rest_is_counted(
    texts: tuple[str, ...], expected: str
) -> None:
    assert shown(*texts, lines=2) == expected


def test_a_line_without_end_is_cut_too() -> None:
    limit = CHARACTERS_PER_LINE

    assert shown("x" * 5 * limit, lines=1) == (
        "x" * limit + "… more of it not shown (800 characters)\n"
    )


@given(st.lists(st.text("ab\n", max_size=30), max_size=30), st.integers(1, 9))
def test_shown_and_counted_lines_are_all_lines(texts: list[str], lines: int) -> None:
    allowance = OutputQuota(lines)

    taken = "".join(map(allowance.take, texts))

    whole = "".join(texts)
    assert whole.startswith(taken)
    told = allowance.told()
    left = whole[len(taken) :]
    if left:
        count = left.count("\n") + (not left.endswith("\n"))
        assert told.startswith(f"… {count} more line")
        assert taken.count("\n") == lines
    else:
        assert told == ""


def test_a_bar_that_is_drawn_over_and_over_is_never_cut() -> None:
    allowance = OutputQuota(1)

    texts = [allowance.take(f"\r{step:4} of 9999 ####") for step in range(9999)]

    assert texts[-1] == "\r9998 of 9999 ####"
    assert allowance.take("\rone\rtwo\rthree") == "\rthree"
    assert allowance.told() == ""


def test_what_was_cut_on_the_way_is_counted_with_the_rest() -> None:
    written: list[str] = []
    prints = OutputBuffer(PrintState(lambda stream, text: written.append(text)))

    prints.add(said("one\n"))
    prints.add(said("", lines_cut=1_000_000, characters_cut=5_000_000))
    prints.add(said("two"))
    prints.end()

    assert written == [
        "[n1] one\n",
        "[n1] two",
        "\n",
        "[n1] … 1,000,000 more lines not shown (5,000,000 characters)\n",
    ]


def display(html: str = "", *, update: bool = False, **transient: str) -> str:
    data = {"text/plain": "a\nb", "text/html": html}
    return packed(data, {}, transient, update=update)


def test_a_script_shows_the_text_of_a_display_and_nothing_of_what_clears() -> None:
    texts: list[tuple[str, str]] = []
    page = PrintState(lambda stream, text: texts.append((stream, text)))

    page("n1", "stderr", "bar 50 %")
    page("n1", "display", display("<b>"))
    page("n1", "display", packed_clear(wait=True))

    assert texts == [
        *(("stderr", "[n1] bar 50 %"), ("stderr", "\n")),
        ("stdout", "[n1] a\n[n1] b\n"),
    ]


def test_a_display_has_the_name_of_its_node_unless_that_was_the_last() -> None:
    heads: list[str] = []

    def show(shown: dict[str, Any], head: str) -> bool:
        heads.append(head)
        return True

    page = PrintState(lambda stream, text: None, show)

    page("n1", "display", display())
    page("n1", "stdout", "text\n")
    page("n1", "display", display())
    page("n2", "display", display())
    page("n1", "display", display(update=True, display_id="x"))
    page("n1", "display", packed_clear(wait=False))
    page("n1", "display", display())

    assert heads == ["[n1]\n", "", "[n2]\n", "", "", "[n1]\n"]


def test_so_much_is_displayed_and_the_rest_is_counted() -> None:
    allowance = DisplayAllowance(2)
    large = display("x" * DISPLAY_BYTES_PER_LINE)

    taken = [allowance.take(one) for one in (display(), large, display(), large)]
    told = allowance.told()
    updated = allowance.take(display(update=True, display_id="x"))
    cleared = allowance.take(packed_clear(wait=True)), allowance.take(display())

    assert taken == [True, True, False, False]
    assert told == "… 2 more displays not shown (0.1 MB)\n"
    assert updated is False
    assert cleared == (True, True)


def test_displays_that_were_dropped_on_the_way_are_counted_at_the_end() -> None:
    texts: list[str] = []
    prints = OutputBuffer(lambda node, stream, text: texts.append(f"{stream}: {text}"))
    shown = msgspec.structs.replace(said(""), stream="display")

    prints.add(shown, (display().encode(),))
    prints.add(msgspec.structs.replace(shown, lines_cut=7, characters_cut=2_000_000))
    prints.end()

    assert texts == [
        f"display: {display()}",
        "stdout: ",
        "stdout: … 7 more displays not shown (2.0 MB)\n",
    ]
