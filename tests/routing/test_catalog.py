import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpreg_nb.protocol.gossip import CatalogPull, Offer
from mpreg_nb.routing.catalog import HISTORY, PART_BYTES, RETRY_S, Catalog

V1, V2 = "1" * 32, "2" * 32
NOTHING: frozenset[str] = frozenset()
GPU = frozenset({"gpu"})


def offer(version: str = V1, counter: int = 1, **fields: object) -> Offer:
    plain = Offer(function="train", version=version, counter=counter, origin="n1")
    return replace(plain, **fields)


def follow(reader: Catalog, writer: Catalog, generation: int = 1) -> None:
    """Bring what `reader` knows of `writer` up to date, as the shell does."""
    reader.heard(writer.me, generation=generation, version=writer.version)
    for _, pull in reader.pulls(math.inf):
        for push in writer.answer(pull):
            reader.receive(push)


@pytest.fixture
def n1() -> Catalog:
    return Catalog("n1")


@pytest.fixture
def n2() -> Catalog:
    return Catalog("n2")


# ------------------------------------------------------------- following a log


def test_a_delta_is_applied_on_the_version_before_it(n1: Catalog, n2: Catalog) -> None:
    delta = n1.publish(offer())

    applied = n2.apply("n1", generation=1, version=1, from_version=0, offers=delta)

    assert applied
    assert n2.entries() == (("n1", offer()),)
    assert n2.behind == ()


def test_a_delta_that_skips_a_version_is_pulled_instead(
    n1: Catalog, n2: Catalog
) -> None:
    n1.publish(offer(V1))
    second = n1.publish(offer(V2, 2))

    applied = n2.apply("n1", generation=1, version=2, from_version=1, offers=second)

    assert not applied
    assert n2.behind == ("n1",)
    pull = CatalogPull(owner="n1", generation=1, from_version=0)
    assert n2.pulls(0.0) == (("n1", pull),)


def test_pulling_ends_when_all_is_there(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer(V1))
    n1.publish(offer(V2, 2))

    follow(n2, n1)

    assert n2.entries() == n1.entries()
    assert n2.behind == ()
    assert n2.deadline == math.inf


def test_the_same_delta_twice_changes_nothing(n1: Catalog, n2: Catalog) -> None:
    delta = n1.publish(offer())
    n2.apply("n1", generation=1, version=1, from_version=0, offers=delta)
    revision = n2.revision

    again = n2.apply("n1", generation=1, version=1, from_version=0, offers=delta)

    assert not again
    assert n2.revision == revision


def test_an_unanswered_pull_comes_again_every_second_time_elsewhere(
    n2: Catalog,
) -> None:
    n2.heard("n1", generation=1, version=3, heard_from="n7")

    asked = [n2.pulls(now)[0][0] for now in (0.0, RETRY_S, 2 * RETRY_S)]

    assert asked == ["n1", "n7", "n1"]
    assert n2.pulls(2 * RETRY_S) == ()
    assert n2.deadline == 3 * RETRY_S


def test_a_third_node_can_answer_for_the_owner(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer())
    follow(n2, n1)
    n3 = Catalog("n3")
    n3.heard("n1", generation=1, version=1, heard_from="n2")

    for push in n2.answer(CatalogPull(owner="n1", generation=1)):
        n3.receive(push)

    assert n3.entries() == (("n1", offer()),)


def test_who_knows_no_more_answers_nothing(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer())

    assert n1.answer(CatalogPull(owner="n1", generation=1, from_version=1)) == ()
    assert n2.answer(CatalogPull(owner="n1", generation=1)) == ()


def test_only_what_changed_travels_while_the_history_reaches(n1: Catalog) -> None:
    for number in range(HISTORY + 2):
        n1.publish(offer(f"{number:032}", number))

    near = n1.answer(CatalogPull(owner="n1", generation=1, from_version=HISTORY))
    far = n1.answer(CatalogPull(owner="n1", generation=1, from_version=1))

    assert [len(push.offers) for push in near] == [2]
    assert near[0].from_version == HISTORY
    assert far[0].from_version == 0
    assert sum(len(push.offers) for push in far) == HISTORY + 2


def test_a_large_catalog_travels_in_parts_in_any_order(
    n1: Catalog, n2: Catalog
) -> None:
    for number in range(100):
        n1.publish(offer(f"{number:032}", number, doc="d" * 1000))
    n2.heard("n1", generation=1, version=100)
    parts = n1.answer(CatalogPull(owner="n1", generation=1))

    applied = [n2.receive(part) for part in reversed(parts)]

    assert len(parts) > 100_000 // PART_BYTES
    assert applied == [False] * (len(parts) - 1) + [True]
    assert n2.entries() == n1.entries()


def test_a_new_process_of_the_owner_voids_its_old_entries(n2: Catalog) -> None:
    n2.apply("n1", generation=1, version=1, from_version=0, offers=(offer(V1),))

    n2.heard("n1", generation=2, version=1)

    assert n2.entries() == ()
    assert n2.behind == ("n1",)


def test_news_of_the_process_before_is_ignored(n2: Catalog) -> None:
    n2.apply("n1", generation=2, version=1, from_version=0, offers=(offer(V1),))

    n2.apply("n1", generation=1, version=9, from_version=0, offers=(offer(V2),))

    assert n2.entries() == (("n1", offer(V1)),)
    assert n2.behind == ()


