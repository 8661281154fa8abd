"""One call of this client, and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mpreg_nb.client.output import Prints, Writer
from mpreg_nb.routing.router import Wanted
from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.messages import Failed, Reply

Outcome: TypeAlias = Reply | Failed


@dataclass(slots=True, eq=False)
class ActiveCall:
    """One call of this client, until its outcome."""

    id: bytes
    function: str
    payload: bytes
    parts: tuple[Buffer, ...]
    done: Callable[["ActiveCall", Outcome, tuple[Buffer, ...]], None]
    writer: Writer
    version: str | None = None
    resources: frozenset[str] = frozenset()
    node: str | None = None
    holder: str | None = None
    timeout_s: float | None = None
    wait_s: float = 0.0
    idempotent: bool = False
    json: bool = False
    folder: bytes = b""  # that the caller works in
    space: bytes = b""
    prints: Prints | None = None  # from its first print on
    at: str = ""  # the node that runs it, where that is known
    began: float = 0.0  # on the monotonic clock
    attempts: int = 0
    crashes: int = 0
    link: Connection | None = None
    to: str = ""  # the node it was sent to directly, "" through the entry
    sent: float = 0.0
    started: float = 0.0  # when a node said that it left the queue
    waiting: bool = False
    cancelled: bool = False
    withdrawn: bool = False  # it is to end unless it runs
    pack_us: int = 0
    avoid: tuple[str, ...] = ()
    shipment: object = None  # of its function: held until it has ended

    @property
    def wanted(self) -> Wanted:
        """What it asks of a node."""
        return Wanted(self.function, self.version, self.resources, self.node)

    def let_go(self) -> None:
        """Hold neither the arguments nor who waited, now that it has ended."""
        self.payload, self.parts, self.done = b"", (), _ended

    @property
    def is_running(self) -> bool:
        """Whether a node runs it: nobody says that it waits in a queue."""
        return self.link is not None and not self.waiting


def _ended(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
    """Stand for who waited for a call that has its one outcome."""
    raise AssertionError(f"the call {call.id.hex()} has ended already")
