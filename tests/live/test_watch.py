"""Live views of real clusters."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mpreg_nb as mp
from mpreg_nb.client import connections
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.cluster.live import updates_of
from tests.support.watched_cluster import WAIT_S, Drawn

pytestmark = pytest.mark.live


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[mp.Cluster]:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    with mp.up(3, fresh=True) as started:
        yield started


def double(x: int) -> int:
    return 2 * x


def fail(x: int) -> int:
    raise ValueError(x)


def states(pictures: dict[str, Any]) -> dict[str, str]:
    return {row["node"]: row["state"] for row in pictures["members"]["rows"]}


def test_views_agree_with_the_frames(cluster: mp.Cluster) -> None:
    cluster.register(double)
    cluster.register(fail)
    for number in range(20):
        assert cluster.call("double", number) == 2 * number
    with pytest.raises(ValueError, match="7"):
        cluster.call("fail", 7)
    view = cluster.watch()

    frames = {name: view.to_frame(name) for name in view.views}

    pd.testing.assert_frame_equal(frames["routes"], cluster.routes())
    pd.testing.assert_frame_equal(frames["latency"], cluster.latency())
    members, nodes = frames["members"], cluster.nodes()
    assert members.columns.tolist() == nodes.columns.tolist()
    assert members.node.tolist() == nodes.node.tolist()
    assert frames["topology"].node.tolist().count("this notebook") >= 1
    view.close()


def hold(folder: str) -> None:
    while not Path(folder, "go").exists():
        time.sleep(0.01)


def slots_used(pictures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (node, status) of each bar."""
    return [
        (node["node"], bar["status"])
        for node in pictures["calls"]["nodes"]
        for slot in node["slots"]
        for bar in slot
    ]


def test_a_call_is_in_a_slot_of_its_node_while_it_runs_and_afterwards(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    front = Drawn()
    with cluster.watch("calls") as view:
        updates_of(view).add(front)
        future = cluster.on(node="n2").submit(hold, str(tmp_path))

        runs = front.wait(lambda pictures: bool(slots_used(pictures)))
        (tmp_path / "go").touch()
        future.result(WAIT_S)
        ended = front.wait(lambda pictures: slots_used(pictures) == [("n2", "done")])
        frame = view.to_frame()

    assert slots_used(runs) == [("n2", "running")]
    assert [f["function"] for f in ended["calls"]["functions"]] == ["hold"]
    took_ms = cluster.calls().run_ms.tolist()
    assert frame.run_ms.tolist() == pytest.approx(took_ms, abs=0.1)


def test_a_killed_node_is_shown_as_dead_and_the_view_goes_on(
    cluster: mp.Cluster,
) -> None:
    front = Drawn()
    view = cluster.watch("members")
    updates_of(view).add(front)
    # Its loss is the loss of the client's link.
    entry = parts_of(cluster).client.entry_node

    updates_of(view).kill(entry)
    shown = front.wait(lambda pictures: states(pictures)[entry] == "dead")
    cluster.grow(3)
    again = front.wait(lambda pictures: states(pictures)[entry] == "alive")

    assert "1 dead" in shown["head"]["line"]
    assert not view.closed
    assert set(states(again).values()) == {"alive"}


def test_what_goes_over_links_is_shown_while_somebody_looks(
    cluster: mp.Cluster,
) -> None:
    front = Drawn()
    view = cluster.watch("topology")
    updates_of(view).add(front)
    payload = bytes(200_000)

    def busy(pictures: dict[str, Any]) -> bool:
        cluster.call("echo", payload)
        rates = [link["bytes_per_s"] for link in pictures["topology"]["links"]]
        return max(rates, default=0.0) > 20_000

    shown = front.wait(busy)

    ends = {
        end for link in shown["topology"]["links"] for end in (link["a"], link["b"])
    }
    assert "this notebook" in ends
    assert {node["node"] for node in shown["topology"]["nodes"]} == {
        "this notebook",
        "n1",
        "n2",
        "n3",
    }


def test_a_run_fills_its_drawing_and_can_be_cancelled_from_the_view(
    cluster: mp.Cluster,
) -> None:
    import time

    front = Drawn()
    view = cluster.watch("runs")
    updates_of(view).add(front)
    flow = cluster.workflow("slow")
    first = flow.step("first", double, 1)
    flow.step("second", time.sleep, 60).after(first)

    run = flow.start()

    def status(pictures: dict[str, Any]) -> dict[str, str]:
        newest = pictures["runs"]["runs"][:1]
        return {step: s for r in newest for step, s in r["drawing"].states.items()}

    front.wait(lambda p: status(p) == {"first": "done", "second": "running"})
    updates_of(view).cancel(run.id)
    ended = front.wait(lambda p: status(p).get("second") == "cancelled")
    assert ended["runs"]["runs"][0]["status"] == "cancelled"


def test_down_ends_the_views_with_the_last_state(cluster: mp.Cluster) -> None:
    front = Drawn()
    view = cluster.watch()
    updates_of(view).add(front)

    cluster.down()

    ended = front.ended.get(timeout=WAIT_S)
    assert set(states(ended).values()) == {"alive"}
    assert ended["head"]["state"] == "ended"
    assert view.closed
    assert "mpreg-live" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(mp.errors.NoCluster):
        cluster.watch()


def test_a_view_ends_when_no_node_can_be_reached(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", 0.3)
    with mp.connect(*cluster.urls) as guest:
        front = Drawn()
        view = guest.watch("members")
        updates_of(view).add(front)

        for node in cluster.own_nodes:
            cluster.kill(node)
        ended = front.ended.get(timeout=WAIT_S)

        assert ended["head"]["state"] == "ended"
        assert view.closed
