"""One node at a time: what it sends and tells, message by message."""

import random
from typing import Any

import pytest
from msgspec.structs import replace

from mpreg_nb.membership.config import PROFILES, SwimConfig
from mpreg_nb.membership.events import (
    CatalogAnnounced,
    Close,
    Confirmed,
    Dial,
    Died,
    Effect,
    JoinCompleted,
    Joined,
    LeaveSpread,
    Left,
    LinkEvent,
    LoadChanged,
    NameFree,
    NameTaken,
    Notify,
    Paused,
    Restarted,
    RttMeasured,
    Send,
    Suspected,
)
from mpreg_nb.membership.swim import Swim
from mpreg_nb.protocol.gossip import (
    Ack,
    Announce,
    Gossip,
    Hello,
    Leave,
    Load,
    MemberRecord,
    MemberState,
    Offer,
    Ping,
    PingReq,
    SyncDigest,
    SyncPush,
    Verdict,
    YouAreDead,
)

ALIVE, SUSPECT, DEAD, LEFT = MemberState


def record(name: str, **fields: object) -> MemberRecord:
    plain = MemberRecord(
        name=name,
        generation=1,
        epoch=name.encode() * 8,
        urls=(f"ws://{name}:1",),
    )
    return replace(plain, **fields)


def verdict(name: str, state: MemberState, *by: str, **fields: object) -> Verdict:
    plain = Verdict(
        name=name,
        generation=1,
        epoch=name.encode() * 8,
        incarnation=1,
        state=state,
        by=by,
    )
    return replace(plain, **fields)


def told(effects: list[Effect]) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Notify)]


def sent(effects: list[Effect], to: str, kind: type) -> list[Any]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send)
        and effect.peer == to
        and isinstance(effect.message, kind)
    ]


@pytest.fixture
def swim() -> Swim:
    """A node `n0` of its own cluster, with links to `n1` ... `n4`."""
    swim = Swim(PROFILES["lan"], record("n0"), random.Random(1), 0.0)
    swim.join([], 0.0)
    for number in range(1, 5):
        name = f"n{number}"
        swim.link(name, LinkEvent.UP, 0.0)
        swim.receive(Hello(record=record(name), joined=True), name, 0.0)
    return swim


def run(swim: Swim, until: float, *silent: str) -> list[Effect]:
    """Tick up to `until`; all pings but those to `silent` are answered at once."""
    effects: list[Effect] = []
    while swim.deadline <= until:
        now = swim.deadline
        done = swim.tick(now)
        effects += done
        for effect in done:
            if (
                isinstance(effect, Send)
                and isinstance(effect.message, Ping)
                and effect.peer not in silent
            ):
                ack = Ack(seq=effect.message.seq)
                effects += swim.receive(ack, effect.peer, now + 0.01)
    return effects


# ------------------------------------------------------------------- joining


def test_without_seeds_a_node_begins_a_cluster_of_its_own() -> None:
    swim = Swim(SwimConfig(), record("n0"), random.Random(1), 0.0)

    effects = swim.join([], 0.0)

    assert told(effects) == [JoinCompleted("n0", 1)]
    assert swim.alive == ("n0",)


def test_a_join_is_a_hello_and_one_whole_exchange() -> None:
    swim = Swim(SwimConfig(), record("n9"), random.Random(1), 0.0)

    dials = swim.join(["ws://n1:1", "ws://n9:1"], 0.0)
    greeting = swim.link("n1", LinkEvent.UP, 0.1)
    answer = SyncPush(records=(record("n1"), record("n2")))
    effects = swim.receive(answer, "n1", 0.2)

    assert dials == [Dial("ws://n1:1", ("ws://n1:1",))]
    assert sent(greeting, "n1", Hello) == [Hello(record=record("n9"), joined=False)]
    assert len(sent(greeting, "n1", SyncDigest)[0].entries) == 1
    assert [type(event) for event in told(effects)] == [Joined, Joined, JoinCompleted]
    assert sent(effects, "n1", Gossip) == [Gossip(items=(record("n9"),))]
    assert swim.alive == ("n9", "n1", "n2")


