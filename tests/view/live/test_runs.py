from dataclasses import dataclass
from typing import Any

from mpreg_nb.protocol.messages import RunSnapshot, StepSnapshot, summary_of
from mpreg_nb.view.frames import runs_frame
from mpreg_nb.view.live import runs
from mpreg_nb.workflows.graph import Arrow, Box, Diagram

EVIL = "<b onclick=alert(1)>"


@dataclass
class Flow:
    """A run as it is looked at here."""

    picture: RunSnapshot

    def diagram(self) -> Diagram:
        steps = [step.name for step in self.picture.steps]
        return Diagram(
            name=self.picture.workflow,
            boxes=tuple(Box(name=name, function="work") for name in steps),
            arrows=tuple(
                Arrow(source=source, target=target) for source, target in self.edges()
            ),
        )

    def edges(self) -> tuple[tuple[str, str], ...]:
        return self.picture.edges


STARTED = 1_750_000_000.0
NOW = STARTED + 0.01  # before the last news


def run(number: int = 1, *, workflow: str = "report", **changed: Any) -> Flow:
    steps = (
        StepSnapshot(
            name="raw",
            status="done",
            node="n1",
            queued_ms=2.0,
            run_ms=30.0,
            started_ms=3.0,
        ),
        StepSnapshot(name="clean", status="running", node="n2", started_ms=33.0),
        StepSnapshot(name="stats", status="waiting"),
    )
    values: dict[str, Any] = {
        "run": bytes([number]) * 16,
        "workflow": workflow,
        "status": "running",
        "steps": steps,
        "edges": (("raw", "clean"), ("clean", "stats")),
        "started_at_s": STARTED,
        "duration_ms": 40.0,
    }
    return Flow(RunSnapshot(**(values | changed)))


def test_a_picture_has_the_drawing_and_a_bar_for_each_step_that_began() -> None:
    picture = runs.picture([run()], NOW)

    (shown,) = picture["runs"]
    assert (shown["run"], shown["workflow"]) == ("01" * 16, "report")
    assert (shown["steps"], shown["done"], shown["failed"]) == (3, 1, 0)
    assert shown["drawing"].states == {
        "raw": "done",
        "clean": "running",
        "stats": "waiting",
    }
    assert shown["bars"] == [
        {
            "step": "raw",
            "node": "n1",
            "status": "done",
            "start_ms": 3.0,
            "end_ms": 33.0,
        },
        {
            "step": "clean",
            "node": "n2",
            "status": "running",
            "start_ms": 33.0,
            "end_ms": None,
        },
    ]


def test_the_newest_five_are_shown() -> None:
    many = [run(number) for number in range(9, 0, -1)]

    picture = runs.picture(many, NOW)

    assert [shown["run"][:2] for shown in picture["runs"]] == [
        "09",
        "08",
        "07",
        "06",
        "05",
    ]


def test_the_frame_has_the_rows_of_the_frame_of_runs() -> None:
    flows = [run(2), run(1)]

    frame = runs.frame(runs.picture(flows, NOW))

    assert frame.equals(runs_frame([summary_of(flow.picture) for flow in flows]))


def test_what_a_picture_is_made_of_changes_with_the_steps() -> None:
    before = runs.origin([run()], NOW)

    assert runs.origin([run()], NOW) == before
    assert runs.origin([run(status="failed")], NOW) != before
    assert runs.origin([run(steps=())], NOW) != before
    assert runs.origin([run(2), run()], NOW) != before


def test_a_run_under_way_goes_on_without_news_and_one_that_ended_does_not() -> None:
    later = NOW + 5.0

    under_way = [runs.picture([run()], now)["runs"][0] for now in (NOW, later)]
    ended = runs.picture([run(status="done")], later)["runs"][0]

    assert [shown["duration_ms"] for shown in under_way] == [40.0, 5010.0]
    assert ended["duration_ms"] == 40.0
    assert runs.origin([run()], NOW) != runs.origin([run()], later)
    assert runs.origin([run(status="done")], NOW) == runs.origin(
        [run(status="done")], later
    )


def test_html_draws_the_newest_as_an_image_and_shows_names_as_text() -> None:
    html = runs.html(runs.picture([run(workflow=EVIL)], NOW))

    assert html.count('src="data:image/svg+xml;base64,') == 1
    assert EVIL not in html
    assert "► </span>" in html or "►</span> running" in html
    assert "1 of 3" in html


def test_without_runs_the_text_says_so() -> None:
    assert runs.text(runs.picture([], NOW)) == "no runs yet"
    assert "no runs yet" in runs.html(runs.picture([], NOW))
