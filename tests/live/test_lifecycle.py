"""How a cluster comes, grows, and goes."""

import asyncio

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import ClusterDown, NodeLost
from tests.support.asking import TIMEOUT_S, Asking

pytestmark = pytest.mark.live


def test_set_up_cell_that_runs_again_changes_nothing() -> None:
    with mp.up(2, fresh=True) as cluster:
        pids = cluster.nodes()["uptime_s"]

        again = mp.up(2)

        assert again is cluster is mp.current()
        assert len(pids) == len(again.nodes()) == 2


def test_larger_or_other_spec_starts_what_is_missing() -> None:
    with mp.up({"n1": "cpu"}, fresh=True) as cluster:
        mp.up({"n1": "cpu", "n2": {"gpu"}})
        mp.up({"n1": {"cpu", "big"}})

        held = cluster.nodes().set_index("node")["resources"].map(str).to_dict()
        assert "gpu" in held["n2"]
        assert "big" in held["n1"]
        assert cluster.on("big", timeout=60).call(len, "ab") == 2


def test_node_that_is_removed_leaves_and_the_others_go_on() -> None:
    with mp.up(3, fresh=True) as cluster:
        cluster.remove("n2")

        states = cluster.nodes().set_index("node")["state"].to_dict()
        events = cluster.events()
        assert states == {"n1": "alive", "n2": "left", "n3": "alive"}
        assert "suspect" not in set(events["event"])
        assert cluster.map(len, ["a", "ab", "abc"]) == [1, 2, 3]
        with pytest.raises(mp.errors.MpregError, match="start a node named 'n2'"):
            cluster.remove("n2")


def test_cluster_that_is_down_says_so() -> None:
    cluster = mp.up({"solo": set()}, fresh=True)
    cluster.down()
    cluster.down()

    with pytest.raises(mp.errors.NoCluster, match="has been shut down"):
        cluster.call("echo", 1)
    with pytest.raises(mp.errors.NoCluster, match="has been shut down"):
        cluster.nodes()
    with pytest.raises(mp.errors.NoCluster, match=r"mp\.up"):
        mp.current()


def test_the_end_of_a_cluster_ends_what_other_threads_wait_for() -> None:
    def add_many() -> None:
        for number in range(1000):
            cluster.add(f"more-{number}")

    with mp.up(1, fresh=True) as cluster:
        added = Asking(add_many)
        awaited = Asking(lambda: cluster.wait_for("nobody", timeout=TIMEOUT_S))
        asked = Asking(lambda: [cluster.nodes() for _ in range(100_000)])
        cluster.wait_for("more-0", timeout=TIMEOUT_S)

    assert isinstance(added.answer(), ClusterDown)
    assert isinstance(awaited.answer(), ClusterDown)
    assert isinstance(asked.answer(), ClusterDown | NodeLost)


def test_node_that_cannot_start_shows_its_last_lines() -> None:
    with pytest.raises(mp.errors.StartFailed) as caught:
        mp.up({"n1": set()}, fresh=True, timeout=0.01)

    assert caught.value.node == "n1"
    with pytest.raises(mp.errors.NoCluster):
        mp.current()


def test_second_client_sees_what_the_first_registered() -> None:
    with mp.up(2, fresh=True) as cluster:
        cluster.register(len, name="measure")

        other = mp.connect(*cluster.urls)
        try:
            assert other.call("measure", "abc") == 3
            assert other.fn.measure("abcd") == 4
            assert "measure" in dir(other.fn)
            with pytest.raises(AttributeError, match="Did you mean 'measure'"):
                other.fn.mesure  # noqa: B018
        finally:
            other.down()

        assert cluster.call("measure", "a") == 1


def test_async_code_has_the_same_verbs() -> None:
    async def scene(url: str) -> None:
        async with mp.connect_async(url) as cluster:
            card = await cluster.register(max, name="largest")
            results = await cluster.map("largest", [[1, 5], [7, 2]])
            task = cluster.submit("largest", [3, 9])

            assert card.nodes == ("n1", "n2")
            assert results == [5, 7]
            assert await task == 9
            assert await cluster.on(node="n2", timeout=60).call("echo", "x") == "x"
            with pytest.raises(ValueError, match="empty"):
                await cluster.call("largest", [])

    with mp.up(2, fresh=True) as cluster:
        asyncio.run(scene(cluster.urls[0]))


def test_future_can_be_awaited_and_waited_for() -> None:
    async def scene(cluster: mp.Cluster) -> int:
        return int(await cluster.submit(len, "abcde"))

    with mp.up(1, fresh=True) as cluster:
        future = cluster.submit(len, "abc")

        assert future.result(60) == 3
        assert future.done()
        assert asyncio.run(scene(cluster)) == 5


def test_a_call_that_nobody_took_is_on_no_node_and_a_state_is_no_node() -> None:
    with mp.up(1, fresh=True) as cluster:
        with pytest.raises(mp.errors.NoRoute):
            cluster.on("gpu").call("echo", 1)

        calls = cluster.calls()

        assert calls[["node", "status"]].values.tolist() == [["", "failed"]]
        with pytest.raises(ValueError, match=r"wait_for\('n1', state='dead'\)"):
            cluster.wait_for("n1", "dead")
        with pytest.raises(ValueError, match=r"wait_for\('NODE', state='dead'\)"):
            cluster.wait_for("dead")
        assert cluster.routes()["node"].tolist() == [""]
        assert cluster.latency().empty
