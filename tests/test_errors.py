"""Every error: its fields, its text, and the way through a pickle."""

import pickle
import re
from concurrent.futures import CancelledError

import pytest

from mpreg_nb import errors
from mpreg_nb.protocol.messages import Failed, Failure, Kind
from mpreg_nb.serialize.exceptions import error_of

NONE: frozenset[str] = frozenset()
GPU = frozenset({"gpu"})

EXAMPLES: list[tuple[Exception, type[BaseException], str]] = [
    (errors.NoCluster(), LookupError, "no cluster yet"),
    (errors.ClusterDown(), LookupError, "has been shut down. Start another: mp.up(3)"),
    (
        errors.HostsFailed(
            [errors.HostFailure("gpu-1", "key", "it refused ada", "ssh-add", ("no",))],
            ["lab"],
        ),
        RuntimeError,
        "gpu-1 (key): it refused ada. ssh-add\n    no",
    ),
    (
        errors.StartFailed("n1", "it ended with exit code 1", ["boom"]),
        RuntimeError,
        "boom",
    ),
    (
        errors.NoRoute("train", GPU, {"n1": NONE}, held={"n1": NONE}),
        LookupError,
        "Nearest is n1, which lacks: gpu. Start one: cluster.add('n2', {'gpu'})",
    ),
    (errors.RemoteError("bad", function="f", node="n1"), Exception, "bad"),
    (errors.InvalidWorkflow("a cycle"), ValueError, "a cycle"),
    (errors.NoRun("no run"), LookupError, "no run"),
    (errors.NoStep("no step 'a'"), KeyError, "no step 'a'"),
    (errors.StepSkipped("report", "clean"), LookupError, "run['clean']"),
    (errors.CallTimeout("f", 0.5), TimeoutError, "within 0.5 s"),
    (
        errors.CallCancelled("f", executed="no"),
        CancelledError,
        "was cancelled",
    ),
    (
        errors.NodeLost("n1", "reset", function="f", executed="unknown"),
        ConnectionError,
        "idempotent=True",
    ),
    (
        errors.NodeLost(
            "n1", "x", function="f", executed="unknown", retry_budget_exhausted=True
        ),
        ConnectionError,
        "was not tried again",
    ),
    (
        errors.WorkerCrashed("f", "n1", "exit code 3", retry_budget_exhausted=True),
        RuntimeError,
        "was not tried again",
    ),
    (
        errors.WorkerCrashed("f", "n1", "signal SIGSEGV", memory_mb=41.5),
        RuntimeError,
        "signal SIGSEGV, using 42 MB",
    ),
    (errors.Overloaded("f", 1024), RuntimeError, "1024 calls wait"),
    (errors.NotPicklable("model.lock", "_thread.lock"), TypeError, "model.lock"),
    (errors.NotComputed("args[0]", "Dask Future"), TypeError, "future.result()"),
    (errors.NotComputed("rows", "Dask DataFrame"), TypeError, "value.compute()"),
    (errors.PayloadTooLarge("rows", 2 * 10**9, 10**9), ValueError, "2000.0 MB"),
    (errors.BadRequest("what?"), ValueError, "what?"),
    (errors.ForkedProcess(), RuntimeError, "mp.connect(*cluster.urls)"),
    (errors.NotTrusted("wrong token"), PermissionError, "wrong token"),
]


@pytest.mark.parametrize(
    ("error", "builtin", "text"), EXAMPLES, ids=lambda v: type(v).__name__
)
def test_error_is_the_builtin_that_fits_and_survives_a_pickle(
    error: Exception, builtin: type[BaseException], text: str
) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(error, builtin)
    assert isinstance(error, errors.MpregError)
    assert text in str(error)
    assert str(again) == str(error)
    assert type(again) is type(error)
    assert {k: v for k, v in vars(again).items() if k != "original"} == {
        k: v for k, v in vars(error).items() if k != "original"
    }


def test_every_error_class_has_an_example_or_a_test() -> None:
    tested = {type(error) for error, _, _ in EXAMPLES}
    tested |= {errors.MpregError, errors.NodesFailed, errors.WorkflowFailed}
    known = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.MpregError)
    }

    assert known == tested


def test_no_message_has_a_port_a_process_id_or_a_time_of_day() -> None:
    for error, _, _ in EXAMPLES:
        assert not re.search(r":\d{4,5}\b|\bpid\b|\d\d:\d\d", str(error)), error


