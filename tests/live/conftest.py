"""Every test here has its own folders and must leave nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import Leaks, nothing_left, own_folders


@pytest.fixture(scope="session", autouse=True)
def _own_folders_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # For fixtures that live longer than one test.
    with pytest.MonkeyPatch.context() as patch:
        own_folders(tmp_path_factory.mktemp("live"), patch)
        yield


@pytest.fixture(autouse=True)
def leaks(tmp_path: Path, _own_folders_of_the_run: None) -> Iterator[Leaks]:
    with nothing_left(tmp_path) as watched:
        yield watched
