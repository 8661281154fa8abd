"""One link between two processes (interface; the body follows)."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from mpreg_nb.transport.facts import LinkStatistics, PeerFacts
from mpreg_nb.wire.codec import Buffer, Parts


class Connection(asyncio.BufferedProtocol):
    """One proven link. Made by `listen` and `dial`, never by hand.

    Set the four callbacks in `on_connection` (listener) or `on_open` (dial);
    they are called on the loop's thread, and nothing is delivered before.
    """

    peer: PeerFacts
    on_message: Callable[["Connection", Any, tuple[Buffer, ...]], None]
    """Called with each message; parts are () where the payload is inline."""

    on_refused: Callable[["Connection", Any, int], None]
    """Called with a message whose parts add up to more than max_payload_bytes.

    The parts are dropped, the link goes on.
    """

    on_text: Callable[["Connection", str], None]
    """Called with each text message of a JSON client."""

    on_lost: Callable[["Connection", str], None]
    """Called exactly once, with the reason, after the last message."""

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> int:
        """Send `message`; never blocks.

        Returns 0, or with parts the number of their stream, for `abort`.
        Parts are not copied: leave them unchanged until `drained`.
        On a lost or closing link nothing happens: `on_lost` tells.
        """
        raise NotImplementedError

    def send_text(self, text: str) -> None:
        """Send one text message; JSON links only."""
        raise NotImplementedError

    def abort(self, stream: int) -> None:
        """Give up what is left of `stream`; the other side forgets its message."""
        raise NotImplementedError

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is queued, then end the link; small messages still go out."""
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether `send` still leads anywhere."""
        raise NotImplementedError

    async def drained(self) -> None:
        """Return when all parts are written and the backlog is low, or the link lost.

        Safe to cancel.
        """
        raise NotImplementedError

    async def wait_closed(self) -> None:
        """Return when the link is gone and `on_lost` was called. Safe to cancel."""
        raise NotImplementedError

    def statistics(self) -> LinkStatistics:
        """Return what went through so far."""
        raise NotImplementedError
