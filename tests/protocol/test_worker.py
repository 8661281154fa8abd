import os
import socket
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.protocol.worker import (
    BUFFER_BYTES,
    ENDS,
    LARGE_BYTES,
    LEASED_AT_ONCE,
    PAGE_BYTES,
    RECORDS,
    TEXT_BYTES,
    FromWorker,
    JobDone,
    JobFrameReader,
    JobPrinted,
    RunRecord,
    SharedStatus,
    frame,
    read_records,
    room,
    sizes,
)

ID = b"i" * 16


def fed(data: bytes, cuts: list[int]) -> list[tuple[FromWorker, tuple[bytes, ...]]]:
    """Return what a reader makes of `data` that comes in pieces."""
    reader: JobFrameReader[FromWorker] = JobFrameReader(FromWorker)
    found = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        while at < cut:
            space = reader.space()
            count = min(len(space), cut - at)
            space[:count] = data[at : at + count]
            at += count
            for message, parts in reader.received(count):
                found.append((message, tuple(map(bytes, parts))))
    return found


payloads = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: (data, ())),
        st.lists(st.binary(max_size=300), min_size=1, max_size=4).map(
            lambda parts: (b"", tuple(parts))
        ),
    ),
    max_size=8,
)


@given(payloads=payloads, cuts=st.lists(st.integers(0, 4000), max_size=30))
def test_messages_come_whole_however_they_are_cut(
    payloads: list[tuple[bytes, tuple[bytes, ...]]], cuts: list[int]
) -> None:
    sent = [
        (JobDone(id=ID, payload=payload, sizes=sizes(parts)), parts)
        for payload, parts in payloads
    ]
    data = b"".join(frame(m) + b"".join(parts) for m, parts in sent)

    assert fed(data, [cut for cut in cuts if cut < len(data)]) == sent


@pytest.mark.parametrize("length", [BUFFER_BYTES - 40, BUFFER_BYTES, 3 * BUFFER_BYTES])
def test_a_message_may_be_longer_than_the_buffer(length: int) -> None:
    long = JobPrinted(id=ID, stream="stdout", text="x" * length)
    data = frame(JobDone(id=ID)) + frame(long) + frame(JobDone(id=ID, run_us=1))

    found = fed(data, [])

    assert [message for message, _ in found] == [
        JobDone(id=ID),
        long,
        JobDone(id=ID, run_us=1),
    ]


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\x00\x00\x00\x02\x91\xa3"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        fed(data, [])


def test_large_parts_are_received_where_they_stay() -> None:
    ours, theirs = socket.socketpair()
    part = bytes(range(256)) * (LARGE_BYTES // 256) + b"end"
    reader: JobFrameReader[FromWorker] = JobFrameReader(FromWorker)
    data = frame(JobDone(id=ID, sizes=(len(part),))) + part
    received: list[tuple[FromWorker, tuple[Any, ...]]] = []

    with ours, theirs:
        theirs.setblocking(False)
        sent = 0
        while not received:
            if sent < len(data):
                sent += theirs.send(data[sent : sent + 50_000])
            received = reader.received(ours.recv_into(reader.space()))

    ((_, (got,)),) = received
    assert isinstance(got, memoryview)
    assert not got.readonly
    assert got == part


def test_memory_of_any_size_is_writable() -> None:
    for size in (0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1):
        memory = memoryview(room(size))
        memory[size // 2 :] = b"x" * (size - size // 2)

        assert memory.nbytes == size


def shared_page() -> tuple[SharedStatus, SharedStatus]:
    shared = os.memfd_create("test")
    os.ftruncate(shared, PAGE_BYTES)
    pages = SharedStatus(shared), SharedStatus(shared)
    os.close(shared)
    return pages


def test_the_page_shows_the_other_side_the_progress_of_the_worker() -> None:
    worker, node = shared_page()

    worker.begin(3)
    worker.end(2)

    assert (node.begun, node.ended) == (3, 2)


@given(texts=st.lists(st.text(st.characters(codec="ascii"), max_size=3000), max_size=9))
def test_the_page_keeps_the_end_of_what_was_printed(texts: list[str]) -> None:
    worker, node = shared_page()

    for text in texts:
        worker.note(text)

    kept = "".join(texts)[-TEXT_BYTES:]
    assert node.last_lines(5) == kept.splitlines()[-5:]


def test_a_text_longer_than_the_page_leaves_its_end() -> None:
    worker, node = shared_page()

    worker.note("a" * 5)
    worker.note("x" * TEXT_BYTES * 2 + "\nlast")

    assert node.last_lines(1) == ["last"]


def test_the_page_shows_when_an_interrupt_was_last_deferred() -> None:
    worker, node = shared_page()
    before_s = time.monotonic()

    worker.put_off()

    assert before_s <= node.put_off_s <= time.monotonic()


@given(
    turns=st.lists(
        st.lists(st.integers(0, 9000), max_size=30).map(tuple), min_size=1, max_size=6
    )
)
def test_the_page_shows_the_times_of_leased_jobs_in_order(
    turns: list[tuple[int, ...]],
) -> None:
    worker, node = shared_page()
    told: list[RunRecord] = []

    for turn in turns:
        for run_us in turn:
            worker.count(run_us % 7, run_us, 2 * run_us, ENDS[run_us % len(ENDS)])
        told += node.take_records()

    assert told == [
        (run_us % 7, run_us, 2 * run_us, ENDS[run_us % len(ENDS)])
        for turn in turns
        for run_us in turn
    ]


def test_no_leased_job_is_left_out_where_the_page_is_full() -> None:
    worker, node = shared_page()

    told = [worker.count(0, number, 0, "ok") for number in range(RECORDS + 3)]

    with_records = [message for message in told if message is not None]
    half, *beyond = with_records
    assert read_records(half) == []
    records = [*node.take_records(), *(r for m in beyond for r in read_records(m))]
    assert [record[1] for record in records] == list(range(RECORDS + 3))


def test_the_page_shows_which_jobs_of_a_lease_started_and_which_run() -> None:
    worker, node = shared_page()
    worker.open_lease(1)
    worker.begin_leased(3, ID, 5)
    worker.begin_leased(4, ID, 2, slot=LEASED_AT_ONCE - 1)
    both = node.leased(1)
    worker.end_leased()

    one = node.leased(1)
    worker.end_leased(LEASED_AT_ONCE - 1)
    worker.open_lease(2)

    assert both == (4, {3: 5, 4: 2})
    assert one == (4, {4: 2})
    assert node.leased_call == ID
    assert (node.leased(1), node.leased(2)) == ((0, {}), (0, {}))
