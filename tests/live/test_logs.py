"""Logs of real nodes: read, followed, and refused where they are not."""

from collections.abc import Iterator

import pytest

import mpreg_nb as mp
from mpreg_nb.launcher.cluster_files import ClusterFiles

pytestmark = pytest.mark.live


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2) as made:
        yield made


def test_a_log_shows_the_events_of_the_cluster(cluster: mp.Cluster) -> None:
    one = cluster.logs("n1")
    last = cluster.logs("n1", lines=1)
    both = cluster.logs()

    assert any("INFO n1: started ws://" in line for line in one.lines)
    assert any("INFO n2: joined ws://" in line for line in one.lines)
    assert last.lines == one.lines[-1:]
    assert repr(one) == "\n".join(one.lines)
    assert both.nodes == ("n1", "n2")
    assert both.lines[0] == f"[n1] {one.lines[0]}"
    assert repr(cluster.logs("n1", lines=0)) == "no log lines from n1"


def test_a_log_is_followed_until_its_nodes_have_ended(cluster: mp.Cluster) -> None:
    following = cluster.follow_logs("n1", lines=1)
    began = next(following)

    cluster.remove("n2")
    heard = next(line for line in following if "n2: left" in line)
    cluster.down()
    rest = list(following)

    assert "INFO" in began
    assert heard.endswith("INFO n2: left stopped")
    assert all("n2: left" not in line for line in rest)


def test_a_node_that_died_still_has_its_log(cluster: mp.Cluster) -> None:
    cluster.kill("n2")
    cluster.wait_for("n2", state="dead")

    assert any("n2: started" in line for line in cluster.logs("n2").lines)
    assert any("n2: dead" in line for line in cluster.logs("n1").lines)


def test_logs_of_nodes_that_another_process_began_are_found_by_the_ledger(
    cluster: mp.Cluster,
) -> None:
    with mp.connect(*cluster.urls) as joined:
        there = joined.logs("n2")
        followed = next(joined.follow_logs("n2", lines=1))

    assert there.lines == cluster.logs("n2").lines
    assert followed == there.lines[-1]


def test_where_there_is_no_log_it_says_what_to_do(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClusterFiles, "entries", lambda self: ())
    with mp.connect(*cluster.urls) as joined:
        for node in ("n1", None):
            with pytest.raises(
                mp.errors.MpregError, match="on another machine, where its log is"
            ):
                joined.logs(node)
            with pytest.raises(
                mp.errors.MpregError, match="on another machine, where its log is"
            ):
                joined.follow_logs(node)

    with pytest.raises(mp.errors.MpregError, match=r"no node 'm1'\. Did you mean"):
        cluster.logs("m1")
    with pytest.raises(ValueError, match="0 or more, not -1"):
        cluster.logs("n1", lines=-1)
    with pytest.raises(TypeError, match=r"a whole number, not 1\.5"):
        cluster.logs("n1", lines=1.5)  # type: ignore[arg-type]
