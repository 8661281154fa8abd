"""One page about one run."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.view.report import FailureSection, OutputSection, RunReport, report_page
from mpreg_nb.view.timeline import timeline
from mpreg_nb.workflows.graph import Arrow, Box, Diagram
from tests.support.builders import node

EVIL = "<script>alert('1')</script>&\"\u202e"
SVG = "{http://www.w3.org/2000/svg}"
STEPS = (
    StepSnapshot(
        name="raw",
        status="done",
        node="n1",
        version="abcdef0123",
        attempts=1,
        queued_ms=20.0,
        run_ms=300.0,
        started_ms=20.0,
        result_bytes=4_000,
    ),
    StepSnapshot(
        name="model",
        status="failed",
        node="n2",
        attempts=3,
        queued_ms=100.0,
        run_ms=50.0,
        started_ms=420.0,
    ),
    StepSnapshot(name="report", status="skipped", cause="model"),
)
DIAGRAM = Diagram(
    name="sensor-report",
    boxes=(
        Box(name="raw", function="ingest"),
        Box(name="model", function="train", kind="map", undo="take_back"),
        Box(name="report", function="render"),
    ),
    arrows=(
        Arrow(source="raw", target="model"),
        Arrow(source="model", target="report"),
    ),
)
REPORT = RunReport(
    workflow="sensor-report",
    run="0a1b",
    status="failed",
    started_at=datetime(2026, 11, 23, 14, 5, 6, tzinfo=UTC),
    duration_ms=470.0,
    steps=STEPS,
    diagram=DIAGRAM,
    failures={
        "model": FailureSection(
            type_name="ValueError",
            message="no rows",
            traceback='Traceback:\n  File "cell", line 2, in train\n\traise it',
        )
    },
    outputs={
        "raw": OutputSection(type_name="dict", text="{'rows': [1, 2]}"),
        "big": OutputSection(omitted="3.2 GB, kept on n1"),
    },
    logs={"raw": "[n1] reading\n[n1] done"},
    nodes=(node("n1", "gpu").record, node("n2").record),
    made_by="mpreg_nb 1.0 on Python 3.11",
)


class _Page(HTMLParser):
    """Checks that tags nest, and keeps the tags, the attributes and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def read(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_shows_what_happened() -> None:
    said = read(report_page(REPORT)).said

    assert "✗ failed · 470 ms · 3 steps: 1 done, 1 failed, 1 skipped" in said
    assert "Run 0a1b, started 2026-11-23 14:05:06 UTC" in said
    assert "ValueError: no rows" in said
    assert '  File "cell", line 2, in train\n\traise it' in said
    assert "{'rows': [1, 2]}" in said
    assert "3.2 GB, kept on n1" in said
    assert "[n1] reading\n[n1] done" in said
    assert "not started: report (skipped)" in said
    assert "skipped (because of model)" in said
    assert "abcdef" in said
    assert said.rstrip().endswith("Made by mpreg_nb 1.0 on Python 3.11")


def test_the_head_of_the_page_says_why_the_run_failed() -> None:
    steps = (
        STEPS[0],
        msgspec.structs.replace(STEPS[1], error="ValueError: no <rows>"),
        STEPS[2],
    )

    page = report_page(msgspec.structs.replace(REPORT, steps=steps))

    head = page[: page.index("<h2>")]
    assert '<p class="bad">model: ValueError: no &lt;rows&gt;</p>' in head
    assert "report" not in head.replace("sensor-report", "")  # it was only skipped


def test_long_texts_of_tables_take_several_lines_and_short_ones_one() -> None:
    error = "ValueError: " + "no rows " * 20
    steps = (STEPS[0], msgspec.structs.replace(STEPS[1], error=error), STEPS[2])

    page = report_page(msgspec.structs.replace(REPORT, steps=steps))

    cells = dict(
        (re.sub("<[^>]*>", "", inner), style)
        for style, inner in re.findall(r'<td style="([^"]*)">(.*?)</td>', page)
    )
    assert "white-space:normal" in cells[f"✗ failed: {error}"]
    assert "overflow-wrap:anywhere" in cells[f"✗ failed: {error}"]
    assert "white-space:nowrap" in cells["model"]


def test_a_drawing_shrinks_with_the_page_until_it_could_not_be_read() -> None:
    page = report_page(REPORT)

    (least,) = re.findall(r'class="fit" style="min-width:(\d+)px"><svg', page)
    (wide,) = re.findall(r"<svg[^>]* width=\"(\d+)[^>]*>\s*<title>Workflow", page)
    assert int(least) == round(0.6 * int(wide))
    assert ".fit svg { display: block; max-width: 100%; height: auto; }" in page


def test_the_page_holds_the_drawing_and_the_bars() -> None:
    page = report_page(REPORT)

    titles = re.findall(r"<title>([^<]*)</title>", page)
    assert "Workflow sensor-report" in titles
    assert "Which step ran when, by node" in titles
    assert "raw: done, on n1, waited 20.0 ms, ran 300 ms" in titles
    assert "model, failed, on n2, 50.0 ms" in titles  # times, in plain mode too


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    page = report_page(REPORT)
    parsed = read(page)

    assert parsed.tags.isdisjoint({"script", "link", "img", "iframe", "object", "a"})
    names = {name for name, _ in parsed.attributes}
    assert names.isdisjoint({"src", "href", "xlink:href", "onload", "onclick"})
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\([^)]*\)", page)) == {"url(#waited)"}
    assert "@import" not in page


def test_the_page_suits_light_dark_and_paper() -> None:
    page = report_page(REPORT)

    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_nothing_that_users_wrote_becomes_markup() -> None:
    evil = RunReport(
        workflow=EVIL,
        run="00",
        status="failed",
        started_at=REPORT.started_at,
        duration_ms=1.0,
        steps=(msgspec.structs.replace(STEPS[1], name=EVIL, node=EVIL, cause=EVIL),),
        diagram=Diagram(
            name=EVIL, boxes=(Box(name=EVIL, function=EVIL, undo=EVIL),), arrows=()
        ),
        failures={EVIL: FailureSection(type_name=EVIL, message=EVIL, traceback=EVIL)},
        outputs={
            EVIL: OutputSection(type_name=EVIL, text=EVIL),
            "o": OutputSection(omitted=EVIL),
        },
        logs={EVIL: EVIL},
        nodes=(node(EVIL, EVIL).record,),
        made_by=EVIL,
    )

    page = report_page(evil)

    assert "script" not in read(page).tags
    assert "<script" not in page
    assert "\u202e" not in page


def test_what_could_not_be_undone_is_an_error() -> None:
    steps = (msgspec.structs.replace(STEPS[0], undo_error="OSError: disk & full"),)

    page = report_page(msgspec.structs.replace(REPORT, steps=steps, failures={}))

    assert "raw: its undo failed" in page
    assert "OSError: disk &amp; full" in page
    assert "done, NOT undone" in page


def test_the_page_of_a_run_that_has_just_started() -> None:
    page = report_page(
        RunReport(
            workflow="w",
            run="00",
            status="running",
            started_at=REPORT.started_at,
            duration_ms=0.0,
            steps=(StepSnapshot(name="a", status="waiting"),),
            diagram=Diagram(name="w", boxes=(Box(name="a"),), arrows=()),
            failures={},
            outputs={},
            logs={},
            nodes=(),
            made_by="it",
        )
    )

    headings = re.findall("<h2>([^<]*)</h2>", page)
    assert headings == ["Workflow", "Which step ran when", "Steps"]
    assert "not started: a (waiting)" in page


# -------------------------------------------------------------------- timeline


def test_bars_are_as_long_as_steps_ran_and_waited() -> None:
    root = ET.fromstring(timeline(STEPS, 470.0))  # noqa: S314 - our own drawing

    groups = {group[0].text or "": group for group in root.iter(f"{SVG}g")}
    raw = groups["raw: done, on n1, waited 20.0 ms, ran 300 ms"]
    waited, ran = (float(r.get("width", 0)) for r in raw.findall(f"{SVG}rect"))
    assert ran / waited == pytest.approx(15, rel=0.01)
    assert any("✗ model: failed" in (t.text or "") for t in root.iter(f"{SVG}text"))


def test_the_axis_has_a_unit_and_few_round_numbers() -> None:
    root = ET.fromstring(timeline(STEPS, 47_000.0))  # noqa: S314 - our own drawing

    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert "time since the run started, s" in texts
    assert [t for t in texts if t.isdigit()] == ["0", "10", "20", "30", "40"]


def test_a_step_that_took_no_time_still_shows() -> None:
    step = StepSnapshot(
        name="a", status="done", node="n1", started_ms=0.0, queued_ms=0.0, run_ms=0.0
    )

    root = ET.fromstring(timeline([step], 0.0))  # noqa: S314 - our own drawing

    [bar] = root.iter(f"{SVG}rect")
    assert float(bar.get("width", 0)) >= 1.0
