"""The node: makes its parts, starts and stops them; its TLS contexts and metrics text.

One event loop, no user code. Each part is in a file of its own:

    gossiping   who is there, what they offer          (control lane)
    calls       where each call goes, what became of it
    running     runs calls here, in workers or in this process
    placement   gets code to where it may run
    runs        workflows that this node drives
    pictures    what others want to see
"""

import asyncio
import os
import platform
import random
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpreg_nb.errors import MpregError
from mpreg_nb.membership.config import PROFILES
from mpreg_nb.membership.swim import Swim
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.dispatch import NodeLinks
from mpreg_nb.node.executor import Running
from mpreg_nb.node.functions import OwnFunction, Placement, Registry, own_version
from mpreg_nb.node.membership import Gossiping, NodeMembers
from mpreg_nb.node.monitor import Counters, Pictures, Vitals
from mpreg_nb.node.peer_requests import Asks, DataLane
from mpreg_nb.node.results import Store
from mpreg_nb.node.spaces import Spaces
from mpreg_nb.node.worker_pool import Workers
from mpreg_nb.node.workflows import RunBook
from mpreg_nb.protocol.gossip import MemberRecord, Offer
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Router
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.dial import shown
from mpreg_nb.transport.listener import Listener, listen
from mpreg_nb.transport.pool import Peers
from mpreg_nb.transport.token import Token


