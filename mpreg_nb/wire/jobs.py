"""The worker lane: what a node and its worker processes say to each other.

They share a stream socket. Each message is a frame: its length in 4 bytes
(big-endian), then the message in msgpack, then the raw parts whose sizes its
field `sizes` tells, one after the other. No parts: `payload` is inline.
"""

from typing import Literal, TypeAlias

import msgspec

from mpreg_nb.wire.messages import Count, Name, RequestId, Version


class Code(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="code"):
    """Keep the code of `version`; jobs that follow may name it."""

    version: Version
    function: Name
    payload: bytes = b""
    sizes: tuple[Count, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="job"):
    """Run `version` on the arguments in the payload."""

    id: RequestId
    version: Version
    function: Name
    payload: bytes = b""  # (args, kwargs)
    sizes: tuple[Count, ...] = ()  # of the payload's parts, then of the inputs'
    inputs: tuple[bytes | Count, ...] = ()  # inline, or how many of the parts it has
    json: bool = False
    quiet: bool = False
    remaining_ms: Count | None = None


class CancelJob(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="cancel"
):
    """Interrupt job `id`, or drop it if it has not begun."""

    id: RequestId


class Ready(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="ready"):
    """The worker has started and takes jobs."""

    pid: Count


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="done"):
    """Job `id` returned."""

    id: RequestId
    payload: bytes = b""
    sizes: tuple[Count, ...] = ()
    run_us: Count = 0


class JobFailed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="failed"
):
    """Job `id` has no result. The payload is the exception, see `wire.payload`."""

    id: RequestId
    kind: Literal[
        "application",
        "not_picklable",
        "too_large",
        "cancelled",
        "bad_request",
        "deadline",
    ]
    message: str
    executed: Literal["no", "yes"] = "yes"
    types: tuple[str, ...] = ()
    payload: bytes = b""
    sizes: tuple[Count, ...] = ()
    size_bytes: Count = 0
    limit_bytes: Count = 0
    run_us: Count = 0


class Printed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="printed"
):
    """Job `id` wrote `text`; whole lines where possible."""

    id: RequestId
    stream: Literal["stdout", "stderr"]
    text: str


ToWorker: TypeAlias = Code | Job | CancelJob
FromWorker: TypeAlias = Ready | Done | JobFailed | Printed
