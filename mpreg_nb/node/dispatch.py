"""Links of a node and the messages on them: who may enter, which part gets what.

Parts of the node tell `Dispatcher` which messages they handle, and subscribe to the
events of `NodeLinks`; neither knows any of them.

`JoinGate`: a control link whose name belongs to a member that is thought alive waits
until its first message tells which process it is of: the known one, or another. Then
membership asks the holder of the name.

`PartitionFault` cuts links to some nodes without a word, for tests of failure: links
that exist, links that arrive, and dials get no answer. When its time is over the cut
links end, and membership finds the nodes again by its ordinary means.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import NotTrusted
from mpreg_nb.node.events import Event
from mpreg_nb.node.membership import Members
from mpreg_nb.node.monitor import link_statistics
from mpreg_nb.node.pending_call import broken
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Hello
from mpreg_nb.protocol.messages import (
    ANSWERS,
    REQUESTS,
    Call,
    Failed,
    Failure,
    Notice,
    Partition,
    Reply,
    TrafficRequest,
)
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.connection import (
    FINAL,
    Connection,
    FailureKind,
    Keepalive,
    Lane,
    LinkFault,
)
from mpreg_nb.transport.dial import CONNECT_TIMEOUT_S, DialFailed, dial
from mpreg_nb.transport.pool import ConnectionPool
from mpreg_nb.transport.token import Token

LOG = logging.getLogger("mpreg_nb.node")

Payload: TypeAlias = tuple[Buffer, ...]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


Handler: TypeAlias = Callable[
    [Connection, Any, Payload], Coroutine[Any, Any, None] | None
]
"""Takes a message of a link, with its parts. A coroutine that it returns is run."""

Taker: TypeAlias = Callable[[Connection | None, Any, Payload], bool]
"""Takes an answer with its link and parts; False if nobody here waits for it.

