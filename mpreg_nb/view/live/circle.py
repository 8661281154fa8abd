"""Nodes on a circle, with lines for their links, as an image."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mpreg_nb.view.diagram_text import clipped, printable
from mpreg_nb.view.format import text_width
from mpreg_nb.view.images import image
from mpreg_nb.view.palette import INK, LINE, NODES, PAGE, SOFT

RADIUS = 92.0
PER_NODE = 10.0
"""Of the circle, in pixels, at least: it grows with the number of nodes."""

MARGIN_X, MARGIN_Y = 96.0, 26.0
MOST_NAMES = 36
"""With more nodes names would lie over each other; only marks are drawn."""

MOST_LINES = 300
"""Links that are drawn, those with the most traffic; more would be one grey disc."""

FEW_LINES = 60
"""More lines than these are drawn the fainter, the more there are."""

THIN, THICK = 0.8, 5.0
"""Of lines: without traffic, and with the most of all."""


def circle(
    nodes: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]], title: str
) -> str:
    """Return an image of the nodes of a topology; the client is in the middle."""
    around = [node["node"] for node in nodes if node["kind"] == "node"]
    radius = max(RADIUS, len(around) * PER_NODE / (2 * math.pi))
    middle_x, middle_y = radius + MARGIN_X, radius + MARGIN_Y
    places = {
        node["node"]: (middle_x, middle_y) for node in nodes if node["kind"] == "client"
    }
    for place, name in enumerate(around):
        angle = 2 * math.pi * place / len(around) - math.pi / 2
        places[name] = (
            middle_x + radius * math.cos(angle),
            middle_y + radius * math.sin(angle),
        )
    most = max((link["bytes_per_s"] for link in links), default=0.0) or 1.0
    busiest = sorted(links, key=lambda link: -link["bytes_per_s"])[:MOST_LINES]
    faint = 0.7 * min(1.0, math.sqrt(FEW_LINES / max(1, len(busiest))))
    drawn = [
        _line(places[link["a"]], places[link["b"]], link["bytes_per_s"] / most, faint)
        for link in busiest
    ]
    for node in nodes:
        named = len(around) <= MOST_NAMES
        drawn += _node(node, *places[node["node"]], middle_x, named=named)
    lowest = max(y for _, y in places.values())
    return image("".join(drawn), 2 * middle_x, lowest + MARGIN_Y, title)


def _line(
    start: tuple[float, float], end: tuple[float, float], share: float, faint: float
) -> str:
    (x, y), (end_x, end_y) = start, end
    width = (THIN + (THICK - THIN) * math.sqrt(share)) * min(1.0, 1.4 * faint)
    return (
        f'<path d="M{x:.1f},{y:.1f}L{end_x:.1f},{end_y:.1f}" stroke="{LINE.light}" '
        f'stroke-width="{width:.1f}" stroke-opacity="{faint:.2f}"/>'
    )


def _node(
    node: Mapping[str, Any], x: float, y: float, middle_x: float, *, named: bool
) -> list[str]:
    client = node["kind"] == "client"
    if client:
        return [_screen(x, y), _sign(node["node"], x, y + 22)]
    drawn = [_mark(node["state"], x, y, 9.0 if named else 4.5)]
    if named:
        right, left = x > middle_x + 5, x < middle_x - 5
        anchor = "start" if right else "end" if left else "middle"
        shift = 13 if right else -13 if left else 0
        down = 4 if right or left else 22 if y > middle_x else -14
        name = escape(clipped(printable(node["node"]), 16))
        drawn.append(
            f'<text x="{x + shift:.1f}" y="{y + down:.1f}" font-size="11" '
            f'fill="{SOFT.light}" text-anchor="{anchor}">{name}</text>'
        )
    return drawn


def _mark(state: str, x: float, y: float, radius: float) -> str:
    """Return a disc, a half disc, a cross or a ring: alive, suspect, dead, left."""
    ink = NODES[state].ink.light
    inner = radius * 2 / 3
    ground = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{PAGE.light}" '
        f'stroke="{ink}" stroke-width="{radius / 6:.1f}"/>'
    )
    if state == "alive":
        return f'{ground}<circle cx="{x:.1f}" cy="{y:.1f}" r="{inner}" fill="{ink}"/>'
    if state == "suspect":
        return (
            f'{ground}<path d="M{x:.1f},{y - inner:.1f}a{inner},{inner} 0 0 1 '
            f'0,{2 * inner}z" fill="{ink}"/>'
        )
    if state == "dead":
        arm = radius * 0.45
        return (
            f'{ground}<path d="M{x - arm:.1f},{y - arm:.1f}l{2 * arm:.1f},'
            f'{2 * arm:.1f}m0,{-2 * arm:.1f}l{-2 * arm:.1f},{2 * arm:.1f}" '
            f'stroke="{ink}" stroke-width="{radius / 4.5:.1f}"/>'
        )
    return ground


def _screen(x: float, y: float) -> str:
    return (
        f'<path d="M{x - 8:.1f},{y - 7:.1f}h16v11h-16zm-3,14h22" fill="{PAGE.light}" '
        f'stroke="{LINE.light}" stroke-width="1.5"/>'
    )


def _sign(name: str, x: float, y: float) -> str:
    """Return a name on a ground of its own, as lines go everywhere under it."""
    width = text_width(name, 10.5) + 10
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - 11:.1f}" width="{width:.1f}" '
        f'height="15" rx="4" fill="{PAGE.light}" stroke="{LINE.light}"/>'
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="10.5" fill="{INK.light}" '
        f'text-anchor="middle">{escape(printable(name))}</text>'
    )
