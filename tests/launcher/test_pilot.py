"""How a job of a batch queue finds its starter."""

import asyncio
import os
import threading
from typing import Any

import pytest

from mpreg_nb.launcher import pilot
from mpreg_nb.launcher.pilot import Bridge, PilotTicket


class Starter:
    """The end of a connection at which the starter is; it says nothing."""

    def __init__(self, made: threading.Event) -> None:
        self._made = made  # the bridge, as its maker sees it

    def get_extra_info(self, name: str) -> tuple[str, int]:
        self._made.wait(0.2)  # whoever made the bridge goes on before this does
        return "10.0.0.7", 1

    def write(self, data: bytes) -> None:
        """Take the key."""

    def close(self) -> None:
        """End."""


def test_a_job_that_has_connected_knows_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = threading.Event()

    async def connected(*_: Any, **__: Any) -> tuple[asyncio.StreamReader, Starter]:
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return reader, Starter(made)

    monkeypatch.setattr(asyncio, "open_connection", connected)
    monkeypatch.setattr(pilot, "dialling", lambda ca: None)

    bridge = Bridge(PilotTicket(address="10.0.0.1", port=1, ca="", key="k"))
    address = bridge.address
    made.set()
    bridge.close()
    os.close(bridge.commands)

    assert address == "10.0.0.7"
