"""Calls keep their promises while bulk data moves on the same connections."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.shared_memory.segments import DEFAULT_LIMIT_MB

pytestmark = pytest.mark.live

BULK_BYTES = 24 << 20
SECONDS = 6.0
"""Longer than a busy link may be silent, and than nodes wait for answers to pings."""


@pytest.fixture
def through_sockets() -> Iterator[mp.Cluster]:
    """Yield a cluster whose large values are bytes on its links, as between hosts."""
    mp.config("shared_memory_mb", 0)
    try:
        with mp.up(2, slots=3, fresh=True) as cluster:
            yield cluster
    finally:
        mp.config("shared_memory_mb", DEFAULT_LIMIT_MB)


def same(value: bytes) -> bytes:
    return value


def noted(log: str, number: int) -> int:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number


def test_small_calls_keep_their_promises_while_bulk_data_moves(
    through_sockets: mp.Cluster, tmp_path: Path
) -> None:
    cluster, log = through_sockets, tmp_path / "log"
    over = threading.Event()
    given = os.urandom(BULK_BYTES)
    whole_s: list[float] = []
    # By way of n1 alone, so that both links of the way to n2 carry it.
    with mp.connect(cluster.urls[0], direct=False) as client:
        call = client.on(node="n2")

        def move() -> None:
            while not over.is_set():
                began_s = time.monotonic()
                assert call.call(same, given) == given
                whole_s.append(time.monotonic() - began_s)

        moving = [threading.Thread(target=move) for _ in range(2)]
        call.call(noted, str(log), -1)
        before = parts_of(client).client.links.entry
        for one in moving:
            one.start()
        until_s = time.monotonic() + SECONDS
        taken_s: list[float] = []
        number = 0
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            assert call.call(noted, str(log), number) == number
            taken_s.append(time.monotonic() - began_s)
            number += 1
        over.set()
        for one in moving:
            one.join()

        assert parts_of(client).client.links.entry is before  # not taken for dead
    runs = Counter(map(int, log.read_text().split()))
    assert runs == Counter(range(-1, number))  # each once
    assert len(whole_s) >= 2
    # Beside a transfer, and not behind it; both are slow on a busy machine.
    assert sorted(taken_s)[len(taken_s) // 2] < max(0.2, 0.5 * max(whole_s))
    happened = set(cluster.events()["event"])
    assert not happened & {"suspect", "dead", "worker died"}