def test_a_newcomer_is_not_passed_on_before_its_join(swim: Swim) -> None:
    swim.link("n9", LinkEvent.UP, 0.1)
    effects = swim.receive(Hello(record=record("n9"), joined=False), "n9", 0.1)

    assert told(effects) == []
    assert swim.member("n9") is None


def test_a_newcomer_is_given_all_that_is_known(swim: Swim) -> None:
    swim.link("n9", LinkEvent.UP, 0.1)
    line = SyncDigest(root=b"12345678", entries=())

    effects = swim.receive(line, "n9", 0.1)

    pushed = sent(effects, "n9", SyncPush)[0].records
    assert [r.name for r in pushed] == ["n0", "n1", "n2", "n3", "n4"]


def test_the_smaller_name_dials_at_once_and_the_larger_after_a_while() -> None:
    swim = Swim(SwimConfig(), record("n5"), random.Random(1), 0.0)
    swim.join([], 0.0)
    swim.link("n1", LinkEvent.UP, 0.0)
    smaller, larger = record("n2"), record("n8")

    at_once = swim.receive(Gossip(items=(smaller, larger)), "n1", 0.0)
    later = run(swim, 2.5, "n1")

    assert [e.to for e in at_once if isinstance(e, Dial)] == ["n8"]
    assert "n2" in [e.to for e in later if isinstance(e, Dial)]


# ------------------------------------------------------------------- probing


def test_everybody_is_pinged_in_turn_and_timed(swim: Swim) -> None:
    effects = run(swim, 8.0)

    pinged = [
        e.peer for e in effects if isinstance(e, Send) and type(e.message) is Ping
    ]
    assert sorted(pinged[:4]) == sorted(pinged[4:]) == ["n1", "n2", "n3", "n4"]
    rtts = [event for event in told(effects) if isinstance(event, RttMeasured)]
    assert {event.name for event in rtts} == {"n1", "n2", "n3", "n4"}
    assert rtts[0].rtt_s == pytest.approx(0.01)


def test_a_silent_member_is_suspected_then_dead(swim: Swim) -> None:
    effects = run(swim, 40.0, "n3")

    events = [e for e in told(effects) if isinstance(e, Suspected | Died)]
    assert events == [Suspected("n3", ("n0",)), Died("n3", ("n0",))]
    last_word = sent(effects, "n3", YouAreDead)[-1]
    assert last_word.verdict.state is DEAD
    assert effects.index(Send("n3", last_word)) < effects.index(Close("n3"))
    assert swim.alive == ("n0", "n1", "n2", "n4")


def test_a_member_just_declared_dead_is_dialled_again_soon(swim: Swim) -> None:
    effects = run(swim, 40.0, "n3")
    died = next(i for i, effect in enumerate(effects) if Close("n3") == effect)

    dials = [e for e in effects if isinstance(e, Dial)]
    assert dials == [Dial("n3", ("ws://n3:1",))] * len(dials)
    assert effects.index(dials[0]) > died
    assert swim.link("n3", LinkEvent.TIMED_OUT, 40.1) == []
    assert dials[0] in run(swim, 50.0, "n3")


def test_a_ping_to_another_process_of_this_name_gets_no_ack(swim: Swim) -> None:
    effects = swim.receive(Ping(seq=1, epoch=b"x" * 16), "n1", 0.1)

    assert sent(effects, "n1", Ack) == []
    assert sent(effects, "n1", Gossip) == [Gossip(items=(record("n0"),))]


def test_a_broken_link_is_followed_by_a_probe_at_once(swim: Swim) -> None:
    effects = swim.link("n2", LinkEvent.DOWN, 0.5)

    assert effects == [Dial("n2", ("ws://n2:1",))]


@pytest.mark.parametrize("event", [LinkEvent.CLOSED, LinkEvent.TIMED_OUT])
def test_what_is_no_evidence_is_not_followed_by_anything(
    swim: Swim, event: LinkEvent
) -> None:
    assert swim.link("n2", event, 0.5) == []


