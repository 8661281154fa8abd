"""SVG as images: they show in untrusted notebooks too, and can run nothing.

An image takes its light or dark colours from the page: `FOLLOWS` tells it the theme of
JupyterLab, Notebook 7, saved pages of nbconvert and VS Code. Other pages, and untrusted
notebooks, where a front end removes that, have what the system of the reader prefers.
"""

import base64
from html import escape

from mpreg_nb.view.palette import dark_style

CLASS = "mpreg-drawn"
DARK_PAGES = ('[data-jp-theme-light="false"]', ".vscode-dark", ".vscode-high-contrast")
LIGHT_PAGES = ('[data-jp-theme-light="true"]', ".vscode-light")
"""Selectors of what says, on pages of front ends, whether they are dark or light."""

FOLLOWS = "".join(
    (
        "<style>",
        *(
            f"{','.join(f'{page} .{CLASS}' for page in pages)}{{color-scheme:{scheme}}}"
            for pages, scheme in ((LIGHT_PAGES, "light"), (DARK_PAGES, "dark"))
        ),
        "</style>",
    )
)
"""Stands once in an output that has images."""


def image(drawn: str, width: float, height: float, title: str) -> str:
    """Return SVG elements as an image tag with its data."""
    size = f'width="{width:.0f}" height="{height:.0f}"'
    document = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">'
        f"{dark_style(drawn)}{drawn}</svg>"
    )
    return document_image(document, title, size)


def document_image(document: str, title: str, size: str = "") -> str:
    """Return an SVG document as an image tag with its data.

    size: attributes of the tag; without them it is as large as the document says.
    """
    data = base64.b64encode(document.encode()).decode()
    return (
        f'<img class="{CLASS}" alt="{escape(title)}" {size + " " if size else ""}'
        f'style="max-width:none" src="data:image/svg+xml;base64,{data}">'
    )
