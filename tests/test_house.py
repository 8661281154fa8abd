"""Rules of the house that no linter knows."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "mpreg_nb"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = REPOSITORY / "tests"
# Folders of tests that are no room of the package.
OTHER_FOLDERS = {"benchmarks", "browser", "live", "support"}
# Programs that are run by hand, with what belongs to them.
PROGRAMS = {
    "browser/moving_picture.py",
    "browser/screenshots.py",
    "live/history.py",
    "live/large_values.py",
    "live/many_submits.py",
    "live/rolling_restart.py",
    "live/soak.py",
    "membership/experiments.py",
    "membership/report.py",
}

# Names under which anything could be filed.
DRAWER_NAMES = {
    "base",
    "common",
    "core",
    "helper",
    "helpers",
    "manager",
    "misc",
    "util",
    "utils",
}
NOTEBOOK_PACKAGES = {"IPython", "anywidget", "ipykernel", "ipywidgets"}
UNBOUNDED_BY_DEFAULT = {"LifoQueue", "PriorityQueue", "Queue"}


Trees: TypeAlias = dict[Path, ast.Module]


@pytest.fixture(scope="module")
def trees() -> Iterator[Trees]:
    """The syntax trees of the package: many objects, gone with these tests."""
    made = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    yield made
    made.clear()


def name_in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_file_is_named_by_its_idea() -> None:
    named = {part for path in MODULES for part in path.relative_to(PACKAGE).parts}

    stems = {name.removesuffix(".py").strip("_") for name in named}

    assert stems & DRAWER_NAMES == set()


def test_tests_stand_in_the_rooms_of_the_package_and_their_helpers_in_support() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | OTHER_FOLDERS
    files = [path.relative_to(TESTS) for path in TESTS.rglob("*.py")]

    in_no_room = [
        file.as_posix()
        for file in files
        if len(file.parts) > 1 and file.parts[0] not in rooms
    ]
    stray_helpers = [
        file.as_posix()
        for file in files
        if file.parts[0] not in {"benchmarks", "support"}
        and not file.name.startswith("test_")
        and file.name not in {"__init__.py", "conftest.py"}
        and file.as_posix() not in PROGRAMS
    ]
    imported_tests = [
        f"{file}: {line}"
        for file in files
        for line in (TESTS / file).read_text(encoding="utf-8").splitlines()
        if re.match(r"(from|import) tests\.\S*\btest_", line)
    ]

    assert in_no_room == []
    assert stray_helpers == []
    assert imported_tests == []


# Public whatever they look like: IPython asks for them, and named tuples have them.
SHOWN = re.compile(r"_repr_\w+_|_ipython_\w+_|_asdict|_fields|_replace")


def private_names(text: str) -> set[str]:
    """Names with one underscore that a file makes for itself."""
    made = r"(?:def|class|self\.)[ ]?(_[a-z]\w*)|^[ ]*(_[a-z]\w*)(?:: [^=\n]+)? = "
    return {"".join(names) for names in re.findall(made, text, re.MULTILINE)}


def private_uses(text: str) -> set[str]:
    """Private names that a file takes from others, or sets by `monkeypatch.setattr`.

    Programs in texts count too: they run in processes of the tests.
    """
    taken = r"(?<!\bself)\.(_[a-z]\w*)|\bsetattr\([^,]+, \"(_[a-z]\w*)\""
    names = {"".join(names) for names in re.findall(taken, text)}
    return {name for name in names if not SHOWN.fullmatch(name)}


def test_tests_use_nothing_private_of_other_rooms() -> None:
    rooms_of: dict[str, set[str]] = {}
    for path in MODULES:
        for name in private_names(path.read_text(encoding="utf-8")):
            rooms_of.setdefault(name, set()).add(path.relative_to(PACKAGE).parts[0])

    used = {}
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        file = path.relative_to(TESTS)
        foreign = {
            name
            for name in private_uses(text) - private_names(text)
            if name in rooms_of and file.parts[0] not in rooms_of[name]
        }
        if foreign and len(file.parts) > 1:
            used[file.as_posix()] = foreign

    assert used == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("cluster._nodes.urls", {"_nodes"}),
        ('monkeypatch.setattr(current, "_stack", [])', {"_stack"}),
        ("self._mine = flow._repr_html_()", set()),
        ("os.environ.__class__", set()),
    ],
)
def test_the_search_for_private_names_finds_them(source: str, names: set[str]) -> None:
    assert private_uses(source) == names


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Public functions and classes of `body` without a docstring, methods included."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        name = f"{prefix}{node.name}"
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        says_it_elsewhere = decorators & {"overload", "override"} or any(
            decorator.endswith(".setter") for decorator in decorators
        )
        if node.name.startswith("_") or says_it_elsewhere:
            continue
        if ast.get_docstring(node) is None:
            yield name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{name}.")


def test_every_public_name_has_a_docstring(trees: Trees) -> None:
    missing = [
        name
        for path in MODULES
        for name in undocumented(
            trees[path].body,
            f"{name_in_package(path)}: ",
        )
    ]

    assert missing == []


def test_every_module_says_what_it_is(trees: Trees) -> None:
    silent = [
        name_in_package(path)
        for path in MODULES
        if path.stat().st_size and ast.get_docstring(trees[path]) is None
    ]

    assert silent == []


def test_every_name_that_a_module_lists_is_there_and_listed_once() -> None:
    wrong = []

    for path in MODULES:
        dotted = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        module = importlib.import_module(dotted.removesuffix(".__init__"))
        listed = list(getattr(module, "__all__", ()))
        wrong += [f"{dotted}.{name}" for name in listed if not hasattr(module, name)]
        wrong += [f"{dotted}.{name} twice" for name in listed if listed.count(name) > 1]

    assert wrong == []


def imported_modules(tree: ast.Module) -> set[str]:
    """Modules of the package that a file imports, in functions and for hints too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found & {
        dotted_name(module) for module in MODULES if module.stem != "__init__"
    }


