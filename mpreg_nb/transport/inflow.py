"""What arrives on one link, made into messages: batches, streams, text."""

from typing import Any, TypeAlias

import msgspec
from websockets.frames import Frame

from mpreg_nb.errors import BadRequest
from mpreg_nb.transport.facts import Lane
from mpreg_nb.transport.streams import WHOLE, Complete, IncomingStreams, TooLarge
from mpreg_nb.wire.codec import (
    Abort,
    Attach,
    Buffer,
    Decoder,
    Fragment,
    control_decoder,
    data_decoder,
)

StreamElement: TypeAlias = Attach | Fragment | Abort

STREAM_ELEMENTS = frozenset((Attach, Fragment, Abort))
"""Types that `Inflow.batch` returns among the messages, to be given to `place`."""

_DECODERS: dict[Lane, Decoder[Any]] = {
    "control": control_decoder(),
    "data": data_decoder(),
    "json": data_decoder(),  # never asked: its messages are text
}
_WHOLE = msgspec.Raw(WHOLE)


class Inflow:
    """Decodes what a peer sent, counts it, and completes its large payloads."""

    def __init__(self, lane: Lane, *, max_payload_bytes: int) -> None:
        self.streams = IncomingStreams(max_bytes=max_payload_bytes)
        self.frames = self.messages = 0
        self.unknown = 0  # messages of a kind that only newer versions know
        self.wrong: list[BadRequest] = []  # not yet heeded
        self._decoder = _DECODERS[lane]
        self._text: list[bytes] = []  # of a text message that came in part

    def batch(self, payload: Buffer) -> list[Any]:
        """Return the messages in `payload`; what was bad is left in `wrong`."""
        self.frames += 1
        try:
            batch = self._decoder.batch(payload)
        except BadRequest:
            batch, unknown, wrong = self._decoder.salvage(payload)
            self.unknown += unknown
            self.wrong += wrong
        self.messages += len(batch)
        return batch

    def place(self, element: StreamElement) -> Complete | TooLarge | None:
        """Return the message that `element` completed, or that is refused for it.

        Raises:
            BadRequest: the element belongs to nothing.
        """
        self.messages -= 1  # its message counts, when it is complete
        stream = element.stream
        match element:
            case Fragment():
                done = self.streams.fragment(stream, element.data)
            case Attach():
                whole = element.message == _WHOLE
                message = None if whole else self._decoder.one(element.message)
                if type(message) in STREAM_ELEMENTS or (whole and not element.sizes):
                    raise BadRequest("an attachment without a message")
                refused = self.streams.attach(stream, element.sizes, message)
                if isinstance(refused, TooLarge):
                    return refused
                done = refused
            case Abort():
                self.streams.abort(stream)
                return None
        if done is None:
            return None
        self.messages += 1
        if done.message is None:
            message = self._decoder.one(done.parts[0])
            return Complete(message, done.parts[1:])
        return done

    def text(self, frame: Frame) -> str | None:
        """Return the text message that `frame` completed.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        self.frames += 1
        self._text.append(bytes(frame.data))
        if not frame.fin:
            return None
        received, self._text = b"".join(self._text), []
        self.messages += 1
        return received.decode()
