"""The cluster that a node belongs to is remembered while the node does not run."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpreg_nb.launcher.cluster_files import ClusterMemory
from mpreg_nb.settings import NodeSettings

OURS = "c1" * 16

OTHER_PROCESS = """
import sys
from pathlib import Path
from mpreg_nb.launcher.cluster_files import ClusterMemory
from mpreg_nb.settings import NodeSettings

memory = ClusterMemory(NodeSettings(name=sys.argv[1]), Path(sys.argv[2]))
print(memory.recall(), flush=True)
if len(sys.argv) > 3:
    memory.keep(sys.argv[3], 7400)
sys.stdin.read()
"""


def memory_of(folder: Path, name: str = "n1", port: int = 0) -> ClusterMemory:
    return ClusterMemory(NodeSettings(name=name, port=port), folder)


def other_process(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, "n1", str(folder), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a node of port 7400 has been, and has ended."""
    folder = tmp_path / "nodes"
    with other_process(folder, OURS) as ended:
        ended.communicate("")
    return folder


def test_node_that_starts_again_knows_its_cluster(folder: Path) -> None:
    assert memory_of(folder).recall() == OURS
    assert memory_of(folder, port=7400).recall() != OURS  # this process has it now


def test_node_on_the_same_port_knows_its_cluster(folder: Path) -> None:
    assert memory_of(folder, port=7400).recall() == OURS


@pytest.mark.parametrize(
    ("name", "port"), [("n2", 0), ("n1", 7401)], ids=["name", "port"]
)
def test_node_of_another_name_or_port_begins_a_cluster(
    folder: Path, name: str, port: int
) -> None:
    cluster_id = memory_of(folder, name, port).recall()

    assert cluster_id != OURS
    assert len(bytes.fromhex(cluster_id)) == 16


def test_two_nodes_of_one_name_that_run_at_once_never_share_an_id(
    folder: Path,
) -> None:
    with other_process(folder) as first, other_process(folder) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        ids = [first.stdout.readline().strip(), second.stdout.readline().strip()]
        first.communicate("")
        second.communicate("")

    assert OURS in ids
    assert len(set(ids)) == 2


def test_node_that_is_not_the_first_of_its_name_leaves_the_memory_alone(
    folder: Path,
) -> None:
    memory_of(folder).recall()
    second = memory_of(folder)
    second.recall()

    second.keep("d2" * 16, 7400)

    (file,) = (path for path in folder.iterdir() if path.suffix == ".json")
    assert OURS in file.read_text()


def test_a_damaged_memory_file_is_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = (path for path in folder.iterdir() if path.suffix == ".json")
    file.write_text("{")

    with caplog.at_level(logging.WARNING):
        cluster_id = memory_of(folder).recall()

    assert cluster_id != OURS
    assert cluster_id in file.read_text()
    assert "is damaged" in caplog.text


def test_memory_is_for_its_user_alone(folder: Path) -> None:
    (file,) = (path for path in folder.iterdir() if path.suffix == ".json")

    assert os.stat(file).st_mode & 0o077 == 0
    assert os.stat(folder).st_mode & 0o077 == 0