@cache
def dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def test_no_module_comes_back_to_itself_by_imports(trees: Trees) -> None:
    graph = {
        dotted_name(path): imported_modules(trees[path])
        for path in MODULES
        if path.stem != "__init__"
    }

    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_no_name_of_a_class_is_used_twice(trees: Trees) -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name_in_package(path))

    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def loaded_by(module: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds once it imported `module`."""
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_the_package_loads_without_tables_and_plots() -> None:
    loaded = loaded_by("mpreg_nb")

    assert loaded & {"matplotlib", "pandas"} == set()


def test_a_node_runs_without_notebook_tables_plots_and_pickled_code() -> None:
    loaded = loaded_by("mpreg_nb.node.__main__")

    assert (
        loaded & (NOTEBOOK_PACKAGES | {"cloudpickle", "matplotlib", "pandas"}) == set()
    )


def unbounded_queues(tree: ast.AST) -> Iterator[int]:
    """Lines where an asyncio queue is made that takes any number of items."""
    asyncio_names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "asyncio"
        for alias in node.names
        if alias.name in UNBOUNDED_BY_DEFAULT
    } | {f"asyncio.{name}" for name in UNBOUNDED_BY_DEFAULT}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        made = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        if ast.unparse(made) not in asyncio_names:
            continue
        sizes = [*node.args, *(k.value for k in node.keywords if k.arg == "maxsize")]
        if not sizes or ast.unparse(sizes[0]) == "0":
            yield node.lineno


UNBOUNDED_BY_NATURE = {"SimpleQueue", "deque"}

BOUNDED_BY = {
    "benchmark/measure.py: said": "the rows of one benchmark",
    "calls/retry.py: _retries": "the budget, in a window of time",
    "calls/retry.py: _slices": "a window of time",
    "calls/waiting_line.py: _line": "admission: calls_per_node and queued_bytes",
    "client/callbacks.py: _queue": "futures, which their caller holds",
    "client/statistics.py: _rows": "KEPT_CALLS calls, and one chunk",
    "cluster/call_progress.py: _notes": "a window of time",
    "cluster/calling.py: _to_start": "MOST_OUTSTANDING calls without an outcome",
    "launcher/host.py: _waiting": "logs wait in their files while it is long",
    "launcher/pid.py: _new": "children that this process starts",
    "membership/swim.py: waiting": "the effects of one message",
    "node/executor.py: _work": "admission: calls_per_node and queued_bytes",
    "node/worker_process.py: _unsent": "the jobs that a worker has ahead",
    "notebook/reloaded_page.py: _kept": "a number of ends, checked when one is added",
    "protocol/output_tail.py: _lines": "a number of bytes, checked with each line",
    "transport/streams.py: _behind": "the backlog limit of the link",
    "transport/streams.py: _open": "the backlog limit of the link",
    "transport/streams.py: _waiting": "the backlog limit of the link",
    "transport/streams.py: left": "the parts of one message",
    "transport/streams.py: rooms": "the parts of one message",
    "view/live/topology.py: _grown": "a window of time",
    "output/capture.py: _pieces": "limits for each second, in text and displays",
    "worker/channel.py: waiting": "the jobs that a worker has ahead",
    "shared_memory/exchange.py: _discarded": "the segments that the link knows",
    "shared_memory/exchange.py: _ended": "leases of messages with large values",
    "shared_memory/segments.py: _ended": "the segments of the process",
    "worker/concurrent.py: _chores": "a chore or two for each call in a slot",
    "worker/concurrent.py: _for_threads": "slots",
}
"""Queues without a length of their own, and what bounds each of them."""


def queues_without_a_length(tree: ast.AST) -> Iterator[str]:
    """Names that a deque without `maxlen`, or a SimpleQueue, is given to."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                holders = targets
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                holders = [target]
            case ast.Call(
                func=ast.Attribute(attr="setdefault", value=holder), args=[_, value]
            ):
                holders = [holder]
            case _:
                continue
        if any(map(is_endless, ast.walk(value))):
            yield from map(last_name, holders)


def last_name(holder: ast.expr) -> str:
    held = holder.value if isinstance(holder, ast.Subscript) else holder
    return ast.unparse(held).rpartition(".")[2]


def is_endless(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    made = node.func.value if isinstance(node.func, ast.Subscript) else node.func
    name = ast.unparse(made).rpartition(".")[2]
    given = {keyword.arg for keyword in node.keywords}
    return name in UNBOUNDED_BY_NATURE and "maxlen" not in given


def test_of_each_queue_without_a_length_it_is_known_what_bounds_it(
    trees: Trees,
) -> None:
    found = {
        f"{name_in_package(path)}: {name}"
        for path in MODULES
        for name in queues_without_a_length(trees[path])
    }

    assert found == set(BOUNDED_BY)


def test_the_search_for_queues_without_a_length_finds_them() -> None:
    source = """
self._a: deque[int] = deque()
self._b = collections.deque([1])
c = known.get(1, deque())
self._d[key] = queue.SimpleQueue()
self._e = deque(maxlen=8)
self.f.setdefault(1, deque()).append(2)
"""

    assert sorted(queues_without_a_length(ast.parse(source))) == [
        *("_a", "_b", "_d", "c", "f")
    ]


def test_no_queue_grows_without_bound(trees: Trees) -> None:
    unbounded = [
        f"{name_in_package(path)}:{line}"
        for path in MODULES
        for line in unbounded_queues(trees[path])
    ]

    assert unbounded == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import asyncio\nasyncio.Queue()", [2]),
        ("import asyncio\nasyncio.Queue[int]()", [2]),
        ("import asyncio\nasyncio.Queue(maxsize=0)", [2]),
        ("from asyncio import Queue as Line\nLine()", [2]),
        ("import asyncio\nasyncio.Queue(8)\nasyncio.Queue(maxsize=size)", []),
        ("import queue\nqueue.Queue()", []),
    ],
)
def test_the_search_for_unbounded_queues_finds_them(
    source: str, lines: list[int]
) -> None:
    found = list(unbounded_queues(ast.parse(source)))

    assert found == lines


