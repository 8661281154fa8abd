"""Both ends of a link in one process, each with a record of its events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Cancel
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection, Lane, Timeouts
from mpreg_nb.transport.dial import dial
from mpreg_nb.transport.listener import Listener, listen
from mpreg_nb.transport.token import Role, Token

TOKEN = Token("a-token-for-tests-0123456789abcdef")
OTHER_TOKEN = Token("another-token-0123456789abcdefghij")
CLUSTER = "c1" * 16
NODE = "n1"
ME = "me"


def numbered(number: int) -> Cancel:
    """Return a small message that `number` identifies."""
    return Cancel(id=number.to_bytes(16, "big"))


@dataclass(eq=False)
class Ear:
    """Records all events of a link; `message`, `lost` and `heard` wait for one."""

    connection: Connection | None = None
    messages: list[tuple[Any, tuple[Buffer, ...]]] = field(default_factory=list)
    refusals: list[tuple[Any, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def listen_to(self, connection: Connection) -> None:
        """Set every callback of `connection`."""
        self.connection = connection
        connection.on_message = lambda _, message, parts: self._hear(
            self.messages, (message, parts)
        )
        connection.on_refused = lambda _, message, size: self._hear(
            self.refusals, (message, size)
        )
        connection.on_text = lambda _, text: self._hear(self.texts, text)
        connection.on_lost = lambda _, reason: self._hear(self.losses, reason)

    async def heard(self, what: list[Any], count: int = 1) -> list[Any]:
        """Wait until `what`, a list of this record, has `count` items; return it."""
        while len(what) < count:
            self._changed.clear()
            await self._changed.wait()
        return what

    async def message(self, number: int = 1) -> tuple[Any, tuple[Buffer, ...]]:
        """Wait for the `number`th message, and return it with its parts."""
        await self.heard(self.messages, number)
        return self.messages[number - 1]

    async def lost(self) -> str:
        """Wait for the end of the link, and return the reason."""
        [reason] = await self.heard(self.losses)
        assert isinstance(reason, str)
        return reason

    def _hear(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self._changed.set()


@dataclass
class House:
    """A listener, and the events of each link that it accepted."""

    listener: Listener
    ears: list[Ear]
    accepted: asyncio.Event

    async def ear(self, number: int = 1) -> Ear:
        """Wait for the `number`th accepted link, and return its record of events."""
        while len(self.ears) < number:
            self.accepted.clear()
            await self.accepted.wait()
        return self.ears[number - 1]


@asynccontextmanager
async def house(**options: Any) -> AsyncIterator[House]:
    """Listen until the end of the block; options are those of `listen`."""
    ears: list[Ear] = []
    accepted = asyncio.Event()

    def welcome(connection: Connection) -> None:
        ear = Ear()
        ear.listen_to(connection)
        ears.append(ear)
        accepted.set()

    settings: dict[str, Any] = {
        "token": TOKEN,
        "node_name": NODE,
        "cluster_id": lambda: CLUSTER,
        "on_connection": welcome,
    }
    listener = await listen(**(settings | options))
    try:
        yield House(listener, ears, accepted)
    finally:
        await listener.close()


async def open_link(
    url: str,
    ear: Ear | None = None,
    *,
    token: Token = TOKEN,
    role: Role = "node",
    lane: Lane = "data",
    name: str = ME,
    **options: Any,
) -> Connection:
    """Dial `url`; `ear` records the events of the link."""
    return await dial(
        url,
        token=token,
        role=role,
        lane=lane,
        name=name,
        on_open=(ear or Ear()).listen_to,
        **options,
    )


def send_element(link: Connection, element: bytes) -> None:
    """Send encoded bytes that need not be a message, as a peer with the token may."""
    link.send(cast(Any, msgspec.Raw(element)))


@dataclass
class Pair:
    """Both ends of one link."""

    dialled: Connection
    dialled_ear: Ear
    accepted: Connection
    accepted_ear: Ear
    listener: Listener


@asynccontextmanager
async def linked(
    *,
    lane: Lane = "data",
    limits: Limits | None = None,
    dialled_limits: Limits | None = None,
    patience: Timeouts | None = None,
    dialled_patience: Timeouts | None = None,
    local: bool = False,
) -> AsyncIterator[Pair]:
    """Open a link for the block; `dialled_` options are for the dialling side alone."""
    async with house(limits=limits, patience=patience, local=local) as home:
        ear = Ear()
        dialled = await open_link(
            home.listener.url,
            ear,
            lane=lane,
            limits=dialled_limits or limits,
            patience=dialled_patience or patience,
        )
        accepted_ear = await home.ear()
        accepted = accepted_ear.connection
        assert accepted is not None
        yield Pair(dialled, ear, accepted, accepted_ear, home.listener)
        accepted.give_up("the block has ended")  # which may have kept it from reading
        dialled.close()
        await dialled.wait_closed()
