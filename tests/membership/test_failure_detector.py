import math
import random

import pytest

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Send
from mpreg_nb.membership.failure_detector import Answered, Probes, Silent, Step
from mpreg_nb.protocol.gossip import IndirectAck, Nack, Ping, PingReq

EPOCH = bytes(16)
POOL = ("b", "c", "d", "e", "f")


@pytest.fixture
def probes() -> Probes:
    return Probes(SwimConfig(), random.Random(1))


def start(probes: Probes, target: str = "b", *, linked: bool = True) -> list[Step]:
    return probes.start(
        target, EPOCH, 10.0, ack_timeout_s=0.5, period_s=1.0, linked=linked
    )


def asked(steps: list[Step]) -> list[str]:
    return [
        step.peer
        for step in steps
        if isinstance(step, Send) and isinstance(step.message, PingReq)
    ]


def test_an_ack_ends_the_round_and_is_timed(probes: Probes) -> None:
    steps = start(probes)

    assert steps == [Send("b", Ping(seq=1, epoch=EPOCH))]
    assert probes.ack(1, "b", 10.25) == [Answered("b", True, 0.25)]
    assert probes.deadline == math.inf


def test_the_time_of_a_dial_is_no_round_trip(probes: Probes) -> None:
    start(probes, linked=False)

    assert probes.ack(1, "b", 10.25) == [Answered("b", True, None)]


@pytest.mark.parametrize(
    ("seq", "sender"), [(0, "b"), (1, "c")], ids=["stale seq", "wrong sender"]
)
def test_an_ack_that_is_not_for_this_round_saves_nobody(
    probes: Probes, seq: int, sender: str
) -> None:
    start(probes)

    assert probes.ack(seq, sender, 10.1) == []
    assert probes.is_probing("b")


def test_silence_makes_it_ask_three_others_and_then_give_up_once(
    probes: Probes,
) -> None:
    start(probes)

    assert probes.deadline == 10.5
    assert probes.tick(10.49, POOL) == []
    helpers = asked(probes.tick(10.5, POOL))
    assert len(helpers) == 3
    assert "b" not in helpers
    assert asked(probes.tick(10.99, POOL)) == []
    assert probes.tick(11.0, POOL) == [Silent("b", False, 3, 3)]
    assert probes.tick(99.0, POOL) == []


def test_the_yes_of_a_helper_saves_the_target(probes: Probes) -> None:
    start(probes)
    helper = asked(probes.tick(10.5, POOL))[0]

    assert probes.indirect_ack(1, helper) == [Answered("b", False, None)]
    assert probes.tick(11.0, POOL) == []


def test_the_yes_of_a_node_that_was_not_asked_saves_nobody(probes: Probes) -> None:
    start(probes)
    probes.tick(10.5, ("c",))

    assert probes.indirect_ack(1, "f") == []


def test_each_no_takes_one_off_the_missing(probes: Probes) -> None:
    start(probes)
    helpers = asked(probes.tick(10.5, POOL))
    probes.nack(1, helpers[0])
    probes.nack(1, helpers[1])

    assert probes.tick(11.0, POOL) == [Silent("b", False, 3, 1)]


def test_a_late_ack_in_the_same_period_saves_the_target(probes: Probes) -> None:
    start(probes)
    probes.tick(10.5, POOL)

    assert probes.ack(1, "b", 10.75) == [Answered("b", True, None)]


@pytest.mark.parametrize("pool", [(), ("c",), POOL])
def test_a_silent_target_is_pinged_again_until_the_round_ends(
    probes: Probes, pool: tuple[str, ...]
) -> None:
    start(probes)
    sent = []

    while probes.is_probing("b"):
        now = probes.deadline
        sent += [(now, step) for step in probes.tick(now, pool)]

    again = Send("b", Ping(seq=1, epoch=EPOCH))
    assert [now for now, step in sent if step == again] == [10.5, 10.75]
    assert isinstance(sent[-1][1], Silent)


def test_the_answer_to_a_second_ping_is_not_timed(probes: Probes) -> None:
    start(probes)
    probes.tick(10.5, POOL)

    assert probes.ack(1, "b", 10.51) == [Answered("b", True, None)]


def test_who_refused_a_dial_is_not_pinged_again(probes: Probes) -> None:
    start(probes, linked=False)
    probes.unreachable("b", 10.01, POOL, refused=True)

    steps = probes.tick(10.4, POOL)

    assert [step for step in steps if isinstance(step, Send)] == []


def test_a_refusal_asks_the_others_at_once(probes: Probes) -> None:
    start(probes, linked=False)

    helpers = asked(probes.unreachable("b", 10.01, POOL, refused=True))

    assert len(helpers) == 3
    assert [probes.nack(1, helper) for helper in helpers[:2]] == [[], []]
    assert probes.nack(1, helpers[2]) == [Silent("b", True, 3, 0)]


def test_a_refusal_with_nobody_to_ask_is_the_end(probes: Probes) -> None:
    start(probes, linked=False)

    assert probes.unreachable("b", 10.01, (), refused=True) == [Silent("b", True, 0, 0)]


def test_a_dial_without_an_answer_shortens_nothing(probes: Probes) -> None:
    start(probes, linked=False)

    assert probes.unreachable("b", 10.2, POOL, refused=False) == []
    assert probes.deadline == 10.5


def test_there_is_one_round_for_each_target(probes: Probes) -> None:
    assert len(start(probes, "b")) == 1
    assert start(probes, "b") == []
    assert len(start(probes, "c")) == 1


def test_a_helper_pings_and_passes_the_answer_on(probes: Probes) -> None:
    request = PingReq(seq=7, target="b", epoch=EPOCH)

    assert probes.help(request, "a", 10.0) == [Send("b", Ping(seq=1, epoch=EPOCH))]
    assert probes.ack(1, "b", 10.1) == [Send("a", IndirectAck(seq=7))]
    assert probes.tick(11.0, POOL) == []


def test_a_helper_says_no_before_the_asker_gives_up(probes: Probes) -> None:
    probes.help(PingReq(seq=7, target="b", epoch=EPOCH), "a", 10.0)

    assert probes.deadline == pytest.approx(10.4)
    assert probes.tick(10.4, POOL) == [Send("a", Nack(seq=7))]
    assert probes.ack(1, "b", 10.5) == [Send("a", IndirectAck(seq=7))]


def test_a_helper_that_is_refused_says_no_at_once(probes: Probes) -> None:
    probes.help(PingReq(seq=7, target="b", epoch=EPOCH), "a", 10.0)

    steps = probes.unreachable("b", 10.01, POOL, refused=True)

    assert steps == [Send("a", Nack(seq=7))]


def test_what_fell_due_while_the_loop_was_late_is_put_off(probes: Probes) -> None:
    start(probes)

    probes.postpone(12.0)

    assert probes.tick(11.5, POOL) == []
    assert probes.ack(1, "b", 11.5) == [Answered("b", True, 1.5)]


def test_after_a_pause_nothing_is_made_of_the_silence(probes: Probes) -> None:
    start(probes)

    probes.clear()

    assert probes.tick(99.0, POOL) == []
