from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb.notebook.parser import Misuse
from mpreg_nb.notebook.session import Session, session_of
from mpreg_nb.workflows.builder import Flow
from tests.support.shell import RunCell


class Nowhere:
    """Runs no workflow: here they are only looked for."""

    def run(self, workflow: object) -> None: ...
    def start(self, workflow: object) -> None: ...
    def plan(self, workflow: object) -> None: ...


def flow(name: str) -> Flow[None, None]:
    made = Flow(name, Nowhere())
    made.step("only", "echo", 1)
    return made


@pytest.fixture
def session(shell: InteractiveShell) -> Session:
    return session_of(shell)


def test_a_kernel_has_one_session(session: Session, shell: InteractiveShell) -> None:
    assert session_of(shell) is session


def test_a_workflow_is_found_by_its_variable_by_its_name_and_by_its_last_step(
    session: Session, shell: InteractiveShell
) -> None:
    made = flow("sensor report")
    shell.user_ns["flow"] = made
    shell.user_ns["last"] = made.step("last", "echo", 2)

    assert session.flow("flow") is made
    assert session.flow("sensor report") is made
    assert session.flow("last") is made
    assert session.flow_names() == ["flow", "last", "sensor report"]


def test_a_variable_comes_before_a_name(
    session: Session, shell: InteractiveShell
) -> None:
    shell.user_ns["a"] = flow("b")
    shell.user_ns["b"] = other = flow("a")

    assert session.flow("b") is other


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reprot", "no variable and no workflow is named 'reprot'. Did you mean 're"),
        ("twice", "several are named 'twice'; say which variable: first, second"),
    ],
)
def test_a_workflow_that_is_not_clear_is_refused(
    session: Session, shell: InteractiveShell, name: str, said: str
) -> None:
    shell.user_ns["report"] = flow("weekly")
    shell.user_ns["first"], shell.user_ns["second"] = flow("twice"), flow("twice")

    with pytest.raises(Misuse) as refused:
        session.flow(name)

    assert said in str(refused.value)


def test_variables_of_the_user_are_distinguished_from_those_of_ipython(
    session: Session, run_cell: RunCell
) -> None:
    run_cell("In = 'mine'\nrows = 3")

    variables: dict[str, Any] = session.variables

    assert variables["In"] == "mine"
    assert variables["rows"] == 3
    assert "get_ipython" not in variables
    assert "exit" not in variables


@pytest.mark.parametrize("name", ["3x", "a b", "class", ""])
def test_a_value_is_kept_only_under_what_can_name_a_variable(
    session: Session, name: str
) -> None:
    with pytest.raises(Misuse, match="is not a name for a variable"):
        session.keep(name, 1)
