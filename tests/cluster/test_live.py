import threading
from typing import Any

import pytest

from mpreg_nb.cluster.live import updates_of
from mpreg_nb.errors import NodeLost
from mpreg_nb.view.live import members
from tests.support.builders import call
from tests.support.watched_cluster import WAIT_S, Drawn, Watched


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def dead(pictures: dict[str, Any]) -> list[str]:
    rows = pictures["members"]["rows"]
    return [row["node"] for row in rows if row["state"] == "dead"]


def test_a_view_that_nobody_draws_is_still_and_starts_nothing() -> None:
    cluster = Watched("n1", "n2")

    view = cluster.watch("members", "topology")

    assert repr(view) == "<live view of members, topology: 2 nodes>"
    assert "mpreg-live" not in threads()
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"].startswith("2 nodes: 2 alive")
    assert set(view._repr_mimebundle_(include={"text/html"})) == {"text/html"}
    assert view.to_frame().node.tolist() == ["n1", "n2"]
    assert cluster.refreshed == 3
    view.close()


def test_a_death_is_handed_to_who_draws() -> None:
    cluster = Watched("n1", "n2")
    front = Drawn()
    with cluster.watch("members") as view:
        updates_of(view).add(front)
        first = front.wait(lambda pictures: True)

        cluster.tell("n2")
        later = front.wait(lambda pictures: dead(pictures) == ["n2"])

    assert dead(first) == []
    assert later["head"]["line"].startswith("2 nodes: 1 alive, 1 dead")
    assert front.ended.get(timeout=WAIT_S)["head"]["state"] == "ended"
    assert "mpreg-live" not in threads()


def test_what_does_not_change_is_not_made_again() -> None:
    cluster = Watched("n1")
    front = Drawn()
    with cluster.watch("members", "routes", "latency", "runs") as view:
        updates_of(view).add(front)
        before = front.wait(lambda pictures: True)
        rounds = front.times

        cluster.client.call_log.add(call("f", "n1"))
        after = front.wait(lambda pictures: bool(pictures["routes"]["functions"]))

    assert front.times > rounds
    assert after["members"] is before["members"]
    assert after["runs"] is before["runs"]
    assert after["routes"]["functions"] == ["f"]
    assert after["head"]["line"].endswith("1 call from here")


def test_calls_that_go_on_show_in_the_latency_view() -> None:
    cluster = Watched("n1")
    front = Drawn()
    with cluster.watch("latency") as view:
        updates_of(view).add(front)

        cluster.client.call_log.add(call("f", "n1"))
        shown = front.wait(lambda pictures: bool(pictures["latency"]["functions"]))

    assert shown["latency"]["functions"][0][1].count == 1


def test_the_end_shows_the_last_state_and_it_stays() -> None:
    cluster = Watched("n1", "n2")
    front = Drawn()
    view = cluster.watch("members")
    updates_of(view).add(front)
    cluster.tell("n1")

    cluster.end_views()
    ended = front.ended.get(timeout=WAIT_S)
    cluster.tell()

    assert dead(ended) == ["n1"]
    assert view.closed
    assert repr(view) == "<live view of members: closed>"
    assert view.to_frame().state.tolist() == ["dead", "alive"]
    assert "ended, this is the last state" in view._repr_mimebundle_()["text/plain"]
    assert cluster.refreshed == 0
    assert front.ended.empty()


def test_it_ends_by_itself_when_the_client_is_lost() -> None:
    cluster = Watched("n1")
    front = Drawn()
    view = cluster.watch("members")
    updates_of(view).add(front)

    cluster.client.links.lost = True
    ended = front.ended.get(timeout=WAIT_S)

    assert ended["head"]["state"] == "ended"
    assert view.closed


def test_one_thread_serves_all_views_and_ends_with_the_last() -> None:
    clusters = [Watched("n1"), Watched("n2")]
    fronts = [Drawn() for _ in clusters]
    views = [cluster.watch("members") for cluster in clusters]
    for view, front in zip(views, fronts, strict=True):
        updates_of(view).add(front)

    together = threads().count("mpreg-live")
    views[0].close()
    clusters[1].tell("n2")
    fronts[1].wait(lambda pictures: dead(pictures) == ["n2"])
    alone = threads().count("mpreg-live")
    views[1].close()

    assert (together, alone) == (1, 1)
    assert "mpreg-live" not in threads()


def test_a_dropped_display_gets_no_more_changes_and_others_do() -> None:
    cluster = Watched("n1")
    kept, dropped = Drawn(), Drawn()
    with cluster.watch("members") as view:
        updates_of(view).add(kept)
        updates_of(view).add(dropped)

        updates_of(view).drop(dropped)
        cluster.tell("n1")
        kept.wait(lambda pictures: dead(pictures) == ["n1"])

    assert dead(dropped.last) == []
    assert dropped.ended.empty()


def test_the_outcome_of_a_button_is_shown_and_so_is_its_failure() -> None:
    cluster = Watched("n1")
    front = Drawn()
    with cluster.watch("members") as view:
        updates_of(view).add(front)

        updates_of(view).kill("n1")
        noted = front.wait(lambda pictures: bool(pictures["head"]["note"]))
        updates_of(view).kill("n9")
        failed = front.wait(lambda pictures: bool(pictures["head"]["error"]))
        updates_of(view).cancel("0a0b")
        gone = front.wait(lambda pictures: "run" in pictures["head"]["error"])

    assert cluster.killed == ["n1"]
    assert noted["head"]["note"] == "n1 was killed"
    assert (failed["head"]["note"], failed["head"]["error"]) == (
        "",
        "there is no node 'n9'",
    )
    assert "cluster.runs()" in gone["head"]["error"]


def test_a_picture_that_cannot_be_made_ends_the_view_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Watched("n1")
    front = Drawn()
    view = cluster.watch("members")
    updates_of(view).add(front)

    def broken(*_: object) -> None:
        raise KeyError("n1")

    monkeypatch.setattr(members, "picture", broken)
    cluster.tell("n1")
    ended = front.ended.get(timeout=WAIT_S)

    assert ended["head"]["error"] == "KeyError: 'n1'"
    assert ended["members"]["rows"][0]["node"] == "n1"


def test_a_view_that_cannot_show_anything_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Watched("n1")
    view = cluster.watch("members")

    def broken(*_: object) -> None:
        raise KeyError("n1")

    monkeypatch.setattr(members, "picture", broken)
    cluster.end_views()

    assert view.closed
    assert "KeyError: 'n1'" in view._repr_mimebundle_()["text/plain"]


def test_a_cluster_that_does_not_answer_is_shown_as_it_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Watched("n1")
    view = cluster.watch("members")

    def lost() -> None:
        raise NodeLost("of the link", "no node can be reached", executed="no")

    monkeypatch.setattr(cluster, "refresh", lost)
    shown = view._repr_mimebundle_()["text/plain"]

    assert "no node can be reached" in shown
    assert "n1" in shown


def test_views_that_nobody_holds_are_forgotten() -> None:
    cluster = Watched("n1")

    for _ in range(3):
        cluster.watch()

    assert cluster.live_views == ()


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'latency'"):
        Watched("n1").watch("latencys")
