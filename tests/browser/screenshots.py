"""Takes screenshots of every live view of a lively cluster, in both themes.

Run: .venv/bin/python -m tests.browser.screenshots [folder]. They go to
build/screenshots if no folder is named.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.browser import chromium
from tests.support.jupyter import LAB, Server, jupyter_server, run_all

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
THEME_SETTING = "@jupyterlab/apputils-extension:themes"
PATIENCE_MS = 60_000
WINDOWS_PX = (900, 1600)
TIPPED = {
    "members": ".mpreg-name",
    "topology": ".mpreg-node-ground",
    "calls": ".mpreg-scroll .mpreg-call",
    "runs": ".mpreg-run:not([hidden]) .mpreg-box-ground",
}
"""View -> what is pointed at there, so that its figures show."""

LIVELY_MS = 40_000
"""So long the cluster works before pictures are taken: the curves need some past."""

CELLS = [
    """\
import mpreg_nb as mp

cluster = mp.up({
    "gpu-1": {"gpu", "ml-models"},
    "gpu-2": {"gpu"},
    "cpu-1": {"cpu", "dataset-A"},
    "db-1": {"storage", "raw-data"},
})""",
    "cluster.watch()",
    """\
import pathlib, random, time

@mp.function(resources={"raw-data"})
def ingest(sensor):
    time.sleep(random.uniform(0.1, 0.3))
    return [random.gauss(20, 4) for _ in range(20_000)]

@mp.function
def clean(values):
    time.sleep(random.uniform(0.2, 0.5))
    return sorted(values)

@mp.function(resources={"gpu"})
def train(values, lr=0.1):
    time.sleep(random.uniform(0.3, 1.2))
    return sum(values) / len(values)

@mp.function
def render(*parts):
    time.sleep(0.2)
    return str(parts)

@mp.function
def score(value):
    total = sum(index * index for index in range(random.randint(2_000, 90_000)))
    if random.random() < 0.02:
        raise ValueError("no such sensor")
    return total

flow = mp.workflow("sensor-report")
raw = flow.step("raw", ingest, "sensor-7").on("raw-data")
tidy = flow.step("tidy", clean, raw)
small = flow.step("train small", train, tidy, lr=0.1).on("gpu")
large = flow.step("train large", train, tidy, lr=0.4).on("gpu")
best = flow.step("best", render, small, large).retry(2)
flow.step("report", render, best, raw[0])""",
    """\
started = time.monotonic()
run = None
while not pathlib.Path("stop").exists():
    if run is None or run.status != "running":
        run = flow.start()
    waiting = [score.submit(number) for number in range(random.randint(2, 30))]
    for future in waiting:
        future.exception()
    time.sleep(random.uniform(0, 0.15))""",
    "cluster.down()",
    "flow",
    "run",
]


def main(folder: Path) -> None:
    """Take the pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shots-") as place:
        for variable, name in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state")):
            own = Path(place, name)
            own.mkdir(mode=0o700)
            os.environ[variable] = str(own)
        with jupyter_server(Path(place)) as server, chromium() as browser:
            for theme, words in THEMES.items():
                server.put_setting(THEME_SETTING, {"theme": words})
                take(server, browser, theme, folder)


def take(server: Server, browser: Browser, theme: str, folder: Path) -> None:
    """Take pictures of each view, narrow and wide, of tips, and of the end."""
    expect.set_options(timeout=PATIENCE_MS)
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    path = server.write(f"{theme}.ipynb", CELLS)
    stop = server.folder / "stop"
    stop.unlink(missing_ok=True)
    server.open(page, path, LAB)
    run_all(page)
    panel = page.locator(".mpreg-live")
    panel.wait_for()
    page.wait_for_timeout(LIVELY_MS)
    for width in WINDOWS_PX:
        page.set_viewport_size({"width": width, "height": 1500})
        for tab in panel.get_by_role("tab").all():
            tab.click()
            word = (tab.text_content() or "").lower()
            view = panel.get_by_role("tabpanel")
            view.locator("svg, table").first.wait_for()
            page.mouse.move(0, 0)
            panel.screenshot(path=folder / f"{word}-{theme}-{width}.png")
            if word in TIPPED:
                view.locator(TIPPED[word]).last.hover(force=True)
                panel.get_by_role("tooltip").wait_for()
                panel.screenshot(path=folder / f"{word}-tip-{theme}-{width}.png")
        page.screenshot(path=folder / f"window-{theme}-{width}.png")
    stop.touch()
    server.wait_idle(page, path)
    still = page.locator("[data-mpreg-still]")
    still.wait_for()
    page.screenshot(path=folder / f"end-{theme}.png")
    still.screenshot(path=folder / f"still-{theme}.png")
    context.close()
    server.shut_down_kernels()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/screenshots"))
