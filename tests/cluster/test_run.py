"""Which run is meant, and how runs are listed and drawn that others began."""

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from mpreg_nb.cluster.planner import planned_diagram
from mpreg_nb.cluster.run import OWN_BYTES, OWN_RUNS, RecentRuns, chosen_run, with_own
from mpreg_nb.errors import NoRun
from mpreg_nb.protocol.messages import (
    RunSnapshot,
    RunSummary,
    StepPlan,
    StepSnapshot,
    StepStatus,
    summary_of,
)
from mpreg_nb.view.frames import RUNS, runs_frame


def run(first: str, workflow: str = "w", **changed: Any) -> RunSummary:
    fields: dict[str, Any] = {
        "run": bytes.fromhex(first.ljust(32, "0")),
        "workflow": workflow,
        "status": "done",
        "steps": 3,
        "done": 2,
        "failed": 1,
        "started_at_s": 100.0,
        "duration_ms": 1500.0,
    }
    return RunSummary(**(fields | changed))


NEWEST_FIRST = [run("aaaa11", "daily"), run("aaaa22", "beef"), run("beef", "daily")]


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("aaaa11".ljust(32, "0"), 0),
        ("aaaa2", 1),
        ("AAAA2", 1),
        ("daily", 0),
        ("beef", 1),
        ("beef0", 2),
    ],
    ids=["id", "beginning", "in capitals", "newest of it", "name first", "longer"],
)
def test_a_run_is_found_by_id_beginning_or_workflow(key: str, place: int) -> None:
    assert chosen_run(key, NEWEST_FIRST) is NEWEST_FIRST[place]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("aaaa", "several runs begin with 'aaaa': aaaa1100, aaaa2200"),
        ("aaa", "no run has the id 'aaa'"),
        ("dialy", "Did you mean 'daily'"),
        ("", "no run has the id ''"),
    ],
)
def test_what_is_not_one_run_is_refused_with_what_to_do(key: str, text: str) -> None:
    with pytest.raises(NoRun) as caught:
        chosen_run(key, NEWEST_FIRST)

    assert text in str(caught.value)


def test_without_runs_the_text_says_how_to_start_one() -> None:
    with pytest.raises(NoRun, match=r"flow\.run\(\)"):
        chosen_run("daily", [])


class Mine:
    """A run of this client; a node may have forgotten it."""

    def __init__(self, picture: RunSnapshot) -> None:
        self._snapshot = picture
        self.id = picture.run.hex()


def picture(first: str, *statuses: StepStatus, started_at_s: float) -> RunSnapshot:
    return RunSnapshot(
        run=bytes.fromhex(first.ljust(32, "0")),
        workflow="w",
        status="failed",
        steps=tuple(
            StepSnapshot(name=f"s{n}", status=s) for n, s in enumerate(statuses)
        ),
        edges=(),
        started_at_s=started_at_s,
        duration_ms=5.0,
    )


def test_own_runs_that_no_node_knows_are_listed_too() -> None:
    known = run("aa", started_at_s=50.0)
    gone = picture("bb", "done", "fallback", "failed", "skipped", started_at_s=90.0)
    mine: Any = [Mine(gone), Mine(picture("aa", started_at_s=50.0))]

    listed = with_own([known], mine)

    assert listed == [summary_of(gone), known]
    assert (listed[0].steps, listed[0].done, listed[0].failed) == (4, 2, 1)


def test_frame_of_runs_has_its_columns_with_and_without_rows() -> None:
    full, empty = runs_frame([run("aa")]), runs_frame([])

    assert list(full.columns) == list(empty.columns) == list(RUNS)
    assert full.iloc[0]["run"] == "aa".ljust(8, "0")
    assert full.iloc[0]["duration_s"] == 1.5
    assert str(full.iloc[0]["started_at"]) == "1970-01-01 00:01:40+00:00"


class Record:
    """What a client knows of a run."""

    def __init__(self, number: int) -> None:
        self.id = bytes([number])
        self.listeners: list[Any] = []
        self.ended = False
        self.results_bytes = 0

    def change(self) -> None:
        for listener in self.listeners:
            listener(self)

    def end(self, results_bytes: int = 0) -> None:
        self.ended, self.results_bytes = True, results_bytes
        self.change()

    def drop_results(self) -> None:
        self.results_bytes = 0