def test_a_refused_dial_makes_it_ask_others_at_once(swim: Swim) -> None:
    swim.link("n2", LinkEvent.DOWN, 0.5)

    effects = swim.link("n2", LinkEvent.REFUSED, 0.51)

    asked = {e.peer for e in effects if isinstance(e, Send)}
    assert asked == {"n1", "n3", "n4"}
    assert {type(e.message) for e in effects if isinstance(e, Send)} == {PingReq}


def test_two_that_were_refused_end_the_suspicion_within_a_period(swim: Swim) -> None:
    news = verdict("n2", SUSPECT, "n3", "n4", refused=("n3", "n4"))

    effects = swim.receive(Gossip(items=(news,)), "n3", 0.5)
    later = run(swim, 1.6, "n2")

    assert told(effects) == [Suspected("n2", ("n3", "n4"))]
    assert Died("n2", ("n0",)) in told(later)


# --------------------------------------------------------- what others believe


def test_an_accusation_against_it_is_refuted_to_the_accuser(swim: Swim) -> None:
    accusation = YouAreDead(verdict=verdict("n0", SUSPECT, "n3"))

    effects = swim.receive(accusation, "n3", 0.01)

    assert swim.me.incarnation == 2
    assert swim.me.state is ALIVE
    assert sent(effects, "n3", Gossip) == [Gossip(items=(swim.me,))]
    assert swim.health == 1


def test_a_suspect_that_refutes_is_confirmed(swim: Swim) -> None:
    swim.receive(Gossip(items=(verdict("n2", SUSPECT, "n3"),)), "n3", 0.5)

    effects = swim.receive(Gossip(items=(record("n2", incarnation=2),)), "n4", 0.6)

    assert told(effects) == [Confirmed("n2")]


def test_a_message_of_a_suspect_is_no_refutation_but_triggers_a_notice(
    swim: Swim,
) -> None:
    swim.receive(Gossip(items=(verdict("n2", SUSPECT, "n3"),)), "n3", 0.5)

    effects = swim.receive(Ping(seq=1, epoch=swim.me.epoch), "n2", 0.6)

    accused = sent(effects, "n2", YouAreDead)[0].verdict
    assert (accused.state, accused.by) == (SUSPECT, ("n3",))
    member = swim.member("n2")
    assert member is not None
    assert member.state is SUSPECT


def test_death_by_gossip_is_believed_and_by_comparison_only_suspected(
    swim: Swim,
) -> None:
    gossiped = swim.receive(Gossip(items=(verdict("n2", DEAD, "n1"),)), "n1", 0.5)
    synced = swim.receive(SyncPush(records=(record("n3", state=DEAD),)), "n1", 0.6)

    assert told(gossiped) == [Died("n2", ("n1",))]
    assert told(synced) == [Suspected("n3", ("n1",))]
    assert len(sent(synced, "n3", YouAreDead)) == 1


def test_an_accusation_of_a_stranger_is_passed_on_once(swim: Swim) -> None:
    rumour = verdict("x", SUSPECT, "n3")
    effects = swim.receive(Gossip(items=(rumour,)), "n1", 0.5)
    effects += run(swim, 4.0)
    effects += swim.receive(Gossip(items=(rumour,)), "n2", 4.0)
    effects += run(swim, 8.0)

    carried = [
        item
        for effect in effects
        if isinstance(effect, Send)
        for item in getattr(effect.message, "items", ())
        if item == rumour
    ]
    assert 0 < len(carried) <= 4
    assert swim.member("x") is None


