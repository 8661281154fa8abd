"""What a client says through its entry comes to the node, and the answers back."""

from typing import Any

import msgspec

from mpreg_nb.node.workflows import RunProxy
from mpreg_nb.protocol.messages import (
    Cancel,
    Failed,
    Ids,
    Relay,
    Relayed,
    RunFollowed,
    RunList,
    Runs,
    RunSnapshot,
    RunState,
    RunWatch,
)

IDS = Ids()


class End:
    """One end of a link."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: Any, parts: Any = ()) -> None:
        self.heard.append(message)


class Lane:
    def __init__(self) -> None:
        self.sent: list[tuple[str, msgspec.Struct]] = []

    def send(self, node: str, message: msgspec.Struct, parts: Any = ()) -> None:
        self.sent.append((node, message))


def relays() -> tuple[RunProxy, Lane]:
    lane: Any = Lane()
    return RunProxy(lane), lane


def through(message: Relayed, node: str = "n2") -> Relay:
    return Relay(id=message.id, node=node, message=message)


def told(request: RunWatch, status: str = "running") -> RunFollowed:
    run = RunSnapshot(
        run=request.run,
        workflow="w",
        status=status,  # type: ignore[arg-type]
        steps=(),
        edges=(),
        started_at_s=0.0,
        duration_ms=0.0,
    )
    return RunFollowed(id=request.id, run=run, plans=())


def test_answer_goes_to_who_asked_and_to_nobody_twice() -> None:
    relay, lane = relays()
    one, other = End(), End()
    mine, theirs = RunList(id=IDS.next()), RunList(id=IDS.next())
    relay.pass_on(one, through(mine))
    relay.pass_on(other, through(theirs, "n3"))
    answer = Runs(id=mine.id, runs=())

    taken = [relay.answered(answer, ()), relay.answered(answer, ())]

    assert lane.sent == [("n2", mine), ("n3", theirs)]
    assert taken == [True, False]
    assert (one.heard, other.heard) == ([answer], [])


def test_news_of_a_run_go_to_all_who_follow_it_until_it_ends() -> None:
    relay, _ = relays()
    ends = End(), End()
    run = IDS.next()
    for end in ends:
        watch = RunWatch(id=IDS.next(), run=run)
        relay.pass_on(end, through(watch))
        relay.answered(told(watch), ())
    last = RunState(id=run, status="done", steps=())

    taken = [relay.answered(last, ()), relay.answered(last, ())]

    assert [end.heard[-1] for end in ends] == [last, last]
    assert [len(end.heard) for end in ends] == [2, 2]
    assert taken == [True, False]


def test_run_that_has_ended_is_not_followed() -> None:
    relay, _ = relays()
    watch = RunWatch(id=IDS.next(), run=IDS.next())
    relay.pass_on(End(), through(watch))

    relay.answered(told(watch, "done"), ())

    assert not relay.answered(RunState(id=watch.run, status="done", steps=()), ())


def test_nothing_is_sent_to_a_client_that_is_gone() -> None:
    relay, _ = relays()
    gone = End()
    watch = RunWatch(id=IDS.next(), run=IDS.next())
    relay.pass_on(gone, through(watch))

    relay.sink_lost(gone)

    assert not relay.answered(told(watch), ())
    assert gone.heard == []


def test_open_requests_fail_when_their_node_is_gone() -> None:
    relay, _ = relays()
    end, other = End(), End()
    watch = RunWatch(id=IDS.next(), run=IDS.next())
    relay.pass_on(end, through(watch))
    relay.answered(told(watch), ())
    question = RunList(id=IDS.next())
    relay.pass_on(end, through(question))
    relay.pass_on(other, through(RunList(id=IDS.next()), "n3"))

    relay.node_gone("n2", "it crashed")

    failures = [message for message in end.heard if isinstance(message, Failed)]
    assert {failed.id for failed in failures} == {question.id, watch.run}
    assert {failed.failure.kind for failed in failures} == {"node_lost"}
    assert other.heard == []


def test_cancel_has_no_answer_to_wait_for() -> None:
    relay, lane = relays()
    cancel = Cancel(id=IDS.next())

    relay.pass_on(End(), through(cancel))

    assert lane.sent == [("n2", cancel)]
    assert not relay.answered(RunState(id=cancel.id, status="done", steps=()), ())
