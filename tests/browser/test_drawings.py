"""Drawings of workflows in a page that has a theme."""

from io import BytesIO

import pytest
from matplotlib.image import imread
from playwright.sync_api import Page

from mpreg_nb.view.diagram_svg import Drawing
from mpreg_nb.view.palette import GOOD, IDLE
from mpreg_nb.workflows.graph import Arrow, Box, Diagram

pytestmark = pytest.mark.browser

DRAWING = Drawing(
    Diagram(
        name="report",
        boxes=(Box(name="raw", function="ingest"), Box(name="clean")),
        arrows=(Arrow(source="raw", target="clean"),),
    ),
    states={"raw": "done"},
)


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize("dark", [False, True], ids=["light page", "dark page"])
def test_a_drawing_has_the_theme_of_the_jupyter_page_whatever_the_system_has(
    page: Page, site: str, system: str, dark: bool
) -> None:
    page.emulate_media(color_scheme="dark" if system == "dark" else "light")
    page.goto(f"{site}/page/panel.html")
    page.wait_for_function("window.panel")
    theme = f"theme-{'dark' if dark else 'light'}-extension"
    page.evaluate("theme => panel.theme(theme)", theme)

    page.evaluate(
        "html => { document.querySelector('#panel-holder').innerHTML = html; }",
        DRAWING._repr_html_(),
    )
    page.locator("img").evaluate("image => image.decode()")

    colours = colours_of(page.locator("img").screenshot())
    for tone in (GOOD, IDLE):
        assert tone.ground.on(dark=dark) in colours
        assert tone.ground.on(dark=not dark) not in colours


def colours_of(png: bytes) -> set[str]:
    pixels = imread(BytesIO(png), format="png")[..., :3].reshape(-1, 3)
    found = {tuple(round(255 * part) for part in pixel) for pixel in pixels.tolist()}
    return {"#" + bytes(colour).hex() for colour in found}
