"""Makes the moving picture of the README: the live panel of a lively cluster.

Run: .venv/bin/python -m tests.browser.moving_picture [file]. It goes to
notebooks/images/live.gif if no file is named. One of the nodes is killed meanwhile.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.screenshots import CELLS, PATIENCE_MS, THEME_SETTING, THEMES
from tests.support.browser import chromium
from tests.support.jupyter import LAB, Server, jupyter_server, run_all

WINDOW_PX = 1320
LIVELY_MS = 20_000
FRAME_MS = 400
SCENES = (("runs", 8), ("members", 4), ("kill", 9), ("topology", 7), ("calls", 7))
"""Tab, or what is done, and how many frames are taken then."""

COLOURS = 96
KEEPS_GOING = """\
pathlib.Path("up").touch()
while not pathlib.Path("stop").exists():
    if pathlib.Path("kill").exists() and "gpu-2" in cluster.own_nodes:
        cluster.kill("gpu-2")
        pathlib.Path("kill").unlink()
    if run is None or run.status != "running":
        run = flow.start()
    for future in [score.submit(n) for n in range(random.randint(2, 30))]:
        future.exception()
    time.sleep(random.uniform(0, 0.15))"""


def main(path: Path) -> None:
    """Make the picture."""
    with tempfile.TemporaryDirectory(prefix="moving-") as place:
        for variable, name in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state")):
            own = Path(place, name)
            own.mkdir(mode=0o700)
            os.environ[variable] = str(own)
        with jupyter_server(Path(place)) as server, chromium() as browser:
            server.put_setting(THEME_SETTING, {"theme": THEMES["light"]})
            frames = take(server, browser)
    first, *others = frames
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=FRAME_MS,
        loop=0,
        optimize=True,
    )
    size_kb = path.stat().st_size // 1024
    print(f"{path}: {len(frames)} frames, {size_kb} kB")  # noqa: T201 - a program


def take(server: Server, browser: Browser) -> list[Image.Image]:
    """Return the frames of all scenes, in the same colours and of one size."""
    expect.set_options(timeout=PATIENCE_MS)
    context = browser.new_context(viewport={"width": WINDOW_PX, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    cells = [*CELLS[:3], "run = None\n" + KEEPS_GOING, "cluster.down()"]
    path = server.write("moving.ipynb", cells)
    server.open(page, path, LAB)
    run_all(page)
    panel = page.locator(".mpreg-live")
    panel.wait_for()
    page.wait_for_timeout(LIVELY_MS)
    pictures = [
        picture
        for scene, count in SCENES
        for picture in act(server, page, panel, scene, count)
    ]
    (server.folder / "stop").touch()
    server.wait_idle(page, path)
    context.close()
    server.shut_down_kernels()
    size = (
        max(picture.width for picture in pictures),
        max(picture.height for picture in pictures),
    )
    wide = [Image.new("RGB", size, "white") for _ in pictures]
    for canvas, picture in zip(wide, pictures, strict=True):
        canvas.paste(picture)
    every = Image.new("RGB", (size[0], size[1] * len(wide)))
    for number, canvas in enumerate(wide):
        every.paste(canvas, (0, size[1] * number))
    palette = every.quantize(COLOURS)
    return [
        canvas.quantize(palette=palette, dither=Image.Dither.NONE) for canvas in wide
    ]


def act(
    server: Server, page: Page, panel: Locator, scene: str, count: int
) -> list[Image.Image]:
    """Show one scene; return its frames."""
    if scene == "kill":
        (server.folder / "kill").touch()
    else:
        panel.get_by_role("tab", name=scene, exact=False).first.click()
        panel.get_by_role("tabpanel").locator("svg, table").first.wait_for()
    page.mouse.move(0, 0)
    frames = []
    for _ in range(count):
        page.wait_for_timeout(FRAME_MS)
        frames.append(Image.open(io.BytesIO(panel.screenshot())).convert("RGB"))
    return frames


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("notebooks/images/live.gif"))
