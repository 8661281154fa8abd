"""Futures: what asks for a result waits for, who rebuilds it, where callbacks run."""

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mpreg_nb.client.callbacks import Callbacks
from mpreg_nb.client.calls import ActiveCall
from mpreg_nb.client.future import Future, Over
from mpreg_nb.errors import CallTimeout


class Shown:
    """Notes for what and how long it had to wait; then the call ends."""

    def __init__(self, after_s: float | None) -> None:
        self.after_s = after_s
        self.future: Future[Any] | None = None
        self.waits: list[tuple[object, float | None]] = []

    def check(self) -> None: ...

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

    assert time.monotonic() - began < 30
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


def test_a_callback_that_waits_for_a_later_one_does_not_stop_the_others() -> None:
    callbacks = Callbacks()
    released, over = threading.Event(), threading.Event()

    def wait() -> None:
        if released.wait(30):
            over.set()

    callbacks.hand_over(wait)
    callbacks.hand_over(released.set)

    assert over.wait(30)


def test_callbacks_run_in_order_and_one_that_fails_ends_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = Callbacks()
    seen: list[int] = []
    over = threading.Event()

    for number in range(100):
        callbacks.hand_over(lambda n=number: seen.append(n))  # type: ignore[misc]
        if number == 50:
            callbacks.hand_over(sys.exit)
    callbacks.hand_over(over.set)

    assert over.wait(30)
    assert seen == list(range(100))
    assert "SystemExit" in caplog.text


def test_a_failed_callback_is_reported_with_the_lines_of_the_user(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = Callbacks()
    over = threading.Event()

    callbacks.hand_over(lambda: 1 / 0)
    callbacks.hand_over(over.set)

    assert over.wait(30)
    assert "callbacks.hand_over(lambda: 1 / 0)" in caplog.text
    assert "client/callbacks.py" not in caplog.text


def test_the_future_of_a_call_says_where_it_runs_and_has_no_address() -> None:
    call: Any = SimpleNamespace(shown_name="train", shown_node="gpu-1", is_running=True)
    future: Future[Any] = Future(lambda: None, Shown(None), call)

    texts = [repr(future)]
    call.is_running = False
    texts.append(repr(future))
    future.set_result(1)
    texts.append(repr(future))

    assert texts == [
        "<Future train: running on gpu-1>",
        "<Future train: waiting>",
        "<Future train: done>",
    ]


def test_a_call_counts_as_running_once_its_node_would_have_reported_a_queue() -> None:
    now, link = time.monotonic(), object()

    def call(**changed: Any) -> ActiveCall:
        fields: dict[str, Any] = {"place": link, "sent": now - 60.0}
        nothing: Any = None
        made = ActiveCall(
            id=b"1",
            function="f",
            payload=b"",
            parts=(),
            done=nothing,
            writer=nothing,
        )
        for name, value in (fields | changed).items():
            setattr(made, name, value)
        return made

    assert call().is_running
    assert call(sent=now + 60.0, started=now).is_running
    assert call(sent=now + 60.0, at="n1").is_running
    assert not call(sent=now + 60.0).is_running
    assert not call(waiting=True).is_running
    assert not call(place=None).is_running
