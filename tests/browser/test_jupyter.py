"""Live views in a real JupyterLab and Notebook 7, from Run All to the saved file."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mpreg_nb.launcher.cluster_files import ClusterFiles
from mpreg_nb.launcher.pid import end_all
from tests.support.browser import chromium
from tests.support.jupyter import (
    LAB,
    NOTEBOOK,
    PATIENCE_S,
    Front,
    Server,
    cell,
    jupyter_server,
    run_all,
    save,
)
from tests.support.leaks import nothing_left
from tests.support.page_errors import Ear
from tests.support.panel_pictures import HTML_NAME

pytestmark = [pytest.mark.browser, pytest.mark.live]

DEAD_WITHIN_S = 20.0
"""Of a killed node, until the panel shows it on a busy machine."""

NODES = {"n1": (), HTML_NAME: "gpu", "n3": ()}
WATCH = [f"import mpreg_nb as mp\ncluster = mp.up({NODES!r})", "cluster.watch()"]
RUN_UNTIL_STOPPED = """\
import pathlib, time

def wait():
    deadline = time.monotonic() + 120
    while not pathlib.Path("stop").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

flow = mp.workflow("report")
flow.step("waits", wait)
mp.config("progress_after_s", 0.2)
flow.run();
"""
WRITE_PID = """\
import os, pathlib

pathlib.Path("pid").write_text(str(os.getpid()))
print("written")
"""
WIDGET = "application/vnd.jupyter.widget-view+json"
DOWN = "cluster.down()"
CALLS_UNTIL_STOPPED = """\
import pathlib, time

@mp.function(idempotent=True)  # tried again when its node dies
def nap(seconds):
    time.sleep(seconds)

deadline = time.monotonic() + 60
while not pathlib.Path("stop").exists() and time.monotonic() < deadline:
    nap.call(0.05)
