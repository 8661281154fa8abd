"""When a breaker opens, lets a probe through, and closes."""

from mpreg_nb.routing.circuit_breaker import (
    FAILURES_TO_OPEN,
    LEAST_CALLS,
    WINDOW_S,
    Breakers,
)


def opened() -> Breakers:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN):
        breakers.failed("n1", "f", now=0.0)
    return breakers


def test_pair_without_failures_has_no_breaker() -> None:
    breakers = Breakers()

    assert breakers.allows("n1", "f", now=0.0)
    assert not breakers


def test_success_in_between_resets_the_count() -> None:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN - 1):
        breakers.failed("n1", "f", now=0.0)
    breakers.succeeded("n1", "f", now=0.0)
    breakers.failed("n1", "f", now=0.0)

    assert breakers.allows("n1", "f", now=0.0)


def test_failures_in_a_row_open_it_for_this_function_only() -> None:
    breakers = opened()

    assert not breakers.allows("n1", "f", now=0.5)
    assert breakers.allows("n1", "g", now=0.5)
    assert breakers.allows("n2", "f", now=0.5)


def test_one_probe_at_a_time_after_the_pause() -> None:
    breakers = opened()

    assert breakers.allows("n1", "f", now=1.0)
    breakers.sent("n1", "f", now=1.0)
    assert not breakers.allows("n1", "f", now=1.1)


def test_two_probes_that_pass_close_it() -> None:
    breakers = opened()
    breakers.sent("n1", "f", now=1.0)

    assert not breakers.succeeded("n1", "f", now=1.0)
    assert breakers.succeeded("n1", "f", now=1.0)
    assert not breakers


def test_probe_that_fails_doubles_the_pause() -> None:
    breakers = opened()
    breakers.sent("n1", "f", now=1.0)
    breakers.failed("n1", "f", now=1.0)

    assert not breakers.allows("n1", "f", now=2.9)
    assert breakers.allows("n1", "f", now=3.0)


def test_restarted_node_has_closed_breakers() -> None:
    breakers = opened()

    breakers.forget("n1")

    assert breakers.allows("n1", "f", now=0.0)


def every_third_lost(breakers: Breakers, *, seconds: float) -> bool:
    """Let calls end, spread over the time; return whether that opened the breaker."""
    opened = False
    calls = LEAST_CALLS + 2
    for number in range(calls):
        now = seconds * number / calls
        if number % 3 == 0:
            opened |= breakers.failed("n1", "f", now)
        else:
            breakers.succeeded("n1", "f", now)
    return opened


def test_too_many_lost_calls_open_it_though_others_go_well_in_between() -> None:
    assert every_third_lost(Breakers(), seconds=WINDOW_S / 2)


def test_few_calls_within_the_window_open_nothing() -> None:
    assert not every_third_lost(Breakers(), seconds=WINDOW_S * 2)


def test_a_lost_call_now_and_then_opens_nothing_and_is_forgotten() -> None:
    breakers = Breakers()
    opened = False
    for number in range(200):
        if number % 10 == 0:
            opened |= breakers.failed("n1", "f", now=number / 10)
        else:
            breakers.succeeded("n1", "f", now=number / 10)

    breakers.succeeded("n1", "f", now=20.0 + 2 * WINDOW_S)

    assert not opened
    assert not breakers


def test_never_more_than_half_of_the_candidates_are_passed_over() -> None:
    breakers = Breakers()
    nodes = ("a", "b", "c", "d", "e")
    for node, times in (("a", 5), ("b", 6), ("c", 7), ("d", 8)):
        for _ in range(times):  # each more doubles the pause
            breakers.failed(node, "f", now=0.0)

    assert breakers.allowed(nodes, "f", now=0.5) == {"a", "b", "e"}
    assert breakers.allowed(nodes[:1], "f", now=0.5) == {"a"}
    assert breakers.allowed(nodes[3:], "f", now=0.5) == {"e"}
