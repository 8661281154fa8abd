"""Processes of this machine are launched as any nodes are."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpreg_nb.launcher.process import ProcessLauncher
from mpreg_nb.transport.token import Token
from tests.support.launcher_contract import Launched, LauncherContract
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live


def make_launcher(keep: bool) -> ProcessLauncher:
    return ProcessLauncher(Token("t" * 43), keep=keep)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    with nothing_left(tmp_path) as leaks:
        launched = Launched(make_launcher, tmp_path)
        yield launched
        launched.close()
        leaks.forget_files()  # sockets of nodes that were killed


class TestProcessLauncher(LauncherContract):
    """Node processes on this machine."""
