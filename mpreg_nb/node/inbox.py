"""Which part of the node each message of the data lane is for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mpreg_nb.node.json_calls import JsonCalls
from mpreg_nb.node.traffic import traffic_of
from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.drills import Partition
from mpreg_nb.wire.history import (
    HeldAsk,
    HeldTold,
    Printed,
    RunResume,
    RunTold,
    RunWatch,
    WhyAsk,
    WhyTold,
)
from mpreg_nb.wire.messages import (
    Call,
    Cancel,
    CodePull,
    CodePush,
    Failed,
    Failure,
    Fetch,
    Leave,
    Output,
    Recall,
    Register,
    Relay,
    Release,
    Reply,
    SpaceClose,
    SpaceOpen,
    Started,
    Waiting,
)
from mpreg_nb.wire.pictures import TrafficAsk, Watch
from mpreg_nb.wire.runs import RunList, Runs, RunStart, RunState, StepFetch
from mpreg_nb.wire.versions import Versions, VersionsAsk, installed

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node

Parts = tuple[Buffer, ...]
Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Inbox:
    """Sorts what comes over links of clients and of nodes."""

    def __init__(self, node: "Node", spawn: Spawn) -> None:
        self._node = node
        self._spawn = spawn
        self._receive_call = node.calls.receive
        self._json = JsonCalls(node)

    def from_client(self, link: Connection, message: Any, parts: Parts) -> None:
        """Take in what a client sent."""
        if type(message) is Call:
            self._receive_call(link, message, parts)
            return
        node = self._node
        match message:
            case Cancel():
                if not node.runs.cancel(message.id):
                    node.calls.cancel(message.id)
                node.pictures.cancel(link, message.id)
            case Recall():
                node.calls.recalls.give_back(link, message)
            case Register():
                self._spawn(self._register(link, message, parts))
            case Watch():
                node.pictures.watch(link, message)
            case TrafficAsk():
                link.send(traffic_of(message.id, node.name, node.links.all()))
            case Partition() if link.peer.role == "client":
                node.links.wall.bar(message.nodes, message.for_ms / 1e3)
                link.send(Reply(id=message.id, payload=b"", node=node.name))
            case VersionsAsk():
                self._spawn(self._versions(link, message))
            case RunStart():
                node.runs.start(link, message, parts)
            case StepFetch():
                self._spawn(node.runs.fetch(link, message))
            case RunWatch():
                node.runs.watch(link, message)
            case RunResume():
                self._spawn(node.runs.resume(link, message))
            case Relay() if link.peer.role == "client":
                node.runs.relays.pass_on(link, message)
            case HeldAsk():
                held = tuple(key for key in message.ids if node.store.get(key))
                link.send(HeldTold(id=message.id, ids=held))
            case WhyAsk():
                node.runs.why(link, message)
            case RunList():
                node.runs.list(link, message)
            case Fetch():
                self._fetch(link, message)
            case Release():
                for key in message.ids:
                    node.store.release(key)
            case SpaceOpen():
                self._spawn(self._open_space(link, message))
            case SpaceClose():
                node.spaces.close(message.id)
            case Leave():
                link.send(Reply(id=message.id, payload=b"", node=node.name))
                self._spawn(node.stop())
            case _:
                self._not_understood(link, message)

    async def _open_space(self, link: Connection, message: SpaceOpen) -> None:
        node = self._node
        if node.calls.admission.draining:
            failure = Failure(kind="draining", node=node.name)
            link.send(Failed(id=message.id, failure=failure))
        elif link.is_open:  # else nobody would ever close it
            await node.spaces.open(link, message.id)
            link.send(Reply(id=message.id, payload=b"", node=node.name))

    def from_node(self, link: Connection, message: Any, parts: Parts) -> None:
        """Take in what another node sent."""
        if type(message) is Call:
            self._receive_call(link, message, parts)
            return
        node = self._node
        match message:
            case Reply() | Failed():
                if not (
                    node.calls.peer_said(message, parts)
                    or node.asks.answered(message, parts)
                ):
                    node.runs.relays.answered(message, parts)
            case RunTold() | RunState() | Runs() | WhyTold() | Printed():
                node.runs.relays.answered(message, parts)
            case HeldTold():
                node.asks.answered(message, parts)
            case Output() | Started() | Waiting():
                node.calls.peer_said(message, parts)
            case CodePush():
                if not node.asks.answered(message, parts):
                    node.placement.receive(link.peer.name, message, parts)
            case CodePull():
                node.placement.receive(link.peer.name, message, parts)
            case _:
                self.from_client(link, message, parts)

    def refused(self, link: Connection, message: Any, size_bytes: int) -> None:
        """Answer a request whose payload is larger than this node takes."""
        if isinstance(message, Reply | Failed | CodePush):
            failure = self._too_large(size_bytes)
            answer = Failed(id=message.id, failure=failure)
            if not self._node.calls.peer_said(answer, ()):
                self._node.asks.answered(answer, ())
        elif hasattr(message, "id"):
            failure = self._too_large(size_bytes)
            link.send(Failed(id=message.id, failure=failure))

    def text(self, link: Connection, text: str) -> None:
        """Take in a message of a JSON client."""
        self._json.receive(link, text)

    def _too_large(self, size_bytes: int) -> Failure:
        return Failure(
            kind="too_large",
            node=self._node.name,
            size_bytes=size_bytes,
            limit_bytes=self._node.settings.limits.max_payload_bytes,
        )

    async def _versions(self, link: Connection, message: VersionsAsk) -> None:
        # Looking them up reads files.
        found = await asyncio.to_thread(installed)
        versions = tuple(found.items())
        link.send(Versions(id=message.id, node=self._node.name, versions=versions))

    async def _register(
        self, link: Connection, message: Register, parts: Parts
    ) -> None:
        link.send(await self._node.placement.register(message, parts))

    def _fetch(self, link: Connection, message: Fetch) -> None:
        node = self._node
        held = node.store.find(message.kept)
        if held is None:
            failure = Failure(kind="gone", node=node.name)
            link.send(Failed(id=message.id, failure=failure))
        else:
            link.send(Reply(id=message.id, payload=b"", node=node.name), held)

    def _not_understood(self, link: Connection, message: Any) -> None:
        call_id = getattr(message, "id", None)
        if call_id is not None and not isinstance(message, Reply | Failed):
            text = f"a client may not send {type(message).__name__}"
            failure = Failure(kind="bad_request", message=text)
            link.send(Failed(id=call_id, failure=failure))
