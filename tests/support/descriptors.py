"""A system that has no descriptor for the next connections."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from mpreg_nb.transport import acceptor

TRIES = 3
"""How often is tried to accept the first connection until that succeeds."""


def run_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let no process accept for a while; return a list that grows with each try."""
    seen: list[int] = []
    accept: Callable[[socket.socket], Any] = socket.socket.accept

    def full(listening: socket.socket) -> Any:
        seen.append(listening.fileno())
        if len(seen) < TRIES:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", full)
    monkeypatch.setattr(acceptor, "ACCEPT_AGAIN_S", 0.05)
    return seen
