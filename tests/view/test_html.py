import re
import time
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from mpreg_nb.client.registrations import Card
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import Snapshot, StepSnapshot
from mpreg_nb.serialize.code import Capture
from mpreg_nb.view.html import (
    MOST_FUNCTIONS,
    StatusCard,
    registration_bundle,
    run_bundle,
)
from mpreg_nb.view.images import FOLLOWS
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.workflows.graph import Arrow, Box, Diagram
from tests.support.builders import V1, node, offer, snapshot

EVIL = "<script>alert(1)</script>"
LOAD = Load(running=1, slots=2, queued=3, memory_mb=61, uptime_s=77)
STEPS = (
    StepSnapshot(
        name="raw",
        status="done",
        node="n1",
        attempts=1,
        queued_ms=0.2,
        run_ms=1234.0,
        result_bytes=812,
    ),
    StepSnapshot(name="clean", status="failed", node="n2", attempts=3, run_ms=5.0),
    StepSnapshot(name="report", status="skipped", cause="clean"),
)
DIAGRAM = Diagram(
    name="sensor-report",
    boxes=(
        Box(name="raw", function="ingest"),
        Box(name="clean", function="clean_data"),
        Box(name="report", function="render"),
    ),
    arrows=(
        Arrow(source="raw", target="clean"),
        Arrow(source="clean", target="report"),
    ),
)


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")


@pytest.fixture
def cluster() -> Snapshot:
    return snapshot(
        node("cpu-1", load=LOAD, rtt_ms=0.213),
        node("gpu-1", "ml-models", "gpu", state=MemberState.SUSPECT),
        offers=(("cpu-1", offer("train", V1, "gpu")), ("cpu-1", offer("echo"))),
    )


