"""Elements of HTML and SVG as plain lists: a picture that is made once.

An element is `[tag, attributes, *children]`; a child is an element or a text. A live
panel sends elements as JSON, or only the difference to those before, and its script
makes them one by one, so that no name is ever read as markup. A still picture is the
same elements, written as SVG.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

Element: TypeAlias = list[Any]
Node: TypeAlias = Element | str

PROPERTIES = frozenset({"key", "tip", "sort", "ask", "ends", "title_text"})
"""Entries of `attributes` that are data for the script, not attributes.

key: tells an element from its siblings, so that the script changes it in place.
tip: [title, rows, note], shown when the pointer or the focus is on the element.
sort: of a row of a table, column -> the value that it is sorted by.
ask: of a button that asks before it acts, what to say and what to send.
ends: of a link, the two nodes that it connects.
title_text: in a still picture, the text of the element's `title`.
"""

_OF_SCRIPTS = ("class", "role", "tabindex", "data-", "aria-")
"""Attributes that mean nothing in an image begin so."""


def element(tag: str, /, *children: Node | None, **attributes: Any) -> Element:
    """Return an element. None and False leave a child or an attribute out.

    In names, `_` stands for `-`, and a `_` at the end is dropped: `class_`.

    >>> element("rect", x=1.0, width=2.25, data_state="done", class_=None)
    ['rect', {'x': '1', 'width': '2.2', 'data-state': 'done'}]
    """
    written = {}
    for name, value in attributes.items():
        kind = value.__class__
        if kind is str:
            written[_NAMES[name]] = value
        elif kind is float or kind is int:
            written[_NAMES[name]] = number(value)
        elif value is True:
            written[_NAMES[name]] = ""
        elif value is not None and value is not False:
            written[name] = value  # a property
    return [tag, written, *(child for child in children if child is not None)]


class _AttributeNames(dict[str, str]):
    """Name of a keyword argument -> name of the attribute; made when first needed."""

    def __missing__(self, name: str) -> str:
        made = name if name in PROPERTIES else name.rstrip("_").replace("_", "-")
        self[name] = made
        return made


_NAMES = _AttributeNames()


def number(value: float) -> str:
    """Return a number of pixels, with one digit at most after the point."""
    return f"{value:.1f}".removesuffix(".0")


def percent(share: float) -> str:
    """Return a share of the width that there is.

    >>> percent(0.12345), percent(1.0)
    ('12.35%', '100%')
    """
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def svg_markup(node: Node) -> str:
    """Return SVG elements as markup, without what only a script needs.

    >>> svg_markup(element("text", "a < b", x=1.5, class_="mpreg-name"))
    '<text x="1.5">a &lt; b</text>'
    """
    if isinstance(node, str):
        return escape(node)
    tag, attributes, *children = node
    if "transparent" in (attributes.get("fill"), attributes.get("stroke")):
        return ""  # only something to point at
    written = "".join(
        f' {name}="{escape(value)}"'
        for name, value in attributes.items()
        if name not in PROPERTIES and not name.startswith(_OF_SCRIPTS)
    )
    title = attributes.get("title_text")
    inner = f"<title>{escape(title)}</title>" if title else ""
    inner += "".join(map(svg_markup, children))
    return f"<{tag}{written}>{inner}</{tag}>" if inner else f"<{tag}{written}/>"


# -------------------------------------------------------------------- changes

Change: TypeAlias = list[Any]
"""One step of a difference: a new text or element, `[place, count]` for `count`
children that stay as they are, or `[place, attributes, changes]` for a child that
changes; there None stands for no change, and an attribute that is None is removed."""


def difference(before: Sequence[Node], now: Sequence[Node]) -> list[Any] | None:
    """Return the changes that make the children `now` of those `before`; None if none.

    >>> difference([["p", {}, "a"], ["p", {}, "b"]], [["p", {}, "a"], ["p", {}, "c"]])
    [[0, 1], [1, None, ['c']]]
    """
    if before == now:
        return None
    keyed, loose = _by_key(before)
    changes: list[Change | Node] = []
    last: list[int] | None = None  # the run of unchanged children that is open
    for node in now:
        place = _same(node, keyed, loose, before)
        if place is None:
            changes.append(node)
            last = None
            continue
        old = before[place]
        if old == node:
            if last is not None and last[0] + last[1] == place:
                last[1] += 1
            else:
                last = [place, 1]
                changes.append(last)
            continue
        last = None
        if isinstance(old, str) or isinstance(node, str):
            raise AssertionError("a text that changes is a new text")
        attributes = _changed(old[1], node[1])
        changes.append([place, attributes, difference(old[2:], node[2:])])
    return changes


def _by_key(nodes: Sequence[Node]) -> tuple[dict[str, int], list[int]]:
    """Return the places of elements with a key, and of the others, last first."""
    keyed, loose = {}, []
    for place, node in enumerate(nodes):
        key = None if isinstance(node, str) else node[1].get("key")
        if key is None:
            loose.append(place)
        else:
            keyed[key] = place
    return keyed, loose[::-1]


def _same(
    node: Node, keyed: dict[str, int], loose: list[int], before: Sequence[Node]
) -> int | None:
    """Return the place of what was `node` before; None if it is new."""
    if isinstance(node, str):
        place = loose.pop() if loose else None
        return place if place is not None and before[place] == node else None
    key = node[1].get("key")
    place = (
        keyed.pop(key, None) if key is not None else (loose.pop() if loose else None)
    )
    if place is None or isinstance(before[place], str) or before[place][0] != node[0]:
        return None
    return place


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any] | None:
    changed = {name: value for name, value in now.items() if before.get(name) != value}
    changed |= dict.fromkeys(before.keys() - now.keys())
    return changed or None
