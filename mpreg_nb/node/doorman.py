"""Lets a process in under a name only if no other live process has it.

A control link whose name belongs to a member that is thought alive waits at the
door until the first message tells which process it is of: the one that is known,
or another. Then membership asks the holder of the name.
"""

from collections.abc import Callable
from typing import Any

from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.gossip import Hello

TAKEN = "the name is taken"
"""Told to a process whose name another one has; it cannot join."""


class Doorman:
    """The control links that wait for a decision."""

    def __init__(
        self,
        holder: Callable[[str], bytes | None],
        claim: Callable[[str, bytes], None],
        let_in: Callable[[Connection], object],
    ) -> None:
        """`holder` tells the epoch of the live process that has a name, if any."""
        self._holder = holder
        self._claim = claim
        self._let_in = let_in
        self._waiting: dict[tuple[str, bytes], tuple[Connection, list[Any]]] = {}

    def arrived(self, link: Connection) -> None:
        """Let a link in, or keep it at the door until it says which process it is."""
        if self._holder(link.peer.name) is None:
            self._let_in(link)
            return
        link.on_message = self._heard
        link.on_lost = self._gone

    def free(self, name: str, epoch: bytes) -> None:
        """Let the process in that may have `name`, with what it said meanwhile."""
        link, said = self._waiting.pop((name, epoch), (None, []))
        if link is None:
            return
        self._let_in(link)
        for message in said:
            link.on_message(link, message, ())

    def taken(self, name: str, epoch: bytes) -> None:
        """Send the process away: another one has `name`."""
        link, _ = self._waiting.pop((name, epoch), (None, []))
        if link is not None:
            link.close(1008, TAKEN)

    def _heard(self, link: Connection, message: Any, parts: Parts) -> None:
        for waiting, said in self._waiting.values():
            if waiting is link:
                said.append(message)
                return
        if not isinstance(message, Hello):
            link.close(1008, "a node must send Hello first")
            return
        name, epoch = link.peer.name, message.record.epoch
        self._waiting[name, epoch] = (link, [message])
        if self._holder(name) in (None, epoch):
            self.free(name, epoch)
        else:
            self._claim(name, epoch)

    def _gone(self, link: Connection, reason: str) -> None:
        for key, (waiting, _) in list(self._waiting.items()):
            if waiting is link:
                del self._waiting[key]
