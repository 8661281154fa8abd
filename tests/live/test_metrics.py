"""What nodes answer to `GET /metrics`."""

import contextlib
import os
from collections.abc import Callable
from urllib.request import Request, urlopen

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import MpregError
from mpreg_nb.transport.token import load_token
from tests.support.prometheus import Family, families

pytestmark = pytest.mark.live


def metrics_of(url: str) -> dict[str, Family]:
    request = Request(  # noqa: S310 - a URL of this test
        url.replace("ws:", "http:") + "/metrics",
        headers={"Authorization": f"Bearer {load_token().reveal()}"},
    )
    with urlopen(request, timeout=20) as answer:  # noqa: S310 - see above
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return families(answer.read().decode())


def fail() -> None:
    raise KeyError("rows")


def test_a_node_counts_calls_outcomes_refusals_and_gossip() -> None:
    with mp.up("n1 n2", fresh=True) as cluster:
        on_n1 = cluster.on(node="n1")

        def times(count: int, call: Callable[[], object]) -> None:
            for _ in range(count):
                with contextlib.suppress(MpregError):
                    call()

        times(3, lambda: on_n1.call(abs, -1))
        times(2, lambda: on_n1.call(fail))
        times(1, lambda: on_n1.call(os._exit, 3))
        with contextlib.suppress(OSError):
            urlopen(cluster.urls[0].replace("ws:", "http:") + "/metrics")  # noqa: S310

        found = metrics_of(cluster.urls[0])

    outcomes = found["mpreg_outcomes_total"].samples
    assert outcomes['mpreg_outcomes_total{outcome="ok"}'] == 3
    assert outcomes['mpreg_outcomes_total{outcome="application"}'] == 2
    assert outcomes['mpreg_outcomes_total{outcome="worker_crashed"}'] == 1
    assert found["mpreg_worker_deaths_total"].samples == {
        "mpreg_worker_deaths_total": 1
    }
    assert found["mpreg_members"].samples['mpreg_members{state="alive"}'] == 2
    assert min(found["mpreg_gossip_bytes_total"].samples.values()) > 0
    assert found["mpreg_call_duration_seconds"].samples[
        "mpreg_call_duration_seconds_count"
    ] == sum(found["mpreg_calls_total"].samples.values())
    refused = found["mpreg_connections_refused_total"].samples
    assert list(refused.values()) == [1]
