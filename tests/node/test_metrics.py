"""The text that `/metrics` answers."""

from collections import Counter
from typing import Any

import pytest

from mpreg_nb.node import monitor
from mpreg_nb.node.metrics import NodeFigures, metrics_text
from mpreg_nb.node.monitor import Counters, Histogram
from mpreg_nb.node.results import StoreStatistics
from mpreg_nb.node.worker_pool import PoolStatistics
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import FunctionSnapshot
from tests.support.prometheus import Family, families


def text_of(**changed: Any) -> str:
    figures: dict[str, Any] = {
        "load": Load(running=2, queued=3, slots=4, loop_lag_ms=1.5, memory_mb=90),
        "pool": PoolStatistics(
            workers=2, slots=4, running=2, queued=3, deaths=1, finished=9
        ),
        "store": StoreStatistics(results=1, held_bytes=700, evicted=0),
        "shared_memory_bytes": 800,
        "pending_calls": 5,
        "outcomes": {"ok": 7, "application": 2},
        "refused_calls": {"overloaded": 1},
        "refused_connections": 6,
        "connections": {"client": 1, "node": 2},
        "members": [MemberState.ALIVE, MemberState.ALIVE, MemberState.DEAD],
        "gossip_sent_bytes": 10_000_000_000,
        "gossip_received_bytes": 11,
        "latency": Histogram((0.1, 1.0)),
        "functions": (),
    }
    return metrics_text(NodeFigures(**{**figures, **changed}))


def read(**changed: Any) -> dict[str, Family]:
    return families(text_of(**changed))


def test_figures_are_in_base_units_and_none_is_rounded() -> None:
    found = read()

    values = {name: list(family.samples.values()) for name, family in found.items()}
    assert values["mpreg_event_loop_lag_seconds"] == [0.0015]
    assert values["mpreg_memory_bytes"] == [90e6]
    assert values["mpreg_shared_memory_bytes"] == [800]
    assert values["mpreg_gossip_bytes_total"] == [10_000_000_000, 11]
    assert found["mpreg_members"].samples == {
        'mpreg_members{state="alive"}': 2,
        'mpreg_members{state="suspect"}': 0,
        'mpreg_members{state="dead"}': 1,
        'mpreg_members{state="left"}': 0,
    }


def test_latencies_are_a_cumulative_histogram() -> None:
    latency = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.5, 0.5, 7.0):
        latency.observe(seconds)

    found = read(latency=latency)["mpreg_call_duration_seconds"]

    assert found.kind == "histogram"
    assert list(found.samples.values()) == [1, 3, 4, 8.05, 4]


def test_each_call_of_a_chunk_has_its_share_of_the_time() -> None:
    counters = Counters("n1")

    counters.count("f", "v", run_us=400, queued_us=100, failed=False, calls=4)

    assert next(counters.latency.cumulative()) == (0.0005, 4)
    assert counters.latency.sum == pytest.approx(0.0008)


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "two\nlines", "ü{}=,"])
def test_any_name_of_a_function_is_one_label(name: str) -> None:
    one = FunctionSnapshot(
        function=name, version="v1", node="n1", calls=3, errors=1, p50_ms=1.0
    )

    found = read(functions=[one])

    assert list(found["mpreg_calls_total"].samples.values()) == [3]
    assert list(found["mpreg_errors_total"].samples.values()) == [1]


def test_kinds_without_a_call_yet_have_no_sample() -> None:
    assert read(outcomes=Counter())["mpreg_outcomes_total"].samples == {}


def test_versions_of_a_day_are_counted_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "MOST_VERSIONS", 3)
    counters = Counters("n1")

    for version in ("a", "b", "c", "a", "d", "e"):
        counters.count("f", version, run_us=1, queued_us=0, failed=False)

    assert {each.version for each in counters.snapshots()} == {"a", "d", "e"}
