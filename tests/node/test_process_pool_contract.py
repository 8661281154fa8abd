"""The pool of worker processes does what every pool must do."""

from pathlib import Path

import pytest

from mpreg_nb.node.process_pool import ProcessPool
from tests.support.worker_pool_contract import (
    MakePool,
    OnEvent,
    OnOutput,
    WorkerPoolContract,
    here,
)

__all__ = ["here"]

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)], ids=["one slot", "four slots"])
def make_pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> MakePool:
    workers, slots = request.param
    scratch: Path = tmp_path_factory.mktemp("scratch")

    def make(on_output: OnOutput, on_event: OnEvent) -> ProcessPool:
        return ProcessPool(workers, slots, scratch, on_output, on_event)

    return make


class TestProcessPool(WorkerPoolContract):
    """Worker processes on this machine."""
