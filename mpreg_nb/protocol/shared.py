"""Parts of messages that are in memory which both ends of a link have mapped."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

SegmentId: TypeAlias = Annotated[bytes, Meta(min_length=12, max_length=12)]
ByteCount: TypeAlias = Annotated[int, Meta(ge=0, le=2**40)]


class SegmentRef(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a segment of shared memory."""

    segment: SegmentId
    offset: ByteCount
    length: ByteCount


PartRef: TypeAlias = bytes | SegmentRef
"""A part of a message: itself, if it is small, or where it is."""


class SegmentsGone(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="segments_gone"
):
    """What the sender does not read or use any more.

    A segment is named in the first two once for each message that referred to it.
    """

    returned: tuple[SegmentId, ...] = ()
    stale: tuple[SegmentId, ...] = ()
    """Returned too, but others may read it for ever: it must not be filled again."""

    forgotten: tuple[SegmentId, ...] = ()
    """The other end may forget these: no message will refer to them."""


def length(part: PartRef) -> int:
    """Return how many bytes a part has."""
    return len(part) if isinstance(part, bytes) else part.length