class Kept:
    """A run as a notebook holds it."""

    def __init__(self, record: Record, _: object) -> None:
        self.number = record.id[0]
        self.changes = 0

    def _wake(self) -> None:
        self.changes += 1


def recent_runs(unhold: Callable[[Any], object] = lambda record: None) -> Any:
    make: Any = Kept
    return RecentRuns(make, unhold)


def test_listeners_get_runs_until_they_end_and_the_newest_are_kept() -> None:
    runs, heard = recent_runs(), list[Any]()
    records = [Record(number) for number in range(OWN_RUNS + 2)]
    end = runs.listen(heard.append)

    all_runs = [runs.add(record, None) for record in records]
    records[-1].change()
    end()
    records[-1].change()

    assert heard == [*all_runs, all_runs[-1]]
    assert all_runs[-1].changes == 2
    assert list(runs.newest_first) == all_runs[:1:-1]
    assert runs.get("05") is all_runs[5]
    assert runs.get("00") is all_runs[0]  # it is not among the newest, but held
    heard.clear()
    all_runs.clear()
    assert runs.get("00") is None


def test_run_that_nobody_holds_goes_with_its_values_and_is_made_again() -> None:
    runs, record = recent_runs(), Record(7)
    run = runs.add(record, None)
    gone = ref(run)

    del run
    gc.collect()
    record.change()
    again = runs.newest_first[0]

    assert gone() is None
    assert again.number == 7
    assert runs.newest_first[0] is again


def test_results_that_came_are_held_by_bytes_and_those_of_held_runs_stay() -> None:
    runs, records = recent_runs(), [Record(number) for number in range(4)]
    held = runs.add(records[0], None)

    for record in records[1:]:
        runs.add(record, None)
    for record in records:
        record.end(OWN_BYTES // 2)

    assert held.number == 0
    assert [record.results_bytes > 0 for record in records] == [True, False, True, True]


def test_nodes_are_notified_once_when_nobody_holds_an_ended_run() -> None:
    told = list[Any]()
    runs, let_go, ended_first = recent_runs(told.append), Record(1), Record(2)
    runs.add(let_go, None)
    held = runs.add(ended_first, None)
    told.clear()  # it was told of the first, which goes on

    let_go.end()
    ended_first.end()
    before = list(told)
    del held

    assert before == [let_go]
    assert told == [let_go, ended_first]


def test_a_run_that_was_asked_for_twice_is_one_until_nobody_holds_it() -> None:
    told = list[Any]()
    runs, record = recent_runs(told.append), Record(1)
    held = runs.add(record, None)
    for number in range(2, OWN_RUNS + 2):
        runs.add(Record(number), None)
    again = Record(1)
    told.clear()  # of those that nobody holds

    assert runs.add(again, None) is held
    record.end()
    again.end()
    assert told == []
    del held
    assert [each.id for each in told] == [record.id]


def test_drawing_of_a_run_is_made_of_what_its_node_was_asked() -> None:
    plans = (
        StepPlan(name="raw", function="ingest", payload=b"", inputs=("sensor",)),
        StepPlan(
            name="fit",
            function="train",
            payload=b"",
            resources=frozenset({"gpu"}),
            inputs=("raw",),
            after=("raw",),
            attempts=3,
        ),
        StepPlan(name="mail", function="send", payload=b"", after=("fit",)),
    )

    declared = {"train": frozenset({"mnist"})}
    drawn = planned_diagram("w", plans, lambda name: declared.get(name, frozenset()))

    assert [(box.name, box.kind) for box in drawn.boxes] == [
        ("sensor", "input"),
        ("raw", "step"),
        ("fit", "step"),
        ("mail", "step"),
    ]
    assert drawn.boxes[2].resources == ("gpu", "mnist")
    assert drawn.boxes[2].notes == ("retry 2",)
    assert [(a.source, a.target, a.order_only) for a in drawn.arrows] == [
        ("sensor", "raw", False),
        ("raw", "fit", False),
        ("fit", "mail", True),
    ]
