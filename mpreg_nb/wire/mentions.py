"""Which command's result a string means, where strings may be references.

So it is in MPREG's commands: "step1" means the result of the command of that
name, "step1.rows.first" a field of it. In workflows a string is only a string.
"""

from collections.abc import Collection, Container

from mpreg_nb.names import LONGEST_NAME


def mention(text: str, names: Container[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the name that `text` begins with, and the fields behind it.

    The longest name counts, since names may have dots. None: it means itself.

    >>> mention("a.b.c", {"a"}), mention("a.b", {"a", "a.b"}), mention("ab", {"a"})
    (('a', ('b', 'c')), ('a.b', ()), None)
    """
    if text in names:
        return text, ()
    dot = text.rfind(".", 0, LONGEST_NAME + 1)
    while dot > 0:
        if text[:dot] in names:
            return text[:dot], tuple(text[dot + 1 :].split("."))
        dot = text.rfind(".", 0, dot)
    return None


class Others:
    """All names but one: a command never refers to itself."""

    __slots__ = ("_me", "_names")

    def __init__(self, names: Collection[str], me: str) -> None:
        self._names = names
        self._me = me

    def __contains__(self, name: object) -> bool:
        return name != self._me and name in self._names
