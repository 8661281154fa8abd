"""Functions by version."""

import asyncio
from typing import Any

from mpreg_nb.node.functions import (
    KEPT_VERSIONS,
    CodeDistributor,
    Registry,
    ShippedFunction,
    own_version,
)
from mpreg_nb.protocol.gossip import Offer
from mpreg_nb.protocol.messages import Failed, Failure, Register
from mpreg_nb.protocol.worker import CODE_BYTES
from mpreg_nb.routing.catalog import Catalog


def shipped(number: int, name: str = "f") -> ShippedFunction:
    return ShippedFunction(name, f"{number:032x}", (b"code",))


def test_old_versions_stay_callable() -> None:
    registry = Registry()
    registry.add(shipped(1))
    registry.add(shipped(2))

    assert registry.get(f"{1:032x}") == shipped(1)
    assert f"{2:032x}" in registry


def test_oldest_version_of_a_name_goes_when_there_are_too_many() -> None:
    registry = Registry()
    registry.add(shipped(9999, name="other"))
    gone = [old for n in range(KEPT_VERSIONS + 2) for old in registry.add(shipped(n))]

    assert gone == [shipped(0), shipped(1)]
    assert f"{9999:032x}" in registry


def test_version_that_is_added_again_counts_as_the_newest() -> None:
    registry = Registry()
    for number in range(KEPT_VERSIONS):
        registry.add(shipped(number))
    registry.add(shipped(0))

    gone = registry.add(shipped(5000))

    assert gone == [shipped(1)]


def large(number: int, name: str = "f") -> ShippedFunction:
    return ShippedFunction(name, f"{number:032x}", (bytes(CODE_BYTES // 3),))


def test_large_versions_that_are_no_longer_called_are_dropped_first() -> None:
    told: list[str] = []
    registry = Registry(told.append)
    registry.add(large(1))
    registry.add(large(2))
    registry.add(large(3))
    registry.get(f"{1:032x}")

    gone = registry.add(large(4))

    assert [old.version for old in gone] == told == [f"{2:032x}"]
    assert f"{1:032x}" in registry


def test_what_a_name_means_now_stays_however_large_all_of_it_is() -> None:
    registry = Registry()

    gone = [registry.add(large(n, name=f"f{n}")) for n in range(9)]

    assert gone == [[]] * 9


def test_equal_names_on_two_nodes_are_two_functions() -> None:
    assert own_version("f", "n1") != own_version("f", "n2")
    assert len(own_version("f", "n1")) == 32


def test_a_version_that_has_to_go_is_an_event_and_leaves_the_catalog() -> None:
    events: list[tuple[str, str]] = []
    catalog = Catalog("n1")
    alone: Any = None  # it has no peer to ask or to tell
    distributor = CodeDistributor(
        "n1",
        frozenset(),
        registry=Registry(),
        catalog=catalog,
        peer_requests=alone,
        peer_sender=alone,
        alive=lambda: {"n1": frozenset()},
        can_run=lambda node, offer: True,
        announce=lambda offers: None,
        on_event=lambda *event: events.append(event),
    )

    async def register_all() -> None:
        for number in range(KEPT_VERSIONS + 1):
            version = f"{number:032x}"[::-1]
            request = Register(
                id=bytes(16), function="f", version=version, payload=b"code"
            )
            await distributor.register(request, ())

    asyncio.run(register_all())

    assert ("function removed", "f 000000") in events
    offered = {offer.version for _, offer in catalog.offers("f")}
    assert len(offered) == KEPT_VERSIONS
    assert "0" * 32 not in offered


def test_code_that_nobody_gave_is_asked_for_again_at_the_next_change() -> None:
    catalog = Catalog("n1")
    asked: list[tuple[str, str]] = []

    class Peers:
        async def code(self, node: str, version: str) -> tuple[Failed, tuple[()]]:
            asked.append((node, version[0]))
            failure = Failure(kind="no_code", node=node)
            return Failed(id=bytes(16), failure=failure), ()

    alone: Any = None
    peers: Any = Peers()
    distributor = CodeDistributor(
        "n1",
        frozenset(),
        registry=Registry(),
        catalog=catalog,
        peer_requests=peers,
        peer_sender=alone,
        alive=lambda: {"n1": frozenset()},
        can_run=lambda node, offer: True,
        announce=lambda offers: None,
        on_event=lambda *event: None,
    )

    def offered(version: int, function: str, digit: str) -> None:
        """Hear that another node offers a function."""
        offer = Offer(function=function, version=digit * 32, origin="n2")
        catalog.apply(
            "n2",
            generation=1,
            version=version,
            from_version=version - 1,
            offers=(offer,),
        )

    async def until_asked(question: tuple[str, str], times: int) -> None:
        while asked.count(question) < times:
            distributor.serve_missing()
            await asyncio.sleep(0)

    async def scene() -> None:
        async with asyncio.timeout(60):
            offered(1, "f", "1")
            await until_asked(("n2", "1"), 3)
            offered(2, "g", "2")
            await until_asked(("n2", "2"), 1)

    asyncio.run(scene())

    assert set(asked) == {("n2", "1"), ("n2", "2")}
