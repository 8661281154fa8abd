"""Clusters behind notebooks, in a shell of this process or in a real kernel."""

import pytest

from tests.support.leaks import Leaks
from tests.support.shell import run_cell, shell

__all__ = ["folders", "run_cell", "shell"]


@pytest.fixture
def folders(leaks: Leaks) -> None:
    """The shell of these tests uses the folders that are watched."""
