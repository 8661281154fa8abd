"""Runs that this client follows: states and results that nodes report."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.client.connections import Connections, Requests, addressed
from mpreg_nb.client.outcome import rebuilt, value_of
from mpreg_nb.client.output import OutputBuffer, Writer
from mpreg_nb.client.statistics import CallLog, CallRow
from mpreg_nb.errors import MpregError, NodeLost, NoRun
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import (
    SHOWN,
    Cancel,
    ExplainStep,
    Failed,
    Failure,
    Printed,
    Release,
    RunFollowed,
    RunList,
    RunResume,
    RunSnapshot,
    RunStart,
    RunState,
    RunSummary,
    RunWatch,
    SideCall,
    StepCall,
    StepChoice,
    StepFetch,
    StepPlan,
    StepSnapshot,
    run_id,
)
from mpreg_nb.protocol.output_tail import OutputTail
from mpreg_nb.serialize.exceptions import error_of
from mpreg_nb.settings import RIDE_ALONG_BYTES
from mpreg_nb.transport.connection import Connection

RunStatus = Literal["running", "done", "failed", "cancelled"]


class RunRecord(msgspec.Struct, eq=False):
    """What is known of one run. Written on the loop's thread, but for `cancelling`."""

    id: bytes
    workflow: str
    steps: dict[str, StepSnapshot]
    node: str  # that drives it
    link: Connection  # over which it is followed, perhaps by way of the entry
    writer: Writer
    listeners: list[Callable[["RunRecord"], None]] = []
    functions: dict[str, str] = {}  # step -> its function
    status: RunStatus = "running"
    duration_ms: float = 0.0
    started_at_s: float = msgspec.field(default_factory=time.time)  # wall clock
    cancelling: bool = False  # asked for here, also before the node was told
    lost: Exception | None = None  # why nothing more will be heard of it
    results: dict[str, bytes] = {}  # small outputs
    failures: dict[str, Failed] = {}  # small ones
    lines: OutputTail = msgspec.field(default_factory=OutputTail)
    prints: dict[str, OutputBuffer] = {}  # of steps that run
    plans: tuple[StepPlan, ...] = ()  # without arguments, where others began it
    mendable: frozenset[str] = frozenset()  # functions that may be registered anew
    holds: Sequence[object] = ()  # keeps values of the engine that steps take
    results_bytes: int = 0  # of `results`

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen, as far as this client can know."""
        return self.status != "running" or self.lost is not None

    def changed(self) -> None:
        """Tell who listens that something happened."""
        for listener in self.listeners:
            listener(self)
        if self.ended:  # nothing follows, and a listener may hold this record
            self.listeners.clear()

    @property
    def is_stored(self) -> bool:
        """Whether nodes keep results of it in their stores."""
        sizes = (step.result_bytes or 0 for step in self.steps.values())
        return any(size > RIDE_ALONG_BYTES for size in sizes)

    def drop_results(self) -> None:
        """Let the results go that came with its end; its node is asked for them."""
        self.results.clear()
        self.results_bytes = 0

    @property
    def snapshot(self) -> RunSnapshot:
        """The run as the node would tell of it, without its graph."""
        return RunSnapshot(
            run=self.id,
            workflow=self.workflow,
            status=self.status if self.lost is None else "failed",
            steps=tuple(self.steps.values()),
            edges=(),
            started_at_s=self.started_at_s,
            duration_ms=self.duration_ms,
        )


def mendable(plans: Iterable[StepPlan]) -> frozenset[str]:
    """Return the names of all functions that a workflow calls."""
    calls: set[str] = set()
    for plan in plans:
        calls.add(plan.function)
        for side in (plan.condition, plan.split, plan.fallback, plan.undo):
            if isinstance(side, SideCall):
                calls.add(side.function)
    return frozenset(calls)


PATIENCE_S = 2.0
"""How long a node may take to say which runs it remembers."""

_UNDER_WAY = ("waiting", "running")


class Fetched(msgspec.Struct, frozen=True):
    """The value of a step, or its error, as the bytes that came."""

    name: str  # of the step, of the function where it failed
    parts: Parts
    failed: Failed | None = None

    def __call__(self) -> Any:
        """Return the value, or raise the error. Runs code of the user's."""
        if self.failed is not None:
            return value_of(
                (None, error_of(self.failed, self.parts, function=self.name))
            )
        return value_of(rebuilt(self.parts, name=self.name))


