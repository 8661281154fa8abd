"""The node: makes its parts, starts and stops them.

One event loop, no user code. The parts do not know each other: what happens in one
reaches the others as an event, a handled message, or a callback given at their making.
"""

import asyncio
import logging
import os
import platform
import random
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mpreg_nb.call_context import Home
from mpreg_nb.errors import MpregError
from mpreg_nb.membership.config import PROFILES
from mpreg_nb.membership.swim import Swim
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.dispatch import (
    ClusterId,
    Dispatcher,
    Handler,
    NodeLinks,
    without_link,
    without_parts,
)
from mpreg_nb.node.executor import Executor, RunningCalls
from mpreg_nb.node.functions import CodeDistributor, OwnFunction, Registry, own_version
from mpreg_nb.node.json_rpc import JsonCalls
from mpreg_nb.node.leases import Leases
from mpreg_nb.node.membership import Members, MembershipDriver, MembershipEvents
from mpreg_nb.node.metrics import NodeFigures, metrics_text
from mpreg_nb.node.monitor import Counters, LoadMonitor, SnapshotPublisher
from mpreg_nb.node.peer_requests import PeerRequests, PeerSender
from mpreg_nb.node.pending_call import Sink
from mpreg_nb.node.process_pool import ProcessPool
from mpreg_nb.node.results import ResultRequests, ResultStore
from mpreg_nb.node.resumption import Resumption
from mpreg_nb.node.spaces import Spaces
from mpreg_nb.node.thread_output import ThreadOutput
from mpreg_nb.node.worker_pool import MakePool, WorkerHost, WorkerPool
from mpreg_nb.node.workflows import WorkflowService
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.gossip import Load, MemberRecord, MemberState, Offer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    CodePush,
    Failed,
    Failure,
    HeldResults,
    LeaveRequest,
    NotHeld,
    Output,
    Printed,
    Recall,
    Relay,
    Reply,
    Resume,
    RunFollowed,
    Runs,
    RunState,
    SpaceClose,
    SpaceOpen,
    Started,
    StepExplanation,
    Versions,
    VersionsRequest,
    Waiting,
    Watch,
    installed,
    minor_of,
)
from mpreg_nb.protocol.worker import JobPrinted
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Router
from mpreg_nb.settings import NodeSettings
from mpreg_nb.shared_memory.segments import MEMORY, bytes_of
from mpreg_nb.transport.connection import ALL_ANSWERED, Connection
from mpreg_nb.transport.listener import Listener, listen
from mpreg_nb.transport.tls import Tls, dialling, ends_soon
from mpreg_nb.transport.token import Token, current

LOG = logging.getLogger("mpreg_nb.node")

