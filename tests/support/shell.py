"""A real IPython shell for each test, with the extension loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.support.leaks import own_folders

RunCell: TypeAlias = Callable[[str], Any]


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_folders(tmp_path, monkeypatch)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, folders: None) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell.instance(config=config)
    made.run_line_magic("load_ext", "mpreg_nb")
    yield made
    made.run_line_magic("unload_ext", "mpreg_nb")
    made.restore_sys_module_state()  # type: ignore[no-untyped-call]
    InteractiveShell.clear_instance()


@pytest.fixture
def run_cell(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> RunCell:
    """Run a cell and return its value; what it printed before is dropped."""
    capsys.readouterr()

    def run(source: str) -> Any:
        done: Any = shell.run_cell(source, store_history=True)  # type: ignore[no-untyped-call]
        return done.result

    return run
