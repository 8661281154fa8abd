"""Functions by version: kept as bytes, opened at their first job."""

import inspect
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any

from mpreg_nb.wire.jobs import Code
from mpreg_nb.wire.payload import unpack_function
from mpreg_nb.wire.recent import Recent
from mpreg_nb.wire.room import Room

RISE = 0.5
FALL = 0.1
"""How fast the expected time of a function follows longer and shorter runs."""


class KeptCode:
    """One version of a function."""

    def __init__(self, code: Code, parts: tuple[Room, ...]) -> None:
        self._code = code
        self._parts = parts
        self._opening = Lock()
        self._function: Callable[..., Any] | None = None
        self.is_async = False
        self.expected_ns = float("inf")  # nothing is known before it has run

    @property
    def function(self) -> Callable[..., Any]:
        """The function; raises NotPicklable where it cannot be rebuilt here."""
        return self._function or self._open()

    def _open(self) -> Callable[..., Any]:
        with self._opening:
            if self._function is None:
                opened = unpack_function(self._parts or (self._code.payload,))
                self.is_async = _is_async(opened)
                self._function = opened
                self._parts = ()
        return self._function

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "KeptCode":
        """Return a function of ours as if it had been sent here."""
        made = cls(Code(version="", function=function.__name__), ())
        made._function = function
        return made

    def took(self, run_ns: int) -> None:
        """Take a run into account."""
        if self.expected_ns == float("inf"):
            self.expected_ns = run_ns
        weight = RISE if run_ns > self.expected_ns else FALL
        self.expected_ns += weight * (run_ns - self.expected_ns)


def _is_async(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  an object with async __call__
    )


class Codes:
    """The versions that this worker has; the node knows them by the same rule."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptCode] = {}
        self._recent = Recent()

    def add(self, code: Code, parts: tuple[Room, ...]) -> None:
        """Keep a version, and forget those that were not used for longest."""
        size_bytes = len(code.payload) + sum(map(len, parts))
        for version in self._recent.add(code.version, size_bytes):
            del self._kept[version]
        self._kept[code.version] = KeptCode(code, parts)

    def used(self, version: str) -> KeptCode:
        """Return a version for a job that has come."""
        self._recent.use(version)
        return self._kept[version]