JOIN_TIMEOUT_S = 15.0
A_DAY_S = 86_400.0


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
        ca: str = "",
        first_cluster_id: str = "",
        worker_host: WorkerHost | None = None,
        is_process: bool = False,
    ) -> None:
        """Take settings; nothing runs before `start`.

        listening: a socket that listens already, in place of host and port.
        tls: its certificate; None: it listens on loopback only.
        ca: without `tls`, what certificates of other nodes are checked with.
        first_cluster_id: id of the cluster until this node has joined others, in
            32 hex digits; "" for a random one.
        worker_host: where the workers run, if not here. Then no code that comes over
            the wire runs in this process.
        is_process: whether this process is this node and no more. Then it may replace
            the streams of the process, for prints of functions in threads.
        """
        self._is_process = is_process
        self.settings = settings
        self.name = settings.name
        self._python = (
            worker_host.versions["python"] if worker_host else platform.python_version()
        )
        self._tls = tls
        self._dials_with = tls.dial if tls else dialling(ca) if ca else None
        self._cluster = ClusterId(settings.cluster_id, first_cluster_id)
        self._token = token
        self._listening = listening
        self._worker_host = worker_host
        process_pool = partial(
            ProcessPool, shared_memory_bytes=bytes_of(settings.shared_memory_mb)
        )
        self._make_pool: MakePool = (
            worker_host.make_pool if worker_host else process_pool
        )
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._stopping = False
        self.refused = ""
        """Why this node may not join, once that is known."""
        self._refusals: dict[str, str] = {}  # URL of a seed -> why it refused
        self._delays: dict[str, str] = {}  # URL of a seed -> why there was no answer
        self._joins_now = False  # `start` waits until this node has joined
        self.ended = asyncio.Event()
        """Set when the node has stopped by itself or by request."""
        own_scratch = not settings.scratch
        folder = settings.scratch or tempfile.mkdtemp(prefix="mpreg-")
        self._scratch, self._own_scratch = Path(folder), own_scratch

    # -------------------------------------------------------------------- parts

    def _build(self, urls: tuple[str, ...]) -> None:
        """Make the parts, each after those that it needs; then connect their events."""
        settings, name = self.settings, self.name
        swim = self._swim(urls)
        self.members = Members(swim)
        self._membership = MembershipEvents()
        self.dispatcher = Dispatcher(name, settings.limits, self.spawn)
        self.links = NodeLinks(
            settings,
            self._token,
            cluster=self._cluster,
            dispatcher=self.dispatcher,
            members=self.members,
            spawn=self.spawn,
            ssl_context=self._dials_with,
        )
        peer_sender = PeerSender(self.links.peers, self.members.urls_of)
        self.peer_requests = PeerRequests(peer_sender)
        self.catalog = Catalog(name)
        self.counters = Counters(name)
        self.store = ResultStore(settings.store_bytes)
        if self._worker_host is not None:
            self._worker_host.results.join(name, self.store.find)
        self._loads = Loads()
        self._breakers = Breakers()
        self.router = Router(
            name,
            self.catalog,
            self._loads,
            self._breakers,
            random.Random(),  # noqa: S311 - spreads load, guards nothing
        )
        here = RunningCalls(name)
        self.load_monitor = LoadMonitor(
            running=lambda: self.executor.running,
            queued=lambda: self.executor.queued,
            is_idle=here.is_empty,
            slots=max(1, settings.workers * settings.slots),
            counters=self.counters,
            tell=self._tell_load,
        )
        self.snapshots = SnapshotPublisher(
            name,
            members=lambda: swim.members,
            own_load=self.load_monitor.measure,
            load_of=self._loads.reported,
            catalog=self.catalog,
            counters=self.counters,
        )
        self.membership_driver = MembershipDriver(
            swim,
            self.catalog,
            self.links.peers,
            dial_seed=self.links.dial_seed,
            on_event=self._membership.publish,
            on_catalog=self._membership.catalog_changed,
            measure=self.load_monitor.measure_for_peer,
            on_lag=self.load_monitor.lagged,
        )
        happened_here = partial(self.snapshots.happened, name)
        self.registry = Registry(self._code_gone)
        self.leases = Leases(
            name,
            registry=self.registry,
            router=self.router,
            counters=self.counters,
            changed=self.load_monitor.changed,
            make_pool=partial(self._make_workers, here, happened_here),
        )
        self.workers = self.leases.workers
        space_worker = partial(self._space_worker, here.printed)
        self.spaces = Spaces(space_worker, self.spawn, happened_here)
        self.code_distributor = CodeDistributor(
            name,
            settings.resources,
            registry=self.registry,
            catalog=self.catalog,
            peer_requests=self.peer_requests,
            peer_sender=peer_sender,
            alive=self.members.alive,
            can_run=self.router.can_run,
            announce=self.membership_driver.announce,
            on_event=happened_here,
        )
        self.executor = Executor(
            name,
            registry=self.registry,
            store=self.store,
            code_distributor=self.code_distributor,
            peer_requests=self.peer_requests,
            workers=self.workers,
            spaces=self.spaces,
            has_workers=settings.workers > 0,
            runs_shipped=self._worker_host is None,
            thread_output=ThreadOutput(here.printed, settings.limits.max_payload_bytes)
            if self._is_process
            else None,
            counters=self.counters,
            here=here,
            engine=self._worker_host.results if self._worker_host else None,
        )
        self.calls = Calls(
            name,
            router=self.router,
            loads=self._loads,
            breakers=self._breakers,
            peer_sender=peer_sender,
            executor=self.executor,
            measure=self.load_monitor.measure,
            news=self.load_monitor.news,
            changed=self.load_monitor.changed,
            limits=settings.limits,
            counters=self.counters,
            on_event=self.snapshots.happened,
            engine=settings.engine,
        )
        self.resumption = Resumption(
            name,
            peer_sender=peer_sender,
            members=self._may_hold_calls,
            orphans=self.calls.orphans,
        )
        self.runs = WorkflowService(
            name,
            calls=self.calls,
            peer_requests=self.peer_requests,
            store=self.store,
            peer_sender=peer_sender,
        )
        self.results = ResultRequests(name, self.store, self._released)
        self._handle_messages()
        self._follow_members()
        self._follow_links()

    def _swim(self, urls: tuple[str, ...]) -> Swim:
        settings, elsewhere = self.settings, self._worker_host
        here = settings.host_name or socket.gethostname()
        record = MemberRecord(
            name=self.name,
            generation=1,
            epoch=os.urandom(16),
            urls=urls,
            resources=settings.resources,
            workers=settings.workers,
            slots=settings.slots,
            host=elsewhere.host if elsewhere else here,
            python=self._python,
            certificate_ends_s=self._certificate_ends_s,
            engine=settings.engine,
        )
        return Swim(
            PROFILES[settings.profile],  # type: ignore[index]  # argparse checked it
            record,
            random.Random(),  # noqa: S311 - spreads probes, guards nothing
            time.monotonic(),
        )

    def _handle_messages(self) -> None:
        """Say which part handles which message of the data lane."""
        json_calls = JsonCalls(
            self.name,
            self.settings.limits,
            runs=self.runs,
            catalog=self.catalog,
            router=self.router,
            spawn=self.spawn,
        )
        dispatcher, run_proxy = self.dispatcher, self.runs.run_proxy
        dispatcher.handle_calls(self.calls.receive)
        dispatcher.handle_text(json_calls.receive)
        dispatcher.handle(
            {
                Cancel: without_parts(self._cancel),
                Recall: without_parts(self.calls.give_back),
                Resume: without_parts(self.resumption.receive),
                Watch: without_parts(self.snapshots.watch),
                VersionsRequest: without_parts(self._tell_versions),
                LeaveRequest: without_parts(self._leave),
                SpaceOpen: without_parts(self._open_space),
                SpaceClose: without_parts(self._close_space),
                **self.links.handlers(),
                **self.code_distributor.handlers(),
                **self.runs.handlers(),
                **self.results.handlers(),
            }
        )
        dispatcher.handle(self.links.client_handlers(), nodes=False)
        dispatcher.handle(self.leases.handlers(), nodes=False)
        dispatcher.handle({Relay: without_parts(run_proxy.pass_on)}, nodes=False)
        dispatcher.handle(self.code_distributor.node_handlers(), clients=False)
        views: dict[type, Handler] = {
            Cancel: without_parts(self._stop_watching),
            Watch: without_parts(self.snapshots.watch),
            VersionsRequest: without_parts(self._tell_versions),
            Relay: without_parts(self._pass_view_on),
            **self.links.handlers(),
            **self.runs.view_handlers(),
        }
        dispatcher.handle(views, clients=False, nodes=False, viewers=True)
        dispatcher.handle_answers(self.resumption.waiting, Waiting)
        dispatcher.handle_answers(
            self.calls.peer_said, Reply, Failed, Output, Started, Waiting
        )
        dispatcher.handle_answers(
            self.resumption.answered, Reply, Failed, Output, Started, NotHeld
        )
        dispatcher.handle_answers(
            without_link(self.peer_requests.answered),
            Reply,
            Failed,
            HeldResults,
            CodePush,
        )
        dispatcher.handle_answers(
            without_link(run_proxy.answered),
            Reply,
            Failed,
            RunFollowed,
            RunState,
            Runs,
            StepExplanation,
            Printed,
        )

    def _follow_members(self) -> None:
        """Subscribe the parts to what happens to members."""
        events = self._membership
        events.happened.subscribe(self.snapshots.happened)
        events.came.subscribe(self._compare_python)
        events.node_died.subscribe(self.links.give_up)
        events.node_gone.subscribe(self._forget_load)
        events.members_changed.subscribe(self._route_again)
        events.catalog_changed.subscribe(
            self.router.catalog_changed,
            self.code_distributor.serve_missing,
            self.calls.routes_changed,
            self.snapshots.changed,
        )
        events.load_changed.subscribe(self._load_changed)
        events.name_free.subscribe(self.links.join_gate.free)
        events.name_taken.subscribe(self.links.join_gate.taken)
        events.replaced.subscribe(self._replaced)

    def _follow_links(self) -> None:
        """Subscribe the parts to what happens to links."""
        links = self.links
        links.control_opened.subscribe(self.membership_driver.link_up)
        links.control_received.subscribe(self.membership_driver.receive)
        links.control_lost.subscribe(self.membership_driver.link_lost)
        links.dial_failed.subscribe(self.membership_driver.dial_failed)
        links.claimed.subscribe(self.membership_driver.claim)
        links.name_refused.subscribe(self._name_refused)
        links.data_opened.subscribe(self.calls.link_opened)
        links.data_lost.subscribe(
            self.calls.link_lost, self.resumption.node_lost, self._peer_lost
        )
        links.join_refused.subscribe(self._join_refused)
        links.join_delayed.subscribe(self._join_delayed)
        links.sink_lost.subscribe(
            self.calls.sink_lost,
            self.leases.sink_lost,
            self.resumption.sink_lost,
            self.results.sink_lost,
            self.runs.sink_lost,
            self.snapshots.sink_lost,
            self.spaces.sink_lost,
        )
        links.unsent.subscribe(self._unsent)

    # ------------------------------------------------------------------- events

    def _may_hold_calls(self) -> frozenset[str]:
        """Return the members that are not gone; a node that leaves ends its calls."""
        left = (
            member.name
            for member in self.membership_driver.swim.members
            if member.state is MemberState.LEFT
        )
        peers = self.links.peers
        leaving = (name for name in left if peers.get(name, "control") is not None)
        return self.members.not_dead().union(leaving)

    def _code_gone(self, version: str) -> None:
        self.executor.forget_code(version)

    def _released(self, sink: Sink, key: bytes) -> None:
        self.executor.forget_input(key)
        self.runs.unhold(sink, key)

    def _cancel(self, link: Connection, message: Cancel) -> None:
        if not self.runs.cancel(message.id):
            self.calls.cancel(message.id)
            self.resumption.cancel(message.id)
        self.snapshots.cancel(link, message.id)

    def _stop_watching(self, link: Connection, message: Cancel) -> None:
        self.snapshots.cancel(link, message.id)

    def _pass_view_on(self, link: Connection, message: Relay) -> None:
        """Pass on what a viewer may ask; the other node takes it for ours."""
        if type(message.message) in self.runs.view_handlers():
            self.runs.run_proxy.pass_on(link, message)
        else:
            self.dispatcher.reject(link, message, ())

    async def _tell_versions(self, link: Connection, message: VersionsRequest) -> None:
        if self._worker_host is not None:
            found = self._worker_host.versions
        else:  # looking them up reads files
            found = await asyncio.to_thread(installed)
        versions = tuple(found.items())
        link.send(Versions(id=message.id, node=self.name, versions=versions))

    async def _leave(self, link: Connection, message: LeaveRequest) -> None:
        link.send(Reply(id=message.id, payload=b"", node=self.name))
        await self.stop()

    async def _open_space(self, link: Connection, message: SpaceOpen) -> None:
        if self.calls.admission.draining:
            failure = Failure(kind="draining", node=self.name)
            link.send(Failed(id=message.id, failure=failure))
        elif link.is_open:  # else nobody would ever close it
            await self.spaces.open(link, message.id)
            link.send(Reply(id=message.id, payload=b"", node=self.name))

    def _close_space(self, link: Connection, message: SpaceClose) -> None:
        self.spaces.close(message.id)

    def _make_workers(
        self,
        here: RunningCalls,
        happened: Callable[[str, str], None],
        leases: Leases,
    ) -> WorkerPool:
        """Return the workers of this node."""
        told = {"leases": leases, "on_given_back": here.given_back}
        return self._make_pool(
            self.settings.workers,
            self.settings.slots,
            self._scratch,
            here.printed,
            happened,
            max_payload_bytes=self.settings.limits.max_payload_bytes,
            home=self._home(),
            **{} if self._worker_host else told,  # type: ignore[arg-type]  # of process pools alone
        )

    def _space_worker(
        self,
        printed: Callable[[JobPrinted, Parts], None],
        happened: Callable[[str, str], None],
    ) -> WorkerPool:
        """Return the one worker of a space."""
        return self._make_pool(
            1,
            1,
            self._scratch,
            printed,
            happened,
            max_payload_bytes=self.settings.limits.max_payload_bytes,
            home=self._home(),
            keeps=True,
        )

    def _home(self) -> Home | None:
        """Return how functions that run here find this node."""
        if self._listener is None:
            return None
        token = current(self._token).issue("client")
        url, ca = self._listener.url, ""
        if self._tls is not None and self._listener.local_path:
            # The address that it listens on may be none that its certificate names.
            url = url.replace("wss:", "ws:")
        elif self._tls is not None:
            url, ca = self.url, self._tls.ca
        return Home(url, token, ca)

    @property
    def _certificate_ends_s(self) -> int:
        if self._tls is None or self._tls.certificate is None:
            return 0
        return int(self._tls.certificate.expires_s)

    async def _mind_certificate(self) -> None:
        """Tell the owner each day that the certificate ends, from a month before."""
        while said := self._certificate_ends_s:
            if ends := ends_soon(said):
                LOG.warning(
                    "the certificate of node %s %s. Make one: mpreg-nb tls node %s %s, "
                    "then start the node again",
                    *(self.name, ends, self.name, urlsplit(self.url).hostname),
                )
            await asyncio.sleep(A_DAY_S)

    def _names(self) -> frozenset[str]:
        """Return the hosts that others know this node by."""
        hosts = {urlsplit(url).hostname or "" for url in self.settings.advertised}
        if self._tls is not None and self._tls.certificate is not None:
            hosts.update(self._tls.certificate.hosts)
        return frozenset(hosts)

    def _route_again(self) -> None:
        members = self.members
        self.router.update(
            members.alive(),
            members.suspect(),
            members.pythons(),
            members.workerless(),
        )
        self.calls.routes_changed()
        self.snapshots.changed()

    def _peer_lost(self, link: Connection, reason: str) -> None:
        """End what another node was asked."""
        self.peer_requests.lost(link.peer.name, reason)
        self.runs.run_proxy.node_gone(link.peer.name, reason)

    def _forget_load(self, name: str, reason: str) -> None:
        self._loads.forget(name)
        self._breakers.forget(name)

    def _load_changed(self, name: str, load: Load) -> None:
        self._loads.report(name, load, time.monotonic())
        self.calls.look_for_idle()
        self.snapshots.loads_changed(name)

    def _tell_load(self, load: Load) -> int:
        """Tell all that calls came or went here; return how many peers were told."""
        self._loads.report(self.name, load, time.monotonic())
        self.membership_driver.tell_load(load)
        self.snapshots.loads_changed(self.name)
        return len(self.membership_driver.swim.alive) - 1

    def _name_refused(self) -> None:
        self.refused = (
            f"another live node is named {self.name!r}. Start this one with another "
            "--name"
        )
        self._membership.joined.set()

    def _join_refused(self, url: str, reason: str) -> None:
        """End the join when no node of `join` will take this one in."""
        self._refusals[url] = reason
        if self._joins_now and set(self.settings.join) <= self._refusals.keys():
            self.refused = reason
            self._membership.joined.set()

    def _join_delayed(self, url: str, reason: str) -> None:
        """Tell at once why there is no answer; it is tried again, up to a limit."""
        if self._joins_now and url not in self._delays:
            LOG.warning(
                "node %s cannot reach %s yet: %s. It tries again",
                *(self.name, url, reason),
            )
        self._delays[url] = reason

    def _no_answer(self) -> str:
        """Return why no node of `join` answered, and what to look at."""
        seeds = [
            f"{url} ({self._refusals.get(url) or self._delays.get(url, 'no answer')})"
            for url in self.settings.join
        ]
        return (
            f"no node can be reached at {', '.join(seeds)}. Check that one runs there, "
            "host and port, and that firewalls let this machine through"
        )

    def _compare_python(self, member: str, python: str) -> None:
        """Tell that a member cannot run what this node can: both ends log it."""
        own = minor_of(self._python)
        if minor_of(python) not in ("", own):
            LOG.warning(
                "node %s runs Python %s, and %s Python %s: functions that were shipped "
                "by one version do not run on the other. Start both with the same one",
                *(member, minor_of(python), self.name, own),
            )

    def _replaced(self) -> None:
        self.spawn(self.stop(drain_s=0))

    def _unsent(self, node: str, message: Any, reason: str) -> None:
        """Find another way for a message that could not be sent."""
        if isinstance(message, Call):
            self.calls.unsent(message.id, node, reason)
        elif isinstance(message, Resume):
            self.resumption.unsent(node, message)
        elif hasattr(message, "id"):
            failure = Failure(kind="node_lost", message=reason, node=node)
            self.dispatcher.answered(None, Failed(id=message.id, failure=failure), ())

    def _metrics(self) -> str:
        sent_bytes, received_bytes = self.links.gossip_bytes()
        roles: Counter[str] = Counter(link.peer.role for link in self.links.all())
        figures = NodeFigures(
            load=self.load_monitor.measure(),
            pool=self.workers.statistics(),
            store=self.store.statistics(),
            shared_memory_bytes=MEMORY.statistics().mapped_bytes,
            pending_calls=len(self.calls),
            outcomes=self.counters.outcomes,
            refused_calls=self.counters.refusals,
            refused_connections=self._listener.refusals if self._listener else 0,
            connections={"client": 0, "node": 0, **roles},
            members=[member.state for member in self.membership_driver.swim.members],
            gossip_sent_bytes=sent_bytes,
            gossip_received_bytes=received_bytes,
            latency=self.counters.latency,
            functions=self.counters.snapshots(),
        )
        return metrics_text(figures)

    def _accepted(self, connection: Connection) -> None:
        self.links.accepted(connection)

    # --------------------------------------------------------------- life cycle

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
            cluster_id=self._cluster.get,
            on_connection=self._accepted,
            host=settings.host,
            port=settings.port,
            listening=self._listening,
            json_open=settings.json_open,
            metrics=self._metrics,
            ssl_context=self._tls.accept if self._tls else None,
            hosts=self._names(),
            limits=settings.limits,
            local=True,
        )
        urls = settings.advertised or (self._listener.url,)
        try:
            self._build(urls)
        except BaseException:
            self._listener.drop()
            self._listener = None
            raise
        await self.workers.start()
        self.code_distributor.offer_builtins()
        self._route_again()
        self._loads.report(self.name, self.load_monitor.measure(), time.monotonic())
        # Membership tells of others only.
        self.snapshots.happened(self.name, "joined", ", ".join(sorted(urls)))
        self.spawn(self._mind_certificate())
        self._joins_now = join_timeout_s is not None
        self.membership_driver.start(settings.join)
        if join_timeout_s is None:
            return self.url
        try:
            await asyncio.wait_for(self._membership.joined.wait(), join_timeout_s)
        except TimeoutError:
            self.refused = self._no_answer()
        self._joins_now = False
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

    @property
    def port(self) -> int:
        """The port that this node listens on; 0 before it has started."""
        return 0 if self._listener is None else self._listener.port

    @property
    def cluster_id(self) -> str:
        """Id of the cluster that this node belongs to, in hex digits."""
        return self._cluster.get()

    @property
    def joined(self) -> asyncio.Event:
        """Set once this node has joined others; there after `start`."""
        return self._membership.joined

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
        if listener is not None:
            listener.draining = True
            self.links.drain()
            self.membership_driver.leave(drain_s, "stopped")
            self.calls.drain()
            self.leases.drain()
            await self._drain(drain_s)
            self._stop_parts()
            await self.spaces.stop()
            await self.workers.stop()
            self.load_monitor.stop()
            self.links.partition_fault.stop()
            self.calls.end_all("it has left the cluster")
            self.resumption.end_all("it has left the cluster")
            await self.links.peers.close(reason=ALL_ANSWERED)
            await listener.close(reason=ALL_ANSWERED)
        self._end()

    def drop(self) -> None:
        """End at once what `stop` has not ended: calls, workers, links, the port.

        For a `stop` that was cancelled. Others see this node die.
        """
        self._stopping = True
        if self._listener is not None:
            self._stop_parts()
            self.spaces.kill()
            self.workers.kill()
            self.links.partition_fault.stop()
            self.links.peers.drop()
            self._listener.drop()
        self._end()

    def _stop_parts(self) -> None:
        self.membership_driver.stop()
        self.leases.stop()
        self.calls.stop()
        self.snapshots.stop()
        self.executor.stop()

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
            await self.leases.idle.wait()
            await self.calls.orphans.idle.wait()
            if len(self.members.alive()) > 1:
                await self._membership.spread.wait()

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

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` beside everything else; it ends with the node at the latest."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
        self.code_distributor.add_own(own, offer)
