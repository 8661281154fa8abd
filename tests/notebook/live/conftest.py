"""Clusters behind notebooks: each test has its own folders and leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.leaks import Leaks, nothing_left


@pytest.fixture(autouse=True)
def leaks(tmp_path: Path) -> Iterator[Leaks]:
    with nothing_left(tmp_path) as watched:
        yield watched


@pytest.fixture
def folders(leaks: Leaks) -> None:
    """The shell of these tests uses the folders that are watched."""