class _Asked(msgspec.Struct):
    """A run that is asked for; the record is there as soon as the answer came."""

    node: str
    link: Connection
    writer: Writer
    record: RunRecord | None = None


class ClientRuns:
    """The runs that this client started, by id, while they are under way."""

    def __init__(
        self,
        links: Connections,
        requests: Requests,
        state: ClusterState,
        call_log: CallLog,
        *,
        snapshot: Callable[[], Awaitable[object]],
    ) -> None:
        """snapshot: brings `state` up to date."""
        self._links = links
        self._requests = requests
        self._state = state
        self._call_log = call_log
        self._snapshot = snapshot
        self._again: set[asyncio.Task[None]] = set()
        self._open: dict[bytes, RunRecord] = {}
        self._asked: dict[bytes, _Asked] = {}  # by the id of the question

    def start(
        self,
        request: RunStart,
        parts: Parts,
        *,
        writer: Writer,
        on_change: Callable[[RunRecord], None] | None = None,
    ) -> RunRecord:
        """Hand a workflow to the node of the entry, which drives it.

        Raises:
            NodeLost: there is no link now.
        """
        entry = self._links.entry
        if entry is None:
            raise NodeLost("", "there is no connection to any node", executed="no")
        record = RunRecord(
            id=request.id,
            workflow=request.workflow,
            steps={
                plan.name: StepSnapshot(name=plan.name, status="waiting")
                for plan in request.steps
            },
            node=entry.peer.name,
            link=entry,
            writer=writer,
            listeners=[] if on_change is None else [on_change],
            functions={plan.name: plan.function for plan in request.steps},
            mendable=mendable(request.steps),
        )
        self._open[request.id] = record
        entry.send(request, parts)
        return record

    @property
    def open(self) -> tuple[RunRecord, ...]:
        """What is known of the runs that are under way. May be read on any thread."""
        return tuple(self._open.values())

    async def everywhere(self) -> tuple[tuple[str, RunSummary], ...]:
        """Return (node that drives it, run) of all that nodes remember, newest first.

        Nodes that cannot be reached, or do not answer soon, are left out.
        """
        nodes = [
            snapshot.record.name
            for snapshot in self._state.nodes
            if snapshot.record.state <= MemberState.SUSPECT
        ]
        answers = await asyncio.gather(*map(self._of, nodes))
        found = [pair for answer in answers for pair in answer]
        return tuple(sorted(found, key=lambda pair: -pair[1].started_at_s))

    async def _of(self, node: str) -> list[tuple[str, RunSummary]]:
        request = RunList(id=self._requests.new_id())
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer, _ = await self._requests.ask_node(node, request)
        except (NodeLost, TimeoutError):  # the others answer for themselves
            return []
        return [(node, run) for run in answer.runs]

    async def take_up(self, node: str, run_id: bytes, writer: Writer) -> RunRecord:
        """Return what `node` knows of a run, and follow it from now on.

        Raises:
            NoRun: it cannot be reached, or does not remember the run.
        """
        request = RunWatch(id=self._requests.new_id(), run=run_id)
        return await self._taken_up(request, node, writer)

    async def resume(self, record: RunRecord, writer: Writer) -> RunRecord:
        """Begin a run of what has no result in that of `record`, and follow it.

        Raises:
            BadRequest: it goes on.
            NoRun: the node that drove it is gone, or has forgotten it.
        """
        await self._snapshot()  # to know the newest of each function
        request = RunResume(
            id=self._requests.new_id(),
            run=record.id,
            new=run_id(),
            versions=tuple(self._versions(record)),
        )
        return await self._taken_up(request, record.node, writer)

    def _versions(self, record: RunRecord) -> Iterator[tuple[str, str]]:
        for function in sorted(record.mendable):
            offer = self._state.newest(function)
            if offer is not None and offer.placed:
                yield function, offer.version

    async def _taken_up(
        self, request: RunWatch | RunResume, node: str, writer: Writer
    ) -> RunRecord:
        link = await self._requests.link_to(node)
        asked = self._asked[request.id] = _Asked(node, link, writer)
        try:
            await self._requests.ask_node(node, request, link=link)
        except NodeLost as error:
            raise _forgotten(node, error) from error
        finally:
            del self._asked[request.id]
        if asked.record is None:
            raise AssertionError(f"{request} was answered by something else")
        return asked.record

    async def why(self, record: RunRecord, step: str) -> tuple[StepChoice, ...]:
        """Return what the driving node remembers of the choices for a step.

        Raises:
            NoRun: it is gone, or has forgotten the run.
        """
        request = ExplainStep(id=self._requests.new_id(), run=record.id, step=step)
        try:
            answer, _ = await self._requests.ask_node(record.node, request)
        except NodeLost as error:
            raise _forgotten(record.node, error) from error
        choices: tuple[StepChoice, ...] = answer.choices
        return choices

    def cancel(self, record: RunRecord) -> None:
        """Ask the driving node to end a run."""
        record.cancelling = True
        if not record.ended:
            cancel = Cancel(id=record.id)
            record.link.send(addressed(cancel, record.node, record.link))

    def unhold(self, record: RunRecord) -> None:
        """Tell the driving node that nobody here holds a run any more.

        Of the runs that it remembers, such go first. It matters only for large results.
        """
        link = record.link
        if record.ended and record.is_stored and link.peer.name == record.node:
            link.send(Release(ids=(record.id,)))

    async def fetch(self, record: RunRecord, step: str) -> "Fetched":
        """Return the outcome of a step, waiting for its end.

        Whoever wants its value calls it, on the thread that may rebuild it.

        Raises:
            NodeLost: the node that drives the run is gone, or that held the result.
            NoRun: the run is forgotten, or the result was let go.
        """
        if step in record.results:
            return Fetched(step, (record.results[step],))
        if step in record.failures:
            function = record.functions.get(step, step)
            return Fetched(function, (), record.failures[step])
        if record.lost is not None:
            raise record.lost
        fetch = StepFetch(id=self._requests.new_id(), run=record.id, step=step)
        function = record.functions.get(step, step)
        answer, parts = await self._requests.ask_node(
            record.node, fetch, function=function, whole=True
        )
        if isinstance(answer, Failed):
            if answer.failure.kind == "gone":
                _check_is_lost(answer.failure, record.node, step)
            return Fetched(function, parts, answer)
        return Fetched(step, parts or (answer.payload,))

    def receive(self, message: Any, parts: Parts = ()) -> bool:
        """Take in what a node tells of a run; False if it is of none here."""
        if type(message) is RunFollowed:
            self._told(message)
            return False  # somebody waits for it as the answer
        record = self._open.get(getattr(message, "id", b""))
        if record is None:
            return False
        match message:
            case RunState():
                for call in message.calls:
                    self._note(record, call)
                for state in message.steps:
                    self._count(record, state)
                    record.steps[state.name] = state
                record.duration_ms = message.duration_ms
                record.results.update(message.results)
                record.results_bytes += sum(len(one) for _, one in message.results)
                record.failures.update(message.failures)
                record.status = message.status
            case Printed(line=line):
                record.lines.add(line, parts)
                if line.step not in record.prints:
                    record.prints[line.step] = OutputBuffer(record.writer)
                record.prints[line.step].add(line, parts)
                return True
            case Failed(failure=failure) if failure.kind == "node_lost":
                self._follow_again(record, failure.message)
                return True
            case Failed():
                record.lost = error_of(message, (), function=record.workflow)
            case _:
                return False
        for step in list(record.prints):
            last = record.steps.get(step)
            if record.ended or last is None or last.status not in _UNDER_WAY:
                record.prints.pop(step).end()
        if record.ended:
            del self._open[record.id]
        record.changed()
        return True

    def _count(self, record: RunRecord, state: StepSnapshot) -> None:
        if state.status == "done" and record.steps[state.name].status != "done":
            function = record.functions.get(state.name, "")
            self._call_log.add_result(function, state.version)

        if state.status == "cancelled" and state.attempts:
            before = record.steps[state.name]
            if before.status in _UNDER_WAY:
                self._note_cancelled(record, state)

    def _note(self, record: RunRecord, call: StepCall) -> None:
        """Note a call of a step as one of this client's own."""
        self._call_log.add(
            CallRow(
                call_id=call.id.hex(),
                function=call.function,
                run=record.id.hex()[:SHOWN],
                step=call.step,
                node=call.node,
                via="" if call.node == record.node else record.node,
                status=call.status,
                waited_us=call.waited_us,
                queued_us=call.queued_us,
                run_us=call.run_us,
                serialize_us=0,
                total_us=call.total_us,
                sent_bytes=0,
                received_bytes=call.received_bytes,
                started_at=call.ended_at_s - call.total_us / 1e6,
            )
        )

    def _note_cancelled(self, record: RunRecord, state: StepSnapshot) -> None:
        run_us = int((state.run_ms or 0.0) * 1e3)
        queued_us = int((state.queued_ms or 0.0) * 1e3)
        call = StepCall(
            id=record.id,
            step=state.name,
            function=record.functions.get(state.name, ""),
            node=state.node,
            status="cancelled",
            queued_us=queued_us,
            run_us=run_us,
            total_us=queued_us + run_us,
            ended_at_s=time.time(),
        )
        self._note(record, call)

    def _told(self, message: RunFollowed) -> None:
        # At once and not where the answer is awaited: news may follow in this turn.
        asked = self._asked.get(message.id)
        if asked is None:
            return
        run = message.run
        if run.run in self._open:  # it is followed already, perhaps by another link
            record = asked.record = self._open[run.run]
            record.link = asked.link
            record.plans = message.plans
            if record.cancelling:  # the question may have gone with the link before
                self.cancel(record)
            self.receive(
                RunState(
                    id=run.run,
                    status=run.status,
                    steps=run.steps,
                    duration_ms=run.duration_ms,
                )
            )
            return
        record = asked.record = RunRecord(
            id=run.run,
            workflow=run.workflow,
            steps={state.name: state for state in run.steps},
            node=asked.node,
            link=asked.link,
            writer=asked.writer,
            functions={plan.name: plan.function for plan in message.plans},
            status=run.status,
            duration_ms=run.duration_ms,
            started_at_s=run.started_at_s,
            lines=OutputTail(message.lines),
            plans=message.plans,
            mendable=mendable(message.plans),
        )
        if not record.ended:
            self._open[record.id] = record

    def link_lost(self, link: Connection, reason: str) -> None:
        """Look for another way to the runs that were followed over a link that is gone.

        They go on in the cluster, as long as the nodes live that drive them.
        """
        for record in [r for r in self._open.values() if r.link is link]:
            self._follow_again(record, reason)

    def _follow_again(self, record: RunRecord, reason: str) -> None:
        task = asyncio.ensure_future(self._find(record, reason))
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def _find(self, record: RunRecord, reason: str) -> None:
        try:
            await self.take_up(record.node, record.id, record.writer)
        except MpregError:  # the loss is what its user has to hear of
            if self._open.pop(record.id, None) is not None:
                record.lost = NodeLost(
                    record.node,
                    f"it coordinated the run; {reason}",
                    function=record.workflow,
                    executed="unknown",
                )
                for prints in record.prints.values():
                    prints.end()
                record.changed()

    def stop(self) -> None:
        """Forget all runs; those that are under way go on in the cluster."""
        for task in self._again:
            task.cancel()
        for record in list(self._open.values()):
            record.lost = NodeLost(
                record.node, "the client was closed", executed="unknown"
            )
            record.changed()
        self._open.clear()


def _forgotten(node: str, error: NodeLost) -> NoRun:
    return NoRun(
        f"node {node} coordinated the run, and nothing more can be had of it there "
        f"({error.reason}). Finished steps stay finished. To run all steps again, "
        "start the workflow again"
    )


def _check_is_lost(failure: Failure, coordinator: str, step: str) -> None:
    """Raise unless the result of a step is gone because its node is."""
    cure = (
        "Start the workflow again, and take what you need of it soon after its end: "
        f"value = run[{step!r}]"
    )
    if not failure.message:
        raise NoRun(
            f"node {failure.node} let the result of step {step!r} go: a node keeps "
            f"results up to a limit, those that were used last. {cure}"
        )
    if failure.node == coordinator:
        raise NoRun(
            f"node {coordinator} coordinated the run, and no longer has the result of "
            f"step {step!r}: {failure.message}. {cure}"
        )
