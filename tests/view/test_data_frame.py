"""How frames show themselves, in a notebook and as text."""

import pickle
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.view import frames
from mpreg_nb.view.data_frame import MOST_COLUMNS, UNKNOWN
from mpreg_nb.view.frames import NODES, RUNS, frame
from tests.support.builders import call

LONG = "ValueError: " + "no rows " * 20
STEPS = (
    StepSnapshot(name="raw", status="done", node="n1", attempts=1, run_ms=1234.5),
    StepSnapshot(name="fit", status="failed", node="n2", attempts=2, error=LONG),
    StepSnapshot(name="late", status="waiting"),
)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place where local time is nine hours before UTC."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def run_frame() -> Any:
    return frames.run_frame(STEPS, {"raw": "ingest", "fit": "train", "late": "render"})


def cells(shown: Any) -> list[list[str]]:
    """What stands in the cells of each row of the HTML, the head first."""
    return [
        [
            re.sub("<[^>]*>", "", cell)
            for cell in re.findall("<t[hd][^>]*>(.*?)</t", row)
        ]
        for row in re.findall("<tr>(.*?)</tr>", shown._repr_html_())
    ]


def test_text_stands_left_and_numbers_right() -> None:
    html = run_frame()._repr_html_()

    left = re.findall(r'<th [^>]*text-align:left">(\w+)', html)
    right = re.findall(r'<th [^>]*text-align:right">(\w+)', html)
    assert left == ["step", "function", "version", "node", "status", "error"]
    assert right == ["attempts", "queued_ms", "run_ms", "result_bytes"]


def test_what_is_not_known_is_a_dash_and_measures_have_three_digits() -> None:
    head, raw, _, late = cells(run_frame())

    known = dict(zip(head, raw, strict=True))
    assert (known["run_ms"], known["queued_ms"]) == ("1,234", UNKNOWN)
    assert dict(zip(head, late, strict=True))["node"] == UNKNOWN


def test_a_state_is_shown_by_mark_word_and_colour() -> None:
    shown = run_frame()

    assert [row[4] for row in cells(shown)] == [
        "status",
        "✓ done",
        "✗ failed",
        "○ waiting",
    ]
    assert "background-color:rgba(" in shown._repr_html_()
    assert "✗ failed" in repr(shown)


def test_a_long_text_is_cut_in_its_middle_and_whole_in_the_tooltip() -> None:
    shown = run_frame()
    with pd.option_context("display.max_colwidth", None):
        whole = repr(shown)

    cut = cells(shown)[2][-1]
    assert len(cut) == 50
    assert cut.startswith("ValueError: no rows")
    assert f'title="{LONG}"' in shown._repr_html_()
    assert LONG.strip() in whole


@pytest.mark.usefixtures("far_east")
def test_times_are_local_and_to_the_second() -> None:
    shown: Any = frames.calls_frame([call("f", "n1", started_at=1_750_000_000.5)])

    assert shown.started_at[0] == datetime.fromtimestamp(1_750_000_000.5, UTC)
    assert "2025-06-16 00:06:40" in repr(shown)
    assert "2025-06-16 00:06:40" in shown._repr_html_()


def test_parts_show_themselves_as_the_whole_does() -> None:
    whole = run_frame()

    filtered = whole[whole.status == "failed"]
    chosen = whole.sort_values("step")[["step", "run_ms"]]
    indexed = whole.set_index("step")[["run_ms"]]
    grouped = whole.groupby("status")[["attempts"]].sum()

    assert cells(filtered)[1][:2] == ["1", "fit"]  # its label tells which row it was
    assert cells(chosen)[3] == ["0", "raw", "1,234"]
    assert cells(indexed)[:2] == [["step", "run_ms"], ["raw", "1,234"]]
    assert cells(grouped)[0] == ["status", "attempts"]
    assert cells(grouped)[1] == ["✓ done", "1"]


def test_it_is_a_frame_of_pandas_and_travels_as_one() -> None:
    shown = run_frame()

    read = pickle.loads(pickle.dumps(shown))
    copied = shown.copy()

    assert isinstance(shown, pd.DataFrame)
    assert type(read) is pd.DataFrame
    pd.testing.assert_frame_equal(read, pd.DataFrame(shown))
    assert repr(copied) == repr(shown)
    assert shown.to_string() == pd.DataFrame(shown).to_string()
    assert isinstance(shown["run_ms"], pd.Series)


def test_of_many_rows_both_ends_are_shown_with_their_labels() -> None:
    shown: Any = frames.calls_frame([call(f"f{n}", "n1") for n in range(1_000)])

    rows = cells(shown)
    text = repr(shown)

    assert [row[1] for row in rows[1:]] == ["f0", "f1", "f2", "f3", "f4", "…"] + [
        f"f{n}" for n in range(995, 1_000)
    ]
    assert "1,000 rows, 10 of them shown" in text
    assert "1,000 rows, 10 of them shown" in shown._repr_html_()
    with pd.option_context("display.max_rows", None):
        assert len(cells(shown)) == 1_001


def test_a_frame_without_rows_says_so() -> None:
    shown: Any = frame(NODES, [])

    assert repr(shown).splitlines()[-1] == "no rows"
    assert repr(shown).split()[:2] == ["node", "state"]


def test_a_number_that_names_something_has_no_comma() -> None:
    shown: Any = frame({"pid": "int64", "calls": "int64"}, [(12_345, 12_345)])

    assert cells(shown)[1] == ["12345", "12,345"]


def test_options_of_pandas_are_heeded() -> None:
    shown = run_frame()

    with pd.option_context("display.float_format", "{:.1f}".format):
        assert "1234.5" in repr(shown)
    with pd.option_context("display.notebook_repr_html", False):
        assert shown._repr_html_() is None


def test_a_changed_frame_is_shown_by_pandas() -> None:
    shown = run_frame()

    pivoted = shown.pivot(index="step", columns="status", values=["run_ms", "attempts"])
    wide: Any = frame({f"c{n}": "int64" for n in range(MOST_COLUMNS + 1)}, [])

    assert repr(pivoted) == repr(pd.DataFrame(pivoted))
    assert "dataframe" in pivoted._repr_html_()
    assert repr(wide) == repr(pd.DataFrame(wide))


def test_names_of_users_are_escaped() -> None:
    evil = "<script>alert(1)</script>" * 4
    shown: Any = frame({evil: "str", "step": "str"}, [(evil, "\u202eevil")])

    html = shown._repr_html_()

    assert "<script" not in html
    assert "\u202e" not in html + repr(shown)


def test_any_value_can_be_shown() -> None:
    shown = run_frame()

    shown["list"] = [[1, 2], (3,), None]
    shown["flag"] = [True, False, True]
    shown["mixed"] = [1.23456, "a", 7]
    shown["took"] = pd.to_timedelta([1, 2, None], unit="s")

    rows = cells(shown)
    assert [row[-4] for row in rows[1:]] == ["[1, 2]", "(3,)", UNKNOWN]
    assert [row[-3] for row in rows[1:]] == ["True", "False", "True"]
    assert [row[-2] for row in rows[1:]] == ["1.23", "a", "7"]
    assert rows[3][-1] == UNKNOWN


def test_runs_and_nodes_have_marks_too() -> None:
    nodes: Any = frame(
        {"node": NODES["node"], "state": NODES["state"]}, [("a", "dead")]
    )
    runs: Any = frame(
        {"run": RUNS["run"], "status": RUNS["status"]}, [("0a", "cancelled")]
    )

    assert "✗ dead" in repr(nodes)
    assert "■ cancelled" in repr(runs)
