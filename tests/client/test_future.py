"""What asks for a result waits for, and for how long."""

import time
from typing import Any

import pytest

from mpreg_nb.client.future import Future, Over
from mpreg_nb.errors import CallTimeout


class Shown:
    """Notes for what and how long it had to wait; then the call ends."""

    def __init__(self, after_s: float | None) -> None:
        self.after_s = after_s
        self.future: Future[Any] | None = None
        self.waits: list[tuple[object, float | None]] = []

    def wait(self, call: Any, over: Over, timeout: float | None) -> bool:
        self.waits.append((call, timeout))
        if self.future is not None:
            self.future.set_result("late")
        return over(0.0)


def future_of(shown: Shown) -> Future[Any]:
    return Future(lambda: None, shown, "call")


def test_a_result_that_comes_soon_is_not_shown_to_be_waited_for() -> None:
    shown = Shown(after_s=60.0)
    future = future_of(shown)
    future.set_result(1)

    assert future.result() == 1
    assert shown.waits == []


@pytest.mark.parametrize("timeout", [None, 1.0])
def test_a_result_that_is_late_is_shown_to_be_waited_for(timeout: float | None) -> None:
    shown = Shown(after_s=0.01)
    shown.future = future_of(shown)

    assert shown.future.result(timeout) == "late"

    assert shown.waits == [("call", None if timeout is None else 0.99)]


@pytest.mark.parametrize("after_s", [None, 0.0, 60.0])
def test_a_timeout_is_kept_whatever_is_shown(after_s: float | None) -> None:
    shown = Shown(after_s)
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        future_of(shown).result(timeout=0.05)
    with pytest.raises(TimeoutError):
        future_of(shown).result(timeout=0)

    assert time.monotonic() - began < 1.0
    assert len(shown.waits) == (1 if after_s == 0.0 else 0)


def test_an_outcome_that_is_a_timeout_is_no_reason_to_wait_on() -> None:
    shown = Shown(after_s=0.01)
    future = future_of(shown)
    error = CallTimeout("f", 1.0)
    future.set_exception(error)

    with pytest.raises(CallTimeout) as caught:
        future.result()

    assert caught.value is error
    assert error.__context__ is None
    assert shown.waits == []
