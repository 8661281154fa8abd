import json

from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import LinkSnapshot, Traffic
from mpreg_nb.view.live import topology
from mpreg_nb.view.live.topology import HERE, OWN, Rates
from tests.support.builders import node, snapshot

CLIENT = "client-17-1"


def told(who: str, **peers: tuple[int, int]) -> Traffic:
    """Return what `who` counted: peer=(bytes, messages), half of them each way."""
    return Traffic(
        id=b"i" * 16,
        node=who,
        links=tuple(
            LinkSnapshot(
                peer=CLIENT if peer == "client" else peer,
                role="client" if peer in ("client", "other") else "node",
                sent_bytes=total // 2,
                received_bytes=total - total // 2,
                sent_messages=messages,
            )
            for peer, (total, messages) in peers.items()
        ),
    )


def test_rates_are_what_came_since_by_the_time_that_was_watched() -> None:
    rates = Rates(CLIENT)

    rates.take([told("n1", n2=(9_000, 90), client=(100, 1))], 100.0)
    first = rates.rates()
    rates.take([told("n1", n2=(9_400, 98), client=(100, 1))], 102.0)

    assert first == {("n1", "n2"): (0.0, 0.0), (OWN, "n1"): (0.0, 0.0)}
    assert rates.rates() == {("n1", "n2"): (200.0, 4.0), (OWN, "n1"): (0.0, 0.0)}


def test_what_is_older_than_the_window_counts_no_more() -> None:
    rates = Rates(CLIENT)
    rates.take([told("n1", n2=(0, 0))], 0.0)
    rates.take([told("n1", n2=(5_000, 10))], 2.0)

    for now in (4.0, 6.0, 8.0, 10.0):
        rates.take([told("n1", n2=(5_000, 10))], now)
    within = rates.rates()
    rates.take([told("n1", n2=(5_000, 10))], 12.0)

    assert within == {("n1", "n2"): (500.0, 1.0)}
    assert rates.rates() == {("n1", "n2"): (0.0, 0.0)}


def test_a_link_that_both_ends_report_is_counted_once() -> None:
    rates = Rates(CLIENT)
    rates.take([told("n1", n2=(0, 0)), told("n2", n1=(0, 0))], 0.0)

    rates.take([told("n1", n2=(400, 4)), told("n2", n1=(390, 4))], 2.0)

    assert rates.rates() == {("n1", "n2"): (200.0, 2.0)}


def test_a_link_that_was_opened_again_counts_from_zero() -> None:
    rates = Rates(CLIENT)
    rates.take([told("n1", n2=(9_000, 90))], 0.0)

    rates.take([told("n1", n2=(600, 6))], 2.0)

    assert rates.rates() == {("n1", "n2"): (300.0, 3.0)}


def test_links_that_are_gone_and_those_of_other_clients_are_left_out() -> None:
    rates = Rates(CLIENT)
    rates.take([told("n1", n2=(9_000, 90), n3=(1, 1), other=(5, 5))], 0.0)

    rates.take([told("n1", n3=(1, 1), other=(500, 5))], 2.0)

    assert rates.rates() == {("n1", "n3"): (0.0, 0.0)}


def test_rates_restart_after_a_while_without_a_viewer() -> None:
    rates = Rates(CLIENT)
    rates.take([told("n1", n2=(0, 0))], 0.0)

    rates.take([told("n1", n2=(1_000_000, 1_000))], 60.0)
    at_first = rates.rates()
    rates.take([told("n1", n2=(1_000_200, 1_002))], 62.0)

    assert at_first == {("n1", "n2"): (0.0, 0.0)}
    assert rates.rates() == {("n1", "n2"): (100.0, 1.0)}


