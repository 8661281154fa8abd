"""What Tab offers, from names that the kernel has heard of."""

import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb.cluster import current
from mpreg_nb.notebook.magics import Completion
from mpreg_nb.notebook.session import session_of
from mpreg_nb.notebook.verbs import CELL_VERBS, LINE_VERBS


def cluster_of(nodes: dict[str, set[str]], functions: list[str]) -> Any:
    """Stands for a cluster of which the kernel has heard."""
    records = [
        SimpleNamespace(record=SimpleNamespace(name=name, resources=frozenset(held)))
        for name, held in nodes.items()
    ]
    state = SimpleNamespace(nodes=records, functions=set(functions))
    return SimpleNamespace(
        _connected=SimpleNamespace(client=SimpleNamespace(state=state)),
        own_nodes=tuple(nodes)[:2],
        own_runs=(),
    )


@pytest.fixture
def completion(shell: InteractiveShell) -> Iterator[Completion]:
    nodes = {"gpu-1": {"gpu", "data"}, "my cpu": {"cpu"}, "far": set[str]()}
    cluster = cluster_of(nodes, ["train", "test", "remote cell"])
    current.enter(cluster)
    shell.user_ns["compute"] = lambda: None
    shell.user_ns["_hidden"] = lambda: None
    shell.user_ns["rows"] = [1]
    yield Completion(session_of(shell))
    for each in current.all_clusters():
        current.leave(each)


def offered(completion: Completion, line: str) -> list[str]:
    """Split off the last word as IPython does."""
    word = ""
    while line and line[-1] not in " \t\n`!@#$^&*()=+[{]}\\|;:'\",<>?":
        line, word = line[:-1], line[-1] + word
    return completion.offer(line + word, word)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%mpreg wat", ["watch"]),
        ("%mpreg ", list(LINE_VERBS)),
        ("%%mpreg ", list(CELL_VERBS)),
        ("kept = %mpreg wat", ["watch"]),
        ("  %mpreg help rem", ["remote"]),
        ("%mpreg kill ", ["gpu-1", "'my cpu'"]),
        ("%mpreg logs f", ["far"]),
        ("%mpreg logs gpu-1 -f ", ["gpu-1", "'my cpu'", "far", "-n"]),
        ("%mpreg logs -n ", []),
        ("%mpreg partition gpu-1|my", ["'my cpu'"]),
        ("%mpreg partition gpu-1,", ["gpu-1", "'my cpu'"]),
        ("%mpreg up new:g", ["gpu"]),
        ("%mpreg up new:gpu,d", ["data"]),
        ("%mpreg up --workers ", []),
        ("%mpreg up --k", ["--keep"]),
        ("%mpreg up --keep --k", []),
        ("%mpreg call t", ["train", "test"]),
        ("%mpreg call r", []),
        ("%mpreg call train(", []),
        ("%mpreg call train(r", []),
        ("%mpreg run flow(", []),
        ("%mpreg run flow -o ", []),
        ("%mpreg functions re", ["'remote cell'"]),
        ("%mpreg register comp", ["compute"]),
        ("%mpreg register _", []),
        ("%mpreg register compute --resources cp", ["cpu"]),
        ("%mpreg register compute --resources gpu,cp", ["cpu"]),
        ("%mpreg latency --by f", ["function", "function,node"]),
        ("%mpreg watch t", ["topology"]),
        ("%mpreg watch c", ["calls"]),
        ("%mpreg watch topology m", ["members"]),
        ("%mpreg config out", ["output_lines"]),
        ("%%mpreg everywhere --on g", ["gpu"]),
        ("%%mpreg remote --node g", ["gpu-1"]),
        ("%%mpreg remote --timeout ", []),
        ("%%mpreg step clean --re", ["--retry"]),
        ("%mpreg nobody ", []),
        ("mpreg kill ", []),
        ("rows.app", []),
        ("print('%mpreg kill ", []),
    ],
)
def test_what_fits_is_offered_and_nothing_else(
    completion: Completion, line: str, words: list[str]
) -> None:
    found = offered(completion, line)

    assert sorted(found) == sorted(words)


def test_workflows_their_steps_and_their_runs_are_offered(
    completion: Completion, shell: InteractiveShell
) -> None:
    from mpreg_nb.cluster.run import Run
    from mpreg_nb.workflows.builder import Flow

    flow: Flow[None, None] = Flow("sensors", None)  # type: ignore[arg-type]
    flow.step("load", "echo", 1)
    flow.step("mean", "echo", 2)
    known: Any = SimpleNamespace(
        steps={name: SimpleNamespace(name=name) for name in ("load", "mean")}
    )
    nothing: Any = None
    run = Run(nothing, nothing, nothing, known, nothing)
    shell.user_ns.update(report=flow, nightly=run)

    assert offered(completion, "%mpreg plan ") == ["report", "sensors"]
    assert offered(completion, "%mpreg draw n") == ["nightly"]
    assert offered(completion, "%mpreg cancel ") == ["nightly"]
    assert offered(completion, "%mpreg why nightly.m") == ["nightly.mean"]
    assert offered(completion, "%%mpreg step x --flow r") == ["report"]
    assert offered(completion, "%%mpreg step x --after l") == ["load"]


def test_a_large_cluster_makes_nobody_wait(
    completion: Completion,
) -> None:
    nodes = {f"node-{number}": {f"set-{number}"} for number in range(200)}
    functions = [f"function_{number}" for number in range(5000)]
    current.enter(cluster_of(nodes, functions))
    took_s = []

    for _ in range(5):
        began = time.process_time()
        found = offered(completion, "%mpreg call fun")
        took_s.append(time.process_time() - began)

    assert len(found) == 500
    assert min(took_s) < 0.02


def test_the_first_tab_of_a_kernel_imports_nothing() -> None:
    program = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell; "
        "shell = InteractiveShell.instance(); shell.history_manager.enabled = False; "
        "shell.run_line_magic('load_ext', 'mpreg_nb'); "
        "from mpreg_nb.notebook.magics import Completion; "
        "from mpreg_nb.notebook.session import session_of; "
        "offer = Completion(session_of(shell)).offer; before = set(sys.modules); "
        "verbs = ['kill', 'call', 'run', 'why', 'watch', 'register', 'logs', 'up x:']; "
        "found = [offer(f'%mpreg {verb} ', '') for verb in verbs]; "
        "print(len(found), set(sys.modules) - before)"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout.splitlines()[-1] == "8 set()"


@pytest.mark.parametrize(
    ("line", "word", "kind"),
    [
        ("%mpreg ", "up", "verb: Start nodes, here and on"),
        ("%mpreg up ", "--keep", "option: "),
        ("%mpreg kill ", "gpu-1", "node"),
        ("%%mpreg remote --on ", "gpu", "resource"),
        ("%mpreg config ", "workers", "key: "),
        ("%mpreg help ", "remote", "verb: "),
        ("%mpreg watch ", "members", "view"),
    ],
)
def test_each_item_has_its_type_and_help(
    completion: Completion, line: str, word: str, kind: str
) -> None:
    offered = dict(completion.explained(line, ""))

    assert offered[word].startswith(kind)
    assert all(len(told) <= 70 for told in offered.values())
    assert not any(told.endswith(": ") for told in offered.values())


def test_the_front_end_receives_the_types(
    shell: InteractiveShell, completion: Completion
) -> None:
    with provisionalcompleter():
        found = list(shell.Completer.completions("%mpreg kil", 10))

    assert [(item.text, item.type) for item in found] == [
        ("kill", "verb: End a node at once, as a crash would.")
    ]
