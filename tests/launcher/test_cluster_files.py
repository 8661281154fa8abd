import json
import logging
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mpreg_nb.errors import NoCluster
from mpreg_nb.launcher.cluster_files import (
    ClusterFiles,
    ClusterRecord,
    RecordedNode,
    petname,
    stale,
)
from mpreg_nb.launcher.pid import ProcessId, is_alive, stamp

ID = "0123456789abcdef" * 2
OTHER_ID = "fedcba9876543210" * 2
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
GONE = ProcessId(pid=2**22 + 1, started_s=1.0)  # beyond the ids that Linux gives


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runtime" / "mpreg_nb"


@pytest.fixture
def ledger(folder: Path, tmp_path: Path) -> ClusterFiles:
    return ClusterFiles((folder, tmp_path / "state" / "clusters"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        yield process
        process.kill()


def changed(entry: ClusterRecord, **fields: object) -> ClusterRecord:
    replace: Any = msgspec.structs.replace
    new: ClusterRecord = replace(entry, **fields)
    return new


def node(name: str, process: ProcessId, *resources: str) -> RecordedNode:
    return RecordedNode(
        name=name, resources=resources, url="ws://127.0.0.1:7400", process=process
    )


def abandoned(entry: ClusterRecord, *nodes: RecordedNode) -> ClusterRecord:
    return changed(entry, owner=GONE, nodes=nodes)


def test_a_cluster_is_there_from_its_claim_to_its_removal(ledger: ClusterFiles) -> None:
    claimed = ledger.claim(ID, notebook="/home/me/a.ipynb", keep=True, workers=2)
    grown = changed(claimed, nodes=(node("n1", claimed.owner, "gpu"),))

    assert ledger.entries() == (claimed,)
    ledger.record(grown)
    assert ledger.entries() == (grown,)
    assert ledger.find() == ledger.find(claimed.cluster) == grown
    ledger.remove(grown)
    ledger.remove(grown)
    assert ledger.entries() == ()


def test_names_are_two_words_and_never_taken_twice(ledger: ClusterFiles) -> None:
    names = [ledger.claim(f"{number:032x}").cluster for number in range(8)]

    assert len(set(names)) == 8
    assert all(len(name.split("-")) == 2 for name in names)


def test_a_user_without_free_names_gets_a_longer_one() -> None:
    name = petname({"amber-badger"}, choose=lambda words: words[0])

    assert name.startswith("amber-badger-")


def test_the_error_for_a_name_in_use_names_the_cure(ledger: ClusterFiles) -> None:
    ledger.claim(ID, name="mine")

    with pytest.raises(FileExistsError, match=r"mp.adopt\('mine'\).*mp.down\('mine'\)"):
        ledger.claim(OTHER_ID, name="mine")


@pytest.mark.parametrize("name", ["..", ".hidden", "ß" * 128, "a b", "x.json", "%2E"])
def test_any_name_stays_inside_the_folder(
    ledger: ClusterFiles, folder: Path, name: str
) -> None:
    entry = ledger.claim(ID, name=name)
    log = ledger.log_path(name, name)
    log.touch()

    assert ledger.find(name) == entry
    assert len(list(folder.glob("*.json"))) == 1
    ledger.remove(entry)
    assert list(folder.glob("*.json")) == []
    assert not log.exists()
    assert log.parent.parent.is_dir()


@pytest.mark.parametrize("name", ["a/b", "a,b", "", " ", "a\n", "x" * 129])
def test_a_name_against_the_rule_is_refused_or_replaced(
    ledger: ClusterFiles, name: str
) -> None:
    if name:
        with pytest.raises(ValueError, match="cannot name a cluster"):
            ledger.claim(ID, name=name)
    else:
        assert ledger.claim(ID, name=name).cluster


def _claim(folders: tuple[Path, ...], number: int) -> str:
    try:
        ClusterFiles(folders).claim(f"{number:032x}", name="mine")
    except FileExistsError:
        return "taken"
    return "won"


def test_of_ten_processes_that_claim_one_name_one_gets_it(tmp_path: Path) -> None:
    folders = (tmp_path / "ledger",)
    owner = ClusterFiles(folders).claim("f" * 32)  # keeps the folder from being new

    with multiprocessing.get_context("spawn").Pool(10) as pool:
        jobs = [pool.apply_async(_claim, (folders, number)) for number in range(10)]
        outcomes = [job.get(60) for job in jobs]

    assert sorted(outcomes) == ["taken"] * 9 + ["won"]
    assert owner in ClusterFiles(folders).entries()


def test_threads_that_start_at_once_lose_nothing(ledger: ClusterFiles) -> None:
    threads = [
        threading.Thread(target=ledger.claim, args=(f"{number:032x}",))
        for number in range(10)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({entry.cluster_id for entry in ledger.entries()}) == 10


def test_a_cluster_whose_name_went_to_another_changes_nothing(
    ledger: ClusterFiles,
) -> None:
    first = ledger.claim(ID, name="mine")
    ledger.record(abandoned(first))
    second = ledger.claim(OTHER_ID, name="mine")

    with pytest.raises(FileExistsError, match="'mine' now belongs to another cluster"):
        ledger.record(first)
    ledger.remove(first)

    assert ledger.entries() == (second,)


def test_a_cluster_is_stale_when_neither_its_nodes_nor_its_owner_live(
    ledger: ClusterFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    claimed = ledger.claim(ID)
    kept = abandoned(claimed, node("n1", GONE), node("n2", stamp(sleeper.pid)))

    assert not stale(claimed)
    assert not stale(kept)
    sleeper.kill()
    sleeper.wait()
    assert stale(kept)


def test_a_process_id_that_went_to_another_is_not_the_node(
    ledger: ClusterFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    now = stamp(sleeper.pid)
    before = ProcessId(pid=now.pid, started_s=now.started_s - 60)

    assert stale(abandoned(ledger.claim(ID), node("n1", before)))
    assert not stale(abandoned(ledger.claim(OTHER_ID), node("n1", now)))


def test_clusters_of_another_machine_are_left_alone(ledger: ClusterFiles) -> None:
    entry = ledger.claim(ID, name="far")
    far = changed(abandoned(entry, node("n1", GONE)), host="elsewhere.example")
    ledger.record(far)

    assert ledger.prune() == ()
    assert [row.state for row in ledger.rows()] == ["elsewhere"]
    with pytest.raises(NoCluster, match=r"runs on elsewhere.example. End it there"):
        ledger.end("far")


def test_pruning_strikes_out_what_is_stale_with_its_folder(
    ledger: ClusterFiles,
) -> None:
    log = ledger.log_path("old", "n1")
    log.touch()
    ledger.record(abandoned(ledger.claim(ID, name="old"), node("n1", GONE)))
    living = ledger.claim(OTHER_ID, name="new")
    # Claiming prunes: begin again with what it struck out.
    ledger.record(abandoned(changed(living, cluster="old", cluster_id=ID)))
    log.parent.mkdir(mode=0o700, exist_ok=True)
    log.touch()

    assert ledger.prune() == ("old",)
    assert ledger.entries() == (living,)
    assert not log.exists()


DAMAGED = {
    "empty": b"",
    "half-written": b'{"cluster":"a","clus',
    "binary": b"\x00\xff\xfe\x80" * 100,
    "other JSON": b"[1, 2]",
    "no such id": b'{"cluster":"a","cluster_id":"","host":"","owner":{"pid":-1,'
    b'"started_s":0},"keep":true,"notebook":"","started_at":0}',
    "deep": b"[" * 100_000,
    "huge": b" " * (5 << 20),
    "not UTF-8": b'{"cluster":"\xff"}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_reported_and_stops_no_start(
    ledger: ClusterFiles, folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    living = ledger.claim(ID, name="living")
    damaged = folder / "a.json"
    damaged.write_bytes(content)
    damaged.chmod(0o600)

    with caplog.at_level(logging.WARNING):
        listed = ledger.entries()
    ledger.claim(OTHER_ID, name="a")

    assert listed == (living,)
    assert str(damaged) in caplog.text
    assert {entry.cluster for entry in ledger.entries()} == {"living", "a"}


def test_a_file_under_another_name_is_not_used(
    ledger: ClusterFiles, folder: Path
) -> None:
    ledger.claim(ID, name="mine")
    (folder / "mine.json").rename(folder / "yours.json")

    assert ledger.entries() == ()
    assert "yours.json belongs to another cluster" in ledger.read().problems[0]


def test_rows_list_every_node_of_every_cluster(
    ledger: ClusterFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    entry = ledger.claim(ID, name="mine", notebook="/home/me/a.ipynb")
    alive = node("n1", stamp(sleeper.pid), "cpu", "gpu")
    ledger.record(changed(entry, nodes=(alive, node("n2", GONE))))

    rows = ledger.rows()

    assert rows[0]._fields == (
        "cluster",
        "node",
        "state",
        "resources",
        "pid",
        "notebook",
        "started_at",
        "by_hand",
    )
    assert [tuple(row[:6]) for row in rows] == [
        ("mine", "n1", "alive", ("cpu", "gpu"), sleeper.pid, "/home/me/a.ipynb"),
        ("mine", "n2", "dead", (), GONE.pid, "/home/me/a.ipynb"),
    ]
    assert rows[0].started_at.timestamp() == pytest.approx(entry.started_at)


def test_no_cluster_and_several_give_different_errors(ledger: ClusterFiles) -> None:
    with pytest.raises(NoCluster, match=r"you have no cluster\. Start one"):
        ledger.find()
    ledger.claim(ID, name="one")
    ledger.claim(OTHER_ID, name="two", keep=True)

    with pytest.raises(NoCluster, match=r"Your clusters: one, two. Give its name"):
        ledger.find()
    with pytest.raises(NoCluster, match=r"no cluster named 'on'. Did you mean 'one'"):
        ledger.find("on")
    assert ledger.find(only_kept=True).cluster == "two"
    with pytest.raises(NoCluster, match="no kept cluster named 'one'"):
        ledger.find("one", only_kept=True)


def test_without_a_name_only_a_kept_cluster_whose_owner_is_gone_is_ended(
    ledger: ClusterFiles,
) -> None:
    with pytest.raises(NoCluster, match="you have no running cluster"):
        ledger.end()
    ledger.claim(ID, name="busy", keep=True, notebook="/home/me/a.ipynb")
    with pytest.raises(NoCluster) as refused:
        ledger.end()
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        kept = ledger.claim(OTHER_ID, name="left", keep=True)
        ledger.record(abandoned(kept, node("n1", stamp(process.pid))))

        ended = ledger.end()

    assert ended == ("n1",)
    assert [entry.cluster for entry in ledger.entries()] == ["busy"]
    assert "busy (in use by /home/me/a.ipynb)" in str(refused.value)
    assert "mp.down('busy')" in str(refused.value)


def test_ending_a_cluster_ends_its_nodes_and_no_other_process(
    ledger: ClusterFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    with subprocess.Popen(SLEEP) as other:
        now = stamp(other.pid)
        reused = ProcessId(pid=now.pid, started_s=now.started_s - 60)
        entry = abandoned(
            ledger.claim(ID, name="mine"),
            node("n1", stamp(sleeper.pid)),
            node("n2", reused),
        )
        ledger.record(entry)

        ended = ledger.end("mine", drain=5.0)

        assert ended == ("n1",)
        assert sleeper.wait() == -15
        assert other.poll() is None
        assert ledger.read().entries == ()
        other.kill()


def test_a_node_that_does_not_listen_is_killed_with_its_session(
    ledger: ClusterFiles,
) -> None:
    program = (
        "import signal, subprocess, sys, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"child = subprocess.Popen({SLEEP!r});"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as deaf:
        assert deaf.stdout is not None
        child = stamp(int(deaf.stdout.readline()))
        entry = abandoned(ledger.claim(ID, name="mine"), node("n1", stamp(deaf.pid)))
        ledger.record(entry)

        ended = ledger.end("mine", drain=0.1)

        assert ended == ("n1",)
        assert deaf.wait() == -9
        assert not is_alive(child)


def test_what_was_written_is_plain_json(ledger: ClusterFiles, folder: Path) -> None:
    ledger.claim(ID, name="mine", keep=True)

    written = json.loads((folder / "mine.json").read_bytes())

    assert written["cluster"] == "mine"
    assert written["cluster_id"] == ID
    assert written["keep"] is True
    assert written["nodes"] == []
