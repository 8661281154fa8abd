"""Links of a node and the messages on them: who may enter, which part gets what.

A control link whose name belongs to a member that is thought alive waits at the
door until the first message tells which process it is of: the one that is known,
or another. Then membership asks the holder of the name.

A partition cuts links to other nodes without a word (`transport.connection`) and new
links as they come; dials get no answer. When its time is over the cut links end,
dials go on, and membership finds the others again by its ordinary means.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpreg_nb.errors import NotTrusted
from mpreg_nb.node.json_rpc import JsonCalls
from mpreg_nb.node.monitor import traffic_of
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Hello
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    CodePull,
    CodePush,
    Failed,
    Failure,
    Fetch,
    HeldAsk,
    HeldTold,
    Leave,
    Output,
    Partition,
    Printed,
    Recall,
    Register,
    Relay,
    Release,
    Reply,
    RunList,
    RunResume,
    Runs,
    RunStart,
    RunState,
    RunTold,
    RunWatch,
    SpaceClose,
    SpaceOpen,
    Started,
    StepFetch,
    TrafficAsk,
    Versions,
    VersionsAsk,
    Waiting,
    Watch,
    WhyAsk,
    WhyTold,
    installed,
)
from mpreg_nb.transport.connection import Connection, Cut, FailureKind, Lane
from mpreg_nb.transport.dial import CONNECT_TIMEOUT_S, DialFailed, dial
from mpreg_nb.transport.token import Token

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node


Payload = tuple[Buffer, ...]
Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Inbox:
    """Sorts what comes over links of clients and of nodes."""

    def __init__(self, node: "Node", spawn: Spawn) -> None:
        self._node = node
        self._spawn = spawn
        self._receive_call = node.calls.receive
        self._json = JsonCalls(node)

    def from_client(self, link: Connection, message: Any, parts: Payload) -> None:
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

    def from_node(self, link: Connection, message: Any, parts: Payload) -> None:
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
        self, link: Connection, message: Register, parts: Payload
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


@dataclass(slots=True)
class _Barred:
    """One node behind the wall."""

    until_s: float  # on the clock of the event loop
    timer: asyncio.TimerHandle
    cuts: list[Cut] = field(default_factory=list)
    passable: asyncio.Event = field(default_factory=asyncio.Event)


class Wall:
    """Who is cut off from this node now, and for how long."""

    def __init__(
        self,
        links: Callable[[], Iterable[Connection]],
        urls_of: Callable[[str], tuple[str, ...]],
    ) -> None:
        """`links` tells the links to other nodes, `urls_of` where a node listens."""
        self._links = links
        self._urls_of = urls_of
        self._barred: dict[str, _Barred] = {}

    def bar(self, nodes: Iterable[str], for_s: float) -> None:
        """Cut `nodes` off for `for_s` from now; one that is cut off longer stays so."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        for node in nodes:
            barred = self._barred.get(node)
            if barred is None:
                timer = loop.call_at(until_s, self._end, node)
                self._barred[node] = _Barred(until_s, timer)
                for link in self._links():
                    if link.peer.name == node:
                        self.cut(link)
            elif barred.until_s < until_s:
                barred.timer.cancel()
                barred.until_s = until_s
                barred.timer = loop.call_at(until_s, self._end, node)

    def bars(self, node: str) -> bool:
        """Whether `node` is cut off now."""
        return node in self._barred

    def cut(self, link: Connection) -> None:
        """Cut a link to a node that is cut off."""
        self._barred[link.peer.name].cuts.append(link.cut())

    async def pass_to(self, node: str) -> None:
        """Return at once for most nodes; for one that is cut off, when it is not.

        Raises:
            DialFailed: not within the time that a dial has.
        """
        if self._barred:
            await self._pass(self._barred.get(node), node)

    async def pass_to_url(self, url: str) -> None:
        """Do what `pass_to` does, for the node that listens at `url`."""
        for node, barred in list(self._barred.items()):
            if url in self._urls_of(node):
                await self._pass(barred, url)

    def stop(self) -> None:
        """Let all through."""
        for node in list(self._barred):
            self._end(node)

    async def _pass(self, barred: _Barred | None, to: str) -> None:
        if barred is None:
            return
        try:
            await asyncio.wait_for(barred.passable.wait(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise timed_out(to) from None

    def _end(self, node: str) -> None:
        barred = self._barred.pop(node)
        barred.timer.cancel()
        barred.passable.set()
        for cut in barred.cuts:
            cut.mend()


def timed_out(to: str) -> DialFailed:
    """Return what a dial of a node that is cut off ends in."""
    return DialFailed("timed_out", to, f"no answer within {CONNECT_TIMEOUT_S:g} s")


LOG = logging.getLogger("mpreg_nb.node")


class NodeLinks:
    """Sorts links by who is at the other end, and messages by their lane."""

    def __init__(self, node: "Node", token: Token) -> None:
        self._node = node
        self._token = token
        self._clients: set[Connection] = set()

    def all(self) -> Iterator[Connection]:
        """Yield every link, those of clients too."""
        yield from self._node.peers.links()
        yield from self._clients

    def open_inbox(self) -> None:
        """Begin to take in messages; all parts of the node are there."""
        members = self._node.members
        self.doorman = Doorman(
            members.holder, members.claim, lambda link: self._node.peers.accept(link)
        )
        self.wall = Wall(self._node.peers.links, members.urls_of)
        self._inbox = Inbox(self._node, self._node.spawn)

    def accepted(self, connection: Connection) -> None:
        """Take in a link that was opened to this node."""
        if connection.peer.role == "node":
            if connection.peer.name == self._node.name:
                connection.close(1008, TAKEN)
            elif self.wall.bars(connection.peer.name):
                self.wall.cut(connection)
            elif connection.peer.lane == "control":
                self.doorman.arrived(connection)
            else:
                self._node.peers.accept(connection)
            return
        self._clients.add(connection)
        connection.on_message = self._inbox.from_client
        connection.on_refused = self._inbox.refused
        connection.on_text = self._inbox.text
        connection.on_lost = self._client_lost

    def peer_open(self, connection: Connection) -> None:
        """Say where messages of a link between nodes go."""
        name = connection.peer.name
        if self.wall.bars(name):  # since it was dialled
            if connection.peer.dialled:
                raise timed_out(name)
            self.wall.cut(connection)
        elif connection.peer.lane == "control":
            connection.on_message = self._control_message
            self._node.gossiping.link_up(name)
        else:
            connection.on_message = self._inbox.from_node
            connection.on_refused = self._inbox.refused

    def _control_message(
        self, connection: Connection, message: Any, parts: Parts
    ) -> None:
        self._node.gossiping.receive(message, connection.peer.name)

    def _client_lost(self, connection: Connection, reason: str) -> None:
        self._clients.discard(connection)
        self._source_lost(connection)

    def _source_lost(self, connection: Connection) -> None:
        self._node.calls.source_lost(connection)
        self._node.runs.source_lost(connection)
        self._node.pictures.source_lost(connection)
        self._node.spaces.source_lost(connection)

    def peer_lost(self, connection: Connection, reason: str) -> None:
        """Tell all who waited for something over a link that is gone."""
        name = connection.peer.name
        if connection.peer.lane == "control":
            if TAKEN in reason:
                self._node.refused = f"another live node is named {self._node.name!r}"
                self._node.members.joined.set()
            if self._node.peers.get(name, "control") is None:
                in_order = reason.startswith("closed")
                self._node.gossiping.link_lost(name, in_order=in_order)
            return
        self.node_gone(name, reason)
        self._source_lost(connection)

    def node_gone(self, name: str, reason: str) -> None:
        """End or move what another node was asked to do."""
        self._node.calls.peer_lost(name, reason)
        self._node.asks.lost(name, reason)
        self._node.runs.relays.node_gone(name, reason)

    def dial_failed(
        self, node: str, lane: Lane, kind: FailureKind, detail: str
    ) -> None:
        """Tell membership of a dial that led to nothing."""
        if lane == "control":
            self._node.gossiping.dial_failed(node, kind)

    def unsent(
        self, node: str, lane: Lane, message: Any, parts: Parts, reason: str
    ) -> None:
        """Find another way for a message that could not be sent."""
        if lane != "data":
            return
        if isinstance(message, Call):
            self._node.calls.unsent(message.id, node, reason)
        elif hasattr(message, "id"):
            failure = Failure(kind="node_lost", message=reason, node=node)
            failed = Failed(id=message.id, failure=failure)
            if not self._node.asks.answered(failed, ()):
                self._node.runs.relays.answered(failed, ())

    def dial_seed(self, url: str) -> None:
        """Dial a URL whose node is not known by name."""
        self._node.spawn(self._join_through(url))

    async def _join_through(self, url: str) -> None:
        try:
            await self.wall.pass_to_url(url)
            connection = await dial(
                url,
                token=self._token,
                role="node",
                lane="control",
                name=self._node.name,
                cluster_id=self._node.settings.cluster_id,
                on_open=self._seed_open,
                ssl_context=self._node.tls.dial if self._node.tls else None,
                limits=self._node.settings.limits,
            )
        except DialFailed as error:
            if error.kind in ("wrong_cluster", "wrong_node"):
                LOG.warning("node %s cannot join: %s", self._node.name, error)
            self._node.gossiping.dial_failed(url, error.kind)
        except NotTrusted as error:
            LOG.warning("node %s cannot join: %s", self._node.name, error)
            self._node.gossiping.dial_failed(url, "not_trusted")
        else:
            self._node.cluster_id = connection.peer.cluster_id

    def _seed_open(self, connection: Connection) -> None:
        if not self._node.settings.cluster_id:
            self._node.cluster_id = connection.peer.cluster_id
        self._node.peers.accept(connection)