@dataclass(frozen=True, slots=True)
class Tls:
    """The two sides of TLS; both ends still prove the token inside of it."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext


def read_tls(certificate: str, key: str) -> Tls:
    """Return what the two PEM files say.

    Raises:
        OSError: they cannot be read, or do not belong together.
    """
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accept.load_cert_chain(certificate, key)
    dial = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    dial.load_verify_locations(certificate)  # a private one may be its own root
    return Tls(accept, dial)


def metrics_text(node: "Node") -> str:
    """Return the body of GET /metrics."""
    load = node.vitals.measure()
    workers = node.workers.statistics()
    store = node.store.statistics()
    lines = [
        *_gauge(
            "mpreg_calls_pending", "Calls in progress on this node", len(node.calls)
        ),
        *_gauge("mpreg_jobs_running", "Calls that run in a slot", load.running),
        *_gauge("mpreg_jobs_queued", "Calls that wait for a slot", load.queued),
        *_gauge("mpreg_slots", "Calls that can run at once", load.slots),
        *_gauge("mpreg_loop_lag_ms", "Lag of the event loop", load.loop_lag_ms),
        *_gauge(
            "mpreg_memory_mb",
            "Resident memory of the node and its workers",
            load.memory_mb,
        ),
        *_gauge("mpreg_store_bytes", "Results of steps held here", store.held_bytes),
        *_gauge("mpreg_members_alive", "Live nodes", len(node.gossiping.swim.alive)),
        "# HELP mpreg_worker_deaths_total Worker processes that died",
        "# TYPE mpreg_worker_deaths_total counter",
        f"mpreg_worker_deaths_total {workers.deaths}",
        "# HELP mpreg_calls_total Calls that ended on this node",
        "# TYPE mpreg_calls_total counter",
    ]
    pictures = node.counters.pictures()
    for kind in ("calls", "errors"):
        if kind == "errors":
            lines += [
                "# HELP mpreg_errors_total Calls that ended with an error on this node",
                "# TYPE mpreg_errors_total counter",
            ]
        for one in pictures:
            labels = f'function="{_escaped(one.function)}",version="{one.version}"'
            count = one.calls if kind == "calls" else one.errors
            lines.append(f"mpreg_{kind}_total{{{labels}}} {count}")
    return "\n".join(lines) + "\n"


def _gauge(name: str, text: str, value: float) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value:g}"]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


JOIN_TIMEOUT_S = 15.0


class Node:
    """One member of a cluster. Start it on a running event loop.

    Guarantee: when `stop` has returned, no process, link or file of it is left.
    """

    def __init__(
        self,
        settings: NodeSettings,
        token: Token,
        *,
        listening: socket.socket | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`listening` is a socket that listens already, in place of host and port."""
        self.tls = tls
        self.settings = settings
        self.name = settings.name
        self.cluster_id = settings.cluster_id or os.urandom(16).hex()
        self._token = token
        self._listening = listening
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loads = Loads()
        self.links = NodeLinks(self, token)
        self.members = NodeMembers(self, self._loads)
        self._hurry = asyncio.Event()
        self._stopping = False
        self.refused = ""
        """Why this node may not join, once that is known."""
        self.ended = asyncio.Event()
        """Set when the node has stopped by itself or by request."""
        own_scratch = not settings.scratch
        folder = settings.scratch or tempfile.mkdtemp(prefix="mpreg-")
        self._scratch, self._own_scratch = Path(folder), own_scratch

    # -------------------------------------------------------------------- parts

    def _build(self, urls: tuple[str, ...]) -> None:
        settings, name = self.settings, self.name
        self.catalog = Catalog(name)
        self.counters = Counters(name)
        self.registry = Registry(self._code_gone)
        self.store = Store(settings.store_bytes)
        breakers = Breakers()
        self.router = Router(
            name,
            self.catalog,
            self._loads,
            breakers,
            random.Random(),  # noqa: S311 - spreads load, guards nothing
        )
        self.peers = Peers(
            token=self._token,
            role="node",
            name=name,
            cluster_id=lambda: self.cluster_id,
            on_open=self.links.peer_open,
            on_lost=self.links.peer_lost,
            on_failed=self.links.dial_failed,
            on_unsent=self.links.unsent,
            before_dial=lambda to: self.links.wall.pass_to(to),
            ssl_context=self.tls.dial if self.tls else None,
            limits=settings.limits,
        )
        lane = DataLane(self.peers, self.members.urls_of)
        self.asks = Asks(lane)
        self.workers = Workers(
            settings.workers,
            settings.slots,
            self._scratch,
            lambda *printed: self.running.printed(*printed),
            lambda event, detail: self.pictures.happened(name, event, detail),
            max_payload_bytes=settings.limits.max_payload_bytes,
        )
        self.spaces = Spaces(self._space_worker, self.spawn, self._happened)
        self.placement = Placement(
            name,
            settings.resources,
            registry=self.registry,
            catalog=self.catalog,
            asks=self.asks,
            lane=lane,
            alive=self.members.alive,
            can_run=self.router.can_run,
            announce=lambda delta: self.gossiping.announce(delta),
            on_event=lambda event, detail: self.pictures.happened(name, event, detail),
        )
        self.running = Running(
            name,
            registry=self.registry,
            store=self.store,
            placement=self.placement,
            asks=self.asks,
            workers=self.workers,
            spaces=self.spaces,
            has_workers=settings.workers > 0,
            counters=self.counters,
            news=lambda: self.vitals.news(),
            changed=lambda: self.vitals.changed(),
        )
        slots = max(1, settings.workers * settings.slots)
        self.vitals = Vitals(
            running=lambda: self.running.running,
            queued=lambda: self.running.queued,
            slots=slots,
            counters=self.counters,
            tell=self.members.own_load_changed,
        )
        self.calls = Calls(
            name,
            router=self.router,
            loads=self._loads,
            breakers=breakers,
            lane=lane,
            running=self.running,
            measure=self.vitals.measure,
            limits=settings.limits,
            on_event=lambda node, *event: self.pictures.happened(node, *event),
        )
        self.runs = RunBook(
            name, calls=self.calls, asks=self.asks, store=self.store, lane=lane
        )
        record = MemberRecord(
            name=name,
            generation=1,
            epoch=os.urandom(16),
            urls=urls,
            resources=settings.resources,
            workers=settings.workers,
            slots=settings.slots,
            host=socket.gethostname(),
            python=platform.python_version(),
        )
        swim = Swim(
            PROFILES[settings.profile],  # type: ignore[index]  # argparse checked it
            record,
            random.Random(),  # noqa: S311 - spreads probes, guards nothing
            time.monotonic(),
        )
        self.pictures = Pictures(
            name,
            members=lambda: swim.members,
            own_load=self.vitals.measure,
            load_of=self._loads.reported,
            catalog=self.catalog,
            counters=self.counters,
        )
        self.gossiping = Gossiping(
            swim,
            self.catalog,
            self.peers,
            dial_seed=self.links.dial_seed,
            on_event=self.members.happened,
            on_catalog=self.members.catalog_changed,
            measure=self.vitals.measure,
        )
        self.links.open_inbox()

    # --------------------------------------------------------------- life cycle

    def _happened(self, event: str, detail: str) -> None:
        self.pictures.happened(self.name, event, detail)

    def _space_worker(self, happened: Callable[[str, str], None]) -> Workers:
        """Return the one worker of a space."""
        made = Workers(
            1,
            1,
            self._scratch,
            lambda *printed: self.running.printed(*printed),
            happened,
            max_payload_bytes=self.settings.limits.max_payload_bytes,
            lends=False,  # what it keeps is in no other
        )
        if self._listener is not None:
            made.tell_home(self._listener.url, self._token.reveal())
        return made

    def _code_gone(self, version: str) -> None:
        self.running.forget_code(version)

    async def start(self, join_timeout_s: float | None = JOIN_TIMEOUT_S) -> str:
        """Listen, start workers, join; return the URL that clients connect to.

        join_timeout_s: None serves at once, and joins when a node of `join` is
            there; each is dialled again until one is.

        Raises:
            MpregError: no node of `join` was there in time.
            OSError: the port is taken.
            NotTrusted: the address is not loopback and there is no TLS, or the
                cluster to join has another token.
        """
        settings = self.settings
        self._listener = await listen(
            token=self._token,
            node_name=self.name,
            cluster_id=lambda: self.cluster_id,
            on_connection=self.links.accepted,
            host=settings.host,
            port=settings.port,
            listening=self._listening,
            json_open=settings.json_open,
            metrics=lambda: metrics_text(self),
            ssl_context=self.tls.accept if self.tls else None,
            limits=settings.limits,
        )
        urls = settings.advertised or (self._listener.url,)
        self._build(urls)
        self.workers.tell_home(self._listener.url, self._token.reveal())
        await self.workers.start()
        self.placement.offer_builtins()
        self.members.changed()
        self._loads.report(self.name, self.vitals.measure(), time.monotonic())
        # Membership tells of others only.
        self.pictures.happened(self.name, "joined", ", ".join(sorted(urls)))
        self.gossiping.start(settings.join)
        if join_timeout_s is None:
            return self.url
        try:
            await asyncio.wait_for(self.members.joined.wait(), join_timeout_s)
        except TimeoutError:
            self.refused = f"no answer from {', '.join(map(shown, settings.join))}"
        if self.refused:
            await self.stop(drain_s=0)
            raise MpregError(f"node {self.name} could not join: {self.refused}")
        return self.url

    @property
    def url(self) -> str:
        """Where this node listens."""
        if self._listener is None:
            raise MpregError(f"node {self.name} has not started")
        return (
            self.settings.advertised[0]
            if self.settings.advertised
            else (self._listener.url)
        )

    async def stop(
        self, drain_s: float | None = None, *, free_port: bool = False
    ) -> None:
        """Drain, say goodbye, end workers and links.

        free_port: stop listening first, so that another process or node may take
            the port during the drain; open links go on.
        """
        if self._stopping:
            await self.ended.wait()
            return
        self._stopping = True
        drain_s = self.settings.drain_s if drain_s is None else drain_s
        listener = self._listener
        if listener is not None and free_port:
            listener.stop_accepting()
        if listener is not None and hasattr(self, "gossiping"):
            listener.draining = True
            self.calls.admission.draining = True
            self.gossiping.leave(drain_s, "stopped")
            await self._drain(drain_s)
            self._stop_parts()
            await self.spaces.stop()
            await self.workers.stop()
            self.vitals.stop()
            self.links.wall.stop()
            await self.peers.close()
        if listener is not None:
            await listener.close()
        self._end()

    def drop(self) -> None:
        """End at once what `stop` has not ended: calls, workers, links, the port.

        For a `stop` that was cancelled. Others see this node die.
        """
        self._stopping = True
        if self._listener is not None:
            if hasattr(self, "gossiping"):
                self._stop_parts()
                self.spaces.kill()
                self.workers.kill()
                self.links.wall.stop()
                self.peers.drop()
            self._listener.drop()
        self._end()

    def _stop_parts(self) -> None:
        self.gossiping.stop()
        self.calls.stop()
        self.pictures.stop()
        self.running.stop()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._own_scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self.ended.set()

    async def _drain(self, drain_s: float) -> None:
        if drain_s <= 0:
            return

        async def all_done() -> None:
            await self.calls.idle.wait()
            if len(self.members.alive()) > 1:
                await self.members.spread.wait()

        waits = [
            asyncio.ensure_future(all_done()),
            asyncio.ensure_future(self._hurry.wait()),
        ]
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait(waits, timeout=drain_s, return_when=first)
        finally:
            for task in waits:
                task.cancel()

    def hurry(self) -> None:
        """End a drain that is under way."""
        self._hurry.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else; it ends with the node at the latest."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------- functions

    def register_own(
        self,
        name: str,
        function: Callable[..., Any],
        resources: frozenset[str],
        *,
        doc: str = "",
        signature: str = "",
    ) -> None:
        """Offer a function of this process, run in it, under `name`."""
        version = own_version(name, self.name)
        where = "loop" if asyncio.iscoroutinefunction(function) else "thread"
        offer = Offer(
            function=name,
            version=version,
            resources=resources,
            counter=self.catalog.next_counter(name),
            origin=self.name,
            isolation="inline",
            placed=False,
            signature=signature,
            doc=doc,
        )
        own = OwnFunction(name, version, function, where)  # type: ignore[arg-type]
        self.placement.add_own(own, offer)
