"""Classes of the notebook, and who they are in other processes.

A class that cannot be imported travels by value. Its *key* is the digest of what
it was when it first travelled: a cell that is run again unchanged makes a class
with the same key, and instances of it are instances of the same class in every
worker. Its *revision* is the digest of what it is now; a process that has the
class takes the new content over when the revision is another one. The process
that defined a class never has it changed by what comes back.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import get_ident
from typing import Any, TypeAlias

from mpreg_nb.wire.taken_apart import set_contents

Witness: TypeAlias = tuple[dict[str, Any], str, object]
"""A namespace, a name in it, and what it meant when a class was packed."""

_PLAIN = (int, float, str, bool, bytes, type(None))
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Packed:
    """A class by value: the pickle that makes it, and what that was made from."""

    key: str
    revision: str
    pickle: bytes
    witnesses: tuple[Witness, ...]
    attributes: tuple[object, ...]

    def is_fresh(self, cls: type) -> bool:
        """Whether nothing has been assigned since that this pickle depends on."""
        return self.attributes == _attributes(cls) and all(
            stamp(space.get(name, _MISSING)) == meant
            for space, name, meant in self.witnesses
        )


def stamp(value: object) -> object:
    """Return what tells whether a name means another object than it did."""
    return value if type(value) in _PLAIN else id(value)


def _attributes(cls: type) -> tuple[object, ...]:
    return tuple(map(stamp, vars(cls).values()))


@dataclass(frozen=True, slots=True)
class Made:
    """What a class that came from a pickle was filled with."""

    revision: str
    attributes: tuple[object, ...]


_by_key: "weakref.WeakValueDictionary[str, type]" = weakref.WeakValueDictionary()
_keys: "weakref.WeakKeyDictionary[type, str]" = weakref.WeakKeyDictionary()
_packed: "weakref.WeakKeyDictionary[type, Packed]" = weakref.WeakKeyDictionary()
_made: "weakref.WeakKeyDictionary[type, Made]" = weakref.WeakKeyDictionary()
_unfilled: dict[tuple[int, int], str] = {}  # thread, id of class -> revision to take


def packed(cls: type) -> Packed | None:
    """Return how `cls` travelled last, if that still holds."""
    known = _packed.get(cls)
    if known is None or not known.is_fresh(cls):
        return None
    if cls not in _made:
        _by_key[known.key] = cls
    return known


def identify(cls: type, digest: str) -> tuple[str, str]:
    """Return key and revision of `cls`, whose content has this digest."""
    key = _keys.setdefault(cls, digest)
    made = _made.get(cls)
    if made is None:
        _by_key[key] = cls  # defined here: of equal ones, the one sent last counts
    elif made.attributes == _attributes(cls):
        return key, made.revision
    return key, digest


def keep(
    cls: type, key: str, revision: str, pickle: bytes, witnesses: Iterable[Witness]
) -> Packed:
    """Remember how `cls` travels."""
    kept = Packed(key, revision, pickle, tuple(witnesses), _attributes(cls))
    _packed[cls] = kept
    return kept


def known(
    key: str, module: str, name: str, digest: Callable[[type], str]
) -> type | None:
    """Return the class with `key`, if this process has it.

    A cell that is run again replaces its classes: what the name means now counts.
    A module that is loaded again leaves those that were taken from it before in use:
    the one that was sent counts.
    """
    sent = _by_key.get(key)
    if sent is not None and module != "__main__":
        return sent
    current: Any = sys.modules.get(module)
    for part in name.split("."):
        current = getattr(current, part, None)
    if isinstance(current, type):
        if current not in _keys:
            identify(current, digest(current))
        if _keys[current] == key:
            return current
    return sent


def has(cls: type, revision: str) -> bool:
    """Whether `cls` was defined in this process or has the content of `revision`."""
    made = _made.get(cls)
    return made is None or made.revision == revision


def expect(cls: type | None, key: str, revision: str, make: Callable[[], type]) -> type:
    """Return `cls`, or a new one without content; pieces of it and `fill` follow."""
    if cls is None:
        cls = make()
        _by_key[key] = cls
        _keys[cls] = key
        _made[cls] = Made("", ())
    place = get_ident(), id(cls)
    if has(cls, revision):
        _unfilled.pop(place, None)  # of a pickle that broke off
    else:
        _unfilled[place] = revision
    return cls


def is_being_filled(cls: type) -> bool:
    """Whether the content of `cls` is being set, by this thread."""
    return (get_ident(), id(cls)) in _unfilled


def fill_piece(cls: type, content: dict[str, Any]) -> None:
    """Give `cls` a part of its content, unless it has it. Pickles call this."""
    if is_being_filled(cls):
        set_contents(cls, content)


def fill(cls: type, _: object) -> None:
    """Note that `cls` has all of its content. Pickles call this."""
    revision = _unfilled.pop((get_ident(), id(cls)), None)
    if revision is not None:
        _made[cls] = Made(revision, _attributes(cls))
