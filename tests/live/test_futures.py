"""What a future says of a call while it goes on."""

import os
from pathlib import Path

import pytest

import mpreg_nb as mp
from tests.support.until import until

pytestmark = pytest.mark.live


def hold(begun: str, goes_on: str) -> str:
    with open(begun, "w", encoding="utf-8") as told:
        told.write("begun")
    with open(goes_on, encoding="utf-8") as heard:
        return heard.read()


def test_a_future_names_the_only_node_that_can_run_its_call(tmp_path: Path) -> None:
    begun, goes_on = tmp_path / "begun", tmp_path / "goes_on"
    os.mkfifo(begun)
    os.mkfifo(goes_on)

    with mp.up({"gpu-1": "gpu"}) as cluster:
        future = cluster.submit(hold, str(begun), str(goes_on))
        begun.read_text(encoding="utf-8")
        until(future.running)  # it may begin a moment before the client hears of it
        running = future.running(), repr(future)
        goes_on.write_text("over", encoding="utf-8")

        assert future.result(30) == "over"

    assert running == (True, "<Future hold: running on gpu-1>")
    assert (future.running(), repr(future)) == (False, "<Future hold: done>")


def test_a_call_that_waits_for_a_fitting_node_is_not_shown_as_running(
    tmp_path: Path,
) -> None:
    begun, goes_on = tmp_path / "begun", tmp_path / "goes_on"
    os.mkfifo(begun)
    os.mkfifo(goes_on)

    with mp.up({"lab": ()}, fresh=True) as cluster:
        cluster.register(hold, resources={"gpu"})
        future = cluster.on("gpu", wait=60).submit("hold", str(begun), str(goes_on))
        until(lambda: not future.running())
        waiting = repr(future)
        cluster.add("gpu-1", {"gpu"})
        begun.read_text(encoding="utf-8")
        until(future.running)
        running = repr(future)
        goes_on.write_text("over", encoding="utf-8")

        assert future.result(30) == "over"

    assert waiting == "<Future hold: waiting>"
    assert running == "<Future hold: running on gpu-1>"
