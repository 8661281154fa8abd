"""The live panel in a real browser, fed with made-up pictures."""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mpreg_nb.cluster.live import LESS_OFTEN_S, PERIOD_S
from mpreg_nb.notebook.widgets import traits_of
from mpreg_nb.view.frames import Route
from mpreg_nb.view.live.panel import HEIGHT_PX, states
from mpreg_nb.view.markup import difference
from tests.support import panel_pictures as pictures
from tests.support.page_errors import Ear
from tests.support.panel_pictures import HTML_NAME, Picture

pytestmark = pytest.mark.browser

WORDS = ("Members", "Topology", "Routes", "Latency", "Calls", "Runs")

ShowPanel: TypeAlias = Callable[[Picture], Locator]


@pytest.fixture(scope="module")
def sheet(browser: Browser, site: str) -> Iterator[tuple[Page, Ear]]:
    """A page for all panels, one after the other."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    ear = Ear(context)
    page = context.new_page()
    page.goto(f"{site}/page/panel.html")
    page.wait_for_function("window.panel")
    yield page, ear
    context.close()


@pytest.fixture
def page(sheet: tuple[Page, Ear]) -> Iterator[Page]:
    page, ear = sheet
    page.mouse.move(0, 0)
    page.evaluate("panel.clear()")
    yield page
    assert ear.complaints == []
    assert ear.foreign == []


@pytest.fixture
def show(page: Page) -> ShowPanel:
    """Show a panel of some traits in JupyterLab's light theme."""

    def show(traits: Picture) -> Locator:
        ask(page, "(traits) => panel.show(traits)", drawn(traits))
        return page.locator(".mpreg-live").last

    return show


def drawn(traits: Picture) -> Picture:
    """The traits of a panel, its pictures drawn by the kernel."""
    fixed = {name: traits[name] for name in ("id", "views") if name in traits}
    shown = {name: made for name, made in traits.items() if name not in fixed}
    return fixed | traits_of(shown) | {"states": states(shown)}


def ask(page: Page, function: str, value: object) -> Any:
    """Call a function of the page; as text, large values arrive far sooner."""
    return page.evaluate(f"(text) => ({function})(JSON.parse(text))", json.dumps(value))


def change(page: Page, **traits: Picture) -> None:
    ask(page, "(changes) => panel.set(changes)", drawn(traits))


def sent(page: Page) -> list[dict[str, Any]]:
    """What buttons sent."""
    messages: list[dict[str, Any]] = page.evaluate("panel.model.sent")
    return [message for message in messages if message["do"] != "ready"]


def open_view(page: Page, word: str) -> Locator:
    page.get_by_role("tab", name=word).click()
    page.evaluate("panel.frames(2)")
    return page.get_by_role("tabpanel", name=word)


def row_of(page: Page, node: str) -> Locator:
    return page.locator("tbody tr").filter(
        has=page.get_by_role("rowheader", name=node, exact=True)
    )


def node_in(topology: Locator, name: str) -> Locator:
    return topology.get_by_role("img", name=re.compile(f"^{re.escape(name)}: "))


def focused(page: Page) -> str:
    words: str = page.evaluate(
        "document.activeElement.ariaLabel ?? document.activeElement.textContent"
    )
    return words


# ------------------------------------------------------------------------- panel


def test_arrow_keys_go_through_the_tabs_and_tab_leaves_them(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel(["n1", "n2"]))
    page.get_by_role("tab", name="Members").focus()

    seen = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        seen.append(focused(page))

    assert seen == ["Topology", "Routes", "Runs", "Members", "Runs", "Members"]
    assert page.get_by_role("tab", selected=True).all_text_contents() == ["Members"]
    assert page.locator("[role=tab][tabindex='0']").count() == 1
    assert page.get_by_role("tabpanel").count() == 1


def test_a_view_alone_has_no_tabs(show: ShowPanel, page: Page) -> None:
    show(pictures.panel(["n1", "n2"], views=["routes"]))

    tabs = page.get_by_role("tab").count()

    assert tabs == 0
    expect(page.get_by_role("group", name="Routes")).to_be_visible()


