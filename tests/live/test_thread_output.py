"""What functions in threads of a node print, as those of workers do."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as started:
        yield started


@pytest.fixture(autouse=True)
def leaks() -> None:
    """Nodes of all tests are ended by the fixture that started them."""


def in_thread(cluster: mp.Cluster, function: Any) -> Any:
    return cluster.register(function, isolation="thread")


def test_prints_of_a_function_come_to_the_caller_before_its_result(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def speaks() -> str:
        print("first")  # noqa: T201
        print("an error line", file=sys.stderr)  # noqa: T201
        print("unfinished", end="")  # noqa: T201
        return "done"

    speaking = in_thread(cluster, speaks)

    result = speaking.call()

    said = capsys.readouterr()
    assert result == "done"
    assert said.out == "[n1] first\n[n1] unfinished\n"
    assert said.err == "[n1] an error line\n"
    assert "first" not in str(cluster.logs("n1"))


def test_prints_of_concurrent_coroutines_are_kept_apart(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    async def counts(name: str) -> str:
        import asyncio

        for number in range(3):
            print(name, number)  # noqa: T201
            await asyncio.sleep(0.01)
        return name

    counting = in_thread(cluster, counts)

    names = [future.result() for future in map(counting.submit, "ab")]

    lines = capsys.readouterr().out.splitlines()
    assert names == ["a", "b"]
    for name in names:
        own = [line for line in lines if f" {name} " in line]
        assert own == [f"[n1] {name} {number}" for number in range(3)]


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_what_a_function_printed_before_it_failed_is_shown(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str], is_coroutine: bool
) -> None:
    def breaks() -> None:
        print("so far")  # noqa: T201
        raise ValueError("broken")

    async def breaks_too() -> None:
        breaks()

    breaking = in_thread(cluster, breaks_too if is_coroutine else breaks)

    with pytest.raises(ValueError, match="broken"):
        breaking.call()

    assert capsys.readouterr().out == "[n1] so far\n"


def test_prints_of_a_cancelled_call_are_dropped_and_do_no_harm(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def goes_on(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            print("still here")  # noqa: T201
            time.sleep(0.01)

    going = in_thread(cluster, goes_on)
    heard = going.submit(0.5)
    while "still here" not in capsys.readouterr().out:
        time.sleep(0.01)

    heard.cancel()
    going.call(0.6)  # in another thread, which ends later

    lines = capsys.readouterr().out.splitlines()
    assert set(lines) == {"[n1] still here"}
    assert cluster.call("echo", 1) == 1


def test_figures_and_displays_are_shown_as_text_where_there_is_no_page(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def draws() -> None:
        import matplotlib.pyplot as plt

        display({"a": 1})  # type: ignore[name-defined]  # noqa: F821 - as in a cell
        plt.plot([1, 2])
        plt.show()

    in_thread(cluster, draws).call()

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[n1] {'a': 1}"
    assert "Figure" in lines[1]
