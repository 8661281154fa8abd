"""The functions that this node holds: shipped code by version, and its own.

Shipped code is bytes that only workers open. A node's own functions are the
builtins and those that a program registered in its own process; they are run
in this process and never travel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.recent import Recent

KEPT_VERSIONS = 64
"""Of one function. Function objects hold on to old versions; not for ever."""


@dataclass(frozen=True, slots=True)
class ShippedFunction:
    """Code that came over the wire."""

    name: str
    version: str
    parts: tuple[Buffer, ...]

    @property
    def size_bytes(self) -> int:
        """How much its code takes."""
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class OwnFunction:
    """A function of this very process.

    `where` is "inline" (on the event loop; only for what returns at once),
    "thread", or "loop" (a coroutine function).
    """

    name: str
    version: str
    function: Callable[..., Any]
    where: Literal["inline", "thread", "loop"]
    size_bytes = 0


class Registry:
    """Functions by version. The catalog tells which version a name means.

    The version of each name that came last is kept. Older ones, which function
    objects still call, are kept up to a number for each name, and to a limit of
    bytes for all together; those that were not called for longest go first.
    """

    def __init__(self, on_gone: Callable[[str], None] = lambda version: None) -> None:
        """on_gone: is told each version that is held no longer."""
        self._on_gone = on_gone
        self._by_version: dict[str, ShippedFunction | OwnFunction] = {}
        self._versions: dict[str, list[str]] = {}  # name -> versions, oldest first
        self._older = Recent()

    def __contains__(self, version: str) -> bool:
        return version in self._by_version

    def get(self, version: str) -> ShippedFunction | OwnFunction | None:
        """Return the function of `version`, or None when it is not held."""
        if version in self._older:
            self._older.use(version)
        return self._by_version.get(version)

    def add(
        self, function: ShippedFunction | OwnFunction
    ) -> list[ShippedFunction | OwnFunction]:
        """Hold `function`; return what had to go for it."""
        version = function.version
        versions = self._versions.setdefault(function.name, [])
        if version in versions:
            versions.remove(version)
        self._older.drop(version)
        self._by_version[version] = function
        gone = []
        if versions:
            older = self._by_version[versions[-1]]
            gone = self._older.add(older.version, older.size_bytes)
        versions.append(version)
        gone += [old for old in versions[:-KEPT_VERSIONS] if old not in gone]
        return [self._forget(old) for old in gone]

    def _forget(self, version: str) -> ShippedFunction | OwnFunction:
        function = self._by_version.pop(version)
        self._versions[function.name].remove(version)
        self._older.drop(version)
        self._on_gone(version)
        return function


def own_version(name: str, owner: str) -> str:
    """Return the version of a function that never travels.

    It names the process that has it: equal names on two nodes are two functions.
    """
    return sha256(f"own\0{owner}\0{name}".encode()).hexdigest()[:32]
