"""Where a call goes, and what is said when it goes nowhere."""

import random
from collections import Counter

import msgspec
import pytest

from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import LATE_S, Loads
from mpreg_nb.routing.router import (
    FEW,
    Chosen,
    NoCandidate,
    Router,
    UnknownVersion,
    Wanted,
)

GPU = frozenset({"gpu"})
NONE: frozenset[str] = frozenset()
V1, V2 = "1" * 32, "2" * 32


def placed(function: str, version: str, counter: int = 1, resources=NONE) -> Offer:  # type: ignore[no-untyped-def]
    return Offer(
        function=function,
        version=version,
        counter=counter,
        origin="a",
        resources=resources,
    )


class Room:
    """A router with its parts, as node `me` of a cluster of a, b and c."""

    def __init__(self, me: str | None = "a") -> None:
        self.catalog = Catalog("a")
        self.loads = Loads()
        self.breakers = Breakers()
        self.router = Router(
            me, self.catalog, self.loads, self.breakers, random.Random(1)
        )
        self.alive = {"a": NONE, "b": GPU, "c": frozenset({"gpu", "big"})}
        self.router.update(self.alive, {})

    def offer(self, *offers: Offer) -> None:
        self.catalog.publish(*offers)
        self.router.catalog_changed()

    def chosen(self, wanted: Wanted, times: int = 50) -> set[str]:
        nodes = set()
        for _ in range(times):
            choice = self.router.choose(wanted, now=0.0)
            assert isinstance(choice, Chosen)
            nodes.add(choice.node)
        return nodes


def test_placed_function_goes_to_every_node_that_holds_its_resources() -> None:
    room = Room(me=None)
    room.offer(placed("train", V1, resources=GPU))

    assert room.chosen(Wanted("train")) == {"b", "c"}


def test_call_narrows_the_nodes_further() -> None:
    room = Room(me=None)
    room.offer(placed("train", V1, resources=GPU))

    assert room.chosen(Wanted("train", resources=frozenset({"big"}))) == {"c"}
    assert room.chosen(Wanted("train", node="b")) == {"b"}


def test_name_means_the_newest_registration() -> None:
    room = Room()
    room.offer(placed("f", V1, counter=1), placed("f", V2, counter=2))

    choice = room.router.choose(Wanted("f"), now=0.0)

    assert isinstance(choice, Chosen)
    assert choice.version == V2


def test_version_that_is_named_is_the_one_that_is_chosen() -> None:
    room = Room()
    room.offer(placed("f", V1, counter=1), placed("f", V2, counter=2))

    choice = room.router.choose(Wanted("f", version=V1), now=0.0)

    assert isinstance(choice, Chosen)
    assert choice.version == V1


def test_refusal_of_an_unannounced_version_says_that_it_is_unknown() -> None:
    room = Room()
    room.offer(placed("f", V1))

    assert room.router.choose(Wanted("f", version=V2), now=0.0) == UnknownVersion()


def test_node_that_asks_takes_itself_while_it_has_a_free_slot() -> None:
    room = Room(me="a")
    room.offer(placed("f", V1))
    room.loads.report("a", Load(slots=1), now=0.0)

    assert room.chosen(Wanted("f")) == {"a"}

    room.loads.sent("a")

    assert room.chosen(Wanted("f")) != {"a"}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("me", ["b", None], ids=["a node", "a client"])
def test_idle_nodes_share_parallel_calls_alike_however_late_they_answered_before(
    me: str | None, slots: int
) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        room = Room(me)
        room.offer(placed("train", V1, resources=GPU))
        for node in ("b", "c"):
            room.loads.report(node, Load(slots=slots), now=0.0)
            if node != me:
                room.loads.sent(node)
                room.loads.answered(node, chance.uniform(0.0, LATE_S), now=0.0)

        shares: Counter[str] = Counter()
        for _ in range(4 * slots):
            (node,) = room.chosen(Wanted("train"), times=1)
            room.loads.sent(node)
            shares[node] += 1

        assert shares == {"b": 2 * slots, "c": 2 * slots}, seed


def test_busy_node_is_passed_over_for_an_idle_one() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1, resources=GPU))
    for _ in range(5):
        room.loads.sent("b")

    assert room.chosen(Wanted("f")) == {"c"}


def test_suspect_is_used_only_where_no_other_fits() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1, resources=GPU))
    room.router.update({"a": NONE, "b": GPU}, {"c": frozenset({"gpu", "big"})})

    assert room.chosen(Wanted("f")) == {"b"}
    assert room.chosen(Wanted("f", resources=frozenset({"big"}))) == {"c"}


