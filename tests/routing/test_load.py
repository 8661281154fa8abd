"""Which of two nodes should get the next call."""

from mpreg_nb.protocol.gossip import Load
from mpreg_nb.routing.load import LATE_S, STALE_S, Loads


def test_node_with_fewer_own_calls_is_better() -> None:
    loads = Loads()
    loads.sent("a")

    assert loads.better("a", "b", now=0.0) == "b"


def test_answers_make_a_node_free_again() -> None:
    loads = Loads()
    loads.sent("a")
    loads.answered("a", None, now=0.0)

    assert loads["a"].in_flight == 0


def test_reported_queue_counts_while_the_report_is_fresh() -> None:
    loads = Loads()
    loads.report("a", Load(running=1, queued=9, slots=1), now=0.0)

    assert loads.better("a", "b", now=0.1) == "b"
    assert loads["a"].score(now=STALE_S + 1) == loads["b"].score(now=STALE_S + 1)


def test_more_slots_take_more_calls() -> None:
    loads = Loads()
    loads.report("big", Load(running=3, slots=8), now=0.0)
    loads.report("small", Load(running=1, slots=1), now=0.0)

    assert loads.better("small", "big", now=0.0) == "big"


def test_node_that_turned_slow_is_avoided_after_one_answer() -> None:
    loads = Loads()
    for node in ("a", "b"):
        loads.sent(node)
    loads.answered("a", 0.5, now=0.0)
    loads.answered("b", 0.001, now=0.0)

    assert loads.better("a", "b", now=0.0) == "b"


def test_degraded_node_is_spared() -> None:
    loads = Loads()
    loads.report("a", Load(slots=1, degraded=True), now=0.0)
    loads.report("b", Load(slots=1, running=2), now=0.0)

    assert loads.better("a", "b", now=0.0) == "b"


def test_calls_of_this_router_that_have_ended_keep_no_node_busy() -> None:
    loads = Loads()
    loads.sent("a")
    loads.sent("a")
    loads.answered("a", None, now=0.0)
    loads.report("a", Load(running=1), now=0.0)
    loads.answered("a", None, now=0.0)

    assert loads["a"].score(now=0.0) == loads["b"].score(now=0.0)


def test_free_slot_outweighs_a_small_latency() -> None:
    loads = Loads()
    loads.sent("far")
    loads.answered("far", 0.02, now=0.0)
    loads.sent("near")

    assert loads.better("near", "far", now=0.0) == "far"


def test_small_latency_decides_only_between_nodes_that_are_equally_busy() -> None:
    loads = Loads()
    loads.sent("later")
    loads.answered("later", LATE_S, now=0.0)

    assert loads.better("later", "near", now=0.0) == "near"

    loads.sent("near")

    assert loads.better("later", "near", now=0.0) == "later"


def test_node_that_answers_very_late_is_avoided_although_it_is_less_busy() -> None:
    loads = Loads()
    loads.sent("late")
    loads.answered("late", 2 * LATE_S, now=0.0)
    loads.sent("near")

    assert loads.better("late", "near", now=0.0) == "near"


def test_report_that_was_overtaken_by_a_newer_one_is_dropped() -> None:
    loads = Loads()
    loads.report("a", Load(serial=8), now=0.0)
    loads.report("a", Load(running=1, serial=7), now=0.1)

    assert loads.reported("a") == Load(serial=8)


def test_report_of_a_restarted_process_is_accepted_when_the_old_one_is_stale() -> None:
    loads = Loads()
    loads.report("a", Load(serial=800), now=0.0)
    loads.report("a", Load(running=1, serial=2), now=STALE_S + 1)

    assert loads.reported("a") == Load(running=1, serial=2)
