"""Nodes on a circle, with lines for their links, as an image."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mpreg_nb.view.html import GREY, STATES
from mpreg_nb.view.live.sparks import image
from mpreg_nb.view.text import clipped, printable

RADIUS = 92.0
MARGIN_X, MARGIN_Y = 96.0, 26.0
MOST_NAMES = 36
"""With more nodes names would lie over each other; only marks are drawn."""

THIN, THICK = 0.8, 5.0
"""Of lines: without traffic, and with the most of all."""


def circle(
    nodes: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]], title: str
) -> str:
    """Return an image of the nodes of a topology; the client is in the middle."""
    around = [node["node"] for node in nodes if node["kind"] == "node"]
    middle_x, middle_y = RADIUS + MARGIN_X, RADIUS + MARGIN_Y
    places = {
        node["node"]: (middle_x, middle_y) for node in nodes if node["kind"] == "client"
    }
    for place, name in enumerate(around):
        angle = 2 * math.pi * place / len(around) - math.pi / 2
        places[name] = (
            middle_x + RADIUS * math.cos(angle),
            middle_y + RADIUS * math.sin(angle),
        )
    most = max((link["bytes_per_s"] for link in links), default=0.0) or 1.0
    drawn = [
        _line(places[link["a"]], places[link["b"]], link["bytes_per_s"] / most)
        for link in links
    ]
    for node in nodes:
        named = len(around) <= MOST_NAMES
        drawn += _node(node, *places[node["node"]], middle_x, named=named)
    return image("".join(drawn), 2 * middle_x, 2 * middle_y, title)


def _line(start: tuple[float, float], end: tuple[float, float], share: float) -> str:
    (x, y), (end_x, end_y) = start, end
    width = THIN + (THICK - THIN) * math.sqrt(share)
    return (
        f'<path d="M{x:.1f},{y:.1f}L{end_x:.1f},{end_y:.1f}" stroke="{GREY}" '
        f'stroke-width="{width:.1f}" stroke-opacity="0.7"/>'
    )


def _node(
    node: Mapping[str, Any], x: float, y: float, middle_x: float, *, named: bool
) -> list[str]:
    client = node["kind"] == "client"
    drawn = [_mark(node["state"], x, y) if not client else _screen(x, y)]
    if named or client:
        right, left = client or x > middle_x + 5, x < middle_x - 5
        anchor = "start" if right else "end" if left else "middle"
        shift = 13 if right else -13 if left else 0
        down = 18 if client else 4 if right or left else 22 if y > RADIUS else -14
        name = escape(clipped(printable(node["node"]), 16))
        drawn.append(
            f'<text x="{x + shift:.1f}" y="{y + down:.1f}" font-size="11" '
            f'fill="{GREY}" text-anchor="{anchor}">{name}</text>'
        )
    return drawn


def _mark(state: str, x: float, y: float) -> str:
    """Return a disc, a half disc, a cross or a ring: alive, suspect, dead, left."""
    ink = STATES[state][1]
    ground = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="#ffffff" stroke="{ink}" '
        'stroke-width="1.5"/>'
    )
    if state == "alive":
        return f'{ground}<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{ink}"/>'
    if state == "suspect":
        return f'{ground}<path d="M{x:.1f},{y - 6:.1f}a6,6 0 0 1 0,12z" fill="{ink}"/>'
    if state == "dead":
        return (
            f'{ground}<path d="M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8" '
            f'stroke="{ink}" stroke-width="2"/>'
        )
    return ground


def _screen(x: float, y: float) -> str:
    return (
        f'<path d="M{x - 8:.1f},{y - 7:.1f}h16v11h-16zm-3,14h22" fill="#ffffff" '
        f'stroke="{GREY}" stroke-width="1.5"/>'
    )
