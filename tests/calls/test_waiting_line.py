"""Calls wait in a line; under overload those go first that can still be of use."""

import math
from dataclasses import dataclass

from mpreg_nb.calls.waiting_line import DeepestFirst, WaitingLine


@dataclass(eq=False)
class Waiter:
    began: float
    due: float = math.inf
    over: bool = False


def line_of(*waiters: Waiter) -> WaitingLine[Waiter]:
    line: WaitingLine[Waiter] = WaitingLine(lambda waiter: waiter.over)
    for waiter in waiters:
        line.add(waiter)
    return line


def test_calls_without_a_deadline_go_in_the_order_in_which_they_came() -> None:
    waiters = [Waiter(float(n)) for n in range(3)]
    line = line_of(*waiters)
    order = []
    while (waiter := line.next(1e9)) is not None:
        line.take(waiter)
        order.append(waiter)

    assert order == waiters


def test_newest_call_goes_first_once_the_oldest_waits_for_half_of_its_time() -> None:
    oldest, newest = Waiter(0.0, 2.0), Waiter(0.5, 2.5)
    line = line_of(oldest, newest)

    assert line.next(1.0) is oldest
    assert line.next(1.01) is newest


def test_call_that_may_wait_for_ever_is_not_overtaken_for_long() -> None:
    oldest, newest = Waiter(0.0, 2.0), Waiter(0.5)
    line = line_of(oldest, newest)

    assert line.next(1.9) is oldest


def test_calls_that_ended_in_the_line_are_passed_over_at_both_ends() -> None:
    first, middle, last = Waiter(0.0, 2.0), Waiter(0.1, 2.0), Waiter(0.2, 2.0)
    line = line_of(first, middle, last)
    first.over = last.over = True

    assert line.next(1.9) is middle
    line.take(middle)
    assert line.next(1.9) is None
    assert len(line) == 0


def test_call_that_others_were_put_before_is_the_one_that_is_taken() -> None:
    given_back, first, last = (Waiter(float(n)) for n in range(3))
    line = line_of(first, last)
    assert line.next(3.0) is first
    line.insert(given_back)

    line.take(first)

    assert line.clear() == [given_back, last]


def test_call_that_was_under_way_goes_before_those_that_came_after_it() -> None:
    first, given_back, third, newest = (Waiter(float(n)) for n in range(4))
    line = line_of(first, third)

    line.insert(given_back)
    line.insert(newest)

    assert line.clear() == [first, given_back, third, newest]


def test_calls_that_come_back_are_the_first_again_in_their_order() -> None:
    waits = Waiter(2.0)
    back = [Waiter(0.0), Waiter(1.0)]
    line = line_of(waits)

    line.put_back(back)

    assert line.clear() == [*back, waits]


def served_in_time(line: WaitingLine[Waiter], per_s: float, arrive_per_s: float) -> int:
    """Serve a flood for 20 s, and count the calls that end before they are due."""
    now, arrived, in_time = 0.0, 0, 0
    while now < 20.0:
        while arrived < arrive_per_s * now:
            moment = arrived / arrive_per_s
            line.add(Waiter(moment, moment + 2.0))
            arrived += 1
        waiter = line.next(now)
        if waiter is None:
            now += 0.001
            continue
        line.take(waiter)
        now += 1.0 / per_s
        in_time += now <= waiter.due
    return in_time


def test_at_three_times_the_load_nearly_all_that_is_served_is_in_time() -> None:
    in_time = served_in_time(line_of(), per_s=100.0, arrive_per_s=300.0)

    assert in_time >= 0.9 * 100.0 * 20.0


@dataclass(eq=False)
class Nested(Waiter):
    began: float = 0.0
    depth: int = 0


def deepest_first(*depths: int) -> tuple[DeepestFirst[Nested], list[Nested]]:
    line: DeepestFirst[Nested] = DeepestFirst(lambda call: call.over)
    calls = [Nested(depth=depth) for depth in depths]
    for call in calls:
        line.add(call)
    return line, calls


def taken(line: DeepestFirst[Nested]) -> list[Nested]:
    found = []
    while (call := line.next(0.0)) is not None:
        line.take(call)
        found.append(call)
    return found


def test_what_others_wait_for_goes_first_and_of_equals_the_oldest() -> None:
    line, (a, b, c, d, e) = deepest_first(0, 1, 0, 2, 1)

    assert (len(line), taken(line)) == (5, [d, b, e, a, c])
    assert not line


def test_what_is_put_back_goes_before_what_is_as_deep() -> None:
    line, (a, b) = deepest_first(0, 1)
    c, d = Nested(depth=0), Nested(depth=1)

    line.put_back([c, d])

    assert taken(line) == [d, b, c, a]


def test_only_what_is_deep_enough_is_taken_out() -> None:
    line, (a, b, c) = deepest_first(0, 1, 2)
    c.over = True

    assert line.clear(least=1) == [b]
    assert taken(line) == [a]


def test_lines_of_which_all_ended_are_empty() -> None:
    line, (a, b) = deepest_first(0, 1)
    a.over = b.over = True

    assert line.next(0.0) is None
    assert not line