def test_an_accusation_of_an_older_process_is_answered_with_the_new_record(
    swim: Swim,
) -> None:
    new = record("n2", generation=2)
    swim.receive(Gossip(items=(new,)), "n2", 0.5)

    effects = swim.receive(Gossip(items=(verdict("n2", DEAD, "n1"),)), "n1", 0.6)

    assert told(effects) == []
    assert sent(effects, "n1", Gossip) == [Gossip(items=(new,))]


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_a_new_process_replaces_whatever_was_held_of_the_old(
    swim: Swim, state: MemberState
) -> None:
    by = "n2" if state is LEFT else "n1"
    swim.receive(Gossip(items=(verdict("n2", state, by),)), "n1", 0.5)
    new = record("n2", generation=2, epoch=b"new " * 4)

    effects = swim.receive(Gossip(items=(new,)), "n1", 0.6)

    assert told(effects)[0] == Restarted("n2", 2)
    assert isinstance(told(effects)[1], Joined)
    assert "n2" in swim.alive


def test_a_link_to_the_process_before_is_closed(swim: Swim) -> None:
    new = record("n2", generation=2, epoch=b"new " * 4)

    effects = swim.receive(Gossip(items=(new,)), "n1", 0.6)

    assert Close("n2") in effects


def test_nobody_can_announce_that_another_node_has_left(swim: Swim) -> None:
    effects = swim.receive(Gossip(items=(verdict("n2", LEFT, "n1"),)), "n1", 0.5)

    assert told(effects) == []
    assert "n2" in swim.alive


def test_a_dead_member_that_returns_is_reported_and_synchronized(swim: Swim) -> None:
    swim.receive(Gossip(items=(verdict("n2", DEAD, "n1"),)), "n1", 0.5)
    swim.link("n2", LinkEvent.UP, 9.0)
    greeting = swim.receive(Hello(record=record("n2"), joined=True), "n2", 9.0)

    effects = swim.receive(Gossip(items=(record("n2", incarnation=2),)), "n2", 9.1)

    assert sent(greeting, "n2", YouAreDead)[0].verdict.state is DEAD
    assert [type(event) for event in told(effects)] == [Joined]
    assert len(sent(effects, "n2", SyncDigest)) == 1


# ----------------------------------------------------------- leaving, catalogs


def test_a_goodbye_goes_to_every_peer_and_nothing_is_suspected_after_it(
    swim: Swim,
) -> None:
    effects = swim.leave(0.5, drain_s=2.0, reason="bye")
    later = run(swim, 10.0, "n1", "n2", "n3", "n4")

    goodbye = Leave(
        generation=1,
        epoch=swim.me.epoch,
        incarnation=2,
        drain_s=2.0,
        reason="bye",
    )
    assert [Send(f"n{number}", goodbye) for number in range(1, 5)] == effects
    assert told(later) == [LeaveSpread()]


def test_who_is_leaving_still_answers_pings(swim: Swim) -> None:
    swim.leave(0.5)

    effects = swim.receive(Ping(seq=3, epoch=swim.me.epoch), "n1", 0.6)

    assert [ack.seq for ack in sent(effects, "n1", Ack)] == [3]


def test_a_goodbye_is_reported_with_its_reason(swim: Swim) -> None:
    n2 = record("n2")
    goodbye = Leave(generation=1, epoch=n2.epoch, incarnation=2, reason="bye")

    effects = swim.receive(goodbye, "n2", 0.5)
    effects += swim.link("n2", LinkEvent.DOWN, 0.6)

    assert effects == [Notify(Left("n2", "bye"))]


def test_a_helper_that_received_the_goodbye_passes_it_to_the_asker(swim: Swim) -> None:
    n2 = record("n2")
    swim.receive(Leave(generation=1, epoch=n2.epoch, incarnation=2), "n2", 0.5)

    effects = swim.receive(PingReq(seq=1, target="n2", epoch=n2.epoch), "n1", 0.6)

    items = [item for e in effects if isinstance(e, Send) for item in e.message.items]  # type: ignore[union-attr]
    assert verdict("n2", LEFT, "n2", incarnation=2) in items


def test_an_announced_delta_is_reported_and_passed_on(swim: Swim) -> None:
    offer = Offer(function="train", version="v")
    item = Announce(owner="n2", generation=1, version=1, delta=(offer,))

    effects = swim.receive(Gossip(items=(item,)), "n3", 0.5)
    again = swim.receive(Gossip(items=(item,)), "n4", 0.6)

    assert told(effects) == [CatalogAnnounced("n2", 1, 1, (offer,), "n3")]
    assert told(again) == []
    later = run(swim, 1.0)
    assert any(item in message.items for message in sent(later, "n1", Gossip))


