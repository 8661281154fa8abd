"""Lines about workflows: inputs in brackets, runs and their steps."""

from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb.notebook import verbs
from mpreg_nb.notebook.parser import Misuse
from mpreg_nb.notebook.session import Session, session_of


@pytest.fixture
def session(shell: InteractiveShell) -> Session:
    return session_of(shell)


@pytest.mark.parametrize(
    ("line", "rest", "inputs"),
    [
        ("flow", "flow", {}),
        ("flow -a -o kept", "flow -a -o kept", {}),
        ("flow()", "flow", {}),
        ("flow(sensor='s 7', n=rows[0])", "flow", {"sensor": "s 7", "n": 4}),
        ("flow(d={'a': (1, 2)}) -a", "flow -a", {"d": {"a": (1, 2)}}),
        ("-a flow(n=1) -o kept", "-a flow -o kept", {"n": 1}),
        ("flow(**{'n': 2})", "flow", {"n": 2}),
        ("'my flow (old)'", "'my flow (old)'", {}),
    ],
)
def test_inputs_stand_in_brackets_after_the_workflow(
    session: Session,
    shell: InteractiveShell,
    line: str,
    rest: str,
    inputs: dict[str, Any],
) -> None:
    shell.user_ns["rows"] = [4]

    assert verbs.inputs_of(session, "run", line) == (rest, inputs)


def options(step: str) -> Any:
    return SimpleNamespace(step=step)


def run_of(*steps: str) -> Any:
    """Stands for a run: here steps are only looked for."""
    return SimpleNamespace(
        steps=[SimpleNamespace(name=step) for step in steps], why=lambda step: step
    )


@pytest.fixture
def runs(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"nightly": run_of("load", "v1.2"), "a.b": run_of("c.d", "load")}

    def find(name: str) -> Any:
        if name not in known:
            raise Misuse(f"no run {name!r}")
        return known[name]

    monkeypatch.setattr(session, "run", find)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("nightly.load", "load"),
        ("nightly.v1.2", "v1.2"),
        ("a.b.load", "load"),
        ("a.b.c.d", "c.d"),
    ],
)
def test_a_step_is_found_whatever_names_have_dots(
    session: Session, runs: None, text: str, step: str
) -> None:
    assert verbs.why(session, options(text)) == step


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nightly", "'nightly' is not a step of a run. Write RUN.STEP"),
        (".load", "'.load' is not a step of a run"),
        ("nightly.laod", "run 'nightly' has no step 'laod'. Did you mean 'load'?"),
        ("nightly.xyz", "run 'nightly' has no step 'xyz'. The steps are: load, v1.2"),
        ("weekly.load", "no run 'weekly'"),
        ("a.b.x", "run 'a.b' has no step 'x'"),
    ],
)
def test_a_step_that_is_not_there_is_refused_with_what_is(
    session: Session, runs: None, text: str, said: str
) -> None:
    with pytest.raises(Misuse) as refused:
        verbs.why(session, options(text))

    assert said in str(refused.value)
