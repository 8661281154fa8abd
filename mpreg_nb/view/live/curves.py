"""A chart of parts that are stacked, with a curve over them, as an image."""

from collections.abc import Sequence
from html import escape

from mpreg_nb.units import duration
from mpreg_nb.view.images import image
from mpreg_nb.view.palette import PARTS, PERCENTILES, SOFT

WIDTH, HEIGHT = 560, 120
LEFT, TOP, BOTTOM = 58, 18, 14

GREY = SOFT.light
P95 = PERCENTILES["p95"].light


def stacked(
    parts_ms: Sequence[Sequence[float]],
    names: Sequence[str],
    over_ms: Sequence[float | None],
    title: str,
) -> str:
    """Return an image: a bar for each of `parts_ms`, and marks of `over_ms`.

    parts_ms: for each moment the parts, in the order of `names`.
    """
    top_ms = max(*map(sum, parts_ms), *(ms or 0.0 for ms in over_ms)) or 1.0
    room = HEIGHT - TOP - BOTTOM
    step = (WIDTH - LEFT) / len(parts_ms)
    drawn = [
        _text(LEFT - 6, TOP + 4, duration(top_ms), "end"),
        _text(LEFT - 6, HEIGHT - BOTTOM, "0", "end"),
        _text(LEFT, HEIGHT - 2, "2 min ago"),
        _text(WIDTH, HEIGHT - 2, "now", "end"),
        f'<path d="M{LEFT},{HEIGHT - BOTTOM}H{WIDTH}" stroke="{GREY}"/>',
    ]
    x = LEFT
    for name, ink in ((name, PARTS[name].fill.light) for name in names):
        drawn.append(f'<rect x="{x}" y="2" width="9" height="9" fill="{ink}"/>')
        drawn.append(_text(x + 13, 10, name))
        x += 26 + 7 * len(name)
    drawn.append(f'<path d="M{x},7h10" stroke="{P95}" stroke-width="2"/>')
    drawn.append(_text(x + 14, 10, "p95"))
    for place, (parts, over) in enumerate(zip(parts_ms, over_ms, strict=True)):
        left, y = LEFT + place * step, float(HEIGHT - BOTTOM)
        for part, name in zip(parts, names, strict=True):
            high = part / top_ms * room
            if high >= 0.1:
                y -= high
                drawn.append(
                    f'<rect x="{left:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" '
                    f'height="{high:.1f}" fill="{PARTS[name].fill.light}"/>'
                )
        if over is not None:
            y = HEIGHT - BOTTOM - over / top_ms * room
            drawn.append(
                f'<path d="M{left:.1f},{y:.1f}h{step * 0.8:.1f}" stroke="{P95}" '
                'stroke-width="2"/>'
            )
    return image("".join(drawn), WIDTH, HEIGHT, title)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="10" fill="{GREY}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
