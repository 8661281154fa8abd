"""`MPREGServer` and `MPREGSettings`: a node that offers functions of its process."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, fields
from hashlib import sha256
from secrets import token_hex
from typing import Any, Self

from mpreg_nb.boundary import public
from mpreg_nb.errors import MpregError
from mpreg_nb.membership.config import PROFILES
from mpreg_nb.names import check_name, check_resources, nearest
from mpreg_nb.node.node import Node
from mpreg_nb.serialize.code import described
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import load_token

DEFAULT_CLUSTER = "default-cluster"
"""What servers without a `cluster_id` have in common until they meet another."""


@dataclass(frozen=True)
class MPREGSettings:
    """The settings of one server. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one; `MPREGServer.url` tells."""

    name: str | None = None
    """Unique in the cluster; None makes one up."""

    resources: Iterable[str] | None = None
    peers: Iterable[str] | None = None
    """URLs of servers to join. Those that are not there yet are dialled again."""

    connect: str | None = None
    """One more of `peers`."""

    cluster_id: str = ""
    """Any text; servers of another one are refused. Empty: that of the peers."""

    advertised_urls: Iterable[str] | None = None
    """Told to others, where the bound address is not the one to dial."""

    gossip_interval: float | None = None
    """Between two rounds of gossip; the nearest profile of membership is taken, as
    its figures depend on each other: 0.1 local, 0.2 lan, 0.5 wan. None: local."""

    log_level: str | int | None = None
    """Of the logger "mpreg_nb", from the start of the server on."""

    json_open: bool = False
    """Answer JSON calls without a token; on loopback only."""

    token: str | None = None
    """None finds the user's own, as every process of the user does."""

    workers: int = 0
    """Processes for functions that notebooks register here. Those of
    `register_command` run in the server's own process and need none."""

    slots: int = 1
    """Calls at once in one worker."""

    drain: float = 10.0
    """How long `shutdown` lets running calls go on."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise for unknown settings; the error names the nearest setting."""
        known = [known.name for known in fields(cls)]
        for given in kwargs:
            if given not in known:
                meant = nearest(given, known)
                hint = (
                    f"Did you mean {meant!r}?"
                    if meant
                    else f"The settings are: {known}"
                )
                raise TypeError(f"MPREGSettings has no setting {given!r}. {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        name = f"server-{token_hex(3)}" if self.name is None else self.name
        self._set("name", check_name("node", name))
        self._set("resources", check_resources(self.resources or ()))
        for field in ("peers", "advertised_urls"):
            self._set(field, _urls(field, getattr(self, field)))
        if self.connect is not None:
            _urls("connect", self.connect)
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise TypeError(f"port must be a number, not {self.port!r}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.gossip_interval is not None and not self.gossip_interval > 0:
            raise ValueError(
                f"gossip_interval must be above 0, not {self.gossip_interval}"
            )
        if self.log_level is not None:
            self._set("log_level", _level(self.log_level))

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name != "token"
        )
        return f"MPREGSettings({', '.join(shown)})"

    @property
    def node(self) -> NodeSettings:
        """The same settings, in the form that a node takes."""
        peers = tuple(self.peers or ())
        return NodeSettings(
            name=str(self.name),
            resources=frozenset(self.resources or ()),
            host=self.host,
            port=self.port,
            join=(*peers, self.connect) if self.connect else peers,
            cluster_id=hashed(self.cluster_id) if self.cluster_id else "",
            workers=self.workers,
            slots=self.slots,
            profile=_profile(self.gossip_interval),
            advertised=tuple(self.advertised_urls or ()),
            json_open=self.json_open,
            drain_s=self.drain,
        )


def hashed(cluster_id: str) -> str:
    """Return the id as nodes have it: 32 hexadecimal digits.

    >>> hashed("demo")
    '2a97516c354b68848cdbd8f54a226a0a'
    >>> hashed("0123456789abcdef0123456789abcdef")
    '0123456789abcdef0123456789abcdef'
    """
    if len(cluster_id) == 32 and not set(cluster_id) - set("0123456789abcdef"):
        return cluster_id
    return sha256(cluster_id.encode()).hexdigest()[:32]


def _profile(gossip_interval_s: float | None) -> str:
    if gossip_interval_s is None:
        return "local"
    return min(
        PROFILES,
        key=lambda name: abs(PROFILES[name].gossip_interval_s - gossip_interval_s),
    )


def _urls(field: str, given: Iterable[Any] | None) -> tuple[str, ...]:
    urls = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for url in urls:
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise ValueError(
                f"{url!r} in {field} is not a server's URL: ws://HOST:PORT or "
                "wss://HOST:PORT"
            )
    return urls


def _level(given: str | int) -> int:
    if isinstance(given, int):
        return given
    levels = logging.getLevelNamesMapping()
    if given.upper() not in levels:
        raise ValueError(
            f"{given!r} is not a log level. The levels are: {', '.join(levels)}"
        )
    return levels[given.upper()]


@public
class MPREGServer:
    """One node of a cluster, in this process and on the caller's event loop.

    Several servers may share a loop. A server can serve only once.
    """

    def __init__(self, settings: MPREGSettings | None = None) -> None:
        self.settings = settings or MPREGSettings()
        self._commands: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {}
        self._lock = threading.Lock()  # of the next two, with the commands
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shutdown_event = asyncio.Event()  # MPREG's programs set it themselves
        self._started = asyncio.Event()
        self._failure: BaseException | None = None
        self._node: Node | None = None

    def register_command(
        self,
        name: str,
        function: Callable[..., Any],
        resources: str | Iterable[str] = (),
    ) -> None:
        """Offer `function` to the cluster as `name`, before or while the server serves.

        The function runs in this process: a coroutine function on the server's event
        loop, any other in a thread. Calls select it by `locs`, which may name any of
        `resources` and of the server's resources. Registering a name again replaces its
        function. May be called from any thread.
        """
        check_name("function", name)
        if not callable(function):
            raise TypeError(
                f"{name} is registered with a {type(function).__name__}, which cannot "
                "be called. Pass the function itself"
            )
        held = check_resources(resources)
        with self._lock:
            self._commands[name] = function, held
            if self._node is not None and self._loop is not None:
                _soon(self._loop, self._offer, name)

    @property
    def url(self) -> str:
        """The URL for clients and peers; an error unless the server serves."""
        if self._node is None:
            raise MpregError(
                "the server is not serving yet. Wait for it: await server.started()"
            )
        return self._node.url

    @property
    def name(self) -> str:
        """The name of the node."""
        return str(self.settings.name)

    async def started(self) -> str:
        """Wait until the server serves; return its URL, or raise why it failed."""
        await self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self.url

    async def server(self) -> None:
        """Serve until `shutdown`, or until this is cancelled; then leave the cluster.

        Peers may start later. The port is free as soon as the server shuts down, so
        that another server can use it while running calls end. A second cancellation
        drops these calls and ends at once.

        Raises:
            OSError: the port is taken.
            MpregError: another live server of the cluster has the same name.
            NotTrusted: there is no token, or the server would listen on a network
                without TLS.
        """
        with self._lock:
            if self._loop is not None:
                raise MpregError(
                    "this server has already served. Create a new MPREGServer"
                )
            self._loop = asyncio.get_running_loop()
        try:
            await self._serve()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._started.set()

    def shutdown(self) -> None:
        """End `server()` and return at once.

        May be called from any thread and from signal handlers, before `server()`, and
        repeatedly.
        """
        loop = self._loop
        if loop is None:
            self._shutdown_event.set()  # there is no waiter yet
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._shutdown_event.set)

    async def _serve(self) -> None:
        settings = self.settings
        if settings.log_level is not None:
            logging.getLogger("mpreg_nb").setLevel(settings.log_level)
        node = Node(
            settings.node,
            load_token(settings.token),
            ca=load_ca(),
            # The same for all: two that name each other as peers may meet unjoined.
            first_cluster_id=hashed(DEFAULT_CLUSTER),
        )
        try:
            await node.start(join_timeout_s=None)
            with self._lock:
                self._node = node
                for name in self._commands:
                    self._offer(name)
            self._started.set()
            end = self._shutdown_event.wait()
            await _first(end, node.ended.wait(), _refusal(node))
            if node.refused:
                raise MpregError(
                    f"server {self.name} cannot join: {node.refused}. "
                    "Give each server a name= of its own"
                )
        finally:
            try:
                await node.stop(free_port=True)
            except asyncio.CancelledError:
                node.drop()
                raise

    def _offer(self, name: str) -> None:
        if self._node is None or self._node.ended.is_set():
            return
        function, resources = self._commands[name]
        signature, doc = described(function)
        self._node.register_own(name, function, resources, doc=doc, signature=signature)


def _soon(
    loop: asyncio.AbstractEventLoop, work: Callable[[str], None], name: str
) -> None:
    """Run `work` now if this is the thread of `loop`, else schedule it there."""
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False  # a thread without a loop
    if here:
        work(name)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(work, name)


async def _refusal(node: Node) -> None:
    """Return when the peers have rejected `node`."""
    await node.joined.wait()
    if not node.refused:
        await node.ended.wait()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of `waits` has returned; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
