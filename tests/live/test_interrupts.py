"""Stop: the waiting cell ends at once, and so does the work on the node."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live

PROMPT_S = 2.0
"""At once, also on a busy machine; what is stopped would never end."""


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as cluster:
        yield cluster


def spin(begun: str) -> None:
    """Run until it is interrupted, and say by whom."""
    import pathlib

    pathlib.Path(begun).touch()
    while True:
        pass


def stubborn(begun: str) -> None:
    """Run on whatever happens."""
    import pathlib
    import time

    pathlib.Path(begun).touch()
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001, S112
            continue


def ends_at_once(begun: Path, blocking: Callable[[], object]) -> bool:
    """Whether Stop ends a blocking call at once; a busy machine gets three tries."""
    for _ in range(3):
        begun.unlink(missing_ok=True)
        stop = Stop(begun)
        with pytest.raises(KeyboardInterrupt):
            blocking()
        if stop.waited_s() < PROMPT_S:
            return True
    return False


class Stop:
    """Sends this process SIGINT once the function has begun, as Jupyter does."""

    def __init__(self, begun: Path) -> None:
        self._begun = begun
        self.sent_at = 0.0
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        end = time.monotonic() + 60
        while not self._begun.exists() and time.monotonic() < end:
            time.sleep(0.005)
        self.sent_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    def waited_s(self) -> float:
        self._thread.join()
        return time.monotonic() - self.sent_at


def test_stop_ends_a_blocking_call_and_its_slot_is_free_at_once(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    assert ends_at_once(begun, lambda: cluster.call(spin, str(begun)))

    assert cluster.on(timeout=60).call(len, "abc") == 3


def test_function_that_ignores_stop_is_killed_with_its_worker(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    assert ends_at_once(begun, lambda: cluster.call(stubborn, str(begun)))

    assert cluster.on(timeout=60).call(len, "abc") == 3


def test_stop_ends_a_map_and_all_of_its_calls(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    assert ends_at_once(begun, lambda: cluster.map(spin, [str(begun)] * 100))

    assert cluster.on(timeout=60).call(len, "abc") == 3


def test_stop_in_the_block_of_an_executor_ends_its_calls(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    stop = Stop(begun)

    futures: list[mp.Future[None]] = []

    def wait_inside() -> None:
        with cluster.executor() as executor:
            futures.extend(executor.submit(spin, str(begun)) for _ in range(3))
            futures[0].result()

    with pytest.raises(KeyboardInterrupt):
        wait_inside()

    assert stop.waited_s() < PROMPT_S
    assert all(future.cancelled() for future in futures)
    assert cluster.on(timeout=5).call(len, "abc") == 3


def test_stop_at_the_end_of_the_block_of_an_executor_ends_its_calls(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    stop = Stop(begun)

    futures: list[mp.Future[None]] = []

    with pytest.raises(KeyboardInterrupt), cluster.executor() as executor:
        futures += (executor.submit(spin, str(begun)) for _ in range(3))

    assert stop.waited_s() < PROMPT_S
    assert all(future.cancelled() for future in futures)
    assert cluster.on(timeout=5).call(len, "abc") == 3


def test_stop_while_waiting_for_a_run_cancels_it(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    flow = cluster.workflow("spin")
    flow.step("spin", spin, str(begun))

    assert ends_at_once(begun, flow.run)

    assert cluster.on(timeout=60).call(len, "abc") == 3


def test_cancelled_future_ends_the_work(cluster: mp.Cluster, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    future = cluster.submit(spin, str(begun))
    while not begun.exists():
        os.sched_yield()

    assert future.cancel()

    assert future.cancelled()
    assert cluster.on(timeout=60).call(len, "abc") == 3
