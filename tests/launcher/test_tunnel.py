"""How a tunnel listens on this machine."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.launcher.tunnel import LOOPBACK, TunnelTo
from mpreg_nb.transport import local_socket
from tests.support.descriptors import TRIES, run_out


class Wire:
    """A connection of ssh that leads nowhere, and notes who wants to pass."""

    def __init__(self) -> None:
        self.wanted: asyncio.Queue[str] = asyncio.Queue()

    async def create_unix_connection(self, made: Any, path: str, **_: Any) -> Any:
        self.wanted.put_nowait(path)
        raise OSError("it leads nowhere")


def test_a_tunnel_goes_on_when_there_was_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    tries = run_out(monkeypatch)
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.ensure_future(work))

    async def scene() -> None:
        wire: Any = Wire()
        tunnel = TunnelTo(wire, 1, "/there", spawn)
        tunnel.open()
        link = local_socket.connect(LOOPBACK, 1)
        assert link is not None

        path = await asyncio.wait_for(wire.wanted.get(), 10)

        assert path == "/there"
        assert len(tries) >= TRIES
        link.close()
        tunnel.close()
        assert local_socket.connect(LOOPBACK, 1) is None

    asyncio.run(scene())
