"""What nodes answer to `GET /metrics`."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import MpregError
from mpreg_nb.transport.token import load_token
from tests.support.files import until_exists, wait_for_file
from tests.support.prometheus import Family, families
from tests.support.until import until

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


def next_of(number: int) -> int:
    return number + 1


def value_of(found: dict[str, Family], name: str) -> float:
    [value] = found[f"mpreg_{name}"].samples.values()
    return value


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


def test_whichever_way_calls_take_each_is_counted_once(tmp_path: Path) -> None:
    """Straight to a worker, in chunks of a map, in a row of steps, and those that wait.

    All gauges and counters of calls are looked at while some run, and after their end.
    """
    with mp.up("n1", fresh=True) as cluster:
        step = cluster.register(next_of)
        for number in range(50):
            step.call(number)
        step.map(range(100))
        chain = cluster.workflow("chain")
        chain.step("c", next_of, chain.step("b", next_of, chain.step("a", next_of, 1)))
        for _ in range(5):
            chain.run()
        idle = metrics_of(cluster.urls[0])

        began, go_on = tmp_path / "began", tmp_path / "go on"
        waiting = [
            cluster.submit(wait_for_file, str(began), str(go_on)) for _ in range(3)
        ]
        until_exists(began)
        busy = metrics_of(cluster.urls[0])
        waiting[2].cancel()
        until(lambda: value_of(metrics_of(cluster.urls[0]), "queued_calls") == 1)
        go_on.touch()
        waiting[1].result()
        after = metrics_of(cluster.urls[0])

    gauges = ("pending_calls", "queued_calls", "busy_slots", "slots")
    assert [value_of(idle, name) for name in gauges] == [0, 0, 0, 1]
    assert [value_of(busy, name) for name in gauges] == [3, 2, 1, 1]
    assert [value_of(after, name) for name in gauges] == [0, 0, 0, 1]
    assert value_of(idle, "calls_total") == 165
    assert value_of(idle, "errors_total") == 0
    assert sum(after["mpreg_calls_total"].samples.values()) == 167
    assert after["mpreg_outcomes_total"].samples == {
        'mpreg_outcomes_total{outcome="cancelled"}': 1,
        'mpreg_outcomes_total{outcome="ok"}': 167,
    }
    latency = after["mpreg_call_duration_seconds"].samples
    assert latency["mpreg_call_duration_seconds_count"] == 167
    assert value_of(after, "event_loop_lag_seconds") >= 0