def test_a_long_delta_is_announced_without_it(swim: Swim) -> None:
    offer = Offer(function="train", version="v", doc="d" * 2000)
    swim.announce(1, (offer,), 0.5)

    effects = run(swim, 1.0)

    items = [
        item
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Gossip)
        for item in effect.message.items
    ]
    assert Announce(owner="n0", generation=1, version=1) in items
    assert swim.me.catalog_version == 1


# -------------------------------------------------------- loads, health, pauses


def test_load_rides_on_pings_and_acks(swim: Swim) -> None:
    swim.set_load(Load(running=3))

    effects = swim.receive(
        Ping(seq=1, epoch=swim.me.epoch, load=Load(queued=7)), "n1", 0.1
    )

    assert [ack.load for ack in sent(effects, "n1", Ack)] == [Load(running=3)]
    assert told(effects) == [LoadChanged("n1", Load(queued=7))]
    member = swim.member("n1")
    assert member is not None
    assert member.load == Load(queued=7)


def test_a_large_change_of_load_is_sent_to_all_but_not_too_often(
    swim: Swim,
) -> None:
    heard = []
    for second in range(10):
        swim.set_load(Load(slots=4, running=second % 5))
        for effect in run(swim, float(second)):
            if isinstance(effect, Send) and isinstance(effect.message, Gossip):
                heard += [
                    item.serial  # type: ignore[union-attr]
                    for item in effect.message.items
                    if type(item).__name__ == "LoadNews"
                ]

    assert 3 <= len(set(heard)) <= 10


def test_a_late_event_loop_is_counted_once_a_period(swim: Swim) -> None:
    for _ in range(3):
        swim.loop_lag(0.3, 0.05)

    assert swim.health == 1


def test_a_node_in_bad_health_asks_to_be_spared(swim: Swim) -> None:
    swim.set_load(Load())
    for number in range(4):
        swim.loop_lag(0.3, float(number))

    effects = swim.receive(Ping(seq=1, epoch=swim.me.epoch), "n1", 3.0)

    assert sent(effects, "n1", Ack)[0].load.degraded


def test_after_a_pause_suspicions_restart_and_it_synchronizes_first(
    swim: Swim,
) -> None:
    swim.receive(Gossip(items=(verdict("n2", SUSPECT, "n1", "n3", "n4"),)), "n1", 0.1)

    effects = swim.tick(60.0)

    assert effects[0] == Notify(Paused(60.0 - 0.1))
    assert isinstance(effects[1], Send)
    assert isinstance(effects[1].message, SyncDigest)
    assert not any(isinstance(event, Died) for event in told(run(swim, 62.0, "n2")))


# -------------------------------------------------------------------- names


def test_an_unknown_name_is_free(swim: Swim) -> None:
    assert swim.claim("x", b"e" * 16, 0.5) == [Notify(NameFree("x", b"e" * 16))]


def test_the_holder_of_a_name_keeps_it_by_an_answer(swim: Swim) -> None:
    asked = swim.claim("n2", b"e" * 16, 0.5)
    ping = sent(asked, "n2", Ping)[0]

    effects = swim.receive(Ack(seq=ping.seq), "n2", 0.6)

    assert ping.epoch == record("n2").epoch
    assert told(effects) == [NameTaken("n2", b"e" * 16)]


def test_a_holder_that_is_silent_loses_its_name(swim: Swim) -> None:
    swim.claim("n2", b"e" * 16, 0.5)

    effects = run(swim, 1.5, "n2")

    assert NameFree("n2", b"e" * 16) in told(effects)


def test_a_holder_whose_link_broke_has_lost_its_name_at_once(swim: Swim) -> None:
    swim.link("n2", LinkEvent.DOWN, 0.5)

    assert told(swim.claim("n2", b"e" * 16, 0.6)) == [NameFree("n2", b"e" * 16)]
