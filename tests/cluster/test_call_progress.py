"""The line of what is waited for, and what is left of it at the end."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from mpreg_nb.cluster import call_progress
from mpreg_nb.cluster.call_progress import MapCount, MapProgress, RunProgress
from mpreg_nb.protocol.messages import StepSnapshot, StepStatus
from mpreg_nb.view.html import run_bundle
from mpreg_nb.workflows.graph import Box, Diagram


@dataclass
class Clock:
    """Time that goes when it is told to."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(call_progress, "time", made)
    return made


@dataclass
class Looks:
    """How far a map is."""

    ended: int = 0
    failed: int = 0
    total: int | None = 2_000

    def __call__(self) -> MapCount:
        return MapCount(
            ended=self.ended, failed=self.failed, total=self.total, active=()
        )


@dataclass
class StandIn:
    """As much of a run as its wait needs."""

    steps: tuple[StepSnapshot, ...]
    kinds: dict[str, Any] = field(default_factory=dict)
    id: str = "0a1b"
    name: str = "report"

    def diagram(self) -> Diagram:
        boxes = (
            Box(name=s.name, kind=self.kinds.get(s.name, "step")) for s in self.steps
        )
        return Diagram(name=self.name, boxes=tuple(boxes), arrows=())

    def has_ended(self, seconds: float) -> bool:
        return True

    def _repr_mimebundle_(self) -> dict[str, str]:
        return run_bundle("<run of report>", self.steps, self.diagram())


def step(name: str, status: StepStatus, **more: Any) -> StepSnapshot:
    return StepSnapshot(name=name, status=status, **more)


def waited(run: StandIn) -> RunProgress:
    return RunProgress(run)


# ------------------------------------------------------------------------ maps


def test_a_map_shows_rate_and_time_left(clock: Clock) -> None:
    looks = Looks()
    waits = MapProgress("train", looks)

    clock.now, looks.ended = 105.0, 500
    line = waits.line()

    assert line == (
        "train · 500 of 2,000 · 5.0 s · 100/s · about 15 s left · 0 in progress"
    )
    assert "width:25.0%" in waits.bundle()["text/html"]


def test_a_map_of_unknown_length_shows_no_time_left(clock: Clock) -> None:
    looks = Looks(total=None)
    waits = MapProgress("train", looks)

    clock.now, looks.ended = 104.0, 10

    assert waits.line() == "train · 10 calls · 4.0 s · 2.5/s · 0 in progress"


def test_of_a_map_one_short_line_is_left(clock: Clock) -> None:
    looks = Looks()
    waits = MapProgress("train", looks)

    clock.now, looks.ended = 124.0, 2_000
    bundle = waits.bundle("done")

    assert bundle["text/plain"] == "train · 2,000 calls · 24.0 s · 83/s"
    assert "width:" not in bundle["text/html"]


@pytest.mark.parametrize(
    ("ended", "failed", "left"),
    [
        ("failed", 1, "train · 412 of 2,000 · 4.0 s · 103/s · 1 failed"),
        ("stopped", 0, "train · 412 of 2,000 · stopped · 4.0 s · 103/s"),
    ],
)
def test_a_map_that_did_not_finish_says_why(
    clock: Clock, ended: str, failed: int, left: str
) -> None:
    looks = Looks()
    waits = MapProgress("train", looks)

    clock.now, looks.ended, looks.failed = 104.0, 412, failed

    assert waits.line(ended) == left


# ------------------------------------------------------------------------ runs


def test_a_run_shows_how_many_map_items_are_done_and_which_steps_failed(
    clock: Clock,
) -> None:
    run = StandIn(
        (
            step("raw", "done"),
            step("fits", "running", items=200, items_done=0),
            step("try", "running", error="OSError: no"),
            step("bad", "failed", error="ValueError: no"),
            step("last", "waiting"),
        ),
        kinds={"fits": "map"},
    )
    waits = waited(run)

    clock.now = 104.0
    run.steps = (
        run.steps[0],
        step("fits", "running", items=200, items_done=40),
        *run.steps[2:],
    )

    assert waits.line() == (
        "report · 2 of 5 steps · 4.0 s · 10/s · about 16 s left · 1 failed"
        " · 1 tried again · fits 40 of 200, try running"
    )


def test_a_run_shows_no_time_left_while_the_length_of_its_maps_is_unknown(
    clock: Clock,
) -> None:
    run = StandIn((step("fits", "waiting"), step("a", "waiting")), {"fits": "map"})
    waits = waited(run)

    clock.now = 104.0
    run.steps = (step("fits", "running"), step("a", "done"))

    assert waits.line() == "report · 1 of 2 steps · 4.0 s · 0.25/s · fits running"


def test_a_run_is_drawn_while_it_runs_and_folded_into_a_line_at_the_end(
    clock: Clock,
) -> None:
    run = StandIn((step("raw", "running"), step("last", "waiting")))
    waits = waited(run)
    during = waits.bundle()
    clock.now, run.steps = 103.0, (step("raw", "done"), step("last", "done"))

    after = waits.bundle("done")

    assert during["text/plain"].startswith("report · 0 of 2 steps · 0.0 s")
    assert "► " in during["text/plain"]
    assert "<details" not in during["text/html"]
    assert after["text/plain"] == "report · 2 steps · 3.0 s · 0.67/s"
    assert "<summary>report · 2 steps · 3.0 s · 0.67/s</summary>" in after["text/html"]
    assert "<img " in after["text/html"]


def test_a_failed_run_is_folded_too_and_says_how_many_failed(clock: Clock) -> None:
    run = StandIn((step("raw", "failed", error="E: x"), step("last", "skipped")))

    assert waited(run).line("failed") == "report · 2 steps · 0.0 s · 1 failed"
