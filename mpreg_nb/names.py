"""The one rule for names of nodes, functions, resources, steps; and for URLs."""

import difflib
import re
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

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
    a_kind = f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
    if not isinstance(text, str):
        shown = repr(text)
        is_short = len(shown) <= 80 and "\n" not in shown
        raise TypeError(
            f"{a_kind} name must be a string, not {type(text).__name__}"
            + (f": {shown}" if is_short else "")
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
        f"{shown!r} cannot name {a_kind}: a name has 1 to {LONGEST_NAME} printable "
        "characters, without comma, colon or slash, and no space at its ends"
    )


_NONE: frozenset[str] = frozenset()
"""The one empty set that each of many calls holds."""


def check_resources(given: str | Iterable[str]) -> frozenset[str]:
    """Return the resource names in `given`; a single string is one name.

    Raises:
        TypeError: `given` is neither a name nor several.
        ValueError: a name breaks the rule.
    """
    if isinstance(given, str):
        return frozenset((check_name("resource", given),))
    if not isinstance(given, Iterable):
        raise TypeError(
            f'resources are one name or several, "gpu" or {{"gpu", "ml-models"}}, not '
            f"{given!r:.80} ({type(given).__name__})"
        )
    names = frozenset(check_name("resource", name) for name in given)
    return names or _NONE


def check_url(text: object) -> str:
    """Return `text` if it is the URL of a node.

    Raises:
        TypeError: it is not a string.
        ValueError: it is none; the message tells what one looks like.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"the URL of a node must be a string, not {type(text).__name__}"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL ({error})") from error
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or not port:
        raise ValueError(
            f"{text!r} is not a node's URL: ws://HOST:PORT or wss://HOST:PORT"
        )
    if parts.username is not None or parts.query:
        raise ValueError(
            "a URL must not contain a password or token: use a token file or "
            "MPREG_NB_TOKEN"
        )
    return text


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that `wrong` was most likely meant to be.

    Either few letters differ or have changed places, or one of the two begins with the
    other. Names that differ in a digit are names of different things.

    >>> nearest("dwon", ["down", "logs"]), nearest("sensor", ["sensor-report", "up"])
    ('down', 'sensor-report')
    >>> nearest("bda", ["bad", "next"]), nearest("m1", ["n1", "n2"])
    ('bad', 'n1')
    >>> nearest("n4", ["n1", "n2"])  # None
    >>> nearest("bogus", ["down", "logs"])  # None
    """
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.7)
    if close:
        return close[0]
    # Of short words one letter is a large part.
    swapped = (n for n in names if sorted(n) == sorted(wrong))
    replaced = (n for n in names if len(n) > 1 and _differs_in_a_letter(n, wrong))
    longer = (n for n in names if len(wrong) >= 3 and n.startswith(wrong))
    shorter = (n for n in names if len(n) >= 3 and wrong.startswith(n))
    found = (swapped, replaced, longer, shorter)
    return next((name for names in found for name in names), None)


def _differs_in_a_letter(one: str, other: str) -> bool:
    if len(one) != len(other):
        return False
    pairs = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    return len(pairs) == 1 and "".join(pairs[0]).isalpha()


def meant_by(refusal: str, options: Iterable[str]) -> str:
    """Return "Did you mean …? " for what argparse refused, or "".

    refusal: the message of argparse; it lists the words that it would have taken,
        but not the options, so they are given.

    >>> meant_by("unrecognized arguments: --worker 2", ["--workers", "--slots"])
    'Did you mean --workers? '
    >>> meant_by("argument COMMAND: invalid choice: 'nod' (choose from node, ps)", [])
    'Did you mean node? '
    """
    known = set(options)
    choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", refusal)
    if choice is not None:
        wrong = choice[1]
        known = {word.strip(" '") for word in choice[2].split(",")}
    else:
        wrong = refusal.removeprefix("unrecognized arguments: ").split(" ")[0]
        wrong = wrong.partition("=")[0]
        if not wrong.startswith("-") or wrong in known:
            return ""
    meant = nearest(wrong, known)
    return f"Did you mean {meant}? " if meant else ""


ANONYMOUS = "lambda"
"""The name of lambdas; only their versions matter, as they are called by object."""


def name_of(function: Any) -> str:
    """Return the name of a function, or of what a partial or object calls.

    >>> name_of(partial(len)), name_of(name_of), name_of(lambda: 1)
    ('len', 'name_of', 'lambda')
    """
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", None)
    if not name or not isinstance(name, str):
        return type(function).__name__
    return ANONYMOUS if name == "<lambda>" else name
