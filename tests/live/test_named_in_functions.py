"""What functions of a notebook name: its cluster, its functions, IPython's names."""

import concurrent.futures
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.displayhook import DisplayHook

import mpreg_nb as mp
from mpreg_nb.errors import NotPicklable
from tests.support.cells import run_cell

pytestmark = pytest.mark.live

TOKEN = "5a" * 32

CELL = """\
import mpreg_nb as mp
def inner(x): return x + 1
def by_cluster(x): return sum(cluster.map(inner, range(x)))
def by_view(x): return sum(view.map(inner, range(x)))
def by_function(x): return sum(decorated.map(range(x)))
def by_narrowed(x): return sum(narrowed.map(range(x)))
def by_name(x): return sum(cluster.fn.inner(n) for n in range(x))
def by_names(x): return sum(names.inner.map(range(x)))
def by_executor(x): return sum(executor.map(inner, range(x)))
def by_argument(given): return sum(given.map(inner, range(3)))
def gives_future(): return mp.current().submit(abs, -1)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, slots=4, fresh=True, token=TOKEN) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cell(cluster: mp.Cluster) -> dict[str, Any]:
    cell = run_cell(CELL)
    cell["cluster"] = cluster
    cell["decorated"] = cluster.function(cell["inner"])
    cell["narrowed"] = cell["decorated"].on(node="n1")
    cell["view"] = cluster.on(node="n2")
    cell["names"] = cluster.fn
    cell["executor"] = cluster.executor()
    return cell


@pytest.mark.parametrize(
    "function",
    [
        "by_cluster",
        "by_view",
        "by_function",
        "by_narrowed",
        "by_name",
        "by_names",
        "by_executor",
    ],
)
def test_a_function_that_names_the_cluster_uses_the_one_that_it_runs_in(
    cluster: mp.Cluster, cell: dict[str, Any], function: str
) -> None:
    assert cluster.call(cell[function], 3) == 6
    assert cluster.call(cell[function], 3) == 6  # what it names has not changed


@pytest.mark.parametrize("given", ["cluster", "view", "executor"])
def test_a_cluster_as_an_argument_is_the_one_that_the_call_runs_in(
    cluster: mp.Cluster, cell: dict[str, Any], given: str
) -> None:
    assert cluster.call(cell["by_argument"], cell[given]) == 6


def test_naming_a_cluster_makes_no_version_of_its_own(
    cluster: mp.Cluster, cell: dict[str, Any]
) -> None:
    cluster.call(cell["by_cluster"], 1)
    with mp.connect(*cluster.urls, token=TOKEN) as cell["cluster"]:
        cluster.call(cell["by_cluster"], 1)
    cell["cluster"] = cluster

    assert len(cluster.functions("by_cluster")) == 1


class Shell:
    """Has methods of IPython's, as the names of a notebook are."""

    def get_ipython(self) -> "Shell":
        return self


Shell.get_ipython.__module__ = DisplayHook.__module__


def test_names_that_ipython_gives_are_those_of_where_the_function_runs(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = run_cell(
        "def where():\n"
        "    try: return get_ipython()\n"
        "    except NameError: return 'no notebook'\n"
        "def shows():\n    display({'a': 1})\n"
        "def stops(n):\n    if n: exit()\n    return 'went on'\n"
    )
    shell = Shell()
    cell["get_ipython"] = cell["exit"] = shell.get_ipython

    answers = [cluster.call(cell["where"]), cluster.call(cell["stops"], 0)]
    cluster.call(cell["shows"])

    assert answers == ["no notebook", "went on"]
    assert "{'a': 1}" in capsys.readouterr().out


def test_a_name_of_the_users_own_travels_though_ipython_has_one_like_it(
    cluster: mp.Cluster,
) -> None:
    cell = run_cell("def display(x): return [x]\ndef shows(x): return display(x)")

    assert cluster.call(cell["shows"], 1) == [1]


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: {"deep": [f]}])
def test_a_future_as_an_argument_is_refused_with_the_cure(
    cluster: mp.Cluster, wrap: Any
) -> None:
    plain: concurrent.futures.Future[int] = concurrent.futures.Future()
    for future in (cluster.submit(abs, -4), plain):
        with pytest.raises(NotPicklable, match=r"args\[0\].*future\.result\(\)"):
            cluster.call(abs, wrap(future))


def test_a_future_as_a_result_is_refused_with_the_cure(
    cluster: mp.Cluster, cell: dict[str, Any]
) -> None:
    with pytest.raises(NotPicklable, match=r"gives_future.*future\.result\(\)"):
        cluster.call(cell["gives_future"])


def test_a_function_by_name_looks_like_the_registered_one(cluster: mp.Cluster) -> None:
    def train(rows: list[int], lr: float = 0.1) -> float:
        """Return what was learnt."""
        return len(rows) * lr

    cluster.register(train)

    for named in (cluster.fn.train, cluster.fn.train.on(node="n2", timeout=60)):
        assert str(inspect.signature(named)) == "(rows, lr=0.1)"
        assert named.__doc__ == "Return what was learnt."
        assert named.__name__ == "train"
        assert named.call([1, 2], lr=2.0) == named([1, 2], 2) == 4
        assert named.submit([1]).result() == 0.1
        assert named.map([[1], [1, 1]]) == [0.1, 0.2]
    assert "train" in dir(cluster.fn)
