"""Results that stay on a node, and what goes when there are too many."""

from typing import Any

from mpreg_nb.node.results import ResultRequests, ResultStore
from mpreg_nb.protocol.messages import Fetch, Hold, Release, ResultRef


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


class Caller:
    """A link to a client."""

    is_open = True

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: Any, parts: object = ()) -> None:
        self.said.append(message)


def test_what_a_caller_has_held_goes_when_it_is_released_or_with_the_caller() -> None:
    store = ResultStore(100)
    forgotten: list[tuple[object, bytes]] = []
    requests = ResultRequests("n1", store, lambda *each: forgotten.append(each))
    handlers: dict[type, Any] = requests.handlers()
    caller: Any = Caller()
    other: Any = Caller()
    for number, link in enumerate((caller, caller, other)):
        handlers[Hold](link, Hold(id=bytes([number]) * 16, payload=b"value"), ())

    assert caller.said[0].kept == ResultRef("n1", bytes(16), 5, shared=True)
    handlers[Fetch](other, Fetch(id=bytes(16), kept=caller.said[0].kept), ())
    handlers[Release](caller, Release(ids=(bytes(16),)), ())
    assert other.said[-1] == Release(ids=(bytes(16),))  # which had fetched it
    assert forgotten == [(caller, bytes(16))]
    assert store.statistics().results == 2
    requests.sink_lost(caller)
    assert store.statistics().results == 1
    assert store.get(b"\2" * 16) == (b"value",)


def test_nothing_is_held_for_a_caller_that_is_gone_already() -> None:
    store = ResultStore(100)
    caller: Any = Caller()
    caller.is_open = False

    handlers: dict[type, Any] = ResultRequests("n1", store, print).handlers()
    handlers[Hold](caller, Hold(id=bytes(16), payload=b"value"), ())

    assert store.statistics().results == 0
    assert caller.said == []
