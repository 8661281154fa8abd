"""The worker lane: what a node and its worker processes say to each other.

They share a stream socket. Each message is a frame: its length in 4 bytes
(big-endian), then the message in msgpack, then the raw parts whose sizes its
field `sizes` tells, one after the other. No parts: `payload` is inline.

Two more things go beside the socket. Ids of calls to interrupt go through a pipe,
followed by SIGINT, since a worker that runs a function does not read the socket.
And what must outlive a worker is in memory that both share: see `wire.page`.

Both ends are one program, so the types are not checked as those of peers are.
"""

from typing import Literal, TypeAlias

import msgspec

ID_BYTES = 16

RECALL = bytes(ID_BYTES)
"""Before the id of a call: drop it if it has not begun, but do not interrupt it."""
"""Length of the id of a call."""


class Setup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="setup"):
    """What a worker must know; the first frame."""

    scratch: str
    slots: int
    max_payload_bytes: int
    home_url: str = ""  # of the node, for functions that call the cluster
    home_token: str = ""


class Code(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="code"):
    """Keep the code of `version`; jobs that follow may name it."""

    version: str
    function: str
    payload: bytes = b""
    sizes: tuple[int, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="job"):
    """Run `version` on the arguments in the payload."""

    id: bytes
    version: str
    function: str
    payload: bytes = b""  # (args, kwargs)
    sizes: tuple[int, ...] = ()  # of the payload's parts, then of the inputs'
    inputs: tuple[bytes | int, ...] = ()  # inline, or how many of the parts it has
    json: bool = False
    quiet: bool = False
    remaining_ms: int | None = None
    split: bool = (
        False  # take the first argument apart; the answer is as wire.items says
    )
    folder: bytes = b""  # of the caller, see wire.working_folder


class Ready(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="ready"):
    """The worker has started and takes jobs."""

    pid: int


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="done"):
    """Job `id` returned."""

    id: bytes
    payload: bytes = b""
    sizes: tuple[int, ...] = ()
    run_us: int = 0


class JobFailed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="failed"
):
    """Job `id` has no result. The payload is the exception, see `wire.payload`."""

    id: bytes
    kind: Literal[
        "application",
        "not_picklable",
        "too_large",
        "cancelled",
        "bad_request",
        "deadline",
        "overloaded",
    ]
    message: str
    executed: Literal["no", "yes"] = "yes"
    types: tuple[str, ...] = ()
    payload: bytes = b""
    sizes: tuple[int, ...] = ()
    size_bytes: int = 0
    limit_bytes: int = 0
    run_us: int = 0
    argument_types: tuple[str, ...] = ()  # where the function raised


class Printed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="printed"
):
    """Job `id` wrote `text`; whole lines where possible.

    On the stream "display" the text is one display, as JSON; if it is long, it
    comes as the part beside the message. What was cut are displays and bytes then.
    """

    id: bytes
    stream: Literal["stdout", "stderr", "display"]
    text: str
    lines_cut: int = 0  # left out before the text, since they were too many
    characters_cut: int = 0
    sizes: tuple[int, ...] = ()


class Parked(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="parked"):
    """Job `id` waits for the cluster and needs no slot, or does so no longer."""

    id: bytes
    waits: bool


ToWorker: TypeAlias = Setup | Code | Job
FromWorker: TypeAlias = Ready | Done | JobFailed | Printed | Parked
