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

KEPT_VERSIONS = 64
"""Of one function. Function objects hold on to old versions; not for ever."""


@dataclass(frozen=True, slots=True)
class ShippedFunction:
    """Code that came over the wire."""

    name: str
    version: str
    parts: tuple[Buffer, ...]


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


class Registry:
    """Functions by version. The catalog tells which version a name means."""

    def __init__(self) -> None:
        self._by_version: dict[str, ShippedFunction | OwnFunction] = {}
        self._versions: dict[str, list[str]] = {}  # name -> versions, oldest first

    def __contains__(self, version: str) -> bool:
        return version in self._by_version

    def get(self, version: str) -> ShippedFunction | OwnFunction | None:
        """Return the function of `version`, or None when it is not held."""
        return self._by_version.get(version)

    def add(self, function: ShippedFunction | OwnFunction) -> list[str]:
        """Hold `function`; return the versions that had to go for it."""
        version = function.version
        versions = self._versions.setdefault(function.name, [])
        if version in versions:
            versions.remove(version)
        versions.append(version)
        self._by_version[version] = function
        gone = versions[:-KEPT_VERSIONS]
        for old in gone:
            versions.remove(old)
            del self._by_version[old]
        return gone


def own_version(name: str, owner: str) -> str:
    """Return the version of a function that never travels.

    It names the process that has it: equal names on two nodes are two functions.
    """
    return sha256(f"own\0{owner}\0{name}".encode()).hexdigest()[:32]
