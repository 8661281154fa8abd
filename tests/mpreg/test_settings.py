"""Settings of a server: what they become, and what is refused."""

from typing import Any

import pytest

from mpreg_nb.mpreg import MPREGSettings


def test_settings_are_those_of_a_node() -> None:
    settings = MPREGSettings(
        host="127.0.0.1",
        port=9001,
        name="gpu-1",
        resources=["gpu"],
        peers=["ws://127.0.0.1:9002"],
        connect="ws://127.0.0.1:9003",
        cluster_id="a" * 32,
        advertised_urls=("wss://example.org:443",),
        json_open=True,
        drain=2.5,
    )

    node = settings.node

    assert (node.host, node.port, node.name) == ("127.0.0.1", 9001, "gpu-1")
    assert node.resources == {"gpu"}
    assert node.join == ("ws://127.0.0.1:9002", "ws://127.0.0.1:9003")
    assert node.cluster_id == "a" * 32
    assert node.advertised == ("wss://example.org:443",)
    assert node.json_open
    assert node.drain_s == 2.5
    assert node.workers == 0


def test_a_cluster_may_have_any_name() -> None:
    one, same, other = (
        MPREGSettings(cluster_id=name).node.cluster_id for name in ("one", "one", "two")
    )

    assert one == same != other
    assert len(one) == 32
    assert MPREGSettings().node.cluster_id == ""


def test_names_are_made_up_where_none_is_given() -> None:
    assert MPREGSettings().name != MPREGSettings().name


@pytest.mark.parametrize(
    ("interval", "profile"),
    [(None, "local"), (0.05, "local"), (0.2, "lan"), (0.5, "wan"), (5, "wan")],
)
def test_the_gossip_interval_takes_the_nearest_profile(
    interval: float | None, profile: str
) -> None:
    assert MPREGSettings(gossip_interval=interval).node.profile == profile


def test_one_resource_or_url_may_stand_alone() -> None:
    settings = MPREGSettings(resources="gpu", peers="ws://127.0.0.1:9002")

    assert settings.node.resources == {"gpu"}
    assert settings.node.join == ("ws://127.0.0.1:9002",)


def test_a_setting_that_is_none_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="Did you mean 'resources'"):
        MPREGSettings(resource={"gpu"})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "bad",
    [
        {"port": -1},
        {"port": 70_000},
        {"port": "9001"},
        {"port": True},
        {"name": "a,b"},
        {"resources": {"a:b"}},
        {"peers": ["127.0.0.1:9001"]},
        {"peers": [9001]},
        {"connect": "http://127.0.0.1:9001"},
        {"advertised_urls": ["example.org"]},
        {"gossip_interval": 0},
        {"log_level": "LOUD"},
    ],
)
def test_what_cannot_be_is_refused_at_once(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        MPREGSettings(**bad)


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(MPREGSettings(token="secret"))
