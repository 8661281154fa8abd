"""When a breaker opens, lets a probe through, and closes."""

from mpreg_nb.routing.circuit_breaker import FAILURES_TO_OPEN, Breakers


def opened() -> Breakers:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN):
        breakers.failed("n1", "f", now=0.0)
    return breakers


def test_pair_without_failures_has_no_breaker() -> None:
    breakers = Breakers()

    assert breakers.allows("n1", "f", now=0.0)
    assert not breakers


def test_success_in_between_starts_the_count_anew() -> None:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN - 1):
        breakers.failed("n1", "f", now=0.0)
    breakers.succeeded("n1", "f")
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

    assert not breakers.succeeded("n1", "f")
    assert breakers.succeeded("n1", "f")
    assert not breakers


def test_probe_that_fails_doubles_the_pause() -> None:
    breakers = opened()
    breakers.sent("n1", "f", now=1.0)
    breakers.failed("n1", "f", now=1.0)

    assert not breakers.allows("n1", "f", now=2.9)
    assert breakers.allows("n1", "f", now=3.0)


def test_node_that_started_anew_begins_with_closed_breakers() -> None:
    breakers = opened()

    breakers.forget("n1")

    assert breakers.allows("n1", "f", now=0.0)
