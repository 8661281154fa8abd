import pandas as pd
import pytest
from hdrh.histogram import HdrHistogram

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.view.frames import latencies, latency_frame
from mpreg_nb.view.live import latency
from mpreg_nb.view.live.latency import BUCKET_S, KEPT, PARTS, Course
from tests.support.builders import call

NOW = 1_750_000_000.0  # the beginning of a bucket


def ended(at: float, total_us: int = 1_000, **more: int) -> CallRow:
    """Return a call that ended at `at`, a wall time."""
    return call("f", "n1", total_us, started_at=at - total_us / 1e6, **more)


def called(course: Course) -> dict[int, int]:
    """Return seconds before the newest bucket -> calls, where there were some."""
    return {b["at_s"]: b["calls"] for b in course.buckets() if b["calls"]}


def test_calls_are_counted_in_the_stretch_of_time_in_which_they_ended() -> None:
    course = Course()
    rows = [ended(NOW - 3.0), ended(NOW - 2.5), ended(NOW + 0.5)]

    course.take(rows, NOW + 1.0)

    assert called(course) == {-4: 2, 0: 1}
    assert len(course.buckets()) == KEPT
    assert [bucket["at_s"] for bucket in course.buckets()][-3:] == [-4, -2, 0]


def test_each_call_counts_once_however_often_the_last_calls_are_looked_at() -> None:
    course = Course()
    rows = [ended(NOW + 0.1), ended(NOW + 0.2)]

    course.take(rows, NOW + 0.3)
    course.take(rows, NOW + 0.6)
    course.take([*rows, ended(NOW + 0.7)], NOW + 0.8)

    assert called(course) == {0: 3}


def test_buckets_grow_old_and_leave() -> None:
    course = Course()
    course.take([ended(NOW + 1.0)], NOW + 1.0)

    course.take([], NOW + 1.0 + BUCKET_S * 10)
    later = called(course)
    course.take([], NOW + 1.0 + BUCKET_S * KEPT)

    assert later == {-20: 1}
    assert called(course) == {}


def test_calls_that_ended_before_the_view_was_opened_are_in_it() -> None:
    course = Course()
    rows = [ended(NOW - 500.0), ended(NOW - 100.0), ended(NOW - 1.0)]

    course.take(rows, NOW)

    assert called(course) == {-100: 1, -2: 1}


def test_percentiles_are_of_the_bucket_and_parts_are_means() -> None:
    course = Course()
    rows = [ended(NOW + 1.0, us * 1_000, queued_us=200) for us in range(1, 101)]

    course.take(rows, NOW + 1.0)

    newest = course.buckets()[-1]
    assert (newest["p50_ms"], newest["p95_ms"], newest["p99_ms"]) == (50.0, 95.0, 99.0)
    assert (newest["queued_ms"], newest["run_ms"]) == (0.2, 0.5)
    assert newest["network_ms"] == pytest.approx(50.5 - 0.2 - 0.5 - 0.05)
    assert course.buckets()[0] == {
        "at_s": -BUCKET_S * (KEPT - 1),
        "calls": 0,
        **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms")),
        **dict.fromkeys(f"{part}_ms" for part in PARTS),
    }


def test_a_call_that_no_node_took_has_no_part_in_percentiles() -> None:
    course = Course()
    refused = call("f", "", 10, status="failed", started_at=NOW)

    course.take([ended(NOW + 1.0, 8_000), refused], NOW + 1.0)

    newest = course.buckets()[-1]
    assert (newest["calls"], newest["p50_ms"]) == (1, 8.0)


def test_what_is_kept_is_bounded() -> None:
    course = Course()
    rows = [ended(NOW + 0.001 * place) for place in range(20_000)]

    course.take(rows, NOW + 20.0)

    assert sum(called(course).values()) == 20_000
    assert max(len(bucket) for bucket in course.buckets()) == 10


def test_an_idle_course_stands_still_and_one_with_calls_moves() -> None:
    course = Course()
    course.take([], NOW)
    idle = course.origin
    course.take([], NOW + 10.0)
    still_idle = course.origin

    course.take([ended(NOW + 11.0)], NOW + 11.0)
    busy = course.origin
    course.take([], NOW + 13.0)

    assert idle == still_idle
    assert busy != still_idle
    assert course.origin != busy


def histograms() -> dict[tuple[str, str], HdrHistogram]:
    made = {}
    for key, times_us in {("f", "n1"): (900, 1_100), ("g<b>", "n2"): (7_000,)}.items():
        made[key] = HdrHistogram(1, 1_000_000, 3)
        for time_us in times_us:
            made[key].record_value(time_us)
    return made


def test_the_frame_of_a_picture_is_the_frame_of_latencies() -> None:
    table = latency.table(latencies(histograms(), ("function",)))
    picture = latency.picture(Course(), table)

    frame = latency.frame(picture)

    pd.testing.assert_frame_equal(frame, latency_frame(histograms(), ("function",)))


def test_html_has_a_curve_where_there_were_calls_and_shows_names_as_text() -> None:
    table = latency.table(latencies(histograms(), ("function",)))
    course = Course()

    quiet = latency.html(latency.picture(course, table))
    course.take([ended(NOW + 1.0)], NOW + 1.0)
    html = latency.html(latency.picture(course, table))

    assert "<img" not in quiet
    assert html.count('src="data:image/svg+xml;base64,') == 1
    assert "g&lt;b&gt;" in html
    assert "g<b>" not in html
    assert "7.00 ms" in latency.text(latency.picture(course, table))


def test_plain_tables_have_counts_and_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    table = latency.table(latencies(histograms(), ("function",)))

    text = latency.text(latency.picture(Course(), table))

    assert text.splitlines() == [
        "function  calls",
        "f             2",
        "g<b>          1",
    ]
