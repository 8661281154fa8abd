"""What a verb of a cluster does, whether it blocks or is awaited."""

import asyncio
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

TOKEN = "5b" * 32


@pytest.fixture(autouse=True)
def leaks() -> None:
    """Look for what is left over once, when the cluster of all tests has ended."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mp.Cluster]:
    with nothing_left(tmp_path_factory.mktemp("faces")):
        with mp.up({"n1": "odd", "n2": ()}, fresh=True, token=TOKEN) as cluster:
            yield cluster


class Face:
    """One face of the cluster; its verbs return when they have ended."""

    def __init__(self, cluster: Any, runner: asyncio.Runner | None = None) -> None:
        self.seen = cluster
        self.is_blocking = runner is None
        self._cluster = cluster
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._cluster, name)
        return (lambda *a, **k: self.ended(verb, *a, **k)) if callable(verb) else verb

    def ended(self, verb: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a verb, and await what it returns where that is needed."""

        async def awaited() -> Any:
            made = verb(*args, **kwargs)
            return await made if hasattr(made, "__await__") else made

        if self._runner is None:
            return verb(*args, **kwargs)
        return self._runner.run(awaited())


@pytest.fixture(scope="module", params=["blocking", "awaited"])
def face(request: pytest.FixtureRequest, cluster: mp.Cluster) -> Iterator[Face]:
    if request.param == "blocking":
        yield Face(cluster)
        return
    with asyncio.Runner() as runner:
        connected = mp.connect_async(*cluster.urls, token=TOKEN)
        runner.run(connected.__aenter__())
        yield Face(connected, runner)
        runner.run(connected.__aexit__())


def add(first: int, second: int) -> int:
    return first + second


def fails(*_: Any) -> None:
    raise ValueError("the card is gone")


def ends_an_iteration(*_: Any) -> None:
    raise StopIteration("too early")


class PackedIn:
    """Notes the thread in which it is pickled."""

    threads: list[str] = []  # noqa: RUF012 - of all of them

    def __reduce__(self) -> tuple[Any, ...]:
        self.threads.append(threading.current_thread().name)
        return str, ()


def test_a_function_is_called_by_object_by_name_and_in_a_view(face: Face) -> None:
    face.register(add)
    odd = face.on("odd")

    results = [
        face.call(add, 1, 2),
        face.call("add", 2, 2),
        face.ended(odd.call, add, 2, 3),
        face.ended(odd.map, add, [3], [3]),
        face.ended(face.fn.add, 3, 4),
    ]

    assert results == [3, 4, 5, [6], 7]


REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"


def documented(cls: type) -> set[str]:
    """Return the names that the reference lists of a class."""
    pages = "".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
    listed = re.search(
        rf"autoclass:: mpreg_nb\.(?:\w+\.)*{cls.__name__}\n +:members:((?: .+\n)+)",
        pages,
    )
    assert listed, f"the reference lists no names of {cls.__name__}"
    return set(re.findall(r"\w+", listed[1].partition("..")[0]))


def completions(shown: object) -> set[str]:
    """Return the names that Tab offers, but for those of a base that is not ours."""

    def is_ours(name: str) -> bool:
        owners = [base for base in type(shown).__mro__ if name in vars(base)]
        return not owners or owners[0].__module__.startswith("mpreg_nb")

    return {name for name in dir(shown) if not name.startswith("_") and is_ours(name)}


def test_tab_completion_offers_what_the_reference_documents(face: Face) -> None:
    function = face.register(add)
    future = face.submit(add, 1, 2) if face.is_blocking else None
    flow = face.workflow("shown")
    step = flow.step("step", add, 1, 2)
    run = face.ended(flow.run)

    view = face.watch("members")
    view.close()

    shown = [face.seen, flow, step, run, view]
    shown += [function, future] if face.is_blocking else []

    for each in shown:
        assert completions(each) == documented(type(each)), type(each)


@pytest.mark.parametrize("verb", ["call", "map"])
def test_an_error_of_a_function_is_raised_as_itself(face: Face, verb: str) -> None:
    with pytest.raises(ValueError, match="the card is gone") as caught:
        getattr(face, verb)(fails, [1, 2, 3])

    assert isinstance(caught.value, mp.errors.RemoteError)


def test_an_end_of_an_iteration_is_an_error_like_others(face: Face) -> None:
    for verb in (face.call, face.map):
        with pytest.raises(mp.errors.RemoteError, match="too early"):
            verb(ends_an_iteration, [1])


def test_a_map_ends_with_its_shortest_iterable_and_takes_an_endless_one(
    face: Face,
) -> None:
    def numbers() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    assert face.map(add, numbers(), range(2_000)) == list(range(0, 4_000, 2))
    assert face.map(add, [], numbers()) == []


def test_what_an_iterable_raises_ends_the_map(face: Face) -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        face.map(add, breaks(), range(9))
    assert face.call(add, 1, 1) == 2


