"""Cells that become steps: what is an input, what is an output, what is replaced."""

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.notebook.parser import Misuse
from mpreg_nb.notebook.remote_cell import step
from mpreg_nb.notebook.session import Session, session_of
from mpreg_nb.notebook.verbs import CELL_VERBS
from mpreg_nb.workflows.builder import Flow
from mpreg_nb.workflows.graph import Reference


class Nowhere:
    """Runs no workflow: here they are only written down."""

    def run(self, workflow: object) -> None: ...
    def start(self, workflow: object) -> None: ...
    def plan(self, workflow: object) -> None: ...


@pytest.fixture
def session(shell: InteractiveShell) -> Session:
    return session_of(shell)


@pytest.fixture
def flow(shell: InteractiveShell) -> Flow[Any, Any]:
    made: Flow[Any, Any] = Flow("daily", Nowhere())
    shell.user_ns.update(flow=made, rows=[1, 2], scale=3)
    return made


def add(session: Session, line: str, cell: str) -> Any:
    options = CELL_VERBS["step"].parser.read(f"{line} --flow flow")
    return step(session, options, cell)


def inputs(flow: Flow[Any, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in flow.freeze().steps if each.name == name)
    return dict(found.kwargs)


def test_names_of_other_cells_are_references_and_variables_are_values(
    session: Session, flow: Flow[Any, Any]
) -> None:
    add(session, "load", "values = [r * scale for r in rows]")
    add(session, "stats", "top = max(values)\nlow = min(values)")

    returned = add(session, "text", "f'{low} to {top} of {load}, {rows}, {unknown}'")

    assert returned is flow
    assert inputs(flow, "load") == {"rows": [1, 2], "scale": 3}
    assert inputs(flow, "stats") == {"values": Reference("load")}
    assert inputs(flow, "text") == {
        "low": Reference("stats", ("low",)),
        "top": Reference("stats", ("top",)),
        "load": Reference("load"),
        "rows": [1, 2],
    }


def test_steps_that_were_written_in_python_are_inputs_too(
    session: Session, flow: Flow[Any, Any], shell: InteractiveShell
) -> None:
    handle = flow.step("raw", "echo", 1)
    shell.user_ns["first"] = handle

    add(session, "next", "raw, first['a']")

    assert inputs(flow, "next") == {"raw": Reference("raw"), "first": handle}
    assert flow.freeze().steps[1].inputs == ("raw",)


def test_a_step_comes_before_a_variable_of_its_name(
    session: Session, flow: Flow[Any, Any]
) -> None:
    add(session, "load", "rows = [7]")

    add(session, "sum", "sum(rows)")

    assert inputs(flow, "sum") == {"rows": Reference("load")}


def test_the_last_cell_before_it_that_sets_a_name_is_meant(
    session: Session, flow: Flow[Any, Any]
) -> None:
    cells = {"a": "x = 1", "b": "x = x + 1", "c": "y = x"}
    for name, cell in cells.items():
        add(session, name, cell)

    add(session, "b", cells["b"])  # again: it neither reads itself nor what follows
    add(session, "a", cells["a"])

    assert inputs(flow, "a") == {}
    assert inputs(flow, "b") == {"x": Reference("a")}
    assert inputs(flow, "c") == {"x": Reference("b")}
    assert [each.name for each in flow.freeze().steps] == ["a", "b", "c"]


def test_a_cell_that_runs_again_replaces_its_step_and_its_outputs(
    session: Session, flow: Flow[Any, Any]
) -> None:
    add(session, "load --on gpu", "a = 1\nb = 2")
    add(session, "load --on cpu", "a = 1")

    add(session, "sum", "a, b")

    (load, _) = flow.freeze().steps
    assert load.resources == {"cpu"}
    assert inputs(flow, "sum") == {"a": Reference("load")}


def test_what_is_given_when_it_runs_is_an_input(
    session: Session, flow: Flow[Any, Any]
) -> None:
    add(session, "load --input rows,url", "values = [*rows, url]")
    add(session, "text", "f'{values} from {url}, {scale}'")

    frozen = flow.freeze(rows=[7], url="u")

    assert dict(frozen.inputs) == {"rows": [7], "url": "u"}
    assert set(frozen.steps[0].kwargs) == {"rows", "url"}
    assert set(frozen.steps[1].kwargs) == {"values", "url", "scale"}
    with pytest.raises(InvalidWorkflow, match="url"):
        flow.freeze(rows=[7])


def test_options_are_those_of_the_step(session: Session, flow: Flow[Any, Any]) -> None:
    add(session, "load", "1")

    add(session, "next --on gpu,big --retry 2 --timeout 1.5 --after load", "2")

    made = flow.freeze().steps[1]
    assert made.resources == {"gpu", "big"}
    assert (made.more_attempts, made.timeout_s, made.after) == (2, 1.5, ("load",))


def test_steps_that_read_each_other_are_found_before_anything_runs(
    session: Session, flow: Flow[Any, Any]
) -> None:
    add(session, "a", "x = 1")
    add(session, "b", "y = x")
    add(session, "a", "x = y")

    with pytest.raises(InvalidWorkflow, match="cycle"):
        flow.freeze()


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("a/b", "1", "cannot name a step"),
        ("a --retry 1000", "1", "0 to 100"),
        ("b --input a", "a", "'a' cannot be an input of the cell: a step assigns it"),
        (
            "b --input c",
            "rows",
            "'c' cannot be an input of the cell: the cell does not",
        ),
        ("a --timeout -1", "1", "above 0"),
        ("a", "1\n2 +", "line 2 of the cell: invalid syntax\n    2 +\n       ^"),
        ("a", "x = 1\n!ls &", "Leave out the &"),
        ("a", "x = 1\n%who", "%who does not run on a node"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    session: Session,
    flow: Flow[Any, Any],
    line: str,
    cell: str,
    said: str,
) -> None:
    flow.step("a", "echo", 1)

    with pytest.raises(Misuse) as refused:
        add(session, line, cell)

    assert said in str(refused.value)
    (kept,) = flow.freeze().steps
    assert kept.function == "echo"
