"""Drawings as images that follow the theme of the page."""

import base64
import re

from mpreg_nb.view.images import CLASS, FOLLOWS, image
from mpreg_nb.view.palette import GOOD, INK


def document_of(tag: str) -> str:
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', tag)
    assert found is not None
    return base64.b64decode(found[1]).decode()


def test_an_image_has_a_dark_value_for_each_of_its_colours_and_no_other() -> None:
    drawn = f'<rect fill="{GOOD.ground.light}" stroke="{INK.light}"/>'

    document = document_of(image(drawn, 10, 10, "title"))

    assert f'[fill="{GOOD.ground.light}"]{{fill:{GOOD.ground.dark}}}' in document
    assert f'[stroke="{INK.light}"]{{stroke:{INK.dark}}}' in document
    assert document.count("]{") == 2


def test_an_image_without_colours_has_no_style() -> None:
    assert "<style" not in document_of(image("<path/>", 10, 10, "title"))


def test_a_title_is_text() -> None:
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in image("<path/>", 10, 10, 'a "b" <c>')


def test_the_theme_of_a_jupyter_page_reaches_the_images() -> None:
    dark = re.findall(r"([^{}>]*)\{color-scheme:dark\}", FOLLOWS)

    assert f'[data-jp-theme-light="false"] .{CLASS}' in dark[0]
