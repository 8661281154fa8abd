"""What calls took, summed up: by function and node, and as percentiles.

Frames, figures and live views all take their numbers from here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

    from mpreg_nb.client.journal import CallRow

KEYS = ("function", "node")
"""What latencies can be grouped by."""


class Route(NamedTuple):
    """The calls of one function that one node took; `node` is "" if none did."""

    function: str
    node: str
    calls: int
    errors: int
    share: float  # of the calls of the function, from 0 to 1
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How long some calls took."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def routes(rows: "Iterable[CallRow]") -> list[Route]:
    """Return one route for each function and node, sorted by both.

    Calls that no node took are on the node "".
    """
    from statistics import median

    calls: dict[tuple[str, str], list[CallRow]] = {}
    for row in rows:
        calls.setdefault((row.function, row.node), []).append(row)
    all_calls: dict[str, int] = {}
    for (function, _), taken in calls.items():
        all_calls[function] = all_calls.get(function, 0) + len(taken)
    return [
        Route(
            function,
            node,
            len(taken),
            sum(call.status in ("failed", "lost") for call in taken),
            len(taken) / all_calls[function],
            median(call.total_us for call in taken) / 1e3,
        )
        for (function, node), taken in sorted(calls.items())
    ]


def latencies(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    """Yield (key, figures) for each value of `keys`, sorted.

    histograms: (function, node) -> microseconds.
    keys: "function", "node" or both.

    Raises:
        ValueError: a key is neither of the two, or there is none.
    """
    if not keys or not set(keys) <= set(KEYS) or len(set(keys)) < len(keys):
        raise ValueError(
            "by must be 'function', 'node' or ('function', 'node'), "
            f"not {', '.join(map(repr, keys)) or 'empty'}"
        )
    for key, histogram in sorted(merged(histograms, keys).items()):
        percentiles = histogram.get_percentile_to_value_dict([50, 95, 99, 100])
        measures_us = (_mean_us(histogram), *percentiles.values())
        count = histogram.get_total_count()
        yield key, Figures(count, *(us / 1e3 for us in measures_us))


def merged(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", keys: Sequence[str]
) -> "dict[tuple[str, ...], HdrHistogram]":
    """Return new histograms, one for each value of `keys`; the given are left."""
    places = [KEYS.index(key) for key in keys]
    together: dict[tuple[str, ...], HdrHistogram] = {}
    for pair, histogram in histograms.items():
        key = tuple(pair[place] for place in places)
        if key not in together:
            together[key] = type(histogram)(
                histogram.lowest_trackable_value,
                histogram.highest_trackable_value,
                histogram.significant_figures,
            )
        together[key].add(histogram)
    return together


def _mean_us(histogram: "HdrHistogram") -> float:
    # As get_mean_value of the library, which goes over all its empty places too.
    total: int = histogram.get_total_count()
    left, sum_us = total, 0.0
    for index in range(histogram.counts_len):
        count = histogram.get_count_at_index(index)
        if count:
            lowest_us = histogram.get_value_from_index(index)
            highest_us = histogram.get_highest_equivalent_value(lowest_us)
            sum_us += count * (lowest_us + highest_us) / 2
            left -= count
            if not left:
                break
    return sum_us / total