def test_nobody_else_writes_the_own_log(n1: Catalog) -> None:
    applied = n1.apply("n1", generation=9, version=9, from_version=0, offers=(offer(),))

    assert not applied
    assert n1.entries() == ()


def test_entries_go_with_their_node(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer())
    follow(n2, n1)

    n2.forget("n1")

    assert n2.entries() == ()


steps = st.lists(
    st.tuples(st.sampled_from(["publish", "withdraw", "remove"]), st.integers(0, 2)),
    max_size=20,
)


@given(steps=steps, heard=st.lists(st.booleans(), min_size=20, max_size=20))
def test_whatever_deltas_are_lost_a_follower_ends_with_the_same(
    steps: list[tuple[str, int]], heard: list[bool]
) -> None:
    writer, reader = Catalog("n1"), Catalog("n2")
    for (what, number), is_heard in zip(steps, heard, strict=False):
        version = f"{number:032}"
        match what:
            case "publish":
                counter = writer.next_counter("train")
                delta = writer.publish(offer(version, counter))
            case "withdraw":
                delta = writer.withdraw("train", version) or ()
            case _:
                delta = writer.remove("train")
        if delta and is_heard:
            reader.apply(
                "n1",
                generation=1,
                version=writer.version,
                from_version=writer.version - 1,
                offers=delta,
            )

    follow(reader, writer)

    assert reader.entries() == writer.entries()
    assert reader.newest("train") == writer.newest("train")
    assert reader.next_counter("train") == writer.next_counter("train")


# ------------------------------------------------------------------ registering


def test_the_newest_registration_has_the_highest_counter_then_origin(
    n1: Catalog,
) -> None:
    n1.publish(offer(V1, 1, origin="z"), offer(V2, 2, origin="a"))
    n1.publish(offer("3" * 32, 2, origin="b"))

    newest = n1.newest("train")

    assert newest is not None
    assert newest.version == "3" * 32
    assert n1.next_counter("train") == 3
    assert n1.next_counter("other") == 1


def test_counters_go_on_after_those_of_other_nodes(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer(V1, 5))
    follow(n2, n1)

    assert n2.next_counter("train") == 6


def test_an_unregistered_name_is_nowhere(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer(V1, 1))
    follow(n2, n1)
    n2.publish(offer(V1, 1))  # the placed copy

    n1.remove("train")
    follow(n2, n1)

    assert n2.newest("train") is None
    assert n2.entries() == ()
    assert n2.missing(GPU, ["train"]) == ()


def test_a_name_that_was_unregistered_can_be_registered_again(
    n1: Catalog, n2: Catalog
) -> None:
    n1.publish(offer(V1, 1))
    n1.remove("train")
    follow(n2, n1)

    n2.publish(offer(V2, n2.next_counter("train"), origin="n2"))

    newest = n2.newest("train")
    assert newest is not None
    assert newest.version == V2


def test_what_is_withdrawn_is_offered_no_longer(n1: Catalog, n2: Catalog) -> None:
    n1.publish(offer(V1))
    follow(n2, n1)

    n1.withdraw("train", V1)
    follow(n2, n1)

    assert n2.entries() == ()
    assert n1.withdraw("train", V1) is None


# ----------------------------------------------------------------- what is missing


def test_a_node_lacks_what_it_should_serve_and_only_the_newest_of_it(
    n1: Catalog, n2: Catalog
) -> None:
    newest = offer(V2, 2, resources=GPU)
    n1.publish(offer(V1, 1, resources=GPU), newest)
    n1.publish(offer(V1, 1, function="own", placed=False))
    follow(n2, n1)

    assert n2.missing(GPU, ["own", "train"]) == (newest,)
    assert n2.missing(NOTHING, ["own", "train"]) == ()
    assert n2.missing(GPU, ["own"]) == ()
    n2.publish(newest)
    assert n2.missing(GPU, ["own", "train"]) == ()


def test_all_who_have_the_code_are_holders_even_if_they_do_not_serve(
    n1: Catalog, n2: Catalog
) -> None:
    n1.publish(offer(resources=GPU))
    n2.publish(offer(resources=GPU))
    follow(n1, n2)

    assert n1.holders("train", V1) == ("n1", "n2")
    assert n1.holders("train", V2) == ()


def test_names_that_changed_since_a_revision_are_known_also_those_that_went(
    n1: Catalog, n2: Catalog
) -> None:
    n1.publish(offer(function="a"), offer(function="b"))
    n1.publish(offer(function="c"))
    follow(n2, n1)
    before = n2.revision
    assert n2.changed_since(before) == ()

    n1.publish(offer(V2, 2, function="b"))
    n1.remove("c")
    follow(n2, n1)

    assert n2.changed_since(before) == ("b", "c")
    assert n2.entries(("b", "c")) == (
        ("n1", offer(function="b")),
        ("n1", offer(V2, 2, function="b")),
    )
    n2.forget("n1")
    assert n2.changed_since(before) == ("a", "b", "c")
    assert n2.entries(("a", "b", "c")) == ()
