"""The bytes of each message, so that a change of the wire shows as a change here.

Every field has a value that is not its default: one that moves or vanishes is
seen. The bytes are in messages.golden. After a change that is meant, write them
anew: python -m tests.protocol.test_messages
"""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.codec import data_decoder, encode, join
from mpreg_nb.protocol.gossip import Load, MemberRecord, Offer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    CodePull,
    CodePush,
    Condition,
    Data,
    EngineRef,
    EventSnapshot,
    ExplainStep,
    Failed,
    Failure,
    Fetch,
    FunctionSnapshot,
    Given,
    HasResults,
    HeldResults,
    Hold,
    LeaseAnswer,
    LeasedCalls,
    LeasedCancel,
    LeaseRequest,
    LeaseRevoked,
    LeaveRequest,
    Line,
    LinkSnapshot,
    LoadsReport,
    NodeChance,
    NodeSnapshot,
    NotHeld,
    Notice,
    Output,
    Partition,
    Recall,
    Register,
    Registered,
    Relay,
    Release,
    Reply,
    ResultRef,
    ResultRefs,
    Resume,
    RunFollowed,
    RunList,
    RunResume,
    Runs,
    RunSnapshot,
    RunStart,
    RunState,
    RunSummary,
    RunWatch,
    SideCall,
    Snapshot,
    SpaceClose,
    SpaceOpen,
    Started,
    StepCall,
    StepChoice,
    StepExplanation,
    StepFetch,
    StepPlan,
    StepSnapshot,
    Traffic,
    TrafficRequest,
    Versions,
    VersionsRequest,
    Waiting,
    Watch,
)
from mpreg_nb.protocol.messages import Printed as RunPrinted
from mpreg_nb.protocol.shared import SegmentRef, SegmentsGone
from mpreg_nb.protocol.worker import (
    BEFORE,
    Code,
    FromHolder,
    FromWorker,
    Greeting,
    Job,
    JobBlocked,
    JobDone,
    JobFailed,
    JobPrinted,
    Lease,
    LeaseEnd,
    LeaseOpen,
    LeaseOver,
    Permit,
    Returned,
    RunsCounted,
    Setup,
    ToHolder,
    ToWorker,
    WorkerReady,
    WorkerUnfit,
)

ID = bytes(range(16))
VERSION = "0123456789abcdef" * 2
KEPT = ResultRef("n2", ID, 70_000, 2, 3, True)
LOAD = Load(
    running=1,
    queued=2,
    slots=3,
    latency_ms=0.5,
    uptime_s=9,
    serial=4,
    shared_memory_mb=300,
)
OFFER = Offer(
    function="f", version=VERSION, resources=frozenset({"gpu"}), counter=4, origin="n1"
)
STEP = StepSnapshot(
    name="s",
    status="skipped",
    node="n1",
    version=VERSION,
    attempts=2,
    queued_ms=0.5,
    run_ms=1.5,
    started_ms=2.5,
    result_bytes=300,
    cause="r",
    items=12,
    items_done=7,
    undo_error="OSError: no",
    error="ValueError: no",
)

SIDE = SideCall(
    function="g",
    payload=b"more",
    parts=1,
    version=VERSION,
    inputs=("s",),
    idempotent=True,
)

PLAN = StepPlan(
    name="s",
    function="f",
    payload=b"arguments",
    parts=2,
    version=VERSION,
    resources=frozenset({"gpu"}),
    node="n1",
    inputs=("r",),
    after=("q",),
    attempts=3,
    retry_on=("builtins.OSError",),
    timeout_ms=400,
    idempotent=True,
    json=True,
    split=SIDE,
    fallback=Given(name="i", payload=b"value", parts=1),
    undo=SIDE,
    condition=Condition(
        function="g",
        payload=b"c",
        parts=1,
        version=VERSION,
        inputs=("r",),
        idempotent=True,
        shown="r['ok']",
    ),
    delay_ms=500,
    backoff=2.0,
)
PICTURE = RunSnapshot(
    run=ID,
    workflow="w",
    status="done",
    steps=(STEP,),
    edges=(("r", "s"),),
    started_at_s=1.5,
    duration_ms=2.5,
)
LINE = Line(
    step="s", node="n1", stream="stderr", text="ü\n", lines_cut=9, characters_cut=99
)