def test_open_breaker_is_passed_over_unless_all_are_open() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1, resources=GPU))
    for _ in range(5):
        room.breakers.failed("b", "f", now=0.0)

    assert room.chosen(Wanted("f")) == {"c"}

    for _ in range(5):
        room.breakers.failed("c", "f", now=0.0)

    assert room.chosen(Wanted("f")) == {"b", "c"}


def test_node_to_avoid_is_used_when_it_is_the_only_one() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1, resources=GPU))

    both = room.router.choose(Wanted("f"), 0.0, avoid={"b"})
    only = room.router.choose(Wanted("f", node="b"), 0.0, avoid={"b"})

    assert isinstance(both, Chosen)
    assert both.node == "c"
    assert isinstance(only, Chosen)
    assert only.node == "b"


def test_refusal_of_a_placed_function_lists_what_every_live_node_holds() -> None:
    room = Room()
    room.offer(placed("train", V1, resources=frozenset({"tpu"})))

    refused = room.router.choose(Wanted("train", resources=GPU), now=0.0)

    assert isinstance(refused, NoCandidate)
    assert refused.resources == {"gpu", "tpu"}
    assert dict(refused.offers) == room.alive


def test_refusal_of_an_unknown_name_suggests_the_nearest() -> None:
    room = Room()
    room.offer(placed("train", V1))

    refused = room.router.choose(Wanted("trian"), now=0.0)

    assert isinstance(refused, NoCandidate)
    assert refused.similar == "train"
    assert refused.offers == ()


def test_function_of_a_process_is_served_by_that_process_alone() -> None:
    room = Room(me=None)
    own = Offer(
        function="load", version=V1, counter=1, origin="a", placed=False, resources=GPU
    )
    room.offer(own)

    assert room.chosen(Wanted("load")) == {"a"}
    assert room.chosen(Wanted("load", resources=GPU)) == {"a"}


def test_dead_member_is_no_longer_chosen() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1, resources=GPU))
    assert room.chosen(Wanted("f")) == {"b", "c"}

    room.router.update({"a": NONE, "b": GPU}, {})

    assert room.chosen(Wanted("f")) == {"b"}


def test_explain_shows_what_each_node_lacks() -> None:
    room = Room(me=None)
    room.offer(placed("train", V1, resources=GPU))

    verdicts = room.router.explain(Wanted("train", resources=frozenset({"big"})), 0.0)

    assert [(v.node, v.reason) for v in verdicts] == [
        ("c", ""),
        ("a", "lacks big, gpu"),
        ("b", "lacks big"),
    ]


def test_explain_follows_members_loads_and_breakers() -> None:
    room = Room(me=None)
    room.offer(placed("train", V1, resources=GPU))

    def told() -> list[tuple[str, str, int]]:
        verdicts = room.router.explain(Wanted("train"), now=0.0)
        return [(v.node, v.reason, v.in_flight) for v in verdicts]

    assert told() == [("b", "", 0), ("c", "", 0), ("a", "lacks gpu", 0)]

    room.loads.sent("c")
    for _ in range(5):
        room.breakers.failed("b", "train", now=0.0)

    assert told() == [("c", "", 1), ("a", "lacks gpu", 0), ("b", "breaker open", 0)]

    room.router.update({"b": GPU}, {"c": GPU})

    assert told() == [("b", "breaker open", 0), ("c", "suspect", 1)]


def of_python(python: str, resources: frozenset[str] = GPU) -> Offer:
    return Offer(
        function="train",
        version=V1,
        counter=1,
        origin="a",
        resources=resources,
        python=python,
    )


def test_compiled_code_goes_only_to_the_python_that_it_is_of() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, {"a": "3.11", "b": "3.12", "c": "3.11"})
    room.offer(of_python("3.11"))

    assert room.chosen(Wanted("train")) == {"c"}
    verdicts = {v.node: v.reason for v in room.router.explain(Wanted("train"), 0.0)}
    assert verdicts["b"] == "runs Python 3.12, not 3.11"
    assert verdicts["c"] == ""


def test_code_that_is_imported_goes_to_any_python() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, {"a": "3.11", "b": "3.12", "c": "3.13"})
    room.offer(of_python(""))

    assert room.chosen(Wanted("train")) == {"b", "c"}


