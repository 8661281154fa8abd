"""Files of the ledger that others could have made, or could read."""

import os
from pathlib import Path

import pytest

from mpreg_nb.launcher.cluster_files import ClusterFiles

ID = "0123456789abcdef" * 2
OTHER_ID = "fedcba9876543210" * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runtime" / "mpreg_nb"


@pytest.fixture
def ledger(folder: Path, tmp_path: Path) -> ClusterFiles:
    return ClusterFiles((folder, tmp_path / "state" / "clusters"))


def test_a_file_that_others_can_read_is_refused_with_the_cure(
    ledger: ClusterFiles, folder: Path
) -> None:
    ledger.claim(ID, name="mine")
    path = folder / "mine.json"
    path.chmod(0o640)

    assert ledger.entries() == ()
    assert f"chmod 600 '{path}'" in ledger.read().problems[0]
    assert ledger.prune() == ()
    assert path.exists()


def test_a_link_is_refused(ledger: ClusterFiles, folder: Path, tmp_path: Path) -> None:
    ledger.claim(ID, name="mine")
    (folder / "mine.json").rename(tmp_path / "aside.json")
    (folder / "mine.json").symlink_to(tmp_path / "aside.json")

    assert ledger.entries() == ()
    assert "mine.json is a symbolic link" in ledger.read().problems[0]


def test_a_file_of_another_user_is_refused(
    ledger: ClusterFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.claim(ID)

    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    assert ledger.entries() == ()
    assert "belongs to another user" in ledger.read().problems[0]
    with pytest.raises(PermissionError, match="Set XDG_STATE_HOME to a folder"):
        ledger.claim(OTHER_ID)


def test_a_pipe_in_place_of_a_file_blocks_nobody(
    ledger: ClusterFiles, folder: Path
) -> None:
    ledger.claim(ID)
    os.mkfifo(folder / "trap.json", 0o600)

    assert len(ledger.entries()) == 1
    assert "trap.json is not a file" in ledger.read().problems[0]


def test_a_folder_that_others_can_enter_is_not_used(
    ledger: ClusterFiles, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)

    entry = ledger.claim(ID)

    assert f"chmod 700 '{folder}'" in ledger.read().problems[0]
    assert list(folder.iterdir()) == []
    assert (tmp_path / "state/clusters" / f"{entry.cluster}.json").exists()
    assert ledger.entries() == (entry,)


def test_files_and_folders_are_closed_to_others(
    ledger: ClusterFiles, folder: Path
) -> None:
    before = os.umask(0)
    try:
        entry = ledger.claim(ID)
        logs = ledger.folder(entry.cluster)
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {f"{entry.cluster}.json": 0o600, ".lock": 0o600}
    for place in (folder, logs, logs.parent):
        assert place.stat().st_mode & 0o777 == 0o700


def test_a_writer_that_died_leaves_no_file(ledger: ClusterFiles, folder: Path) -> None:
    ledger.claim(ID)
    (folder / ".mine.json.0123.tmp").touch()

    ledger.prune()

    assert not list(folder.glob(".*.tmp"))


def test_without_a_place_the_message_names_one_to_give(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PermissionError, match="Set XDG_STATE_HOME to a folder"):
        ClusterFiles((tmp_path / "file" / "mpreg_nb",)).claim(ID)