def test_a_picture_has_the_client_the_nodes_and_the_links_of_those_that_live() -> None:
    load = Load(running=2, slots=6)
    cluster = snapshot(
        node("n1", "gpu", load=load),
        node("n2", state=MemberState.DEAD),
        node("n3", state=MemberState.SUSPECT),
    )
    rates = {("n1", "n2"): (5.0, 1.0), ("n1", "n3"): (80.0, 2.0), ("n9", "n3"): (1, 1)}

    picture = topology.picture(cluster, "n1", rates)

    client, first, dead, _ = picture["nodes"]
    assert json.loads(json.dumps(picture)) == picture
    assert (client["node"], client["kind"]) == (HERE, "client")
    assert (first["entry"], first["busy"], first["slots"]) == (True, 2, 6)
    assert first["resources"] == ["gpu"]
    assert dead["state"] == "dead"
    assert [(link["a"], link["b"]) for link in picture["links"]] == [
        (HERE, "n1"),
        ("n1", "n3"),
    ]
    assert picture["links"][1]["bytes_per_s"] == 80.0


def test_of_very_many_links_the_busiest_are_in_the_picture() -> None:
    names = [f"n{place:03}" for place in range(100)]
    rates = {
        (a, b): (float(place * 100 + other), 1.0)
        for place, a in enumerate(names)
        for other, b in enumerate(names)
        if a < b
    }

    picture = topology.picture(snapshot(*map(node, names)), "n000", rates)

    assert len(picture["links"]) == topology.MOST_LINKS
    assert picture["links"][0] == {
        "a": HERE,
        "b": "n000",
        "bytes_per_s": 0.0,
        "messages_per_s": 0.0,
    }
    assert picture["links"][1]["bytes_per_s"] == max(rate for rate, _ in rates.values())
    assert topology.html(picture).count("<tr>") == topology.MOST_ROWS + 1


def test_links_are_shown_as_text_html_and_frame() -> None:
    evil = "<b onclick=alert(1)>"
    cluster = snapshot(node(evil), node("n2"))
    picture = topology.picture(cluster, evil, {(evil, "n2"): (2_500.0, 3.25)})

    text, html = topology.text(picture), topology.html(picture)

    assert f"2 nodes, 2 links known, connected through {evil}" in text
    assert "2.5 kB/s" in text
    assert evil not in html
    assert 'src="data:image/svg+xml;base64,' in html
    assert topology.frame(picture).columns.tolist() == [
        "node",
        "peer",
        "bytes_per_s",
        "messages_per_s",
    ]
    assert topology.frame(picture).messages_per_s.max() == 3.25


def test_a_node_that_is_called_like_the_client_is_another_one() -> None:
    cluster = snapshot(node(HERE), node("n2"))
    rates = {(OWN, HERE): (1.0, 1.0), ("n2", HERE): (2.0, 2.0)}

    picture = topology.picture(cluster, HERE, rates)

    names = [shown["node"] for shown in picture["nodes"]]
    assert len(set(names)) == 3
    assert {name.strip() for name in names} == {HERE, "n2"}
    assert [(link["a"], link["b"]) for link in picture["links"]] == [
        (f"{HERE} ", HERE),
        ("n2", HERE),
    ]
    assert topology.html(picture).count("<tr>") == 3


@given(
    rounds=st.lists(
        st.tuples(
            st.floats(0.0, 30.0),
            st.dictionaries(
                st.sampled_from(["n2", "n3", "client"]),
                st.tuples(st.integers(0, 10_000), st.integers(0, 100)),
            ),
        ),
        max_size=30,
    )
)
def test_rates_are_of_the_links_there_are_and_never_more_than_was_counted(
    rounds: list[tuple[float, dict[str, tuple[int, int]]]],
) -> None:
    rates = Rates(CLIENT)
    now, most = 0.0, 0

    for pause_s, peers in rounds:
        now += pause_s
        most += sum(total for total, _ in peers.values())
        rates.take([told("n1", **peers)], now)

        shown = rates.rates()
        assert {end for pair in shown for end in pair} - {"n1"} == {
            OWN if peer == "client" else peer for peer in peers
        }
        assert all(rate >= 0 and count >= 0 for rate, count in shown.values())
        assert sum(rate for rate, _ in shown.values()) <= most + 1.0  # rounded