print("stopped")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("jupyter")
    with nothing_left(folder), jupyter_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    """A browser that ends before the server: what it starts is not left over."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(server: Server, page: Page) -> Iterator[Page]:
    """A page that is tall enough for all cells; kernels end with it."""
    page.set_viewport_size({"width": 1280, "height": 1800})
    yield page
    server.shut_down_kernels()


def row_of(panel: Locator, node: str) -> Locator:
    header = panel.page.get_by_role("rowheader", name=node, exact=True)
    return panel.locator("tbody tr").filter(has=header)


def prompt_of(page: Page, number: int) -> Locator:
    return cell(page, number).locator(".jp-InputArea-prompt")


@pytest.mark.parametrize("front", [LAB, NOTEBOOK], ids=lambda front: front.name)
def test_the_panel_moves_and_its_button_kills_while_a_cell_runs(
    server: Server, page: Page, ear: Ear, front: Front
) -> None:
    path = server.write(
        f"moves-{front.name}.ipynb", [*WATCH, CALLS_UNTIL_STOPPED, DOWN]
    )
    stop = server.folder / "stop"
    stop.unlink(missing_ok=True)
    server.open(page, path, front)
    ear.forget_complaints()

    run_all(page)

    panel = page.locator(".mpreg-live")
    head = panel.locator(".mpreg-head-line")
    expect(head).to_contain_text(re.compile(r"[1-9]\d* calls? from here"))
    first = head.text_content()
    expect(head).not_to_have_text(first or "")  # it moves …
    expect(prompt_of(page, 2)).to_have_text("[*]:")  # … while the cell runs
    assert page.locator("img[src=x]").count() == 0
    expect(row_of(panel, HTML_NAME)).to_contain_text("alive")

    expect(page.locator("[data-mpreg-still]")).to_be_hidden()

    reads_in_lines(panel, hovered=True)
    reads_in_lines(panel, hovered=False)

    row = row_of(panel, "n3")
    row.get_by_role("button", name="Kill node n3").click()
    row.get_by_role("button", name="Kill: Really?").click()
    expect(row).to_contain_text("dead", timeout=DEAD_WITHIN_S * 1000)

    expect(panel.get_by_role("status")).to_contain_text("n3 was killed")
    expect(prompt_of(page, 2)).to_have_text("[*]:")
    # Its keys are its own: in command mode an arrow would leave the cell.
    panel.get_by_role("tab", name="Members").press("End")
    page.keyboard.press("ArrowLeft")
    expect(panel.get_by_role("tab", selected=True)).to_have_text("Calls")
    page.keyboard.press("ArrowLeft")
    expect(panel.get_by_role("tab", selected=True)).to_have_text("Latency")
    expect(panel.get_by_role("tabpanel")).to_contain_text("p99")
    panel.get_by_role("button", name="Pause").press("Enter")
    expect(panel).to_have_attribute("data-state", "paused")
    stop.touch()
    expect(cell(page, 2)).to_contain_text("stopped")
    # The panel gives way to the still when the cluster goes down.
    expect(cell(page, 1).locator("[data-mpreg-still]")).to_be_visible()
    expect(panel).to_have_count(0)
    expect(prompt_of(page, 3)).to_have_text("[4]:")


def reads_in_lines(panel: Locator, *, hovered: bool) -> None:
    """Assert that the tip of a node has a line for each figure, none of them cut.

    Jupyter's own style for what stands in outputs reaches into the panel.
    """
    name = row_of(panel, "n3").locator(".mpreg-name")
    page = panel.page
    if hovered:
        name.hover()
    else:
        page.keyboard.press("Shift")  # so that a focus counts as one by keyboard
        name.focus()
    tip = panel.get_by_role("tooltip")
    expect(tip).to_contain_text("python")
    boxes: list[dict[str, float]] = tip.evaluate(
        "tip => [...tip.querySelectorAll('.mpreg-tip-name, .mpreg-tip-value')]"
        ".map(part => ({height: part.offsetHeight,"
        " line: parseFloat(getComputedStyle(part).lineHeight),"
        " right: part.getBoundingClientRect().right"
        " - tip.getBoundingClientRect().right}))"
    )
    assert len(boxes) == 10
    assert all(box["height"] < 1.5 * box["line"] and box["right"] <= 0 for box in boxes)
    if hovered:
        page.mouse.move(0, 0)
    else:
        name.blur()
    expect(tip).to_be_hidden()


def test_a_saved_notebook_without_kernel_and_trust_shows_the_last_state(
    server: Server, page: Page, ear: Ear
) -> None:
    path = server.write("saved.ipynb", [*WATCH, "mp.current().call('echo', 1)", DOWN])
    server.open(page, path, LAB)
    run_all(page)
    # The panel gives way to the still when the cluster goes down.
    expect(cell(page, 1).locator("[data-mpreg-still]")).to_be_visible()
    expect(page.locator(".mpreg-live")).to_have_count(0)
    expect(prompt_of(page, 3)).to_have_text("[4]:")
    save(page)
    wait_for_text(path, "data-mpreg-still")
    page.goto("about:blank")
    server.shut_down_kernels()
    ear.forget_complaints()

    assert WIDGET not in path.read_text(encoding="utf-8")
    server.open(page, path, LAB)
    expect_last_state(page)
    page.goto("about:blank")
    server.shut_down_kernels()

    take_away_trust_and_kernel(path)

    for front in (LAB, NOTEBOOK):
        server.open(page, path, front, kernel=False)
        page.get_by_role("dialog").get_by_role("button", name="No Kernel").click()
        if front is LAB:  # only there it is said
            trust = page.locator(".jp-StatusItem-trust")
            expect(trust).to_have_attribute("title", re.compile("not trusted: 0 of 4"))
        else:
            ear.forget_complaints()
        expect_last_state(page)
        assert server.sessions() == []


def test_a_saved_notebook_whose_kernel_was_killed_shows_the_last_still(
    server: Server, page: Page, ear: Ear
) -> None:
    path = server.write("killed.ipynb", [*WATCH, WRITE_PID])
    server.open(page, path, LAB)
    run_all(page)
    expect(page.locator(".mpreg-live")).to_be_visible()
    expect(cell(page, 2)).to_contain_text("written")
    save(page)
    wait_for_text(path, WIDGET)
    page.goto("about:blank")
    os.kill(int((server.folder / "pid").read_text(encoding="utf-8")), signal.SIGKILL)
    end_cluster_of_killed_kernel()
    server.shut_down_kernels()
    ear.forget_complaints()

    with page.expect_console_message(
        lambda message: "widget model not found" in message.text
    ):
        server.open(page, path, LAB)

    ear.forget_complaints()  # of the widget manager, which looked for the widget
    outputs = cell(page, 1).locator(".jp-OutputArea-child")
    expect(outputs.nth(0)).to_be_visible()
    expect(outputs.nth(0)).to_contain_text(HTML_NAME)
    expect(outputs.nth(1)).to_contain_text("model not found")
    expect(outputs.nth(1)).to_be_hidden()


def test_a_page_that_is_loaded_again_during_a_run_shows_its_end(
    server: Server, page: Page, ear: Ear
) -> None:
    path = server.write("reloaded.ipynb", [*WATCH[:1], RUN_UNTIL_STOPPED])
    stop = server.folder / "stop"
    stop.unlink(missing_ok=True)
    server.open(page, path, LAB)
    run_all(page)
    output = cell(page, 1).locator(".jp-Cell-outputArea")
    expect(output).to_contain_text("0 of 1 steps")
    expect(output.locator(".jupyter-widgets")).to_have_count(1)
    save(page)
    wait_for_text(path, WIDGET)
    page.goto("about:blank")
    ear.forget_complaints()

    server.open(page, path, LAB, kernel=False)
    expect(output).to_contain_text("0 of 1 steps")
    stop.touch()

    expect(output.locator(".mpreg-end")).to_contain_text("1 step")
    expect(output.locator("[data-mpreg-still]")).to_be_hidden()
    expect(output).not_to_contain_text("model not found")


def end_cluster_of_killed_kernel() -> None:
    """Delete the files too, which a killed kernel leaves until the next cluster."""
    ledger = ClusterFiles()
    (entry,) = ledger.read().entries
    end_all((node.process for node in entry.nodes), drain=0.0)
    ledger.remove(entry)


def expect_last_state(page: Page) -> None:
    """The still is there, and nothing that a script would have made."""
    output = cell(page, 1).locator(".jp-Cell-outputArea")
    expect(output).to_contain_text(HTML_NAME)
    expect(output).to_contain_text("this is the last state")
    expect(output).to_contain_text("n3")
    expect(output.locator("table").first).to_be_visible()
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".mpreg-live").count() == 0


def wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in path.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, f"{path.name} was not saved with {text}"
        time.sleep(0.05)


def take_away_trust_and_kernel(path: Path) -> None:
    """Change the file behind the server's back: its signature no longer fits."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    gone = {"name": "gone", "display_name": "Gone", "language": "gone"}
    notebook["metadata"] = {"kernelspec": gone}
    path.write_text(json.dumps(notebook), encoding="utf-8")