class _Tags(HTMLParser):
    """Counts what is open, and notes what may not be there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "style", "link", "iframe")
        self.attributes.update(name for name, _ in attrs)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_sound(html: str) -> None:
    tags = _Tags()
    tags.feed(html.replace(FOLLOWS, ""))
    assert tags.open == []
    assert tags.attributes <= {"style", "class", "src", "alt"}


def test_the_card_of_a_cluster_says_who_is_there_and_how_busy(
    cluster: Snapshot,
) -> None:
    card = StatusCard(cluster, 12)

    assert str(card).splitlines() == [
        "Cluster of 2 nodes: 1 alive, 1 suspect · 2 functions · 12 calls from here",
        "node   state      resources       functions    busy  queued  RTT, ms  "
        "memory, MB",
        "cpu-1  ● alive                            1  1 of 2       3     0.21  "
        "        61",
        "gpu-1  ◐ suspect  gpu, ml-models          2",
        "functions: echo, train",
    ]


def test_a_plain_card_holds_nothing_that_differs_from_run_to_run(
    cluster: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    card = StatusCard(cluster, 12)

    assert str(card).splitlines() == [
        "Cluster of 2 nodes: 1 alive, 1 suspect · 2 functions · 12 calls from here",
        "node   state      resources       functions",
        "cpu-1  ● alive                            1",
        "gpu-1  ◐ suspect  gpu, ml-models          2",
        "functions: echo, train",
    ]
    assert "0.21" not in card._repr_html_()


def test_the_card_says_what_carries_the_links_and_whose_certificate_ends_soon() -> None:
    ending, lasting = node("n1"), node("n2")
    soon, late = time.time() + 12.5 * 86400, time.time() + 300 * 86400
    replace = msgspec.structs.replace
    nodes = [
        replace(each, record=replace(each.record, certificate_ends_s=int(ends_s)))
        for each, ends_s in ((ending, soon), (lasting, late))
    ]

    card = StatusCard(snapshot(*nodes), 0, "by TLS to n1")

    assert str(card).splitlines()[-2:] == [
        "connected by TLS to n1",
        "the certificate of n1 ends in 12 days",
    ]
    assert "<div>connected by TLS to n1</div>" in card._repr_html_()


def test_the_card_says_how_much_memory_nodes_share() -> None:
    replace = msgspec.structs.replace
    sharing, idle = node("n1"), node("n2")
    sharing = replace(sharing, load=Load(shared_memory_mb=1200))

    card = StatusCard(snapshot(sharing, idle), 0)

    assert str(card).splitlines()[-1] == "shared memory: n1 1,200 MB"


def test_of_a_large_cluster_the_card_shows_a_part_and_says_so() -> None:
    nodes = [node(f"n{number:03}") for number in range(100)]

    text = str(StatusCard(snapshot(*nodes), 0))

    assert len(text.splitlines()) == 23
    assert "… and 80 more: cluster.nodes()" in text


def test_a_front_end_gets_only_what_it_asks_for(cluster: Snapshot) -> None:
    card = StatusCard(cluster, 0)

    assert set(card._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert set(card._repr_mimebundle_(include={"text/html"})) == {"text/html"}
    assert set(card._repr_mimebundle_(exclude={"text/html"})) == {"text/plain"}


def test_a_run_shows_each_step_with_its_state_in_text_and_in_html() -> None:
    bundle = run_bundle("<run of sensor-report: failed>", STEPS, DIAGRAM)

    assert bundle["text/plain"].splitlines() == [
        "<run of sensor-report: failed>",
        "sensor-report: 3 steps",
        "✓  raw     done on n1, 1.23 s        ingest",
        "✗  clean   failed on n2, 5.00 ms     clean_data  ← raw",
        "»  report  skipped because of clean  render      ← clean",
    ]
    html = bundle["text/html"]
    assert_sound(html)
    assert "&lt;run of sensor-report: failed&gt;" in html
    assert re.search(r">✗</span> failed</td>.*>n2</td>.*>3</td>", html)
    assert "1.23 s" in html


def test_a_plain_run_shows_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    bundle = run_bundle("a run", STEPS, DIAGRAM)

    assert "done on n1 " in bundle["text/plain"]
    assert "1.23 s" not in bundle["text/plain"] + bundle["text/html"]
    assert "queued" not in bundle["text/html"]


def captured(name: str, type_name: str, size_bytes: int) -> Capture:
    return Capture(name=name, type_name=type_name, size_bytes=size_bytes)


def card(**more: Any) -> Card:
    values: dict[str, Any] = {
        "function": "train",
        "version": "3f2a91" + "0" * 26,
        "nodes": ("gpu-1", "gpu-2"),
        "resources": ("gpu",),
        "size_bytes": 812,
        "captures": (
            captured("SCALE", "int", 5),
            captured("DATA", "ndarray", 8_000_000),
        ),
    }
    return Card(**(values | more))


def test_a_registration_names_version_nodes_and_captures_and_warns() -> None:
    bundle = registration_bundle([card()])

    first, warning = bundle["text/plain"].splitlines()
    assert first == (
        "train 3f2a91 → gpu-1, gpu-2 · 0.8 kB · captures: SCALE (int), DATA (ndarray)"
    )
    assert "DATA is 8.0 MB and is sent to every node" in warning
    html = bundle["text/html"]
    assert_sound(html)
    assert "<b>train</b> <code>3f2a91</code> → gpu-1, gpu-2 · 0.8 kB" in html
    assert "▲ DATA is 8.0 MB" in html


def test_a_registration_says_how_many_captures_it_does_not_list() -> None:
    many = tuple(captured(f"name_{n}", "int", 1) for n in range(MOST_FUNCTIONS + 2))

    html = registration_bundle([card(captures=many)])["text/html"]

    assert html.count("name_") == MOST_FUNCTIONS
    assert "… and 2 more" in html


def test_a_registration_that_no_node_can_serve_says_what_is_needed() -> None:
    html = registration_bundle([card(nodes=(), captures=())])["text/html"]

    assert "no node yet (needs gpu)" in html


def test_no_name_becomes_html() -> None:
    named = snapshot(node(EVIL, EVIL), offers=((EVIL, offer(EVIL)),))
    steps = (StepSnapshot(name=EVIL, status="failed", node=EVIL, cause=EVIL),)
    diagram = Diagram(name=EVIL, boxes=(Box(name=EVIL, function=EVIL),), arrows=())
    evil_card = card(function=EVIL, nodes=(EVIL,), captures=(captured(EVIL, EVIL, 9),))

    shown = (
        StatusCard(named, 1)._repr_html_(),
        run_bundle(EVIL, steps, diagram)["text/html"],
        registration_bundle([evil_card])["text/html"],
    )

    for html in shown:
        assert_sound(html)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("0", False), ("", True), (None, True)]
)
def test_plain_mode_is_asked_for_or_there_is_no_front_end(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool
) -> None:
    monkeypatch.delenv("MPREG_NB_PLAIN")
    if value is not None:
        monkeypatch.setenv("MPREG_NB_PLAIN", value)

    assert plain() is expected


def test_the_card_of_a_run_shows_maps_fallbacks_and_undone_steps() -> None:
    steps = (
        StepSnapshot(name="raw", status="undone", cause="report"),
        StepSnapshot(name="clean", status="fallback", node="n1"),
        StepSnapshot(name="report", status="running", items=12, items_done=7),
    )

    text = run_bundle("run", steps, DIAGRAM)["text/plain"]
    html = run_bundle("run", steps, DIAGRAM)["text/html"]

    assert "undone because of report" in text
    assert "fallback on n1" in text
    assert "running 7 of 12 done" in text
    assert "</span> running, 7 of 12 done</td>" in html
    assert "</span> fallback</td>" in html
    assert "</span> undone</td>" in html