def test_a_view_without_data_says_what_to_do(show: ShowPanel, page: Page) -> None:
    show(pictures.nothing())

    said = {word: open_view(page, word).inner_text() for word in WORDS}

    assert "No node is known yet" in said["Members"]
    assert "No node is known yet" in said["Topology"]
    assert "train.call(rows)" in said["Routes"]
    assert "train.call(rows)" in said["Latency"]
    assert "train.call(rows)" in said["Calls"]
    assert "flow.start()" in said["Runs"]


def test_names_with_html_in_them_are_text(show: ShowPanel, page: Page) -> None:
    panel = show(pictures.panel(pictures.node_names(6)))
    change(page, head=pictures.head(HTML_NAME, note=HTML_NAME))

    seen = {
        word: HTML_NAME in (open_view(page, word).text_content() or "")
        for word in ("Members", "Routes", "Latency")
    }
    node_in(open_view(page, "Topology"), HTML_NAME).focus()
    open_view(page, "Runs")

    assert seen == dict.fromkeys(seen, True)
    assert panel.locator("img, b").count() == 0
    assert panel.locator("script").count() == 0


def test_a_frozen_picture_stands_still_until_it_is_continued(
    show: ShowPanel, page: Page
) -> None:
    names = ["n1", "n2"]
    show(pictures.panel(names))
    page.get_by_role("button", name="Pause").click()

    change(page, members=pictures.members(names, random.Random(2), dead=["n2"]))

    expect(row_of(page, "n2")).to_contain_text("alive")
    page.get_by_role("button", name="Continue").click()
    expect(row_of(page, "n2")).to_contain_text("dead")


