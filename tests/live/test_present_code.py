"""A call of a function object runs what calling it here would run at this moment."""

import asyncio
import functools
import importlib
import operator
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import psutil
import pytest

import mpreg_nb as mp
from tests.support.cells import run_cell

pytestmark = pytest.mark.live

TOKEN = "5a" * 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True, token=TOKEN) as cluster:
        yield cluster


CELL = """\
SCALE = 1
def helper(x): return x * SCALE
def work(x): return helper(x)
anonymous = lambda x: work(x)
def falls_back(error): return work(10)
"""


def by_executor(cluster: mp.Cluster, cell: dict[str, Any]) -> Any:
    with cluster.executor() as executor:
        return executor.submit(cell["work"], 10).result()


def by_step(cluster: mp.Cluster, cell: dict[str, Any]) -> Any:
    flow = cluster.workflow("one step")
    flow.step("only", cell["work"], 10)
    return flow.run()["only"]


def by_fallback(cluster: mp.Cluster, cell: dict[str, Any]) -> Any:
    flow = cluster.workflow("falls back")
    flow.step("only", operator.truediv, 1, 0).fallback(cell["falls_back"])
    return flow.run()["only"]


def by_flow_map(cluster: mp.Cluster, cell: dict[str, Any]) -> Any:
    flow = cluster.workflow("map")
    flow.map("each", functools.partial(cell["work"]), over=[10])
    return flow.run()["each"][0]


def by_joblib(cluster: mp.Cluster, cell: dict[str, Any]) -> Any:
    with joblib.parallel_backend("mpreg"):
        return joblib.Parallel()([joblib.delayed(cell["work"])(10)])[0]


CHANGES = ("SCALE = 2", "def helper(x): return -x", "SCALE = 3")
EXPECTED = [10, 20, -10, -10]

WAYS: dict[str, Callable[[mp.Cluster, dict[str, Any]], Any]] = {
    "call": lambda cluster, cell: cluster.call(cell["work"], 10),
    "submit": lambda cluster, cell: cluster.submit(cell["work"], 10).result(),
    "map": lambda cluster, cell: cluster.map(cell["work"], [10])[0],
    "view": lambda cluster, cell: cluster.on(node="n1").call(cell["work"], 10),
    "decorated": lambda cluster, cell: cell["decorated"].call(10),
    "partial": lambda cluster, cell: cluster.call(functools.partial(cell["work"]), 10),
    "lambda": lambda cluster, cell: cluster.call(cell["anonymous"], 10),
    "executor": by_executor,
    "joblib": by_joblib,
    "step": by_step,
    "flow.map": by_flow_map,
    "fallback": by_fallback,
}


@pytest.mark.parametrize("way", WAYS)
def test_changed_constants_and_helpers_are_seen(cluster: mp.Cluster, way: str) -> None:
    cell = run_cell(CELL)
    cell["decorated"] = cluster.function(cell["work"])
    results = [WAYS[way](cluster, cell)]
    for change in CHANGES:
        run_cell(change, cell)
        results.append(WAYS[way](cluster, cell))

    assert results == EXPECTED


def test_they_are_seen_by_asynchronous_calls_too(cluster: mp.Cluster) -> None:
    async def calls() -> list[Any]:
        cell = run_cell(CELL)
        async with mp.connect_async(*cluster.urls, token=TOKEN) as connected:
            results = [await connected.call(cell["work"], 10)]
            for change in CHANGES:
                run_cell(change, cell)
                results.append(await connected.call(cell["work"], 10))
            partial = functools.partial(pow, 2)
            results += await connected.map(partial, [1, 2])
        return results

    assert asyncio.run(calls()) == [*EXPECTED, 2, 4]


def test_an_unchanged_function_is_registered_once(cluster: mp.Cluster) -> None:
    cell = run_cell("def once(x): return x")
    for _ in range(3):
        cluster.call(cell["once"], 1)
    run_cell("def once(x): return x", cell)
    cluster.call(cell["once"], 1)

    assert len(cluster.functions("once")) == 1


def test_a_function_that_changes_back_is_the_newest_of_its_name_again(
    cluster: mp.Cluster,
) -> None:
    cell = run_cell("N = 1\ndef changes(): return N")
    for number in (1, 2, 1):
        cell["N"] = number
        cluster.call(cell["changes"])

    assert cluster.call("changes") == 1


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "beside_the_notebook.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("beside_the_notebook")
    sys.modules.pop("beside_the_notebook")


def test_a_module_that_was_reloaded_runs_as_it_is_now(
    cluster: mp.Cluster, beside: ModuleType
) -> None:
    cell = run_cell(
        "def named(): return beside.f()\n"
        "def imports():\n    import beside_the_notebook as b\n    return b.f()"
    )
    cell["beside"] = beside
    functions = [cell["named"], cell["imports"]]
    before = [cluster.call(f) for f in functions]

    Path(str(beside.__file__)).write_text("def f(): return 22\n")
    importlib.reload(beside)

    assert before == [1, 1]
    assert [cluster.call(f) for f in functions] == [22, 22]
    assert cluster.call(beside.f) == 22


