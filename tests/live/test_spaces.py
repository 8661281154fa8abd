"""Workers of their own, for callers whose calls share what they leave in memory."""

import os
from collections.abc import Iterator

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.cluster.function import Function, in_space
from mpreg_nb.errors import LOST_SPACE, NodeLost
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left over is looked for once, when the cluster of all tests has ended."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with nothing_left(tmp_path_factory.mktemp("spaces")):
        with mp.up(2, workers=1) as made:
            yield made


def pid_in(cluster: Cluster, node: str, space: bytes) -> int:
    """Return the process of a space."""
    function = Function(os.getpid, cluster=lambda: cluster)
    return in_space(function.on(node=node), space).call()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_space_is_one_process_and_ends_with_its_caller(
    cluster: Cluster, node: str, direct: bool
) -> None:
    other = mp.connect(cluster.urls[0], direct=direct)
    with other:
        space = parts_of(other).calling.open_space(node)
        pids = {pid_in(other, node, space) for _ in range(3)}
        usual = Function(os.getpid, cluster=lambda: other).on(node=node).call()
        process = psutil.Process(pids.pop())

    assert not pids
    assert process.pid != usual
    process.wait(30)


def test_a_space_that_is_closed_or_was_never_there_refuses_its_calls(
    cluster: Cluster,
) -> None:
    space = parts_of(cluster).calling.open_space("n2")
    process = psutil.Process(pid_in(cluster, "n2", space))

    parts_of(cluster).calling.close_space("n2", space)
    process.wait(30)

    for gone, reason in ((space, "it was dropped"), (b"?" * 16, "started again")):
        with pytest.raises(NodeLost, match=reason) as caught:
            pid_in(cluster, "n2", gone)
        assert caught.value.reason.startswith(LOST_SPACE)
