"""Tests of engines have their own folders, as all that start nodes."""

from collections.abc import Iterator

import pytest

from tests.support.dask_cluster import DaskCluster, dask_cluster
from tests.support.leaks import own_folders


@pytest.fixture(scope="session", autouse=True)
def _own_folders_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        own_folders(tmp_path_factory.mktemp("engines"), patch)
        yield


@pytest.fixture(scope="session")
def dask() -> Iterator[DaskCluster]:
    """Return a Dask cluster for all tests of this folder."""
    with dask_cluster({"gpu-1": ["gpu", "disk"], "cpu-1": ["cpu"]}) as cluster:
        yield cluster