SAMPLES: list[Any] = [
    Call(
        id=ID,
        function="f",
        payload=b"arguments",
        version=VERSION,
        resources=frozenset({"gpu"}),
        node="n1",
        remaining_ms=5000,
        wait_ms=7,
        hops_left=2,
        holder="n3",
        attempt=1,
        inputs=(b"small", KEPT, ResultRefs((b"item", KEPT)), EngineRef("'load-1'")),
        keep=True,
        json=True,
        quiet=True,
        split=True,
        folder=b"mark:/home/me",
        space=ID,
        idempotent=True,
        items=2,
        depth=2,
    ),
    Call(id=ID, function="f", payload=b""),
    Reply(
        id=ID,
        payload=b"result",
        node="n1",
        version=VERSION,
        queued_us=8,
        run_us=9,
        kept=KEPT,
        builtin=True,
        load=LOAD,
        waited_us=10,
    ),
    Failed(
        id=ID,
        failure=Failure(
            kind="application",
            message="no",
            executed="yes",
            node="n1",
            types=("builtins.ValueError",),
            cause="exit code 3",
            size_bytes=10,
            limit_bytes=11,
            memory_mb=1.5,
            lines=("last",),
            offers=(("n1", frozenset({"gpu"})),),
            held=(("n2", frozenset({"cpu"})),),
            similar="g",
            retry_after_ms=12,
            argument_types=("builtins.int",),
            where="item [3]",
            timeout_ms=13,
            lost=(ID,),
            retry_budget_exhausted=True,
            engine="dask://h:1",
            ran=14,
        ),
        payload=b"exception",
        version=VERSION,
        queued_us=8,
        run_us=9,
        load=LOAD,
        waited_us=10,
    ),
    Waiting(ids=(ID, ID), load=LOAD),
    Recall(ids=(ID, ID)),
    Resume(ids=(ID, ID), entry="n1"),
    NotHeld(ids=(ID, ID)),
    Started(id=ID, node="n1"),
    Output(
        id=ID, node="n1", stream="stderr", text="ü\n", lines_cut=9, characters_cut=99
    ),
    Cancel(id=ID),
    LeaseRequest(id=ID, function="f", version=VERSION, resources=frozenset({"gpu"})),
    LeaseAnswer(id=ID, number=7, path="/run/w", key=b"key"),
    LeaseRevoked(number=7, gone=True, begun=3),
    LeasedCalls(number=7, calls=((ID, 3),)),
    LeasedCancel(number=7, id=ID, place=3, unless_begun=True),
    Fetch(id=ID, kept=KEPT),
    Hold(id=ID, payload=b"pickle"),
    Release(ids=(ID,)),
    SpaceOpen(id=ID),
    SpaceClose(id=ID),
    Register(
        id=ID,
        function="f",
        version=VERSION,
        payload=b"code",
        resources=frozenset({"gpu"}),
        idempotent=True,
        isolation="thread",
        signature="(x)",
        doc="Do it.",
        python="3.11",
    ),
    Registered(id=ID, offer=OFFER, nodes=("n1", "n2")),
    CodePull(id=ID, version=VERSION),
    CodePush(id=ID, offer=OFFER, payload=b"code"),
    Watch(id=ID, period_ms=250, known=("process", 7)),
    Snapshot(
        id=ID,
        node="n1",
        nodes=(
            NodeSnapshot(
                record=MemberRecord(name="n1", generation=1, epoch=ID),
                load=LOAD,
                rtt_ms=0.25,
            ),
        ),
        offers=(("n1", OFFER),),
        functions=(
            FunctionSnapshot(
                function="f",
                version=VERSION,
                node="n1",
                calls=3,
                errors=1,
                p50_ms=0.5,
            ),
        ),
        events=(EventSnapshot(at_s=1.5, node="n1", event="left", detail="bye"),),
        mark=("process", 8),
        changed=("f",),
    ),
    LoadsReport(id=ID, loads=(("n1", LOAD),)),
    TrafficRequest(id=ID),
    Traffic(
        id=ID,
        node="n1",
        links=(
            LinkSnapshot(
                peer="n2",
                role="node",
                sent_bytes=1,
                received_bytes=2,
                sent_messages=3,
                received_messages=4,
            ),
        ),
    ),
    RunStart(
        id=ID,
        workflow="w",
        steps=(PLAN, StepPlan(name="t", function="f", payload=b"", fallback=SIDE)),
        quiet=True,
        inputs=(Given(name="i", payload=b"", parts=2, key="('x', 0)"),),
        folder=b"mark:/home/me",
        chain_ms=2.5,
        depth=1,
        chunk_ms=1.5,
    ),
    RunState(
        id=ID,
        status="failed",
        steps=(STEP,),
        duration_ms=2.5,
        results=(("s", b"result"),),
        calls=(
            StepCall(
                id=ID,
                step="s",
                function="f",
                node="n1",
                status="lost",
                waited_us=1,
                queued_us=2,
                run_us=3,
                total_us=4,
                received_bytes=5,
                ended_at_s=1.5,
            ),
        ),
        failures=(("t", Failed(id=ID, failure=Failure(kind="cancelled"))),),
    ),
    StepFetch(id=ID, run=ID, step="s"),
    RunList(id=ID),
    Runs(
        id=ID,
        runs=(
            RunSummary(
                run=ID,
                workflow="w",
                status="done",
                steps=3,
                done=2,
                failed=1,
                started_at_s=1.5,
                duration_ms=2.5,
            ),
        ),
    ),
    RunWatch(id=ID, run=ID),
    RunFollowed(id=ID, run=PICTURE, plans=(PLAN,), lines=(LINE,)),
    RunResume(id=ID, run=ID, new=ID, versions=(("f", VERSION),)),
    RunPrinted(id=ID, line=LINE),
    ExplainStep(id=ID, run=ID, step="s"),
    StepExplanation(
        id=ID,
        choices=(
            StepChoice(
                attempt=2,
                sent_ms=1.5,
                function="f",
                chosen="n1",
                nodes=(
                    NodeChance(
                        node="n1",
                        reason="lacks gpu",
                        in_flight=1,
                        score=0.5,
                        running=1,
                        queued=2,
                        slots=3,
                    ),
                ),
                version=VERSION,
                resources=frozenset({"gpu"}),
                more_nodes=7,
                part="item [3]",
                behind="a",
            ),
        ),
    ),
    HasResults(id=ID, ids=(ID,)),
    HeldResults(id=ID, ids=(ID,)),
    Relay(id=ID, node="n2", message=RunWatch(id=ID, run=ID)),
    LeaveRequest(id=ID),
    Partition(id=ID, nodes=("n2",), for_ms=1500),
    VersionsRequest(id=ID),
    Versions(id=ID, node="n1", versions=(("python", "3.11.7"),)),
    Notice(kind="draining", text="soon"),
]


