"""Small curves of the last minutes, as images that need no script."""

import base64
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 90, 18

INK = "#0072b2"
"""Blue of Okabe and Ito, which shows on white and on black."""


def spark(values: Sequence[float], title: str, *, most: float = 0.0) -> str:
    """Return a curve of `values`, newest last, as an image; "" for fewer than two.

    most: the value at the upper border, at least; the lower border is zero.
    """
    if len(values) < 2:
        return ""
    top = max(most, *values) or 1.0
    step = WIDTH / (len(values) - 1)
    points = " ".join(
        f"{place * step:.1f},{HEIGHT - 1 - value / top * (HEIGHT - 2):.1f}"
        for place, value in enumerate(values)
    )
    return image(
        f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-width="1.4"/>',
        WIDTH,
        HEIGHT,
        title,
    )


def image(drawn: str, width: float, height: float, title: str) -> str:
    """Return SVG elements as an image tag with its data, which can run nothing."""
    document = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="sans-serif">{drawn}</svg>'
    )
    data = base64.b64encode(document.encode()).decode()
    return (
        f'<img alt="{escape(title)}" width="{width:.0f}" height="{height:.0f}" '
        f'style="max-width:none" src="data:image/svg+xml;base64,{data}">'
    )