def test_registered_options_outlive_a_change(cluster: mp.Cluster) -> None:
    cell = run_cell("N = 1\ndef optioned(): return N")
    cluster.register(cell["optioned"], name="other name", idempotent=True)
    cell["N"] = 2

    assert cluster.call(cell["optioned"]) == 2
    assert cluster.call("other name") == 2


# ------------------------------------------------------- what can be called


@pytest.mark.parametrize("verb", ["call", "submit", "map", "step", "executor", "on"])
@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (functools.partial(pow, 2), 3, 8),
        (functools.partial(functools.partial(max, 1), 5), 2, 5),
        (operator.itemgetter(0), [4], 4),
        (operator.methodcaller("upper"), "a", "A"),
        ("-".join, ["a", "b"], "a-b"),
        (dict, [("a", 1)], {"a": 1}),
        (lambda x: x + 1, 1, 2),
        (str.upper, "a", "A"),
    ],
    ids=[
        "partial",
        "partials",
        "itemgetter",
        "methodcaller",
        "method",
        "class",
        "lambda",
        "unbound",
    ],
)
def test_whatever_can_be_called_is_a_function(
    cluster: mp.Cluster, function: Any, argument: Any, result: Any, verb: str
) -> None:
    if verb == "step":
        flow = cluster.workflow("one step")
        flow.step("only", function, argument)
        found = flow.run()["only"]
    elif verb == "executor":
        found = cluster.executor().submit(function, argument).result()
    elif verb == "map":
        (found,) = cluster.map(function, [argument])
    elif verb == "on":
        found = cluster.on(node="n1").call(function, argument)
    else:
        found = getattr(cluster, verb)(function, argument)
        found = found if verb == "call" else found.result()

    assert found == result


def test_a_partial_takes_its_arguments_before_those_of_a_map_of_steps(
    cluster: mp.Cluster,
) -> None:
    flow = cluster.workflow("powers")
    flow.map("powers", functools.partial(pow, 2), over=[1, 2, 3])

    assert flow.run()["powers"] == [2, 4, 8]


def test_keyword_arguments_are_the_functions_own(cluster: mp.Cluster) -> None:
    def shape(self: Any = None, timeout: int = 0, **rest: Any) -> Any:
        return self, timeout, rest

    options = {"self": 1, "timeout": 2, "function": 3, "args": 4, "cluster": 5}
    done = cluster.function(shape)

    expected = shape(**options)
    assert cluster.call(shape, **options) == expected
    assert cluster.on().call(shape, **options) == expected
    assert done.call(**options) == done(**options) == expected
    assert done.submit(**options).result() == expected
    assert done.on().call(**options) == done.on().submit(**options).result() == expected


def test_attributes_of_a_function_that_are_named_like_ours_change_nothing(
    cluster: mp.Cluster,
) -> None:
    def tagged() -> str:
        return "done"

    for name in ("name", "call", "card", "resources", "_function"):
        setattr(tagged, name, "of the user")

    done = cluster.function(tagged)

    assert (done.name, done.call(), done.local) == ("tagged", "done", tagged)


def test_one_code_under_two_names_is_two_functions_on_nodes_that_come_later() -> None:
    with mp.up(1, fresh=True) as cluster:
        cell = run_cell("def same(x): return x")
        first = cluster.register(cell["same"], name="first")
        second = cluster.register(cell["same"], name="second")

        cluster.add("late")
        cluster.remove("n1")

        assert (first.call(1), second.call(2)) == (1, 2)
        assert (cluster.call("first", 3), cluster.call("second", 4)) == (3, 4)


# ------------------------------------------------------------------- memory


def test_functions_that_nobody_holds_are_let_go_everywhere() -> None:
    gone = []

    def make() -> Callable[[], int]:
        rows = os.urandom(1_000_000)

        def task() -> int:
            return len(rows)

        gone.append(weakref.ref(task))
        return task

    with mp.up(1, fresh=True) as cluster:
        worker = psutil.Process(cluster.call(os.getpid))
        processes = {"worker": worker, "node": worker.parent()}
        processes["kernel"] = psutil.Process()
        cluster.call(make())
        before = {name: p.memory_info().rss for name, p in processes.items() if p}
        for _ in range(150):
            assert cluster.call(make()) == 1_000_000
        grown = {
            name: (p.memory_info().rss - before[name]) / 1e6
            for name, p in processes.items()
            if p
        }
        known = [reference for reference in gone if reference() is not None]

        assert len(known) <= 1
        assert max(grown.values()) < 80, grown
