"""Bytes to messages and back; the only place that decodes what a peer sent.

A WebSocket message of ours is one msgpack array whose elements are messages.
Each element is encoded by itself when it is sent; `join` puts the header in
front of all that one turn of the event loop produced. `Decoder` reads the
whole array in one go, as a list of one tagged union, so that a lane can carry
nothing but its own messages.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.gossip import Control
from mpreg_nb.protocol.messages import Data, RequestId
from mpreg_nb.protocol.shared import PartRef, SegmentsGone

T = TypeVar("T")

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that are passed on without being looked at."""

Parts: TypeAlias = Sequence[Buffer]
"""A payload: the pickle first, then its out-of-band buffers. Empty: inline."""

StreamId: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
PartSize: TypeAlias = Annotated[int, Meta(ge=0, le=2**40)]


class Attach(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="attach"):
    """`message` is complete when parts of these sizes have come on `stream`."""

    stream: StreamId
    sizes: Annotated[tuple[PartSize, ...], Meta(max_length=65_536)]
    message: msgspec.Raw


class Fragment(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="fragment"
):
    """The next piece of the parts of `stream`, which follow one another."""

    stream: StreamId
    data: memoryview


class Abort(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="abort"):
    """The rest of `stream` will not come; forget its message."""

    stream: StreamId


class Shared(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="shared"):
    """`message` with its parts, of which large ones are in shared memory."""

    parts: Annotated[tuple[PartRef, ...], Meta(max_length=65_536)]
    message: msgspec.Raw


class SharedMemoryDoor(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="shared_door"
):
    """Where the end that dialled may open a way for descriptors beside this link."""

    address: Annotated[bytes, Meta(max_length=107)]


DataElement: TypeAlias = (
    Data | Attach | Fragment | Abort | Shared | SegmentsGone | SharedMemoryDoor
)
ControlElement: TypeAlias = Control | Attach | Fragment | Abort

_encode = msgspec.msgpack.Encoder().encode
_raw_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])
_text = msgspec.msgpack.Decoder(str)
_id = msgspec.msgpack.Decoder(RequestId)


class Unread(msgspec.Struct, frozen=True):
    """A message that came and could not be read: why, and what is known of it."""

    error: BadRequest
    kind: type | None = None
    id: bytes = b""


def unread(message: object, reason: str) -> Unread:
    """Return that nothing can be done with `message`, since its parts are wrong."""
    return Unread(BadRequest(reason), type(message), getattr(message, "id", b""))


def encode(message: msgspec.Struct) -> bytes:
    """Return `message` as one element of a batch."""
    return _encode(message)


def join(elements: list[bytes]) -> bytes:
    """Return one msgpack array of already encoded `elements` (at most 2**32)."""
    count = len(elements)
    if count < 16:
        header = bytes((0x90 | count,))
    elif count < 1 << 16:
        header = b"\xdc" + count.to_bytes(2, "big")
    else:
        header = b"\xdd" + count.to_bytes(4, "big")
    return header + b"".join(elements)


class Decoder(Generic[T]):
    """Reads batches of one lane.

    Lengths that a message claims are checked against the bytes that are there,
    and types against the structs, before anything is made of them.
    """

    def __init__(self, element: Any) -> None:
        self._batch = msgspec.msgpack.Decoder(list[element])
        self._one = msgspec.msgpack.Decoder(element)
        self._kinds: dict[Any, type[msgspec.Struct]] = {
            struct.__struct_config__.tag: struct for struct in get_args(element)
        }

    def batch(self, data: Buffer) -> list[T]:
        """Return the messages in `data`.

        Raises:
            BadRequest: `data` is not one array of messages of this lane.
        """
        return _decoded(self._batch, data)  # type: ignore[no-any-return]

    def one(self, data: Buffer | msgspec.Raw) -> T:
        """Return the single message in `data`, or raise `BadRequest`."""
        return _decoded(self._one, data)  # type: ignore[no-any-return]

    def one_or_unread(self, data: Buffer | msgspec.Raw) -> T | Unread:
        """Return the single message in `data`, or what is known of it."""
        try:
            return self.one(data)
        except BadRequest as error:
            return self._unread(data, error)

    def salvage(self, data: Buffer) -> tuple[list[T], int, list[Unread]]:
        """Return what can be read of a batch that `batch` refused.

        That is its good messages, the number of those whose kind is unknown
        here (of a newer version, to be ignored), and what is wrong with others.
        """
        good: list[T] = []
        unknown = 0
        wrong: list[Unread] = []
        try:
            elements: list[msgspec.Raw] = _decoded(_raw_elements, data)
        except BadRequest as error:
            return good, unknown, [Unread(error)]
        for element in elements:
            read = self.one_or_unread(element)
            if not isinstance(read, Unread):
                good.append(read)
            elif self._is_unknown(element):
                unknown += 1
            else:
                wrong.append(read)
        return good, unknown, wrong

    def _is_unknown(self, element: msgspec.Raw) -> bool:
        try:
            fields = _decoded(_raw_elements, element)
            return bool(fields) and _decoded(_text, fields[0]) not in self._kinds
        except BadRequest:
            return False

    def _unread(self, data: Buffer | msgspec.Raw, error: BadRequest) -> Unread:
        try:
            fields = _decoded(_raw_elements, data)
            kind = self._kinds.get(_decoded(_text, fields[0])) if fields else None
            if kind is None or kind.__struct_fields__[:1] != ("id",):
                return Unread(error, kind)
            return Unread(error, kind, _decoded(_id, fields[1]))
        except (BadRequest, IndexError):  # not even that can be read
            return Unread(error)


def _decoded(decoder: "msgspec.msgpack.Decoder[Any]", data: Any) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        reason = str(error).replace("\n", " ")[:200]
        raise BadRequest(f"not a message of this lane: {reason}") from error
    except MemoryError as error:
        raise BadRequest(
            "a message declares more bytes than this machine has"
        ) from error


def data_decoder() -> "Decoder[DataElement]":
    """Return a decoder of the data lane."""
    return Decoder(DataElement)


def control_decoder() -> "Decoder[ControlElement]":
    """Return a decoder of the control lane."""
    return Decoder(ControlElement)
