"""The one rule for names of nodes, functions, resources, steps and workflows."""

import difflib
from collections.abc import Iterable

LONGEST_NAME = 128
"""Characters; long enough for a qualified name, short enough for a table."""

FORBIDDEN = ",:/"
"""Separators of the `%mpreg` line and of URLs."""


def check_name(kind: str, text: object) -> str:
    """Return `text` if it may name a `kind` (node, function, resource, step).

    A name has 1 to 128 printable characters, none of them a comma, a colon or
    a slash, and does not begin or end with a space.

    Raises:
        TypeError: `text` is not a string.
        ValueError: the name breaks the rule; the message tells the rule.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"a {kind} name is a string, not {type(text).__name__}: {text!r:.80}"
        )
    if (
        1 <= len(text) <= LONGEST_NAME
        and text.isprintable()
        and text == text.strip()
        and not any(character in text for character in FORBIDDEN)
    ):
        return text
    shown = text if len(text) <= 40 else text[:40] + "…"
    raise ValueError(
        f"{shown!r} cannot name a {kind}: a name has 1 to {LONGEST_NAME} printable "
        "characters, without comma, colon or slash, and no space at its ends"
    )


def check_resources(given: str | Iterable[str]) -> frozenset[str]:
    """Return the resource names in `given`; a single string is one name."""
    if isinstance(given, str):
        return frozenset((check_name("resource", given),))
    return frozenset(check_name("resource", name) for name in given)


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that `wrong` was most likely meant to be."""
    close = difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.5)
    return close[0] if close else None
