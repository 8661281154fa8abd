"""Results that stay on a node, and what goes when there are too many."""

from mpreg_nb.node.results import ResultStore


def test_result_is_held_until_it_is_released() -> None:
    store = ResultStore(limit_bytes=100)

    assert store.put(b"a", (b"123", b"45")) == 5
    assert store.get(b"a") == (b"123", b"45")

    store.release(b"a")

    assert store.get(b"a") is None
    assert store.statistics().held_bytes == 0


def test_result_that_nobody_asked_for_longest_goes_first() -> None:
    store = ResultStore(limit_bytes=10)
    store.put(b"a", (b"1234",))
    store.put(b"b", (b"1234",))
    store.get(b"a")

    store.put(b"c", (b"1234",))

    assert store.get(b"b") is None
    assert store.get(b"a") is not None
    assert store.statistics().evicted == 1


def test_newest_result_stays_even_if_it_is_larger_than_the_limit() -> None:
    store = ResultStore(limit_bytes=3)
    store.put(b"a", (b"12",))

    store.put(b"b", (b"12345",))

    assert store.get(b"a") is None
    assert store.get(b"b") == (b"12345",)


def test_same_key_again_replaces_the_result() -> None:
    store = ResultStore(limit_bytes=100)
    store.put(b"a", (b"1234",))
    store.put(b"a", (b"1",))

    assert store.statistics().held_bytes == 1
