"""Cures: the same error names a magic, a line of Python or a command."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb import cures, errors

LOST = errors.NodeLost("", "Connection refused", executed="no", at="10.0.0.5")
UNKNOWN = errors.NoRoute("f", frozenset(), {})
NO_ROUTE = errors.NoRoute("train", frozenset({"gpu"}), {}, held={"n1": frozenset()})


@pytest.fixture
def shell() -> InteractiveShell:
    """An IPython in which the extension is not loaded."""
    shell = InteractiveShell.instance()
    shell.magics_manager.magics["line"].pop("mpreg", None)
    return shell


def test_a_script_gets_python() -> None:
    assert "List your nodes here: mp.ps()" in str(LOST)
    assert "Start one: cluster.add('n2', {'gpu'})" in str(NO_ROUTE)
    assert "mp.up(3)" in str(errors.NoCluster())
    assert "Register it first: cluster.register(f)" in str(UNKNOWN)


def test_a_shell_gets_commands_only_while_its_command_runs() -> None:
    with cures.in_shell("call"):
        lost, no_route, none = str(LOST), str(NO_ROUTE), str(errors.NoCluster())
        unknown = str(UNKNOWN)

    assert "List your nodes here: mpreg-nb ps" in lost
    assert "Register it first: in Python, cluster.register(f)" in unknown
    assert "mpreg-nb node --name n2 --resources gpu --join URL" in no_route
    assert "mpreg-nb node --name n1" in none
    assert not any("mp." in text or "%mpreg" in text for text in (lost, no_route, none))
    assert cures.place() == "python"


def test_a_notebook_gets_magics_once_it_has_the_extension(
    shell: InteractiveShell,
) -> None:
    before = cures.place()
    shell.magics_manager.magics["line"]["mpreg"] = print
    try:
        told = str(NO_ROUTE)
    finally:
        shell.magics_manager.magics["line"].pop("mpreg")

    assert before == "python"
    assert "Start one: %mpreg up n2:gpu" in told


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LOST, "no node answers at 10.0.0.5: Connection refused. Check the URL"),
        (
            errors.NodeLost("", "there is no connection to any node", executed="no"),
            "no node of the cluster is reachable: there is no connection to any node. "
            "mp.up",
        ),
        (
            errors.NodeLost("n2", "killed", function="f", executed="no"),
            "node n2 was lost during the call of f (killed). The function did not run",
        ),
        (
            errors.NodeLost("n2", "killed", executed="unknown"),
            "node n2 was lost (killed). The request may have run; try again",
        ),
        (
            errors.NodeLost("", "gone", function="f", executed="yes", last_lines=["a"]),
            "the node was lost during the call of f (gone). Last printed:\n  a\nThe",
        ),
    ],
    ids=["wrong URL", "no link", "not run", "no function", "printed"],
)
def test_the_error_of_a_lost_node_names_the_cause(
    error: errors.NodeLost, text: str
) -> None:
    assert str(error).startswith(text)
