import threading

from mpreg_nb.client.statistics import KEPT_CALLS, CallLog, ChunkRow
from tests.support.builders import call


def test_the_last_calls_are_kept_and_all_are_counted() -> None:
    call_log = CallLog()
    rows = [call("f", "n1", 1_000 + number) for number in range(KEPT_CALLS + 5)]

    for row in rows:
        call_log.add(row)

    assert call_log.rows() == tuple(rows[5:])
    assert call_log.last is rows[-1]
    assert call_log.count == KEPT_CALLS + 5
    assert call_log.histograms()["f", "n1"].get_total_count() == KEPT_CALLS + 5
    assert call_log.count == KEPT_CALLS + 5


def test_each_call_of_a_chunk_has_a_row_and_its_own_run_time() -> None:
    call_log = CallLog()
    whole = call("f", "n1", 1_000)

    call_log.add_chunk(ChunkRow(whole, [100, 300]))

    first, second = call_log.rows()
    assert (first.run_us, second.run_us) == (100, 300)
    assert (first.total_us, second.total_us) == (700, 1_000)
    assert second.queued_us - first.queued_us == 100
    assert first.call_id != second.call_id
    assert call_log.last == second
    assert call_log.count == 2
    assert call_log.histograms()["f", "n1"].get_total_count() == 2


def test_the_calls_of_chunks_leave_the_log_with_the_oldest_chunk() -> None:
    call_log = CallLog()
    half = KEPT_CALLS // 2

    for node in ("n1", "n2", "n3"):
        call_log.add_chunk(ChunkRow(call("f", node, 1_000), [1] * half))

    assert {row.node for row in call_log.rows()} == {"n2", "n3"}
    assert call_log.count == 3 * half


def test_an_empty_journal_has_no_last_call() -> None:
    call_log = CallLog()

    assert (call_log.last, call_log.count, call_log.rows()) == (None, 0, ())


def test_each_call_is_in_the_histograms_once_however_many_threads_ask() -> None:
    call_log = CallLog()
    added = threading.Event()

    def ask() -> None:
        while not added.is_set():
            call_log.histograms()

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for number in range(3_000):
        call_log.add(call("f", "n1", 1_000 + number))
    added.set()
    for thread in asking:
        thread.join()

    assert call_log.histograms()["f", "n1"].get_total_count() == 3_000
    assert call_log.count == 3_000
