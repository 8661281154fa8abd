from mpreg_nb.membership.broadcast import MOST_DELTAS, Broadcasts, size_bytes
from mpreg_nb.protocol.gossip import (
    Announce,
    Item,
    Load,
    LoadNews,
    MemberRecord,
    MemberState,
    Verdict,
)

EPOCH = bytes(16)
MUCH = 10_000


def record(name: str, incarnation: int = 1) -> MemberRecord:
    return MemberRecord(name=name, generation=1, epoch=EPOCH, incarnation=incarnation)


def verdict(name: str) -> Verdict:
    return Verdict(
        name=name,
        generation=1,
        epoch=EPOCH,
        incarnation=1,
        state=MemberState.SUSPECT,
        by=("z",),
    )


def test_an_item_is_sent_as_often_as_asked_and_no_more() -> None:
    news = Broadcasts()
    news.put(record("a"))

    sent = [news.take(MUCH, 3) for _ in range(5)]

    assert sent == [(record("a"),)] * 3 + [()] * 2
    assert len(news) == 0


def test_newer_news_of_a_node_replaces_older() -> None:
    news = Broadcasts()
    news.put(record("a"))
    news.put(verdict("a"))
    news.put(record("a", 2))

    assert news.take(MUCH, 3) == (record("a", 2),)


def test_what_was_sent_least_goes_first_and_of_that_the_newest() -> None:
    news = Broadcasts()
    one = size_bytes(record("a"))
    news.put(record("a"))
    news.take(one, 9)
    news.put(record("b"))
    news.put(record("c"))

    sent = [news.take(one, 9)[0] for _ in range(3)]

    assert sent == [record("c"), record("b"), record("c")]


def test_no_message_carries_more_than_the_limit() -> None:
    news = Broadcasts()
    for number in range(50):
        news.put(record(f"n{number:02}"))

    items = news.take(1024, 4)

    assert 900 < sum(map(size_bytes, items)) <= 1024


def test_an_item_larger_than_the_limit_goes_alone() -> None:
    news = Broadcasts()
    large = MemberRecord(name="a", generation=1, epoch=EPOCH, host="h" * 256)
    news.put(large)
    news.put(record("b"))

    assert news.take(100, 9) == (record("b"),)
    assert news.take(100, 9) == (large,)


def test_the_accused_node_is_sent_the_accusation_first() -> None:
    news = Broadcasts()
    news.put(verdict("a"))
    news.put(record("b"))
    one = size_bytes(verdict("a"))

    assert news.take(one, 9, to="a") == (verdict("a"),)


def test_no_node_is_sent_its_own_alive_record() -> None:
    news = Broadcasts()
    news.put(record("a"))

    assert news.take(MUCH, 9, to="a") == ()
    assert news.take(MUCH, 9, to="b") == (record("a"),)


def test_deltas_of_one_catalog_all_go_and_in_their_order() -> None:
    news = Broadcasts()
    deltas = [Announce(owner="a", generation=1, version=v) for v in (1, 2, 3)]
    for delta in deltas:
        news.put(delta)

    assert news.take(MUCH, 9) == tuple(deltas)


def test_only_the_newest_of_very_many_deltas_wait_for_each_catalog() -> None:
    news = Broadcasts()
    for version in range(2, 20 * MOST_DELTAS + 1, 2):  # those between were pulled
        news.put(Announce(owner="n1", generation=1, version=version))
    news.put(Announce(owner="n2", generation=1, version=3))

    sent = news.take(10 * MUCH, 1)

    newest = range(18 * MOST_DELTAS + 2, 20 * MOST_DELTAS + 1, 2)
    assert [(i.owner, i.version) for i in sent if isinstance(i, Announce)] == [
        ("n2", 3),
        *(("n1", version) for version in newest),
    ]


def test_what_a_gone_node_offered_is_no_news() -> None:
    news = Broadcasts()
    items: list[Item] = [
        Announce(owner="a", generation=1, version=1),
        LoadNews(name="a", generation=1, serial=1, load=Load()),
        verdict("a"),
        record("b"),
    ]
    for item in items:
        news.put(item)

    news.drop("a")

    assert set(news.take(MUCH, 9)) == {verdict("a"), record("b")}
