"""The links of a node: who comes in, where messages go, what a loss means."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpreg_nb.errors import NotTrusted
from mpreg_nb.node.doorman import TAKEN, Doorman
from mpreg_nb.node.inbox import Inbox
from mpreg_nb.node.wall import Wall, timed_out
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.dial import DialFailed, dial
from mpreg_nb.transport.facts import FailureKind, Lane
from mpreg_nb.transport.token import Token
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.messages import Call, Failed, Failure

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node


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
