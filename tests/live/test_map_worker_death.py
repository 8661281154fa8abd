"""A worker that dies while it runs items of a map in a workflow."""

import pytest

import mpreg_nb as mp
from tests.support.settings import default_settings

pytestmark = pytest.mark.live

ITEMS = 400


@pytest.mark.parametrize("chunk_ms", [5.0, 0.0], ids=["chunks", "one by one"])
def test_an_item_that_ends_its_worker_is_named(chunk_ms: float) -> None:
    def ends(number: int) -> int:
        import os

        if number == ITEMS - 30:
            os._exit(7)
        return number

    with default_settings(), mp.up(1, fresh=True) as cluster:
        mp.config("map_chunk_ms", chunk_ms)
        flow = cluster.workflow("ends")
        flow.map("ends", ends, over=range(ITEMS))

        with pytest.raises(
            mp.errors.WorkflowFailed, match=rf"item \[{ITEMS - 30}\].*exit code 7"
        ):
            flow.run()