SEGMENT = bytes(range(12))
SHARED = (b"head", SegmentRef(SEGMENT, 64, 1 << 20))

JOBS: list[Any] = [
    Setup(
        scratch="/data/n1",
        slots=2,
        max_payload_bytes=1 << 30,
        home_url="ws://n1",
        home_token="secret",
        home_ca="PEM",
        keeps=True,
        shared_memory_bytes=1 << 30,
    ),
    Code(version=VERSION, function="f", payload=b"code", sizes=(1, 2)),
    Job(
        id=ID,
        version=VERSION,
        function="f",
        payload=b"arguments",
        sizes=(3, 70_000),
        inputs=(b"small", 2),
        json=True,
        quiet=True,
        remaining_ms=5000,
        split=True,
        folder=b"mark:/home/me",
        shared=SHARED,
        items=2,
        depth=2,
        then=(Job(id=ID, version=VERSION, function="g", inputs=(BEFORE,)),),
        keep=True,
    ),
    WorkerReady(pid=4711),
    JobDone(
        id=ID,
        payload=b"result",
        sizes=(4,),
        run_us=9,
        shared=SHARED,
        queued_us=8,
        goes_on=ID,
    ),
    JobFailed(
        id=ID,
        kind="application",
        message="no",
        executed="no",
        types=("builtins.ValueError",),
        payload=b"exception",
        sizes=(5,),
        size_bytes=10,
        limit_bytes=11,
        run_us=9,
        argument_types=("builtins.int",),
        lost=(ID,),
    ),
    JobPrinted(
        id=ID,
        stream="stderr",
        text="ü\n",
        lines_cut=9,
        characters_cut=99,
        sizes=(300,),
    ),
    JobBlocked(id=ID, waits=True),
    WorkerUnfit(reason="a limit was lowered"),
    SegmentsGone(returned=(SEGMENT,), stale=(SEGMENT,), forgotten=(SEGMENT,)),
    Lease(number=7, key=b"key", path="/run/w"),
    Permit(version=VERSION, place=3),
    LeaseEnd(number=7),
    LeaseOpen(number=7, error="the name is too long"),
    LeaseOver(number=7, runs=True),
    RunsCounted(records=b"record"),
    Greeting(lease=7, key=b"key"),
    Returned(id=ID),
]