def test_functions_and_arguments_are_pickled_in_the_thread_that_calls(
    face: Face,
) -> None:
    captured = PackedIn()
    PackedIn.threads.clear()
    flow = face.workflow("packed")
    flow.step("step", lambda given: [given, captured], captured)

    face.call(lambda: captured)
    face.map(lambda given: [given, captured], [captured])
    face.register(lambda: captured, name="capturing")
    face.start(flow.freeze())

    assert set(PackedIn.threads) == {threading.current_thread().name}
    assert len(PackedIn.threads) >= 6


@pytest.mark.parametrize("verb", ["start", "run"])
def test_a_workflow_that_no_node_fits_is_refused_before_it_runs(
    face: Face, verb: str
) -> None:
    flow = face.workflow("nowhere")
    flow.step("step", "no such function")

    with pytest.raises((mp.errors.NoRoute, mp.errors.InvalidWorkflow)):
        getattr(face, verb)(flow.freeze())


def test_a_workflow_is_run_as_it_stands_also_through_the_cluster(face: Face) -> None:
    flow = face.workflow("written")
    flow.step("sum", add, 1, 2)

    run = face.run(flow)
    started = face.start(flow)

    assert face.ended(run.__getitem__, "sum") == 3
    assert face.ended(started.__getitem__, "sum") == 3
    assert list(face.plan(flow)["step"]) == ["sum"]
    for verb in (face.run, face.start, face.plan):
        with pytest.raises(TypeError, match=r"expected, not function: create one by"):
            verb(add)
    flow.step("more", add, 1, flow.input("missing"))
    with pytest.raises(mp.errors.InvalidWorkflow, match="'missing' has no value"):
        face.run(flow)


def test_a_run_is_found_by_its_id_and_its_workflow_and_is_the_same_one(
    face: Face,
) -> None:
    heard: list[Any] = []
    stop = face.on_run(heard.append)
    flow = face.workflow("found")
    flow.step("sum", add, 1, 2)

    run = face.run(flow.freeze())
    stop()

    assert face.get_run(run.id) is face.get_run("found") is face.own_runs[0] is run
    assert any(each is run for each in heard)
    assert face.runs()["workflow"].iloc[0] == "found"
    with pytest.raises(mp.errors.NoRun, match="Did you mean 'found'"):
        face.get_run("foundd")


def test_a_plan_is_a_table_of_each_step(face: Face) -> None:
    flow = face.workflow("planned")
    flow.step("odd", add, 1, 2).on("odd")

    plan = face.plan(flow.freeze())

    assert plan[["step", "function", "chosen"]].values.tolist() == [
        ["odd", "add", "n1"]
    ]


def test_frames_show_what_nodes_and_this_client_know(face: Face) -> None:
    face.register(add)
    face.call(add, 1, 2)

    assert face.nodes()["node"].tolist() == ["n1", "n2"]
    assert face.functions("ad*")["function"].tolist() == ["add"]
    assert "add" in face.calls()["function"].tolist()
    assert "add" in face.routes()["function"].tolist()
    assert face.latency(by=("function", "node")).columns[:2].tolist() == [
        "function",
        "node",
    ]
    assert set(face.versions()["node"]) >= {"n1", "n2"}
    assert "function added" in set(face.events()["event"])


def test_figures_and_the_card_are_made(face: Face) -> None:
    face.call(add, 1, 2)

    assert face.plot_latency().axes
    assert face.plot_routes().axes
    assert "2 nodes" in str(face.status())


def test_a_wait_for_a_state_says_what_is_meant_and_what_is_the_case(
    face: Face,
) -> None:
    face.wait_for("n1", "n2", timeout=60)

    with pytest.raises(ValueError, match="state='dead'"):
        face.wait_for("n1", "dead")
    with pytest.raises(TimeoutError, match="n1 is alive, not dead"):
        face.wait_for("n1", state="dead", timeout=0.05)
    with pytest.raises(TimeoutError, match="To wait for that state: state='dead'"):
        face.wait_for("n1", "deadd", timeout=0.05)


def test_a_view_of_no_such_name_is_refused(face: Face) -> None:
    with pytest.raises(ValueError, match="members"):
        face.watch("nodes and members")


def test_logs_are_those_of_the_nodes(face: Face, tmp_path: Path) -> None:
    assert face.logs("n1").nodes == ("n1",)
    assert face.logs(lines=1).nodes == ("n1", "n2")
    with pytest.raises(mp.errors.MpregError, match="Did you mean 'n1'"):
        face.logs("n11")


def test_no_verb_leaves_a_coroutine_that_nobody_awaits(face: Face) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mp.errors.NotPicklable):
            face.call(lambda: threading.Lock(), threading.Lock())
        with pytest.raises(TypeError):
            face.map(add)
        with pytest.raises(TypeError):
            face.register(3)