def test_no_committed_file_names_a_folder_of_this_machine() -> None:
    git = shutil.which("git")
    assert git, "the tests run in a git checkout"
    folders = [f"{Path.home()}/", f"{REPOSITORY}/"]
    patterns = [part for folder in folders for part in ("-e", folder)]

    found = subprocess.run(
        [git, "grep", "-nIF", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )

    assert found.stdout == ""
    assert found.returncode == 1  # git grep: nothing found


def test_no_cell_of_a_notebook_is_left_out_of_its_test() -> None:
    notebooks = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

    with_skips = [
        path.name
        for path in notebooks
        if re.search(r"nbval.skip", path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]

    assert with_skips == []


SKIPS = """
import pytest

@pytest.mark.skipif(True, reason="no accelerator")
def test_that_is_skipped() -> None: ...

@pytest.mark.skipif(True, reason="this machine has no network namespaces")
def test_that_the_machine_cannot_run() -> None: ...

@pytest.mark.xfail(reason="known", strict=True)
def test_that_fails_as_expected() -> None:
    assert False
"""


@pytest.mark.parametrize(
    ("no_skips", "closing"),
    [("0", "2 skipped, 1 xfailed"), ("1", "1 skipped, 1 xfailed, 1 error")],
)
def test_ci_does_not_pass_with_a_skipped_test(
    tmp_path: Path, no_skips: str, closing: str
) -> None:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_skips.py").write_text(SKIPS, encoding="utf-8")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        # What is tried needs no plugin, and the import of those here takes seconds.
        env=os.environ
        | {"CI_NO_SKIPS": no_skips, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )

    assert re.search(closing, run.stdout), run.stdout
    assert run.returncode == int(no_skips)


DECIDE = ("calls", "membership", "routing", "workflows")
"""Rooms that are told the time; a wall clock may be set while a cluster runs."""


def test_rooms_that_decide_read_no_wall_clock() -> None:
    readers = [
        name_in_package(path)
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] in DECIDE
        and re.search(r"time\.time|datetime", path.read_text(encoding="utf-8"))
    ]

    assert readers == []


FAULTS = TESTS / "live" / "README.md"


def test_each_threat_and_each_fault_has_its_row() -> None:
    rows = re.findall(r"^\| ([S\d][S\d, ]*) \|", FAULTS.read_text(), re.MULTILINE)

    named = {number for row in rows for number in row.split(", ")}

    threats = {f"S{number}" for number in range(1, 28)} - {"S6"}  # there is none
    assert named == threats | {str(number) for number in range(1, 91)}


def test_files_that_the_table_of_faults_names_exist() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", FAULTS.read_text()))

    assert {name for name in named if not (TESTS / name).is_file()} == set()
