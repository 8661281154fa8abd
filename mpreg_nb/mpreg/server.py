"""A server that offers functions of its own process: a node, by MPREG's names."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from mpreg_nb.errors import MpregError
from mpreg_nb.mpreg.settings import DEFAULT_CLUSTER, MPREGSettings, hashed
from mpreg_nb.names import check_name, check_resources
from mpreg_nb.node.node import Node
from mpreg_nb.transport.token import load_token
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.function import described


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
            self._shutdown_event.set()  # nobody waits for it yet
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._shutdown_event.set)

    async def _serve(self) -> None:
        settings = self.settings
        if settings.log_level is not None:
            logging.getLogger("mpreg_nb").setLevel(settings.log_level)
        node = Node(settings.node, load_token(settings.token))
        if not settings.cluster_id:
            # The same for all: two that name each other as peers may meet unjoined.
            node.cluster_id = hashed(DEFAULT_CLUSTER)
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
    """Do `work` now where that is on `loop`, else let `loop` do it."""
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False  # a thread without a loop
    if here:
        work(name)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(work, name)


async def _refusal(node: Node) -> None:
    """Return when the peers have said that they do not take `node` in."""
    await node.members.joined.wait()
    if not node.refused:
        await node.ended.wait()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when one of `waits` has; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
