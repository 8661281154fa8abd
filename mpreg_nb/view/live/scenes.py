"""A scene, which scripts draw, drawn as an image for who has no script."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mpreg_nb.view.diagram_svg import INK, LINE, LOOKS, PLAIN, SOFT_INK
from mpreg_nb.view.diagram_text import printable
from mpreg_nb.view.format import cut
from mpreg_nb.view.images import image

PADDING = 10.0
DASHES = {"order": ' stroke-dasharray="5 4"', "undo": ' stroke-dasharray="2 3"'}


def drawn(scene: Mapping[str, Any], title: str) -> str:
    """Return the boxes and arrows of `scene` as an image; "" if there are none."""
    if not scene["boxes"]:
        return ""
    parts = [_arrow(arrow) for arrow in scene["arrows"]]
    parts += [_box(box) for box in scene["boxes"]]
    return image("".join(parts), scene["width"], scene["height"], printable(title))


def _arrow(arrow: Mapping[str, Any]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in arrow["points"])
    x, y = arrow["points"][-1]
    return (
        f'<polyline points="{points}" fill="none" stroke="{LINE}" '
        f'stroke-width="1.5"{DASHES.get(arrow["kind"], "")}/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINE}"/>'
    )


def _box(box: Mapping[str, Any]) -> str:
    look = LOOKS.get(box["status"], PLAIN)
    x, y, width, height = box["x"], box["y"], box["w"], box["h"]
    dash = "2 3" if box["kind"] == "undo" else look.dash
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
        f'fill="{look.ground}" stroke="{look.ink}"'
        + (f' stroke-dasharray="{dash}"/>' if dash else "/>")
    ]
    said = " ".join(filter(None, (box["mark"], box["status"])))
    lines = [
        (box["name"] if box["kind"] != "undo" else "", 13.0, INK, ' font-weight="600"'),
        (box["function"], 11.5, SOFT_INK, ""),
        (" · ".join(filter(None, (said, box["detail"]))), 11.0, look.ink, ""),
    ]
    down = y + (4.0 if box["kind"] == "undo" else PADDING)
    for text, size, ink, weight in lines:
        if not text:
            continue
        down += size + 1.0
        shown = escape(cut(text, size, width - 2 * PADDING))
        parts.append(
            f'<text x="{x + PADDING:.1f}" y="{down:.1f}" font-size="{size}" '
            f'fill="{ink}"{weight}>{shown}</text>'
        )
        down += 3.0
    return "".join(parts)
