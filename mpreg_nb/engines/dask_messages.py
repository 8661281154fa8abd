"""What a gateway and its plugin on a Dask worker send each other.

A Dask task carries a `Batch` of jobs to the plugin; its result is `BatchAnswers`.
Everything else that the plugin reports goes over one topic of the Dask scheduler.
Both are msgpack; bytes of code, arguments and results are parts beside it, which Dask
never opens.

Large parts of results that are kept stay on the Dask worker, as values of Dask: an
answer has a `StayingPart` in their place. A task that needs such values, or those of a
user of Dask, has their futures as arguments, so that Dask brings them to its worker; a
`ValuePart` says where each belongs.
"""

import pickle
from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import msgspec

from mpreg_nb.errors import Executed
from mpreg_nb.node.worker_pool import Crashed, Outcome
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed, JobPrinted


class Part:
    """Bytes that Dask sends as they are, beside its pickle."""

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[object, ...]:
        data = pickle.PickleBuffer(self.data) if protocol >= 5 else bytes(self.data)
        return Part, (data,)

    def __sizeof__(self) -> int:
        # Dask counts the memory of its workers by this.
        return object.__sizeof__(self) + memoryview(self.data).nbytes


class StayingPart:
    """A part that stays on the Dask worker, as the value of this key."""

    __slots__ = ("key", "size_bytes")

    def __init__(self, key: str, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes

    def __reduce__(self) -> tuple[object, ...]:
        return StayingPart, (self.key, self.size_bytes)


class ValuePart:
    """A part that is among the values of the task, under this number.

    is_object: it is not the bytes of a part, but an object of a user of Dask, which is
        pickled where it is.
    """

    __slots__ = ("is_object", "number")

    def __init__(self, number: int, is_object: bool) -> None:
        self.number = number
        self.is_object = is_object

    def __reduce__(self) -> tuple[object, ...]:
        return ValuePart, (self.number, self.is_object)


GivenPart: TypeAlias = Part | ValuePart
MadePart: TypeAlias = Part | StayingPart


class OpenPool(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Start a pool of worker processes under the id `pool`."""

    pool: str
    count: int
    slots: int
    max_payload_bytes: int
    keeps: bool
    home_url: str  # of the node, "" if functions cannot call the cluster
    home_token: str
    home_host: str


class PoolCode(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The code of a version; its pickle is the next `count` parts."""

    version: str
    function: str
    count: int


class Batch(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Jobs of one Dask task. The parts are those of the codes, then of the jobs."""

    pool: str
    incarnation: str  # of the plugin: the jobs run in no other one
    jobs: tuple[Job, ...]
    counts: tuple[int, ...]  # of the parts of each job
    codes: tuple[PoolCode, ...] = ()
    forget: tuple[str, ...] = ()  # versions that no job names any longer
    client: str = ""  # id of the gateway's Dask client, which wants what stays


class JobCrashed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="crashed"
):
    """`Crashed`, as it is sent."""

    id: bytes
    cause: str
    executed: Executed
    memory_mb: float | None
    last_lines: tuple[str, ...]
    deaths: int
    ran: int | None


class NotBegun(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="not"):
    """Nothing of the batch has begun.

    reason: "code" where a version has to be sent first, "gone" where there is no such
        pool any longer, "again" where this batch was begun before.
    """

    reason: str


SentOutcome: TypeAlias = JobDone | JobFailed | JobCrashed


class BatchAnswers(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="ans"
):
    """The outcomes of a batch, in the order of its jobs."""

    outcomes: tuple[SentOutcome, ...]
    counts: tuple[int, ...]  # of the parts of each outcome


class PoolPrinted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="p"):
    """A job printed; a long display comes with it as bytes."""

    pool: str
    printed: JobPrinted
    parts: tuple[bytes, ...] = ()


class PoolEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="e"):
    """Something happened to a worker process."""

    pool: str
    event: str
    detail: str


class PoolWaits(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="w"):
    """These jobs wait for the cluster and need no slot; replaces the one before."""

    pool: str
    jobs: tuple[bytes, ...]


class PluginReady(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="r"):
    """The plugin was set up on the Dask worker at `address`."""

    address: str


class WorkerGone(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="g"):
    """The scheduler has no Dask worker at `address` any more."""

    address: str


Report: TypeAlias = PoolPrinted | PoolEvent | PoolWaits | PluginReady | WorkerGone


class PluginState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a gateway has to know of a Dask worker before its node starts."""

    incarnation: str
    host: str
    versions: dict[str, str]


encode = msgspec.msgpack.Encoder().encode
read_open = msgspec.msgpack.Decoder(OpenPool).decode
read_batch = msgspec.msgpack.Decoder(Batch).decode
read_answers = msgspec.msgpack.Decoder(BatchAnswers | NotBegun).decode
read_reports = msgspec.msgpack.Decoder(tuple[Report, ...]).decode
read_state = msgspec.msgpack.Decoder(PluginState).decode


def sent(outcome: Outcome) -> SentOutcome:
    """Return an outcome as it is sent."""
    if isinstance(outcome, Crashed):
        return JobCrashed(**msgspec.structs.asdict(outcome))
    return outcome


def received(outcome: SentOutcome) -> Outcome:
    """Return an outcome as it was before it was sent."""
    if isinstance(outcome, JobCrashed):
        return Crashed(**msgspec.structs.asdict(outcome))
    return outcome


AnyPart = TypeVar("AnyPart")


def split(parts: list[AnyPart], counts: Iterable[int]) -> list[list[AnyPart]]:
    """Return the parts of each of several things that were sent together."""
    rest = iter(parts)
    return [list(islice(rest, count)) for count in counts]