There is no link where it stands for one that cannot come.
"""


class Dispatcher:
    """Gives each message of the data lane to the part that handles its type.

    The parts register what they handle, before the first link is accepted.
    """

    def __init__(self, name: str, limits: Limits, spawn: Spawn) -> None:
        self._name = name
        self._limits = limits
        self._spawn = spawn
        self._call: Callable[[Connection, Any, Payload], object] = self.reject
        self._text: Callable[[Connection, str], None] = _hang_up
        self._clients: dict[type, Handler] = {}
        self._viewers: dict[type, Handler] = {}
        self._nodes: dict[type, Handler] = {}
        self._answers: dict[type, list[Taker]] = {}

    def handle_calls(
        self, handler: Callable[[Connection, Any, Payload], object]
    ) -> None:
        """Give calls to `handler`: apart from all else, since they are the hot path."""
        self._call = handler

    def handle_text(self, handler: Callable[[Connection, str], None]) -> None:
        """Give messages of JSON clients to `handler`."""
        self._text = handler

    def handle(
        self,
        handlers: Mapping[type, Handler],
        *,
        clients: bool = True,
        nodes: bool = True,
        viewers: bool = False,
    ) -> None:
        """Give messages of these types to their handlers.

        clients, nodes, viewers: who may send them; the messages of others are
            rejected. Viewers may look, and change nothing.
        """
        if viewers:
            self._viewers.update(handlers)
        if clients:
            self._clients.update(handlers)
        if nodes:
            self._nodes.update(handlers)

    def handle_answers(self, taker: Taker, *types: type) -> None:
        """Offer answers of these types to `taker`, after those that came before it."""
        for kind in types:
            self._answers.setdefault(kind, []).append(taker)

    def from_client(self, link: Connection, message: Any, parts: Payload) -> None:
        """Dispatch what a client sent."""
        if type(message) is Call:
            self._call(link, message, parts)
        else:
            self._dispatch(self._clients, link, message, parts)

    def from_viewer(self, link: Connection, message: Any, parts: Payload) -> None:
        """Dispatch what a client sent that has a read-only token."""
        self._dispatch(self._viewers, link, message, parts)

    def from_node(self, link: Connection, message: Any, parts: Payload) -> None:
        """Dispatch what another node sent."""
        kind = type(message)
        if kind is Call:
            self._call(link, message, parts)
        elif not self.answered(link, message, parts) and (
            kind in self._nodes or kind not in self._answers
        ):
            self._dispatch(self._nodes, link, message, parts)

    def answered(self, link: Connection | None, message: Any, parts: Payload) -> bool:
        """Give an answer to the part that waits for it; False if none does."""
        takers = self._answers.get(type(message), ())
        return any(taker(link, message, parts) for taker in takers)

    def refused(self, link: Connection, message: Any, size_bytes: int) -> None:
        """Answer a request whose payload is larger than this node takes."""
        kind = type(message)
        failure = Failure(
            kind="too_large",
            node=self._name,
            executed="yes" if kind in (Reply, Failed) else "no",
            size_bytes=size_bytes,
            limit_bytes=self._limits.max_payload_bytes,
        )
        if kind in ANSWERS and self.answered(
            link, Failed(id=message.id, failure=failure), ()
        ):
            return
        if kind in REQUESTS:
            link.send(Failed(id=message.id, failure=failure))
        elif kind not in ANSWERS:
            LOG.warning(
                "%s of %s was dropped: it has %d bytes",
                *(kind.__name__, link.peer.name, size_bytes),
            )

    def text(self, link: Connection, text: str) -> None:
        """Dispatch a message of a JSON client."""
        self._text(link, text)

    def _dispatch(
        self,
        handlers: Mapping[type, Handler],
        link: Connection,
        message: Any,
        parts: Payload,
    ) -> None:
        try:
            work = handlers.get(type(message), self.reject)(link, message, parts)
        except Exception as error:
            self._broken(link, message, error)
            raise  # to the handler of the loop
        if work is not None:
            task = self._spawn(work)
            task.add_done_callback(partial(self._handled, link, message))

    def _handled(
        self, link: Connection, message: Any, task: "asyncio.Task[None]"
    ) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broken(link, message, error)
            raise error  # to the handler of the loop

    def _broken(self, link: Connection, message: Any, error: BaseException) -> None:
        """Answer a request whose handler raised: its sender shall not wait for ever."""
        if type(message) in REQUESTS:
            link.send(Failed(id=message.id, failure=broken(error, self._name)))

    def reject(self, link: Connection, message: Any, parts: Payload) -> None:
        """Answer a request that its sender may not make."""
        call_id = getattr(message, "id", None)
        if call_id is not None and not isinstance(message, Reply | Failed):
            text = f"a client may not send {type(message).__name__}"
            failure = Failure(kind="bad_request", message=text)
            if link.peer.role == "viewer":
                failure = Failure(kind="unauthenticated", message=READ_ONLY)
            link.send(Failed(id=call_id, failure=failure))


READ_ONLY = (
    "this token is read-only: it shows frames and views, and runs and changes nothing. "
    "Use the token of the cluster, or one for clients: mpreg-nb token issue --client"
)


def _hang_up(link: Connection, text: str) -> None:
    link.close(1003, "this node does not speak JSON")


def without_link(taker: Callable[[Any, Payload], bool]) -> Taker:
    """Return the taker of answers that may come by any link."""
    return lambda link, message, parts: taker(message, parts)


def without_parts(
    handler: Callable[[Connection, Any], Coroutine[Any, Any, None] | None],
) -> Handler:
    """Return the handler of messages that have no parts."""
    return lambda link, message, parts: handler(link, message)


PEER_PULSE_S = 10 / 3
"""Silence of another node before a ping, and again before its data link is given up:
what it was asked to do is known to be lost within 10 s."""

MOST_SAID = 64
"""Messages of a process at the gate that are kept until it may enter."""

TAKEN = "the name is taken"
"""Told to a process whose name another one has; it cannot join."""


def refuse_name(link: Connection) -> None:
    """Send a second process of one name away, and tell the owner of this node."""
    LOG.warning(
        "a second node named %s, at %s, was refused: give it another --name",
        link.peer.name,
        link.peer.address,
    )
    link.close(1008, TAKEN)


class JoinGate:
    """The control links that wait for a decision."""

    def __init__(
        self,
        holder: Callable[[str], bytes | None],
        claim: Callable[[str, bytes], object],
        let_in: Callable[[Connection], object],
    ) -> None:
        """`holder` tells the epoch of the live process that has a name, if any."""
        self._holder = holder
        self._claim = claim
        self._let_in = let_in
        # A process may have two, where both ends dial each other.
        self._waiting: dict[Connection, tuple[tuple[str, bytes], list[Any]]] = {}

    def arrived(self, link: Connection) -> None:
        """Let a link in, or keep it at the door until it says which process it is."""
        if self._holder(link.peer.name) is None:
            self._let_in(link)
            return
        link.on_message = self._heard
        link.on_lost = self._gone

    def free(self, name: str, epoch: bytes) -> None:
        """Let the process in that may have `name`, with what it said meanwhile."""
        for link, said in self._take(name, epoch):
            self._let_in(link)
            for message in said:
                link.on_message(link, message, ())

    def taken(self, name: str, epoch: bytes) -> None:
        """Send the process away: another one has `name`."""
        for link, _ in self._take(name, epoch):
            refuse_name(link)

    def _take(self, name: str, epoch: bytes) -> list[tuple[Connection, list[Any]]]:
        """Return the links of a process, and what came by each; they wait no more."""
        of_it = [
            link for link, (who, _) in self._waiting.items() if who == (name, epoch)
        ]
        return [(link, self._waiting.pop(link)[1]) for link in of_it]

    def _heard(self, link: Connection, message: Any, parts: Parts) -> None:
        if link in self._waiting:
            _, said = self._waiting[link]
            said.append(message)
            if len(said) > MOST_SAID:
                link.close(1008, "too many messages before this node may join")
            return
        if not isinstance(message, Hello):
            link.close(1008, "a node must send Hello first")
            return
        name, epoch = link.peer.name, message.record.epoch
        self._waiting[link] = (name, epoch), [message]
        if self._holder(name) in (None, epoch):
            self.free(name, epoch)
        else:
            self._claim(name, epoch)

    def _gone(self, link: Connection, reason: str) -> None:
        self._waiting.pop(link, None)


class _Barred(msgspec.Struct):
    """One node that is cut off."""

    until_s: float  # on the clock of the event loop
    timer: asyncio.TimerHandle
    cuts: list[LinkFault] = []
    passable: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class PartitionFault:
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
        """Make a link unusable: its node is cut off."""
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


class NodeLinks:
    """The links of this node, sorted by who is at the other end and by their lane.

    What happens to them is published as events, to which other parts subscribe.
    """

    def __init__(
        self,
        settings: NodeSettings,
        token: Token,
        *,
        cluster: "ClusterId",
        dispatcher: Dispatcher,
        members: Members,
        spawn: Spawn,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._name = settings.name
        self._limits = settings.limits
        self._token = token
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._spawn = spawn
        self._ssl_context = ssl_context
        self._clients: set[Connection] = set()
        self._draining = False
        self._told: dict[str, str] = {}  # node -> why it could not be dialled
        self._pulses: dict[Connection, Keepalive] = {}
        self._gossip_sent_bytes = self._gossip_received_bytes = 0  # on ended links
        self.control_opened: Event[str] = Event()
        self.control_received: Event[Any, str] = Event()
        """Of a message, with the name of the node that sent it."""
        self.control_lost: Event[str, bool] = Event()
        """Of a node's name, with whether its link was closed in order."""
        self.dial_failed: Event[str, FailureKind] = Event()
        """Of a control link: the node's name, or the URL of a seed."""
        self.data_opened: Event[Connection] = Event()
        """Of a data link to a node, before what waited for it is sent."""
        self.data_lost: Event[Connection, str] = Event()
        """Of a data link to a node that is gone, with the reason."""
        self.sink_lost: Event[Connection] = Event()
        """Of a data link that is gone, for those who answer on it."""
        self.unsent: Event[str, Any, str] = Event()
        """Of a node, a message that cannot be sent to it, and the reason."""
        self.claimed: Event[str, bytes] = Event()
        """Of a name that a second process wants, with its epoch."""
        self.join_refused: Event[str, str] = Event()
        """Of the URL of a seed that will not take this node in, and why."""
        self.join_delayed: Event[str, str] = Event()
        """Of the URL of a seed that could not be reached, and why."""
        self.name_refused: Event[()] = Event()
        """Another live node has this node's name."""
        self.peers = ConnectionPool(
            token=token,
            role="node",
            name=settings.name,
            cluster_id=cluster.get,
            on_open=self._peer_open,
            on_lost=self._peer_lost,
            on_failed=self._dial_failed,
            on_unsent=self._unsent,
            before_dial=self._before_dial,
            ssl_context=ssl_context,
            limits=settings.limits,
        )
        self.join_gate = JoinGate(members.holder, self.claimed, self.peers.accept)
        self.partition_fault = PartitionFault(self.peers.links, members.urls_of)

    def all(self) -> Iterator[Connection]:
        """Yield every link, those of clients too."""
        yield from self.peers.links()
        yield from self._clients

    def gossip_bytes(self) -> tuple[int, int]:
        """Return the bytes sent and received on control links since the start."""
        sent, received = self._gossip_sent_bytes, self._gossip_received_bytes
        for link in self.peers.links():
            if link.peer.lane == "control":
                statistics = link.statistics()
                sent += statistics.bytes_out
                received += statistics.bytes_in
        return sent, received

    def drain(self) -> None:
        """Have clients enter by other nodes: this one leaves."""
        self._draining = True
        for link in self._clients:
            self._tell_draining(link)

    def _tell_draining(self, link: Connection) -> None:
        if link.peer.lane == "data":  # those that speak JSON have no word for it
            link.send(Notice(kind="draining"))

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages about links."""
        return {
            TrafficRequest: without_parts(self._tell_traffic),
            Notice: without_parts(self._noticed),
        }

    def client_handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages about links that only clients may send."""
        return {Partition: without_parts(self._partition)}

    def accepted(self, connection: Connection) -> None:
        """Take in a link that was opened to this node."""
        if connection.peer.role == "node":
            if connection.peer.name == self._name:
                refuse_name(connection)
            elif self.partition_fault.bars(connection.peer.name):
                self.partition_fault.cut(connection)
            elif connection.peer.lane == "control":
                self.join_gate.arrived(connection)
            else:
                self.peers.accept(connection)
            return
        self._clients.add(connection)
        if self._draining:
            self._tell_draining(connection)
        viewer = connection.peer.role == "viewer"
        dispatcher = self._dispatcher
        connection.on_message = (
            dispatcher.from_viewer if viewer else dispatcher.from_client
        )
        connection.on_refused = self._dispatcher.refused
        connection.on_text = self._dispatcher.text
        connection.on_lost = self._client_lost

    def give_up(self, node: str, reason: str) -> None:
        """End the data links to a node that is dead: it may hang, and say nothing."""
        for link in self.peers.links():
            if link.peer.name == node and link.peer.lane == "data":
                link.give_up(reason)

    def dial_seed(self, url: str) -> None:
        """Dial a URL whose node is not known by name."""
        self._spawn(self._join_through(url))

    def _noticed(self, link: Connection, notice: Notice) -> None:
        """End a link whose other end lost something of what was sent on it."""
        LOG.warning("%s says to node %s: %s", link.peer.name, self._name, notice.text)
        link.close(1008, f"a message was lost: {notice.text}")

    def _tell_traffic(self, link: Connection, message: TrafficRequest) -> None:
        link.send(link_statistics(message.id, self._name, self.all()))

    def _partition(self, link: Connection, message: Partition) -> None:
        self.partition_fault.bar(message.nodes, message.for_ms / 1e3)
        link.send(Reply(id=message.id, payload=b"", node=self._name))

    async def _before_dial(self, node: str) -> None:
        await self.partition_fault.pass_to(node)

    def _peer_open(self, connection: Connection) -> None:
        """Say where messages of a link between nodes go."""
        name = connection.peer.name
        self._told.pop(name, None)
        if self.partition_fault.bars(name):  # since it was dialled
            if connection.peer.dialled:
                raise timed_out(name)
            self.partition_fault.cut(connection)
        elif connection.peer.lane == "control":
            connection.on_message = self._control_message
            self.control_opened(name)
        else:
            connection.on_message = self._dispatcher.from_node
            connection.on_refused = self._dispatcher.refused
            pulse = connection.pulse(PEER_PULSE_S, connection.give_up)
            self._pulses[connection] = pulse
            pulse.start()
            self.data_opened(connection)

    def _control_message(
        self, connection: Connection, message: Any, parts: Parts
    ) -> None:
        self.control_received(message, connection.peer.name)

    def _client_lost(self, connection: Connection, reason: str) -> None:
        self._clients.discard(connection)
        self.sink_lost(connection)

    def _peer_lost(self, connection: Connection, reason: str) -> None:
        name = connection.peer.name
        if connection.peer.lane == "control":
            ended = connection.statistics()
            self._gossip_sent_bytes += ended.bytes_out
            self._gossip_received_bytes += ended.bytes_in
            if TAKEN in reason:
                self.name_refused()
            if self.peers.get(name, "control") is None:
                self.control_lost(name, reason.startswith("closed"))
            return
        if connection in self._pulses:
            self._pulses.pop(connection).stop()
        self.data_lost(connection, reason)
        self.sink_lost(connection)

    def _dial_failed(
        self, node: str, lane: Lane, kind: FailureKind, detail: str
    ) -> None:
        if kind in FINAL and self._told.get(node) != detail:
            self._told[node] = detail  # it is dialled again and again
            LOG.warning("node %s cannot connect to %s: %s", self._name, node, detail)
        if lane == "control":
            self.dial_failed(node, kind)

    def _unsent(
        self, node: str, lane: Lane, message: Any, parts: Parts, reason: str
    ) -> None:
        if lane == "data":
            self.unsent(node, message, reason)

    async def _join_through(self, url: str) -> None:
        try:
            await self.partition_fault.pass_to_url(url)
            connection = await dial(
                url,
                token=self._token,
                role="node",
                lane="control",
                name=self._name,
                cluster_id=self._cluster.required,
                on_open=self._seed_open,
                ssl_context=self._ssl_context,
                limits=self._limits,
            )
        except DialFailed as error:
            if error.kind in FINAL:
                self._refused_by(url, error)
            else:
                self.join_delayed(url, error.detail)
            self.dial_failed(url, error.kind)
        except NotTrusted as error:
            self._refused_by(url, error)
            self.dial_failed(url, "not_trusted")
        else:
            self._cluster.join(connection.peer.cluster_id)

    def _refused_by(self, url: str, error: Exception) -> None:
        LOG.warning("node %s cannot join: %s", self._name, error)
        self.join_refused(url, str(error))

    def _seed_open(self, connection: Connection) -> None:
        if not self._cluster.required:
            self._cluster.join(connection.peer.cluster_id)
        self.peers.accept(connection)


class ClusterId:
    """The id of the cluster that this node belongs to."""

    def __init__(self, required: str, first: str = "") -> None:
        """Begin with an id of its own, until this node has joined others.

        required: the only cluster that this node may join, "" for any.
        first: that id of its own, "" for a random one.
        """
        self.required = required
        self._id = required or first or os.urandom(16).hex()

    def get(self) -> str:
        """Return the id, in hex digits."""
        return self._id

    def join(self, cluster_id: str) -> None:
        """Belong to the cluster of this id from now on."""
        self._id = cluster_id