def test_a_second_showing_looks_like_the_first_and_both_end_clean(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel(["n1", "n2"]))
    open_view(page, "Routes").get_by_role("button", name="errors").click()

    page.evaluate("panel.show(null)")

    second = page.locator(".mpreg-live").last
    expect(second.get_by_role("tab", selected=True)).to_have_text("Routes")
    expect(second.get_by_role("button", name="errors")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.evaluate("panel.end().then(() => panel.end())")
    assert page.locator(".mpreg-live").count() == 0
    assert page.evaluate("panel.model.listening") == 0


def test_the_still_is_hidden_while_the_panel_lives(show: ShowPanel, page: Page) -> None:
    holder = page.locator("#still-holder")
    put_still = """() => {
        const still = document.createElement("div");
        still.dataset.mpregStill = "panel-1";
        still.textContent = "still";
        document.querySelector("#still-holder").replaceChildren(still);
    }"""
    page.evaluate(put_still)
    show(pictures.panel(["n1"]))
    expect(holder).to_be_hidden()

    page.evaluate("document.querySelector('#still-holder').style.display = ''")
    page.evaluate(put_still)  # as a front end does when the kernel refreshes it

    expect(holder).to_be_hidden()
    page.evaluate("panel.end()")
    expect(holder).to_be_visible()


def test_a_dead_node_is_announced_once_and_numbers_never(
    show: ShowPanel, page: Page
) -> None:
    names = ["n1", "n2", "n3"]
    show(pictures.panel(names))
    spoken = page.locator("[aria-live=polite]")

    change(page, members=pictures.members(names, random.Random(2)))
    numbers_only = spoken.text_content()
    change(page, members=pictures.members(names, random.Random(3), dead=["n3"]))

    assert numbers_only == ""
    assert spoken.text_content() == "n3 is dead"


def test_what_ended_cannot_be_frozen_closed_or_killed(
    show: ShowPanel, page: Page
) -> None:
    panel = show(pictures.panel(["n1", "n2"]))

    change(page, head=pictures.head("no nodes", state="ended"))

    expect(panel).to_have_attribute("data-state", "ended")
    expect(panel.get_by_role("button", name="Pause")).to_be_hidden()
    expect(panel.get_by_role("button", name="Close")).to_be_hidden()
    expect(panel.get_by_role("button", name="Kill node n1")).to_be_hidden()


def test_a_panel_whose_kernel_is_gone_says_so(show: ShowPanel, page: Page) -> None:
    panel = show(pictures.panel(["n1"]))

    page.evaluate("panel.model.fire('comm_live_update')")

    expect(panel).to_have_attribute("data-state", "lost")
    expect(panel.get_by_role("status")).to_contain_text("kernel of this view is gone")


# ----------------------------------------------------------------------- members


def test_a_killing_is_asked_for_twice_and_sent_once(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel(["n1", "n2", "n3"]))
    row = row_of(page, "n3")

    row.get_by_role("button", name="Kill node n3").click()
    asked = sent(page)
    row.get_by_role("button", name="Kill: Really?").click()

    assert asked == []
    assert sent(page) == [{"do": "kill", "node": "n3"}]
    expect(row).to_contain_text("sent …")


def test_a_double_click_kills_nothing(show: ShowPanel, page: Page) -> None:
    show(pictures.panel(["n1", "n2", "n3"]))

    row_of(page, "n3").get_by_role("button", name="Kill node n3").dblclick()

    assert sent(page) == []
    expect(
        row_of(page, "n3").get_by_role("button", name="Kill node n3")
    ).to_be_visible()


def test_escape_takes_a_killing_back(show: ShowPanel, page: Page) -> None:
    show(pictures.panel(["n1", "n2", "n3"]))
    row_of(page, "n3").get_by_role("button", name="Kill node n3").press("Enter")

    page.keyboard.press("Escape")

    assert sent(page) == []
    assert focused(page) == "Kill node n3"


def test_only_own_nodes_that_live_can_be_killed(show: ShowPanel, page: Page) -> None:
    names = ["n1", "n2", "n3"]  # n2 is not ours
    traits = pictures.panel(names)
    traits["members"] = pictures.members(names, random.Random(1), dead=["n3"])

    show(traits)

    kill = page.get_by_role("button", name="Kill node")
    assert [button.get_attribute("aria-label") for button in kill.all()] == [
        "Kill node n1"
    ]


def test_an_answer_is_shown_and_lets_the_button_be_pressed_again(
    show: ShowPanel, page: Page
) -> None:
    panel = show(pictures.panel(["n1", "n3"]))
    row_of(page, "n1").get_by_role("button", name="Kill node n1").click()
    row_of(page, "n1").get_by_role("button", name="Kill: Really?").click()

    change(page, head=pictures.head("2 nodes", error="n1 was not started here"))

    expect(panel.get_by_role("status")).to_contain_text("n1 was not started here")
    expect(
        row_of(page, "n1").get_by_role("button", name="Kill node n1")
    ).to_be_visible()


def names_in_order(page: Page) -> list[str]:
    return page.locator(".mpreg-view-members tbody th").all_text_contents()


def test_headers_sort_names_as_people_count(show: ShowPanel, page: Page) -> None:
    names = ["n10", "n9", "n1"]
    show(pictures.panel(names))
    header = page.get_by_role("columnheader", name="Node")

    orders = [names_in_order(page)]
    for _ in range(3):
        header.get_by_role("button").click()
        page.evaluate("panel.frames(2)")
        orders.append(names_in_order(page))

    assert orders == [names, ["n1", "n9", "n10"], ["n10", "n9", "n1"], names]


def test_cells_change_in_place_and_the_focus_stays(show: ShowPanel, page: Page) -> None:
    names = [f"n{number}" for number in range(1, 41)]
    show(pictures.panel(names))
    page.get_by_role("columnheader", name="CPU").get_by_role("button").click()
    page.evaluate(
        """() => {
            window.rows = new Set(document.querySelectorAll("tbody tr"));
            document.querySelector(".mpreg-scroll").scrollTop = 200;
        }"""
    )
    row_of(page, "n7").get_by_role("button", name="Kill node n7").focus()
    scrolled = page.evaluate("document.querySelector('.mpreg-scroll').scrollTop")

    for seed in range(2, 6):
        change(page, members=pictures.members(names, random.Random(seed)))

    assert focused(page) == "Kill node n7"
    assert (
        page.evaluate("document.querySelector('.mpreg-scroll').scrollTop") == scrolled
    )
    assert page.evaluate(
        "[...document.querySelectorAll('tbody tr')].every((row) => rows.has(row))"
    )
    now = pictures.members(names, random.Random(5))["rows"]
    wanted = [row["node"] for row in sorted(now, key=lambda row: -row["cpu_percent"])]
    page.mouse.move(0, 0)
    change(page, members=pictures.members(names, random.Random(5)))
    assert names_in_order(page) == wanted


def test_changes_to_a_drawing_are_shown_and_those_to_none_wait_for_all_of_it(
    show: ShowPanel, page: Page
) -> None:
    names = ["n1", "n2", "n3"]
    show(pictures.panel(names))
    alive = pictures.members(names, random.Random(1))
    dead = pictures.members(names, random.Random(1), dead=["n2"])
    before, after = (traits_of({"members": one})["members"] for one in (alive, dead))
    ask(page, "(all) => panel.set(all)", {"members": before})

    first = {"number": 1, "changes": difference(before, after)}
    ask(page, "(changes) => panel.set(changes)", {"members": first})
    expect(row_of(page, "n2")).to_contain_text("dead")
    missed = {"number": 3, "changes": difference(after, before)}
    ask(page, "(changes) => panel.set(changes)", {"members": missed})

    expect(row_of(page, "n2")).to_contain_text("dead")
    ask(page, "(all) => panel.set(all)", {"members": before})
    expect(row_of(page, "n2")).to_contain_text("alive")


@contextmanager
def processor_time(page: Page) -> Iterator[Callable[[], float]]:
    """Give what tells how long the page's thread had a processor until now.

    Others use the processors too: the time that went by says little.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        (value,) = [m["value"] for m in metrics if m["name"] == "TaskDuration"]
        return float(value)

    yield seconds
    session.detach()


@pytest.mark.parametrize("view", ["members", "topology", "routes", "calls"])
def test_a_hundred_nodes_are_drawn_within_the_budget(
    show: ShowPanel, page: Page, view: str
) -> None:
    names = pictures.node_names(100)
    show(pictures.panel(names, views=[view]))
    made: dict[str, Callable[[random.Random], Picture]] = {
        "members": lambda lots: pictures.members(names, lots),
        "topology": lambda lots: pictures.topology(names, lots),
        "routes": lambda lots: pictures.routes(pictures.FUNCTIONS, names, lots),
        "calls": lambda lots: pictures.calls(names, lots),
    }

    updates = [made[view](random.Random(seed)) for seed in range(4)]
    with processor_time(page) as seconds:
        before_s = seconds()
        drawings = [traits_of({view: picture})[view] for picture in updates]
        ask(page, "([name, all]) => panel.draw(name, all)", [view, drawings])
        taken_ms = (seconds() - before_s) * 1e3 / len(updates)

    # It must be done before the next one comes.
    assert 0.0 < taken_ms < LESS_OFTEN_S.get(view, PERIOD_S) * 1e3


# ---------------------------------------------------------------- other views


def test_links_and_nodes_show_their_figures_on_keyboard_focus(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel(["n1", "n2", "n3"]))
    node_in(open_view(page, "Topology"), pictures.CLIENT).focus()

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")

    assert focused(page).startswith("n2: state alive, busy")
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("n2")
    expect(tip).to_contain_text("messages")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_the_heat_map_is_walked_by_arrow_keys(show: ShowPanel, page: Page) -> None:
    traits = pictures.panel(["n1", "n2", "n3"])
    traits["routes"] = {
        "functions": ["train", "clean"],
        "nodes": ["n1", "n2"],
        "cells": [
            [Route("train", "n1", 3, 0, 0.75, 1.2), None],
            [None, Route("clean", "n2", 1, 1, 0.25, 1500.0)],
        ],
    }
    show(traits)
    open_view(page, "Routes").locator("td[tabindex='0']").focus()

    heard = [focused(page)]
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
        heard.append(focused(page))

    assert heard == [
        "train on n1: 3 calls, 0 errors, median 1.20 ms",
        "train on n2: no calls",
        "clean on n2: 1 call, 1 error, median 1.50 s",
        "clean on n2: 1 call, 1 error, median 1.50 s",
        "clean on n1: no calls",
        "clean on n1: no calls",
    ]
    assert page.locator("td[tabindex='0']").count() == 1


def test_the_crosshair_reads_a_moment_by_keys(show: ShowPanel, page: Page) -> None:
    traits = pictures.panel(["n1"])
    values = {"p50_ms": 4.0, "p95_ms": 9.0, "p99_ms": 30.0}
    values |= {
        "waited_ms": 0.0,
        "queued_ms": 0.5,
        "run_ms": 3.0,
        "network_ms": 0.3,
        "serialize_ms": 0.2,
    }
    traits["latency"]["buckets"] = [
        {"at_s": -2, "calls": 7, **values},
        {"at_s": 0, "calls": 0, **dict.fromkeys(values)},
    ]
    show(traits)
    chart = open_view(page, "Latency").get_by_role("slider")
    chart.focus()

    newest = chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")

    assert newest == (
        "2 s ago: calls 7, p50 4.00 ms, p95 9.00 ms, p99 30.0 ms, run 3.00 ms, "
        "queued 0.50 ms, waited 0.00 ms, network 0.30 ms, serialize 0.20 ms"
    )
    expect(chart).to_have_attribute("aria-valuetext", "now: No calls.")
    expect(page.get_by_role("tooltip")).to_contain_text("No calls.")


def bar(start_ms: float, end_ms: float, **more: Any) -> Picture:
    values = {"function": 0, "others": 0, "status": "done", "calls": 1, "failed": 0}
    values |= {"busy_ms": end_ms - start_ms, "run": "", "step": ""}
    return {"start_ms": start_ms, "end_ms": end_ms, **values, **more}


def two_slots() -> Picture:
    """Two functions on two slots of one node, one call of them failed."""
    first = [bar(-50_000, -40_000), bar(-20_000, -8_000, function=1)]
    failed = {"status": "failed", "failed": 1, "step": "fit"}
    second = [bar(-45_000, -30_000, **failed), bar(-2_000, 0, status="running")]
    functions = [
        {"function": name, "hue": hue, "calls": 2, "failed": hue, "busy_ms": 9.0}
        for hue, name in enumerate(("train", HTML_NAME))
    ]
    nodes = [{"node": "n1", "state": "alive", "slots": [first, second]}]
    return {"window_s": 60, "now_s": 1e9, "functions": functions, "nodes": nodes}


def test_arrow_keys_walk_over_calls_and_announce_them(
    show: ShowPanel, page: Page
) -> None:
    show({**pictures.panel(["n1"]), "calls": two_slots()})
    chart = open_view(page, "Calls").get_by_role("slider")
    chart.focus()

    heard = [chart.get_attribute("aria-valuetext") or ""]
    for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        heard.append(chart.get_attribute("aria-valuetext") or "")

    now = "runs for 2.00 s, began 2.0 s ago"
    assert heard == [
        f"{HTML_NAME}: node n1, slot 1, status done, ran 12.0 s, began 20 s ago",
        "train: node n1, slot 1, status done, ran 10.0 s, began 50 s ago",
        "train: step fit, node n1, slot 2, status failed, ran 15.0 s, began 45 s ago",
        *[f"train: node n1, slot 2, status running, {now}"] * 2,
    ]
    expect(page.get_by_role("tooltip")).to_contain_text("running")
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_be_hidden()


def test_a_call_shows_its_figures_on_hover_also_in_the_next_picture(
    show: ShowPanel, page: Page
) -> None:
    show({**pictures.panel(["n1"]), "calls": two_slots()})
    view = open_view(page, "Calls")
    tip = page.get_by_role("tooltip")

    view.locator(".mpreg-call[data-status=failed]").hover()
    expect(tip).to_contain_text("fit")
    later = two_slots()
    later["now_s"] += 1.0
    for slot in later["nodes"][0]["slots"]:
        for one in slot:
            one["start_ms"] -= 1000
            one["end_ms"] -= 1000
    change(page, calls=later)

    expect(tip).to_contain_text("46 s ago")
    expect(tip).to_contain_text("fit")


def test_functions_have_the_colour_of_the_legend(show: ShowPanel, page: Page) -> None:
    show({**pictures.panel(["n1"]), "calls": two_slots()})
    view = open_view(page, "Calls")

    legend = view.locator(".mpreg-legend")
    fills = "parts => parts.map(part => getComputedStyle(part).fill)"
    keys = legend.locator("rect").evaluate_all(fills)
    bars = view.locator(".mpreg-scroll .mpreg-call").evaluate_all(fills)

    words = legend.locator(".mpreg-badge").all_text_contents()
    assert words == ["train", HTML_NAME, "failed", "running"]
    assert bars[:3] == [keys[0], keys[1], keys[0]]
    running = view.locator(".mpreg-call[data-status=running]")
    expect(running).to_have_css("fill-opacity", "0.3")  # what runs is paler
    assert view.locator(".mpreg-scroll .mpreg-call-failed").count() == 1


def test_the_head_shows_calls_a_second(show: ShowPanel, page: Page) -> None:
    panel = show(pictures.panel(["n1"]))
    rate = panel.locator(".mpreg-rate")

    change(page, head={**pictures.head("1 node"), "calls_per_s": 1234.0})
    page.keyboard.press("Shift")  # so that a focus counts as one by keyboard
    rate.focus()

    expect(rate).to_have_text("1,234 calls/s")
    expect(page.get_by_role("tooltip")).to_contain_text("most in a second")


def test_a_running_run_can_be_cancelled_after_a_question(
    show: ShowPanel, page: Page
) -> None:
    traits = pictures.panel(["n1", "n2", "n3"])
    traits["runs"]["runs"][0]["run"] = "ab12"
    show(traits)
    view = open_view(page, "Runs")

    view.get_by_role("button", name="Cancel run of").click()
    asked = sent(page)
    view.get_by_role("button", name="Cancel run: ").click()

    assert asked == []
    assert sent(page) == [{"do": "cancel", "run": "ab12"}]


def test_a_run_is_chosen_by_arrow_keys_and_stays_chosen(
    show: ShowPanel, page: Page
) -> None:
    names = ["n1", "n2", "n3"]
    show(pictures.panel(names))
    view = open_view(page, "Runs")
    view.get_by_role("radio", checked=True).focus()

    page.keyboard.press("ArrowRight")
    change(page, runs=pictures.runs(names, number=5))

    expect(view.get_by_role("radio").nth(1)).to_have_attribute("aria-checked", "true")
    expect(view.get_by_role("img", name="train, train_function, done")).to_be_visible()
    expect(view.get_by_role("button", name="Cancel run of")).to_be_hidden()


def test_the_focus_stays_on_a_step_when_its_workflow_is_run_again(
    show: ShowPanel, page: Page
) -> None:
    names = ["n1", "n2", "n3"]
    show(pictures.panel(names))
    view = open_view(page, "Runs")
    step = view.locator(".mpreg-run:visible").get_by_role("img", name="train, train")
    step.first.focus()
    again = pictures.runs(names)
    again["runs"][0] |= {"run": "ff", "workflow": "again"}

    change(page, runs=again)

    expect(view.locator(".mpreg-run:visible strong")).to_have_text("again")
    assert focused(page).startswith("train, train_function")
    view.get_by_role("button", name="Cancel run of again").click()
    view.get_by_role("button", name="Cancel run: ").click()
    assert sent(page) == [{"do": "cancel", "run": "ff"}]


# ---------------------------------------------------------------------- looks

CONTRASTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d");
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (colour) => {
        const parts = rgb(colour).map((part) => {
            const share = part / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const contrast = (one, other) => {
        const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
    };
    const root = document.querySelector(".mpreg-live");
    const page = getComputedStyle(root).backgroundColor;
    const probe = root.appendChild(document.createElement("span"));
    const found = {};
    for (const name of ["ink", "soft", "good", "warn", "bad", "busy", "odd", "idle",
        "p50", "p95", "p99"]) {
        probe.style.color = `var(--mpreg-${name})`;
        found[name] = contrast(getComputedStyle(probe).color, page);
    }
    probe.remove();
    for (const cell of document.querySelectorAll(".mpreg-heat td")) {
        const { color, backgroundColor } = getComputedStyle(cell);
        found[`cell ${cell.ariaLabel}`] = contrast(color, backgroundColor);
    }
    return found;
}"""
LEAST_CONTRAST = 4.5
"""Of text on its ground: Web Content Accessibility Guidelines 2.2, 1.4.3."""


@pytest.mark.parametrize("theme", ["theme-light-extension", "theme-dark-extension"])
def test_text_stands_out_in_both_themes(
    show: ShowPanel, page: Page, theme: str
) -> None:
    page.evaluate("theme => panel.theme(theme)", theme)
    show(pictures.panel(["n1", "n2", "n3"]))
    open_view(page, "Routes")

    contrasts = page.evaluate(CONTRASTS)

    too_weak = {name: c for name, c in contrasts.items() if c < LEAST_CONTRAST}
    assert too_weak == {}


@pytest.mark.parametrize(
    ("wish", "moves"), [("no-preference", True), ("reduce", False)]
)
def test_nothing_moves_for_those_who_do_not_want_it(
    show: ShowPanel,
    page: Page,
    wish: Literal["no-preference", "reduce"],
    moves: bool,
) -> None:
    page.emulate_media(reduced_motion=wish)
    show(pictures.panel(["n1", "n2", "n3"]))
    open_view(page, "Topology")
    open_view(page, "Runs")

    animations = page.evaluate(
        """() => document.querySelector(".mpreg-live").getAnimations({subtree: true})
            .filter((one) => one instanceof CSSAnimation).length"""
    )

    assert (animations > 0) == moves


@pytest.mark.parametrize("width", [360, 500])
def test_a_narrow_output_never_makes_the_page_scroll_sideways(
    show: ShowPanel, page: Page, width: int
) -> None:
    ask(
        page,
        "([traits, width]) => panel.show(traits, width)",
        [drawn(pictures.panel(pictures.node_names(6))), width],
    )

    wide = []
    for word in WORDS:
        open_view(page, word)
        over = page.evaluate(
            """() => {
                const root = document.querySelector(".mpreg-live");
                return root.scrollWidth - root.clientWidth;
            }"""
        )
        wide += [(word, over)] if over > 0 else []

    assert wide == []


def height(panel: Locator) -> int:
    pixels: int = panel.evaluate("panel => panel.offsetHeight")
    return pixels


@pytest.mark.parametrize("traits", [pictures.nothing, lambda: pictures.panel(["n1"])])
def test_a_panel_keeps_its_height_from_view_to_view(
    show: ShowPanel, page: Page, traits: Callable[[], Picture]
) -> None:
    panel = show(traits())

    heights = {}
    for word in WORDS:
        open_view(page, word)
        heights[word] = height(panel)
    change(page, members=pictures.members(pictures.node_names(60), random.Random(1)))
    open_view(page, "Members")

    assert {*heights.values(), height(panel)} == {HEIGHT_PX}


@pytest.mark.parametrize("width", [900, 1600])
def test_a_panel_is_as_wide_as_its_output(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width + 50, "height": 900})
    ask(
        page,
        "([traits, width]) => panel.show(traits, width)",
        [drawn(pictures.panel(["n1", "n2"])), width],
    )

    wide = {
        word: open_view(page, word).evaluate(
            "view => Math.max(...[...view.children].map(part => part.clientWidth))"
        )
        for word in ("Members", "Latency", "Calls")
    }
    page.set_viewport_size({"width": 1100, "height": 900})

    assert min(wide.values()) >= width - 30


def test_a_scrolling_part_says_so_and_is_reached_by_keyboard(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel([f"n{number}" for number in range(40)]))
    table = page.locator(".mpreg-view-members .mpreg-scroll")
    hint = page.locator(".mpreg-more")

    before = hint.text_content()
    table.focus()
    page.keyboard.press("End")

    assert before == "more below ↓"
    expect(hint).to_be_hidden()
    assert table.evaluate("table => table.scrollTop") > 0
    change(page, members=pictures.members(["n1"], random.Random(1)))
    expect(table).not_to_have_attribute("tabindex", "0")


def test_a_wide_map_says_that_there_is_more_to_the_right(
    show: ShowPanel, page: Page
) -> None:
    show(pictures.panel([f"node-number-{number}" for number in range(60)]))

    open_view(page, "Routes")

    expect(page.locator(".mpreg-more")).to_contain_text("more to the right →")
    expect(page.locator(".mpreg-view-routes .mpreg-scroll")).to_have_attribute(
        "tabindex", "0"
    )
