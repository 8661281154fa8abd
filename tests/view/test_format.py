"""What is said of the steps of a run."""

import pytest

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.view.format import counts, details, nodes, states, status

STEPS = (
    StepSnapshot(name="raw", status="done", node="n1", run_ms=1_200.0),
    StepSnapshot(name="fits", status="running", node="n1, n2", items=12, items_done=7),
    StepSnapshot(name="all", status="done", node="a, b, c", items=3, items_done=3),
    StepSnapshot(name="mail", status="done", node="n1", undo_error="OSError: gone"),
    StepSnapshot(name="late", status="skipped", cause="fits"),
    StepSnapshot(name="back", status="undone", cause="fits"),
    StepSnapshot(name="else", status="fallback", node="n2", cause="fits"),
    StepSnapshot(name="bad", status="failed", node="n2", error="ValueError: no"),
    StepSnapshot(name="saved", status="fallback", node="n2", error="KeyError: 'a'"),
    StepSnapshot(name="again", status="waiting", error="OSError: busy"),
)


def test_details_show_node_duration_progress_and_error() -> None:
    assert details(STEPS, timed=True) == {
        "raw": "on n1, 1.20 s",
        "fits": "7 of 12 done, on n1, n2",
        "all": "on 3 nodes",
        "mail": "NOT undone",
        "late": "because of fits",
        "back": "because of fits",
        "else": "on n2",
        "bad": "ValueError: no, on n2",
        "saved": "after KeyError: 'a', on n2",
        "again": "after OSError: busy",
    }


def test_in_plain_mode_there_are_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    hidden = details(STEPS)
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    shown = details(STEPS)

    assert hidden["raw"] == "on n1"
    assert shown["raw"] == "on n1, 1.20 s"


def test_a_status_is_shown_with_its_details() -> None:
    assert [status(step) for step in STEPS] == [
        "done",
        "running, 7 of 12 done",
        "done, 3 items",
        "done, NOT undone",
        "skipped",
        "undone",
        "fallback",
        "failed",
        "fallback",
        "waiting",
    ]
    assert states(STEPS)["else"] == "fallback"
    assert counts(STEPS) == {"fits": 12, "all": 3}


def test_many_nodes_are_counted() -> None:
    assert nodes(STEPS[2], most=4) == "a, b, c"
    assert nodes(STEPS[2]) == "3 nodes"
