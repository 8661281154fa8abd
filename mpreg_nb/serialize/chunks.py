"""Calls of a map that travel as one: arguments on the way there, outcomes back.

To send a short call takes longer than to run it, so items of a map travel in chunks.
A chunk is one call to all on the way: it has one id and one fate. Its items are
pickled one by one, as calls of their own would be: they share no object. Large
arguments that all calls of a map have in common are an input of the chunk. Items run
one after the other. The outcome has a result for each item that ran to its end, then
the failure of the next one, if that is why it ends. What comes after has certainly not
run, and its caller sends it again.
"""

import msgspec

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Failure
from mpreg_nb.protocol.worker import JobFailed


class ChunkOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of the items of a chunk, in their order."""

    results: list[bytes]
    run_us: list[int]  # of each item that has a result
    failed: JobFailed | None = None  # the item after those, if it ran and failed


pack_items_of_chunk = msgspec.msgpack.Encoder().encode
"""Return the payload of a chunk: the pickled arguments of each item."""

_decode_items = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_outcome = msgspec.msgpack.Decoder(ChunkOutcome).decode


def items_of_chunk(payload: Buffer) -> list[bytes]:
    """Return the pickled arguments of each item."""
    return _decode_items(payload)


def outcome_of_chunk(payload: Buffer) -> ChunkOutcome:
    """Return what a worker packed with `pack_items_of_chunk`.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    return _decode_outcome(payload)


def job_failure(ended: JobFailed, node: str) -> Failure:
    """Return why a job of a worker of `node` has no result, as its caller hears it."""
    return Failure(
        kind=ended.kind,
        message=ended.message,
        executed=ended.executed,
        node=node,
        types=ended.types,
        size_bytes=ended.size_bytes,
        limit_bytes=ended.limit_bytes,
        argument_types=ended.argument_types,
        lost=ended.lost,
    )