def test_failed_workflow_is_a_group_that_knows_its_steps() -> None:
    failed = errors.WorkflowFailed.of(
        "flow", {"b": ValueError("x")}, done=["a"], skipped=["c"], run=object()
    )

    again = pickle.loads(pickle.dumps(failed))
    matching, rest = failed.split(ValueError)

    assert isinstance(failed, ExceptionGroup)
    assert "failed: b (ValueError: x); skipped: c; done: a" in str(failed)
    assert (again.done, again.failed, again.skipped) == (("a",), ("b",), ("c",))
    assert again.run is None
    assert isinstance(matching, errors.WorkflowFailed)
    assert rest is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.NoRoute("trian", NONE, {}, similar="train"),
            "no live node has a function 'trian'. Did you mean 'train'?",
        ),
        (
            errors.NoRoute("f", NONE, {"n1": NONE}, held={"n1": NONE}, pinned="n9"),
            "no live node is named 'n9'; live nodes: n1. Start it: cluster.add('n9')",
        ),
        (
            errors.NoRoute(
                "f", GPU, {"n1": NONE, "n2": GPU}, held={"n1": NONE}, pinned="n1"
            ),
            "node 'n1' cannot run 'f': it lacks gpu. "
            "Remove node=, or choose one of: n2",
        ),
        (
            errors.NoRoute("f", GPU, {"n1": NONE}, held={"n1": NONE}, pinned="n1"),
            "it lacks gpu. Remove node=, and start a node that fits: "
            "cluster.add('n2', {'gpu'})",
        ),
    ],
    ids=["unknown function", "unknown node", "unfit node", "no fit node"],
)
def test_missing_route_names_the_nearest_and_the_cure(
    error: errors.NoRoute, text: str
) -> None:
    assert text in str(error)


@pytest.mark.parametrize("kind", ["no_route", "no_code", "overloaded"])
def test_call_that_no_node_takes_after_one_was_lost_may_have_run(kind: Kind) -> None:
    failure = Failure(kind=kind, executed="unknown")

    error = error_of(Failed(id=b"", failure=failure), (), function="f")

    assert isinstance(error, errors.NoRoute | errors.Overloaded)
    assert error.executed == "unknown"
    assert str(error).endswith("may have run before, on a node that was lost")
    certain = Failed(id=b"", failure=Failure(kind=kind))
    assert "before" not in str(error_of(certain, (), function="f"))


@pytest.mark.parametrize(
    ("where", "late"),
    [
        ("", "f gave no result within 2 s"),
        ("item [3]", "item [3] of f gave no result within 2 s"),
        ("the fallback, after ValueError: no", "the fallback of f gave no result"),
    ],
)
def test_a_timeout_says_which_call_of_a_step_was_late(where: str, late: str) -> None:
    failure = Failure(kind="deadline", timeout_ms=2000, where=where)

    error = error_of(Failed(id=b"", failure=failure), (), function="f")

    assert str(error).startswith(late)


def test_a_cell_that_failed_on_some_nodes_gives_the_values_of_the_others() -> None:
    failed = errors.NodesFailed.of({"n2": ValueError("bad")}, {"n1": 4, "n3": 5})

    again = pickle.loads(pickle.dumps(failed))

    assert again.failed == ("n2",)
    assert again.results == {"n1": 4, "n3": 5}
    assert isinstance(again.exceptions[0], ValueError)
    assert str(again).startswith("the cell failed on n2 (done: n1, n3)")
    part = again.subgroup(ValueError)
    assert isinstance(part, errors.NodesFailed)
    assert part.results == again.results


def test_a_part_of_a_failed_workflow_names_only_its_own_steps() -> None:
    steps: dict[str, Exception] = {
        "a": ValueError("x"),
        "b": ZeroDivisionError("y"),
        "c": ExceptionGroup("z", [ValueError("1"), KeyError("2")]),
    }
    whole = errors.WorkflowFailed.of("report", steps, done=(), skipped=())

    values, rest = whole.split(ValueError)

    assert isinstance(values, errors.WorkflowFailed)
    assert isinstance(rest, errors.WorkflowFailed)
    assert values.failed == ("a", "c")
    assert rest.failed == ("b", "c")
    assert [type(error) for error in rest.exceptions] == [
        ZeroDivisionError,
        ExceptionGroup,
    ]


def test_losing_a_node_with_kept_variables_says_which_cells_to_run_again() -> None:
    lost = errors.NodeLost("n2", "killed", function="cell", executed="unknown")
    lost.kept = "model"

    text = str(pickle.loads(pickle.dumps(lost)))

    assert "kept as 'model' are lost" in text
    assert "with --keep model" in text
    assert "call it again" not in text
