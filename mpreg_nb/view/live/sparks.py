"""Small curves of the last minutes, as images that need no script."""

from collections.abc import Sequence

from mpreg_nb.view.images import image
from mpreg_nb.view.palette import BUSY

WIDTH, HEIGHT = 90, 18


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
        f'<polyline points="{points}" fill="none" stroke="{BUSY.ink.light}" '
        'stroke-width="1.4"/>',
        WIDTH,
        HEIGHT,
        title,
    )
