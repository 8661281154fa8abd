"""Who listens goes on when the system had no descriptor for a connection."""

import asyncio
from typing import Any

import pytest

from mpreg_nb.transport.descriptors import DescriptorDoor, enter
from tests.support.descriptors import TRIES, run_out


async def test_the_way_for_descriptors_is_opened_a_little_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = run_out(monkeypatch)
    opened: asyncio.Queue[Any] = asyncio.Queue()
    door = DescriptorDoor(opened.put_nowait)
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    other = enter(door.address)
    channel = await asyncio.wait_for(opened.get(), 60)

    assert other is not None
    assert len(tries) == TRIES
    assert loop.time() - began_s >= 0.1  # it was not tried again in each turn
    channel.close()
    other.close()