LANES = (ToWorker, FromWorker, FromHolder, ToHolder)
"""What a worker is told and says, by its node and by who holds a lease of it."""

GOLDEN = Path(__file__).with_name("messages.golden")


def name(message: Any) -> str:
    return type(message).__name__


def golden_lines() -> list[str]:
    return GOLDEN.read_text(encoding="ascii").splitlines()


def in_bytes(message: Any) -> str:
    return f"{name(message)} {encode(message)!r}"


@pytest.mark.parametrize(
    ("message", "golden"),
    list(zip(SAMPLES + JOBS, golden_lines(), strict=False)),
)
def test_a_message_has_these_bytes(message: Any, golden: str) -> None:
    assert in_bytes(message) == golden


@pytest.mark.parametrize("message", SAMPLES, ids=name)
def test_a_message_reads_back_as_it_was(message: Any) -> None:
    assert data_decoder().batch(join([encode(message)])) == [message]


@pytest.mark.parametrize("message", JOBS, ids=name)
def test_a_message_of_the_worker_lane_reads_back_as_it_was(message: Any) -> None:
    lanes = [lane for lane in LANES if isinstance(message, get_args(lane))]

    read = [msgspec.msgpack.Decoder(lane).decode(encode(message)) for lane in lanes]

    assert read == [message] * len(lanes)


def test_every_message_of_the_lanes_is_among_them() -> None:
    assert len(golden_lines()) == len(SAMPLES + JOBS)
    assert {type(message) for message in SAMPLES} == set(get_args(Data))
    lanes = {kind for lane in LANES for kind in get_args(lane)}
    assert {type(message) for message in JOBS} == lanes


def test_every_field_of_every_message_is_shown_with_a_value() -> None:
    shown: dict[type, set[str]] = {}

    def look(value: Any) -> None:
        if isinstance(value, tuple):
            for one in value:
                look(one)
        if not isinstance(value, msgspec.Struct):
            return
        for field in msgspec.structs.fields(value):
            found = getattr(value, field.name)
            if found != field.default:
                shown.setdefault(type(value), set()).add(field.name)
            look(found)

    look(tuple(SAMPLES + JOBS))
    missing = {
        kind.__name__: {field.name for field in msgspec.structs.fields(kind)} - names
        for kind, names in shown.items()
        if kind.__module__ != "mpreg_nb.protocol.gossip"
    }

    assert {kind: names for kind, names in missing.items() if names} == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"id": b"short"},
        {"function": ""},
        {"function": "f" * 129},
        {"version": "tooshort"},
        {"remaining_ms": -1},
        {"hops_left": 9},
        {"hops_left": -1},
        {"attempt": 256},
        {"wait_ms": 2**60},
        {"payload": "text"},
        {"inputs": ("text",)},
    ],
)
def test_values_out_of_bounds_are_bad_requests(changed: dict[str, Any]) -> None:
    fields = {"id": ID, "function": "f", "payload": b""} | changed
    batch = join([encode(Call(**fields))])

    with pytest.raises(BadRequest):
        data_decoder().batch(batch)


def test_a_newer_peer_may_add_fields_at_the_end() -> None:
    fields = msgspec.msgpack.decode(encode(Cancel(id=ID)))
    longer = msgspec.msgpack.encode([*fields, "of next year"])

    assert data_decoder().batch(join([longer])) == [Cancel(id=ID)]


def test_an_older_peer_may_leave_out_fields_at_the_end() -> None:
    shorter = msgspec.msgpack.encode(["call", ID, "f", b"arguments"])

    [call] = data_decoder().batch(join([shorter]))

    assert call == Call(id=ID, function="f", payload=b"arguments")


if __name__ == "__main__":
    lines = "".join(f"{in_bytes(message)}\n" for message in SAMPLES + JOBS)
    GOLDEN.write_text(lines, encoding="ascii")
