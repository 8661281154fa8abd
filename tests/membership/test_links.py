import pytest

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Close, Dial
from mpreg_nb.membership.links import LOST_S, ControlLinks
from mpreg_nb.protocol.gossip import Ack

URLS = ("ws://h:1",)


@pytest.fixture
def links() -> ControlLinks:
    return ControlLinks(SwimConfig())


def test_a_dial_is_not_repeated_before_its_outcome(links: ControlLinks) -> None:
    assert links.dial("b", URLS, 0.0) == [Dial("b", URLS)]
    assert links.dial("b", URLS, 1.0) == []
    links.failed("b", 2.0, refused=False)
    assert links.dial("b", URLS, 2.0) == [Dial("b", URLS)]


def test_a_dial_whose_outcome_was_lost_is_repeated(links: ControlLinks) -> None:
    links.dial("b", URLS, 0.0)

    assert links.dial("b", URLS, LOST_S) == [Dial("b", URLS)]


def test_what_waits_for_a_dial_goes_when_the_link_is_up(links: ControlLinks) -> None:
    links.wait("b", Ack(seq=1))

    assert links.opened("b", 0.0) == [Ack(seq=1)]
    assert links.opened("b", 1.0) == []


def test_what_waits_is_bounded_and_the_oldest_goes(links: ControlLinks) -> None:
    for seq in range(20):
        links.wait("b", Ack(seq=seq))

    assert links.opened("b", 0.0) == [Ack(seq=seq) for seq in range(12, 20)]


def test_failed_dials_are_tried_again_ever_later(links: ControlLinks) -> None:
    pauses = []
    for _ in range(8):
        links.failed("b", 0.0, refused=True)
        pauses.append(next(s for s in range(1, 100) if links.may_dial("b", float(s))))

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_link_that_broke_is_remembered_until_one_is_up(links: ControlLinks) -> None:
    links.opened("b", 0.0)
    links.closed("b", lost=True)
    assert links.is_lost("b")

    links.opened("b", 1.0)

    assert not links.is_lost("b")


def test_idle_links_are_closed_but_for_a_few() -> None:
    links = ControlLinks(SwimConfig(kept_links=2, idle_link_s=30.0))
    for number in range(5):
        links.opened(f"n{number}", float(number))

    assert links.close_idle(20.0) == []
    assert links.close_idle(33.0) == [Close("n0"), Close("n1"), Close("n2")]
    assert links.close_idle(99.0) == []


def test_the_least_used_of_too_many_links_are_closed() -> None:
    links = ControlLinks(SwimConfig(kept_links=2, max_links=3, idle_link_s=1e9))
    for number in range(5):
        links.opened(f"n{number}", float(number))
    links.touch("n0", 9.0)

    assert links.close_idle(10.0) == [Close("n1"), Close("n2")]
