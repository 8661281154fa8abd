"""The client's connections: its entry node, and direct ones to other nodes.

When the entry is lost, another link takes its place. Without any link, every known URL
is dialled again until a node answers, however long that takes; what waits for a link
waits `RECONNECT_S` at most. Nodes that were all started again may have another cluster
id: then the token, which they prove, and their names say that they are the same.

`Requests` asks the entry. When that is lost or silent, its questions are asked again of
the next one: none of them does harm when it is asked twice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mpreg_nb.errors import NodeLost, NotTrusted
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import (
    Failed,
    Ids,
    Relay,
    Relayed,
    RunResume,
    SpaceOpen,
)
from mpreg_nb.serialize.exceptions import error_of
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import (
    CARRIERS,
    FINAL,
    Carrier,
    Connection,
    Keepalive,
)
from mpreg_nb.transport.dial import DialFailed, dial, shown
from mpreg_nb.transport.tls import dialling
from mpreg_nb.transport.token import Token

RECONNECT_S = 10.0
"""How long calls and questions wait for a link while there is none."""

REDIAL_S = 0.1
"""Between two rounds over all known URLs."""

SELDOM_S = 1.0
"""The same once nobody has answered for `RECONNECT_S`."""

BUSY_PULSE_S = 10 / 3
"""Silence before a ping on a link that somebody waits for, and again before it is given
up. So a link whose other end is gone without a goodbye is found within 10 s."""

DIALLED_AT_ONCE = 3
"""URLs that are dialled at the same time while there is no link."""

AGAIN_S = 5.0
"""Before a node that could not be reached directly is tried again."""

ENDED_AT_ONCE = "it closed the connection at once"
"""Of a link that ended before anybody used it: nothing would tell of its end again."""


class Connections:
    """Open links by node name."""

    def __init__(
        self,
        token: Token,
        *,
        name: str,
        limits: Limits,
        ca: str = "",
        on_open: Callable[[Connection], None],
        on_lost: Callable[[Connection, str], None],
        on_entry: Callable[[Connection, bool], None],
        on_cut_off: Callable[[str], None],
        known_urls: Callable[[], Sequence[str]],
        standing: Callable[[str], int | None],
        is_busy: Callable[[Connection], bool],
    ) -> None:
        """Hold no link yet.

        ca: what certificates of nodes are checked with; see `transport.tls.load_ca`.
        on_entry: hears of each new entry, and whether there was no link before.
        on_cut_off: hears why there is no link, each time that one was looked for in
            vain for `RECONNECT_S`.
        standing: tells how doubtful a node is, 0 for one that is alive; None: it was
            never heard of.
        is_busy: tells whether anybody waits for what comes on a link.
        """
        self.token = token
        self._name = name
        self._limits = limits
        self._ssl_context = dialling(ca) if ca else None
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_entry = on_entry
        self._on_cut_off = on_cut_off
        self._known_urls = known_urls
        self._standing = standing
        self._is_busy = is_busy
        self._pulses: dict[Connection, Keepalive] = {}
        self._links: dict[str, Connection] = {}
        self._dials: dict[str, asyncio.Task[None]] = {}
        self._unreachable: dict[str, float] = {}  # node -> when to try again
        self._reconnect: asyncio.Task[None] | None = None
        self._is_cut_off = False
        self.cluster_id = ""
        """Of the cluster that the links lead to; "" before the first."""
        self._closed = False
        self._entry_there = asyncio.Event()
        self.entry: Connection | None = None

    async def open(self, urls: Sequence[str], timeout_s: float = RECONNECT_S) -> None:
        """Open the first link, trying `urls` until `timeout_s` have passed.

        Raises:
            NotTrusted: a node was found that does not share the token.
            NodeLost: there is no node at any of `urls`.
        """
        until = time.monotonic() + timeout_s
        reason = ""
        while True:
            may_pass = False
            for url in urls:
                try:
                    link = await self._dial(url)
                except DialFailed as error:
                    may_pass = may_pass or error.kind not in FINAL
                    reason = error.detail
                    continue
                if link.is_open:
                    self._make_entry(link, after_none=False)
                    return
                may_pass, reason = True, ENDED_AT_ONCE
            if time.monotonic() >= until or not may_pass:
                raise NodeLost(
                    "", reason, executed="no", at=", ".join(map(shown, urls))
                )
            await asyncio.sleep(REDIAL_S)  # between rounds; nothing tells of a start

    def direct(self, node: str, urls: Sequence[str]) -> Connection | None:
        """Return the link to `node`; without one, begin to dial it and return None."""
        link = self._links.get(node)
        if link is not None or self._closed or node in self._dials or not urls:
            return link
        if time.monotonic() >= self._unreachable.get(node, 0.0):
            task = asyncio.ensure_future(self._reach(node, tuple(urls)))
            self._dials[node] = task
        return None

    async def reach(self, node: str, urls: Sequence[str]) -> Connection | None:
        """Return the link to `node`, dialling it first; None: there is no way."""
        link = self.direct(node, urls)
        dialling = self._dials.get(node)
        if link is None and dialling is not None:
            await asyncio.wait([dialling])
        return self._links.get(node)

    def get(self, node: str) -> Connection | None:
        """Return the link to `node`, if there is one."""
        return self._links.get(node)

    def is_back(self, node: str) -> None:
        """Let `node` be dialled again at once: it is known to run."""
        self._unreachable.pop(node, None)

    def enter(self, link: Connection) -> None:
        """Make `link` the entry; the one before it stays open."""
        if link.is_open:
            self._make_entry(link, after_none=False)

    async def any_entry(self) -> Connection:
        """Return the link of the entry, waiting a while if it is looked for.

        Raises:
            NodeLost: there is none in time.
        """
        try:
            await asyncio.wait_for(self._entry_there.wait(), RECONNECT_S)
        except TimeoutError:
            pass
        if self.entry is None:
            raise NodeLost("", "there is no connection to any node", executed="no")
        return self.entry

    @property
    def open_links(self) -> tuple[str, ...]:
        """Names of the nodes that there is a link to."""
        return tuple(self._links)

    def carried(self) -> str:
        """Return in words what carries the links, by kind: `by TLS to n1, n2`."""
        nodes: dict[Carrier, list[str]] = {}
        for name, link in sorted(self._links.items()):
            nodes.setdefault(link.peer.carrier, []).append(name)
        return "; ".join(
            f"by {CARRIERS[carrier]} to {', '.join(each)}"
            for carrier, each in nodes.items()
        )

    @property
    def name(self) -> str:
        """What this client calls itself to the nodes."""
        return self._name

    @property
    def lost(self) -> bool:
        """Whether there is no link, and none was found for a while."""
        return self.entry is None and self._is_cut_off

    async def close(self) -> None:
        """Close all links."""
        self._closed = True
        for pulse in self._pulses.values():
            pulse.stop()
        for task in (*self._dials.values(), self._reconnect):
            if task is not None:
                task.cancel()
        links = list(self._links.values())
        for link in links:
            link.close(1001, "the client is closed")
        for link in links:
            await link.wait_closed()

    async def _dial(
        self, url: str, node: str = "", *, any_cluster: bool = False
    ) -> Connection:
        return await dial(
            url,
            token=self.token,
            role=self.token.caller_role,
            lane="data",
            name=self._name,
            cluster_id="" if any_cluster else self.cluster_id,
            node_name=node,
            on_open=self._opened,
            ssl_context=self._ssl_context,
            limits=self._limits,
        )

    async def _reach(self, node: str, urls: tuple[str, ...]) -> None:
        try:
            for url in urls:
                try:
                    await self._dial(url, node)
                except (DialFailed, NotTrusted):
                    continue  # the entry serves as well; looked at again later
                else:
                    self._unreachable.pop(node, None)
                    return
            self._unreachable[node] = time.monotonic() + AGAIN_S
        finally:
            self._dials.pop(node, None)

    def _opened(self, link: Connection) -> None:
        node = link.peer.name
        if self._closed:  # while it was dialled: nobody would close it any more
            raise DialFailed("refused", link.peer.address, "the client is closed")
        if self.cluster_id not in ("", link.peer.cluster_id):
            self._check_reborn(link)
        self.cluster_id = link.peer.cluster_id
        link.on_lost = self._lost
        self._on_open(link)
        self._feel(link)
        old = self._links.get(node)
        self._links[node] = link
        if old is not None:
            old.close(1000, "replaced")

    def _feel(self, link: Connection) -> None:
        def silent(reason: str) -> None:
            if self._is_busy(link):
                link.give_up(reason)
            else:
                self._feel(link)

        self._pulses[link] = link.pulse(BUSY_PULSE_S, silent)
        self._pulses[link].start()

    def _check_reborn(self, link: Connection) -> None:
        """Raise unless the node is one of ours that was started in a new cluster."""
        node = link.peer.name
        if self._links or self._standing(node) is None:
            detail = f"node {node} of another cluster answers there"
            raise DialFailed("wrong_cluster", link.peer.address, detail)

    def _lost(self, link: Connection, reason: str) -> None:
        node = link.peer.name
        self._pulses.pop(link).stop()
        if self._links.get(node) is link:
            del self._links[node]
        # First another entry, then the loss: what is sent again needs a link.
        was_entry = link is self.entry
        if was_entry:
            self.entry = None
            self._entry_there.clear()
            if self._links and not self._closed:
                best = min(self._links, key=lambda name: self._standing(name) or 0)
                self._make_entry(self._links[best], after_none=False)
        self._on_lost(link, reason)
        if was_entry and self._reconnect is None:
            self.look_again()

    def look_again(self) -> None:
        """Dial all URLs that are known by now, if there is no entry."""
        if self.entry is not None or self._closed:
            return
        if self._reconnect is not None:
            self._reconnect.cancel()
        self._is_cut_off = False
        self._reconnect = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        """Dial what is known until a node answers."""
        since = time.monotonic()
        try:
            while not self._closed:
                found, reason = await self._first_of(self._known_urls())
                if found is not None:
                    self._make_entry(found, after_none=True)
                    return
                if time.monotonic() - since >= RECONNECT_S:
                    since = time.monotonic()
                    self._is_cut_off = True
                    self._on_cut_off(reason)
                # Nothing tells of the start of a node.
                await asyncio.sleep(SELDOM_S if self._is_cut_off else REDIAL_S)
        finally:
            if self._reconnect is asyncio.current_task():
                self._reconnect = None

    async def _first_of(self, urls: Sequence[str]) -> tuple[Connection | None, str]:
        """Return the first link to any of `urls`, or why there is none."""
        waiting = list(urls)
        dials: set[asyncio.Task[Connection | str]] = set()
        reason = "no node is known"
        try:
            while waiting or dials:
                while waiting and len(dials) < DIALLED_AT_ONCE:
                    dials.add(asyncio.ensure_future(self._try(waiting.pop(0))))
                done, dials = await asyncio.wait(
                    dials, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    found = task.result()
                    if isinstance(found, str):
                        reason = found
                    elif found.is_open:
                        return found, ""
                    else:
                        reason = ENDED_AT_ONCE
            return None, reason
        finally:
            for task in dials:
                task.cancel()

    async def _try(self, url: str) -> Connection | str:
        """Return the link to one of our nodes at `url`, or why there is none."""
        try:
            return await self._dial(url, any_cluster=True)
        except DialFailed as error:
            return error.detail
        except NotTrusted as error:
            return str(error)

    def _make_entry(self, link: Connection, *, after_none: bool) -> None:
        self.entry = link
        self._is_cut_off = False
        self._entry_there.set()
        self._on_entry(link, after_none)


_ONCE = (RunResume, SpaceOpen)
"""Requests that begin something, which shall not begin twice."""


class _Question(msgspec.Struct, eq=False):
    """A request that waits for its answer."""

    link: Connection | None  # that it was sent on; None: it waits for one
    answer: asyncio.Future[Any]
    send: Callable[[Connection], None] | None  # to another entry; None: only this one


class Requests:
    """Requests of this client to nodes, each with one answer."""

    def __init__(
        self, links: Connections, urls_of: Callable[[str], Sequence[str]] | None = None
    ) -> None:
        """urls_of: where a node can be dialled; None: only the entry is dialled."""
        self._links = links
        self._urls_of = urls_of
        self._ids = Ids()
        self._open: dict[bytes, _Question] = {}

    def new_id(self) -> bytes:
        """Return an id for a request."""
        return self._ids.next()

    async def ask(
        self,
        message: Any,
        parts: Parts = (),
        link: Connection | None = None,
        *,
        function: str = "",
        whole: bool = False,
    ) -> tuple[Any, tuple[Buffer, ...]]:
        """Send a request with an `id` and return its answer, with the parts.

        link: where to send it; None: to the entry, and to the next one if that is
            lost or silent.
        function: what an error of the node is about.
        whole: return an error too, for who rebuilds it.

        Raises:
            NodeLost: the link was lost before the answer came.
            MpregError: the error that the node answered with.
        """
        return await self._ask(
            message.id,
            lambda link: message,
            parts,
            link,
            name=function or getattr(message, "function", type(message).__name__),
            whole=whole,
        )

    async def _ask(
        self,
        request_id: bytes,
        message_for: Callable[[Connection], Any],
        parts: Parts,
        link: Connection | None,
        *,
        name: str,
        whole: bool,
    ) -> tuple[Any, tuple[Buffer, ...]]:
        def send(link: Connection) -> None:
            link.send(message_for(link), parts)

        if link is not None and not link.is_open:  # nothing tells of its end again
            raise NodeLost(link.peer.name, "the connection was lost", executed="no")
        there = link or await self._links.any_entry()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        again = send if link is None else None
        self._open[request_id] = _Question(there, future, again)
        send(there)
        try:
            answer, answer_parts = await future
        finally:
            self._open.pop(request_id, None)
        if isinstance(answer, Failed) and not whole:
            raise error_of(answer, answer_parts, function=name)
        return answer, answer_parts

    async def link_to(self, node: str) -> Connection:
        """Return the link for messages to `node`, dialling it where that is allowed.

        Raises:
            NodeLost: not even the entry can be reached.
        """
        urls = self._urls_of(node) if self._urls_of is not None else ()
        link = await self._links.reach(node, urls)
        return link or await self._links.any_entry()

    async def ask_node(
        self,
        node: str,
        message: Relayed,
        *,
        link: Connection | None = None,
        function: str = "run",
        whole: bool = False,
    ) -> tuple[Any, tuple[Buffer, ...]]:
        """Send a request to `node`, through the entry where there is no direct link.

        The arguments, result and errors are those of `ask`.
        """
        link = link or await self.link_to(node)
        # What goes through the entry may as well go through the next one.
        passed_on = link.peer.name != node and type(message) not in _ONCE
        return await self._ask(
            message.id,
            lambda link: addressed(message, node, link),
            (),
            None if passed_on and link is self._links.entry else link,
            name=function,
            whole=whole,
        )

    def is_asked(self, link: Connection) -> bool:
        """Whether somebody waits for an answer that comes on `link`."""
        return any(question.link is link for question in self._open.values())

    def is_open(self, request_id: bytes) -> bool:
        """Whether somebody waits for the answer to this request."""
        return request_id in self._open

    def receive(self, message: Any, parts: tuple[Buffer, ...]) -> None:
        """Give an answer to whoever waits for it, if anybody does."""
        question = self._open.get(message.id)
        if question is not None and not question.answer.done():
            question.answer.set_result((message, parts))

    def entered(self, link: Connection) -> None:
        """Ask the new entry what the one before has not answered."""
        for question in list(self._open.values()):
            if question.send is not None and question.link is not link:
                question.link = link
                question.send(link)

    def link_lost(self, link: Connection, reason: str) -> None:
        """End the requests that were sent on a link that is gone.

        Those to the entry wait for the next one.
        """
        for question in list(self._open.values()):
            if question.link is not link or question.answer.done():
                continue
            if question.send is None:
                lost = NodeLost(link.peer.name, reason, executed="unknown")
                question.answer.set_exception(lost)
            else:
                question.link = None

    def cut_off(self, reason: str) -> None:
        """End what waits for an entry that does not come."""
        for question in list(self._open.values()):
            if question.link is None and not question.answer.done():
                lost = NodeLost("", reason, executed="unknown")
                question.answer.set_exception(lost)


def addressed(message: Relayed, node: str, link: Connection) -> Relayed | Relay:
    """Return what to send on `link` so that `message` comes to `node`."""
    if link.peer.name == node:
        return message
    return Relay(id=message.id, node=node, message=message)