def test_refusal_says_when_only_the_python_is_in_the_way() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, {"a": "3.11", "b": "3.12", "c": "3.13"})
    room.offer(of_python("3.11"))

    of_python_only = room.router.choose(Wanted("train"), now=0.0)
    of_one = room.router.choose(Wanted("train", node="b"), now=0.0)
    of_more = room.router.choose(Wanted("train", resources=frozenset("x")), now=0.0)

    assert isinstance(of_python_only, NoCandidate)
    assert of_python_only.reason == (
        "its code was compiled by Python 3.11, and b runs 3.12, c runs 3.13. "
        "Start a node with Python 3.11, or register the function from the Python "
        "of the nodes"
    )
    assert isinstance(of_one, NoCandidate)
    assert of_one.pythons == (("b", "3.12"),)
    assert isinstance(of_more, NoCandidate)
    assert of_more.reason == ""


def test_function_that_needs_a_worker_passes_over_nodes_without_any() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, workerless={"a", "c"})
    room.offer(placed("train", V1))

    assert room.chosen(Wanted("train")) == {"b"}
    verdicts = {v.node: v.reason for v in room.router.explain(Wanted("train"), 0.0)}
    assert verdicts["a"] == verdicts["c"] == "has no worker processes"
    assert verdicts["b"] == ""


def test_function_of_threads_goes_to_nodes_without_workers() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, workerless=set(room.alive))
    room.offer(msgspec.structs.replace(placed("train", V1), isolation="thread"))

    assert room.chosen(Wanted("train")) == {"a", "b", "c"}


def test_refusal_says_when_only_workers_are_in_the_way() -> None:
    room = Room(me=None)
    room.router.update(room.alive, {}, workerless={"a", "b", "c"})
    room.offer(placed("train", V1, resources=GPU))

    of_gpu = room.router.choose(Wanted("train"), now=0.0)
    of_one = room.router.choose(Wanted("train", node="b"), now=0.0)
    of_none = room.router.choose(Wanted("train", node="a"), now=0.0)

    assert isinstance(of_gpu, NoCandidate)
    assert of_gpu.reason == (
        "it runs in a worker process, and b, c have none (workers=0). Start a node "
        "with workers=1, or register the function with isolation='thread'"
    )
    assert isinstance(of_one, NoCandidate)
    assert "b has none" in of_one.reason
    assert isinstance(of_none, NoCandidate)
    assert of_none.reason == ""


def test_newest_registration_of_one_version_counts() -> None:
    room = Room(me=None)
    room.offer(placed("train", V1, 1, GPU))
    later = (placed("train", V1, 2),)
    room.catalog.apply("b", generation=1, version=1, from_version=0, offers=later)
    room.router.catalog_changed()

    assert room.chosen(Wanted("train", version=V1)) == {"a", "b", "c"}


def test_no_idle_node_is_passed_over_where_few_fit() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1))
    room.router.update({f"n{number}": NONE for number in range(FEW)}, {})
    taken = []
    for _ in range(FEW):
        choice = room.router.choose(Wanted("f"), now=0.0)
        assert isinstance(choice, Chosen)
        room.loads.sent(choice.node)
        taken.append(choice.node)

    assert len(set(taken)) == FEW


def test_equally_good_nodes_are_drawn() -> None:
    room = Room(me=None)
    room.offer(placed("f", V1))

    assert room.chosen(Wanted("f")) == {"a", "b", "c"}


def many(*, answered: bool) -> Room:
    """Return a room with many equal nodes, which have answered before or not."""
    room = Room(me=None)
    room.alive = {f"n{number}": NONE for number in range(3 * FEW)}
    room.router.update(room.alive, {})
    room.offer(placed("f", V1), placed("g", V1))
    for node in room.alive if answered else ():
        room.loads.sent(node)
        room.loads.answered(node, 0.0002, 0.0)
    return room


def test_calls_that_follow_each_other_go_to_the_node_that_is_awake() -> None:
    room = many(answered=True)
    first = room.chosen(Wanted("f"), times=1)

    room.router.update(room.alive, {})  # as after each snapshot

    assert room.chosen(Wanted("f")) == first
    assert len({*room.chosen(Wanted("g")), *first}) == 2  # drawn for each function


def test_a_node_that_is_awake_and_busy_or_late_or_gone_is_passed_over() -> None:
    room = many(answered=True)
    [busy] = room.chosen(Wanted("f"), times=1)
    room.loads.sent(busy)
    [late] = room.chosen(Wanted("f"), times=1)
    room.loads.answered(late, 2 * LATE_S, 0.0)
    [gone] = room.chosen(Wanted("f"), times=1)
    del room.alive[gone]
    room.router.update(room.alive, {})

    [last] = room.chosen(Wanted("f"))

    assert len({busy, late, gone, last}) == 4


def test_many_nodes_that_never_answered_are_drawn() -> None:
    assert len(many(answered=False).chosen(Wanted("f"))) > FEW
