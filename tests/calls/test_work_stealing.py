"""Calls that wait on a busy node go to an idle one, once each and not for nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.calls.work_stealing import MOST_RECALLS, Stealing
from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import FAILURES_TO_OPEN, Breakers
from mpreg_nb.routing.load import STALE_S, Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted

GPU = frozenset({"gpu"})
NONE: frozenset[str] = frozenset()
ANY = Wanted("any")
TRAIN = Wanted("train")


class Room:
    """One sender of calls to nodes a, b and c, of which b and c have a GPU."""

    def __init__(self) -> None:
        catalog = Catalog("a")
        for name, resources in (("any", NONE), ("train", GPU)):
            version = name.ljust(32, "0")
            catalog.publish(
                Offer(
                    function=name,
                    version=version,
                    resources=resources,
                    counter=1,
                    origin="a",
                )
            )
        self.loads = Loads()
        self.breakers = Breakers()
        self.router = Router(None, catalog, self.loads, self.breakers, random.Random(1))
        self.router.update({"a": NONE, "b": GPU, "c": GPU}, {})
        self.stealing = Stealing(self.router, self.loads)

    def busy(self, *nodes: str) -> None:
        for node in nodes:
            self.loads.report(node, Load(running=1, slots=1), now=0.0)

    def wait(self, node: str, *names: str, wanted: Wanted = ANY) -> None:
        """Send calls to `node`, which says that they wait."""
        for name in names:
            self.loads.sent(node)
            self.stealing.waits(name.encode(), wanted, node)

    def recalls(self, target: str = "", now: float = 0.0) -> dict[str, list[bytes]]:
        return self.stealing.recalls(now, target)

    def given_back(self, name: str) -> str | None:
        target = self.stealing.given_back(name.encode(), now=0.0)
        return None if target is None else target.node


def test_calls_behind_a_long_one_are_asked_back_oldest_first() -> None:
    room = Room()
    room.busy("a")
    room.wait("a", "1", "2", "3")

    asked = room.recalls()

    assert asked == {"a": [b"1", b"2"]}
    assert {room.given_back("1"), room.given_back("2")} == {"b", "c"}


def test_slot_is_reserved_until_the_call_comes() -> None:
    room = Room()
    room.busy("a", "b")
    room.wait("a", "1", "2")

    asked = [room.recalls(), room.recalls(), room.recalls("c")]

    assert asked == [{"a": [b"1"]}, {}, {}]


@pytest.mark.parametrize("ending", ["given back", "dropped"])
def test_reserved_slot_is_free_again_when_its_call_is_settled(ending: str) -> None:
    room = Room()
    room.busy("a", "b")
    room.wait("a", "1", "2")
    room.recalls()

    if ending == "dropped":
        room.stealing.drop(b"1", now=0.0)
    else:
        room.given_back("1")

    assert room.loads["c"].in_flight == 0
    assert room.recalls("c") == {"a": [b"2"]}


def test_nothing_is_asked_back_while_all_are_busy() -> None:
    room = Room()
    room.busy("a", "b")
    room.wait("c", "1", "2")

    assert room.recalls() == {}


def test_node_that_was_reported_busy_with_our_own_calls_is_free_after_them() -> None:
    room = Room()
    room.busy("a", "c")
    room.loads.sent("b")
    room.loads.report("b", Load(running=1, slots=1), now=0.0)
    room.wait("a", "1")
    before = room.recalls("b")

    room.loads.answered("b", 0.001, now=0.0)

    assert before == {}
    assert room.recalls("b") == {"a": [b"1"]}


def test_report_of_a_busy_node_says_nothing_when_it_is_old() -> None:
    room = Room()
    room.busy("a", "b", "c")
    room.wait("a", "1", "2")

    assert room.recalls(now=STALE_S) == {}
    assert room.recalls(now=STALE_S + 0.1) == {"a": [b"1", b"2"]}


def test_node_with_more_slots_takes_more() -> None:
    room = Room()
    room.busy("a", "b")
    room.loads.report("c", Load(running=1, slots=4), now=0.0)
    room.wait("a", "1", "2", "3", "4", "5")

    assert room.recalls() == {"a": [b"1", b"2", b"3"]}


def test_degraded_node_takes_none() -> None:
    room = Room()
    room.busy("a", "b")
    room.loads.report("c", Load(slots=4, degraded=True), now=0.0)
    room.wait("a", "1")

    assert room.recalls() == {}


def test_call_goes_only_where_it_fits() -> None:
    room = Room()
    room.busy("b", "c")
    room.wait("b", "1", wanted=TRAIN)
    room.wait("b", "2")

    assert room.recalls() == {"b": [b"2"]}


def test_oldest_of_different_calls_goes_first() -> None:
    room = Room()
    room.busy("a", "b")
    room.wait("b", "1", wanted=TRAIN)
    room.wait("a", "2")

    assert room.recalls() == {"b": [b"1"]}


def test_call_stays_away_from_nodes_that_could_not_take_it() -> None:
    room = Room()
    room.busy("a", "b")
    room.stealing.waits(b"1", ANY, "a", avoid=("c",))

    assert room.recalls() == {}


def test_open_breaker_keeps_calls_away() -> None:
    room = Room()
    room.busy("a", "b")
    for _ in range(FAILURES_TO_OPEN):
        room.breakers.failed("c", "any", now=0.0)
    room.wait("a", "1")

    assert room.recalls() == {}


def test_call_that_began_or_ended_is_not_asked_back() -> None:
    room = Room()
    room.busy("a")
    room.wait("a", "1")

    room.stealing.drop(b"1", now=0.0)

    assert room.recalls() == {}
    assert not room.stealing.waiters


def test_refusal_of_a_call_that_was_not_asked_back_is_none_of_ours() -> None:
    room = Room()
    room.wait("a", "1")

    assert room.given_back("1") is None
    assert room.given_back("2") is None


def test_word_that_it_waits_comes_too_late_for_a_call_that_was_asked_back() -> None:
    room = Room()
    room.busy("a")
    room.wait("a", "1")
    room.recalls()

    room.stealing.waits(b"1", ANY, "a")

    assert room.recalls() == {}
    assert room.given_back("1") in ("b", "c")


def test_call_is_moved_only_so_often() -> None:
    room = Room()
    here, moves = "a", 0

    while True:
        room.stealing.waits(b"1", ANY, here)
        room.recalls()
        target = room.given_back("1")
        if target is None:
            break
        here, moves = target, moves + 1

    assert moves == MOST_RECALLS


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["send", "waits", "look", "look at", "back", "drop"]),
        st.integers(0, 9),
        st.sampled_from("abc"),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_no_call_is_asked_for_twice_and_no_slot_stays_reserved(
    events: list[tuple[str, int, str]],
) -> None:
    room = Room()
    at: dict[bytes, str] = {}
    asked: set[bytes] = set()

    def recalled(found: dict[str, list[bytes]]) -> None:
        for node, call_ids in found.items():
            for call_id in call_ids:
                assert at[call_id] == node
                assert call_id not in asked
                asked.add(call_id)

    def end(call_id: bytes) -> None:
        if at.pop(call_id, None) is not None:
            room.stealing.drop(call_id, now=0.0)
            asked.discard(call_id)

    for what, number, node in events:
        call_id = bytes([number])
        if what == "send" and call_id not in at:
            at[call_id] = node
            room.loads.sent(node)
        elif what == "waits" and call_id in at:
            room.stealing.waits(call_id, ANY, at[call_id])
        elif what == "look":
            recalled(room.recalls())
        elif what == "look at":
            recalled(room.recalls(node))
        elif what == "back" and call_id in asked:
            target = room.stealing.given_back(call_id, now=0.0)
            assert isinstance(target, Chosen)
            assert target.node != at[call_id]
            room.loads.answered(at[call_id], None, now=0.0)
            room.loads.sent(target.node)
            at[call_id] = target.node
            asked.remove(call_id)
        elif what == "drop" and call_id in at:
            room.loads.answered(at[call_id], None, now=0.0)
            end(call_id)

    for call_id, node in list(at.items()):
        room.loads.answered(node, None, now=0.0)
        end(call_id)
    assert [room.loads[node].in_flight for node in "abc"] == [0, 0, 0]
    assert not room.stealing.waiters
    assert room.recalls() == {}
