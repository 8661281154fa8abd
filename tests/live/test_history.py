"""The history checker: it finds each kind of wrong history, and none in a right one.

At the end, one short history of a cluster; `make history` runs long ones.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest

import mpreg_nb as mp
from tests.live.history import (
    INTERRUPTED,
    NODES,
    Ended,
    Fault,
    Happened,
    History,
    Invoked,
    Run,
    check,
    draw_faults,
    read_runs,
    record,
    story,
)
from tests.support.dask_faults import cluster_on_dask

CALL = Invoked(call="c1", at_s=10.0)
DONE = Ended(call="c1", at_s=10.2)
RUN = Run(call="c1", started_s=10.05, ended_s=10.1, node="n1/7", worker=8)
AGAIN = replace(RUN, started_s=10.15, ended_s=10.18, node="n2/9")
KILLED = Happened(what="kill n1", began_s=10.0, ended_s=10.0, grace_s=5.0)
REMOVED = Happened(what="remove n1", began_s=10.0, ended_s=12.0)


def failed(error: str, executed: str, at_s: float = 10.2) -> Ended:
    return Ended(call="c1", at_s=at_s, error=error, executed=executed)  # type: ignore[arg-type]


CANCELLED = failed("CallCancelled", "yes")


def rules(
    *ended: Ended,
    call: Invoked = CALL,
    runs: tuple[Run, ...] = (),
    happened: tuple[Happened, ...] = (),
) -> list[str]:
    return [v.rule for v in check(History([call], ended, runs, happened))]


RIGHT = {
    "a result": History([CALL], [DONE], [RUN]),
    "lost before it started": History([CALL], [failed("NodeLost", "no")], [], [KILLED]),
    "lost, nobody knows": History(
        [CALL], [failed("NodeLost", "unknown")], [RUN], [KILLED]
    ),
    "lost shortly after the fault": History(
        [CALL], [failed("NodeLost", "unknown", 14.9)], [], [KILLED]
    ),
    "raised": History(
        [replace(CALL, fate="raise")], [failed("RemoteError", "yes")], [RUN]
    ),
    "its worker died": History(
        [replace(CALL, fate="exit")],
        [failed("WorkerCrashed", "yes")],
        [replace(RUN, ended_s=None)],
    ),
    "idempotent, retried elsewhere": History(
        [replace(CALL, idempotent=True)], [DONE], [RUN, AGAIN]
    ),
    "timed out while it ran": History(
        [CALL], [failed("CallTimeout", "unknown")], [RUN]
    ),
    "cancelled": History([CALL], [failed("CancelledError", "unknown")], []),
    "its worker was ended for a call that did not end when cancelled": History(
        [CALL, replace(CALL, call="c2", cancels=True)],
        [failed("WorkerCrashed", "unknown"), replace(CANCELLED, call="c2")],
        [
            replace(RUN, ended_s=None),
            replace(RUN, call="c2", ended_s=None),
        ],
    ),
    "no node fits after it was lost": History(
        [CALL], [failed("NoRoute", "unknown")], [RUN], [KILLED]
    ),
    "pinned to a node that left after its worker had ended": History(
        [replace(CALL, pinned=True, idempotent=True, fate="exit")],
        [failed("NoRoute", "unknown")],
        [replace(RUN, ended_s=None)],
        [REMOVED],
    ),
    "pinned to a node that left": History(
        [replace(CALL, pinned=True)], [failed("NoRoute", "no")], [], [REMOVED]
    ),
}


@pytest.mark.parametrize("history", RIGHT.values(), ids=RIGHT)
def test_right_history_has_no_violation(history: History) -> None:
    assert check(history) == ()


def test_call_without_an_outcome_is_found() -> None:
    assert rules(runs=(RUN,)) == ["exactly one outcome"]


def test_call_with_two_outcomes_is_found() -> None:
    assert rules(DONE, DONE, runs=(RUN,)) == ["exactly one outcome"]


def test_call_that_ran_twice_is_found() -> None:
    assert rules(DONE, runs=(RUN, AGAIN)) == ["not idempotent: at most one start"]


def test_call_that_began_twice_and_ended_once_is_found() -> None:
    begun = replace(AGAIN, ended_s=None)

    assert rules(DONE, runs=(RUN, begun)) == ["not idempotent: at most one start"]


def test_idempotent_call_that_ended_twice_in_one_process_is_found() -> None:
    call = replace(CALL, idempotent=True)
    runs = (RUN, replace(AGAIN, node=RUN.node))

    assert rules(DONE, call=call, runs=runs) == ["at most one end in each node process"]


def test_idempotent_call_may_end_twice_where_its_worker_died_before_it_answered() -> (
    None
):
    call = replace(CALL, idempotent=True)
    fatal = Invoked(call="c2", at_s=10.0, fate="exit")
    crash = replace(RUN, call="c2", ended_s=None)
    again = replace(AGAIN, node=RUN.node)
    told = Ended(call="c2", at_s=10.2, error="WorkerCrashed")
    history = History([call, fatal], [DONE, told], [RUN, crash, again])

    assert check(history) == ()
    elsewhere = replace(history, runs=[RUN, replace(crash, worker=9), again])
    assert [one.rule for one in check(elsewhere)] == [
        "at most one end in each node process"
    ]


def test_result_of_a_call_that_never_ended_is_found() -> None:
    begun = replace(RUN, ended_s=None)

    assert rules(DONE, runs=(begun,)) == ["a result comes of a function that ended"]


def test_result_of_another_call_is_found() -> None:
    wrong = replace(DONE, is_right=False, text="'c2'")

    assert rules(wrong, runs=(RUN,)) == ["the outcome is that of the call"]


@pytest.mark.parametrize("error", ["NodeLost", "CallTimeout", "CallCancelled"])
def test_a_call_that_ran_but_is_reported_as_not_run_is_found(error: str) -> None:
    found = rules(failed(error, "no"), runs=(RUN,), happened=(KILLED,))

    assert found == ["said not to have run: no start"]


def test_a_call_reported_as_run_that_did_not_run_is_found() -> None:
    found = rules(failed("NodeLost", "yes"), happened=(KILLED,))

    assert found == ["said to have run: a start"]


@pytest.mark.parametrize("error", ["CallTimeout", "CallCancelled", "CancelledError"])
def test_calls_reported_as_run_that_never_started_are_found(error: str) -> None:
    calls = [replace(CALL, call=f"c{number}") for number in range(10)]
    ends = [replace(failed(error, "yes"), call=call.call) for call in calls]
    runs = [replace(RUN, call=call.call) for call in calls]

    assert check(History(calls, ends, runs)) == ()
    # One may have been interrupted before it could note that it began.
    assert check(History(calls, ends, runs[:-1])) == ()
    lies = check(History(calls, ends, runs[:-2]))
    assert {(one.rule, one.call) for one in lies} == {
        (INTERRUPTED, "c8"),
        (INTERRUPTED, "c9"),
    }


def test_a_call_whose_worker_ended_before_it_began_has_not_run() -> None:
    fatal = Invoked(call="c2", at_s=10.0, fate="exit")
    crash = replace(RUN, call="c2", ended_s=None)
    ends = [failed("WorkerCrashed", "yes"), Ended(call="c2", at_s=10.2)]
    ends[1] = replace(ends[0], call="c2")

    [lie] = check(History([CALL, fatal], ends, [crash]))

    assert (lie.rule, lie.call) == ("said to have run: a start", "c1")


@pytest.mark.parametrize(
    "happened",
    [(), (REMOVED,), (replace(KILLED, began_s=4.0, ended_s=4.0),)],
    ids=["nothing", "a node is removed", "a fault long ago"],
)
def test_unknown_outcome_without_a_fault_is_found(
    happened: tuple[Happened, ...],
) -> None:
    found = rules(failed("NodeLost", "unknown"), runs=(RUN,), happened=happened)

    assert found == ["unknown only in a fault"]


@pytest.mark.parametrize("error", ["NodeLost", "NoRoute", "Overloaded"])
def test_failure_while_a_node_is_removed_is_found(error: str) -> None:
    found = rules(failed(error, "no"), happened=(REMOVED,))

    assert found == ["calls fail only of a fault"]


def test_crash_of_a_worker_that_nobody_ended_is_found() -> None:
    found = rules(failed("WorkerCrashed", "yes"), runs=(RUN,))

    assert found == ["calls fail only of a fault"]


def test_error_that_the_function_did_not_raise_is_found() -> None:
    found = rules(failed("RemoteError", "yes"), runs=(RUN,))

    assert found == ["calls fail only of a fault"]


def test_error_that_is_not_in_the_contract_is_found() -> None:
    found = rules(failed("BadRequest", "no"), happened=(KILLED,))

    assert found == ["errors are those of the contract"]


def test_run_of_a_call_that_nobody_made_is_found() -> None:
    found = rules(DONE, runs=(RUN, replace(RUN, call="c9")))

    assert found == ["nothing comes from nowhere"]


def test_story_lists_actions_and_reports_in_order() -> None:
    end = failed("NodeLost", "no")
    history = History([CALL], [end], [RUN], [KILLED])

    (violation,) = check(history)
    told = story(history, violation)

    words = ["calls once", "starts on n1/7", "ends on n1/7", "told: NodeLost"]
    assert [told.index(word) for word in words] == sorted(map(told.index, words))
    assert "kill n1" in told


def test_log_of_functions_is_read_as_they_wrote_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("start c1 8-ab 10.05 7\nstart c2 8-cd 10.06 7\nend c1 8-ab 10.1 7\n")

    runs = read_runs(log, {7: "n1"})

    assert runs == [RUN, Run(call="c2", started_s=10.06, node="n1/7", worker=8)]


def test_seed_fixes_the_faults_and_begins_with_what_is_none() -> None:
    faults = draw_faults(random.Random(3), 75.0)

    assert faults == draw_faults(random.Random(3), 75.0)
    kinds = [fault.kind for fault in faults]
    assert {*kinds} == {"remove", "kill", "pause", "partition", "half-open"}
    assert kinds[:5] == ["remove"] * 5


@pytest.mark.live
def test_outcomes_are_true_while_nodes_are_removed_killed_and_cut_off(
    tmp_path: Path,
) -> None:
    faults = [
        Fault("remove", "n2", after_s=0.3),
        Fault("kill", "n3", after_s=0.2),
        Fault("half-open", "n1", after_s=0.2, seconds=1.0),
    ]

    with mp.up(len(NODES), slots=2, fresh=True) as cluster:
        history = record(
            cluster, 7, calls=800, seconds=5.0, folder=tmp_path, faults=faults
        )

    stories = [story(history, violation) for violation in check(history)]
    assert not stories, "\n".join(stories)
    assert any(not end.error for end in history.ended)


@pytest.mark.live
def test_outcomes_are_true_while_workers_of_a_dask_cluster_are_killed(
    tmp_path: Path,
) -> None:
    faults = [
        Fault("kill", "n2", after_s=0.3),
        Fault("pause", "n3", after_s=0.2, seconds=0.5),
    ]

    with cluster_on_dask() as (cluster, make_faults):
        history = record(
            cluster,
            7,
            calls=200,
            seconds=4.0,
            folder=tmp_path,
            faults=faults,
            make_faults=make_faults,
        )

    stories = [story(history, violation) for violation in check(history)]
    assert not stories, "\n".join(stories)
    assert any(not end.error for end in history.ended)
