"""All runs of this node: started, resumed, followed by clients, explained, relayed.

Requests about runs of other nodes are relayed. Ids are unique in the world, so an
answer goes to who asked with its id, and news of a run to all who follow it here.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.dispatch import Handler, without_parts
from mpreg_nb.node.peer_requests import PeerRequests, PeerSender
from mpreg_nb.node.pending_call import Followers, Sink
from mpreg_nb.node.results import InputResolver, ResultStore
from mpreg_nb.node.run_plan import RunPlans, used
from mpreg_nb.node.worker_pool import brought
from mpreg_nb.node.workflow_run import Placement, StepSink, WorkflowRun
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    EngineRef,
    ExplainStep,
    Failed,
    Failure,
    Ids,
    NodeChance,
    Relay,
    Release,
    Reply,
    ResultRef,
    ResultRefs,
    RunFollowed,
    RunList,
    RunResume,
    Runs,
    RunStart,
    RunState,
    RunSummary,
    RunWatch,
    SideCall,
    SpaceClose,
    SpaceOpen,
    StepChoice,
    StepExplanation,
    StepFetch,
    StepPlan,
)
from mpreg_nb.protocol.worker import JobDone
from mpreg_nb.routing.router import CandidateVerdict, Router, Wanted
from mpreg_nb.workflows.state import (
    Attempt,
    Items,
    NotUndone,
    Part,
    StartStep,
    StepDone,
    Undone,
)

_replace: Any = msgspec.structs.replace


def kept_by(state: StepDone) -> tuple[ResultRef, ...]:
    """Return the results of one step that nodes hold; of a map there may be many."""
    result = state.result
    results = result.results if isinstance(result, Items) else (result,)
    return tuple(one for one in results if isinstance(one, ResultRef))


def finished(run: WorkflowRun) -> dict[str, StepDone]:
    """Return the steps of `run` that have a result which still holds.

    What was undone does not, nor what was made of it.
    """
    states = {plan.name: run.machine.state(plan.name) for plan in run.request.steps}
    pending = [step for step, state in states.items() if isinstance(state, Undone)]
    stale = set(pending)
    users: dict[str, list[str]] = {}
    for plan in run.request.steps:
        for needed in (*used(plan), *plan.after):
            users.setdefault(needed, []).append(plan.name)
    while pending:
        more = set(users.get(pending.pop(), ())) - stale
        stale |= more
        pending += more
    return {
        step: state
        for step, state in states.items()
        if isinstance(state, StepDone) and step not in stale
    }


def reusable(
    run: WorkflowRun, done: Mapping[str, StepDone], held: Collection[bytes]
) -> dict[str, StepDone]:
    """Return those of `done` that need not run again.

    A result that no node holds any more is made again where a step that will run
    needs it, or where it is one of the last of the workflow.

    held: ids of the results that are still there.
    """
    gone = {
        step
        for step, state in done.items()
        if any(kept.id not in held for kept in kept_by(state))
    }
    plans = {plan.name: plan for plan in run.request.steps}
    again = [step for step in plans if step not in done]
    again += [step for step in run.outputs if step in gone]
    will_run = set(again)
    while again:
        for needed in used(plans[again.pop()]):
            if needed in gone and needed not in will_run:
                will_run.add(needed)
                again.append(needed)
    return {step: _earlier(done[step]) for step in done if step not in will_run}


def newest(
    plans: Iterable[StepPlan], versions: Mapping[str, str]
) -> tuple[StepPlan, ...]:
    """Return `plans` with the versions of the functions that `versions` names."""

    def renewed(call: Any) -> Any:
        if not isinstance(call, StepPlan | SideCall):
            return call
        return _replace(call, version=versions.get(call.function, call.version))

    return tuple(
        _replace(
            renewed(plan),
            condition=renewed(plan.condition),
            split=renewed(plan.split),
            fallback=renewed(plan.fallback),
            undo=renewed(plan.undo),
        )
        for plan in plans
    )


def _earlier(state: StepDone) -> StepDone:
    """Return the end of a step as that of an earlier run: here it was not sent."""
    if isinstance(state, NotUndone):
        state = StepDone(state.attempt, state.result, state.result_bytes)
    attempt: Attempt = state.attempt
    return replace(state, attempt=replace(attempt, number=0, started_at_s=None))


MOST_NODES = 20
"""Nodes that are noted of one choice, those that fit first."""

MOST_CHANCES = 20_000
"""Nodes that are noted in all, some 3 MB; the oldest choices go first."""

CHOICE_WEIGHT = 9
"""What a choice takes besides its nodes, in nodes: where these are few, it counts."""

MOMENT_S = 0.005
"""Steps that are sent within it share what was known, where nodes are many."""


class _Choice:
    """One choice; put into words when somebody asks for it."""

    __slots__ = (
        "_at",
        "_chosen",
        "_wanted",
        "attempt",
        "behind",
        "loads",
        "part",
        "reasons",
    )

    def __init__(
        self,
        wanted: Wanted,
        now: float,
        loads: tuple[CandidateVerdict, ...],
        chosen: str,
    ) -> None:
        self._wanted = wanted
        self._at = now
        self.loads = loads
        self._chosen = chosen
        self.attempt = 0
        self.part: Part = "call"
        self.behind = ""  # the step whose worker went on with this one
        self.reasons: tuple[tuple[str, str], ...] = ()
        """What speaks against each node, where the loads are those of another step."""

    @property
    def weight(self) -> int:
        """What it takes in memory, in nodes."""
        return CHOICE_WEIGHT + (0 if self.behind else min(MOST_NODES, len(self.loads)))

    def told(self, router: Router, began_s: float) -> StepChoice:
        """Return it as it travels; began_s: when the run did."""
        wanted, verdicts = self._wanted, self.loads
        if self.behind:
            loads = {verdict.node: verdict for verdict in verdicts}
            verdicts = tuple(
                replace(loads[node], reason=reason)
                for node, reason in self.reasons
                if node in loads
            )
        return StepChoice(
            attempt=self.attempt,
            sent_ms=(self._at - began_s) * 1e3,
            function=wanted.function,
            chosen=self._chosen,
            nodes=_chances(verdicts, self._chosen),
            version=wanted.version or "",
            resources=router.needed(wanted),
            more_nodes=max(0, len(verdicts) - MOST_NODES),
            part=_said(self.part),
            behind=self.behind,
        )


class Unnoted:
    """Gives calls to the node, and notes nothing."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def hand_over(
        self,
        run: WorkflowRun,
        sink: StepSink,
        call: Call,
        parts: tuple[Buffer, ...],
        then: Followers | None,
    ) -> None:
        """Give the call of a step to the node."""
        self._calls.receive(sink, call, parts, then)

    def take_answer(
        self, run: WorkflowRun, effect: StartStep, call: Call, behind: str
    ) -> tuple[str, JobDone] | None:
        """Return version and result of a call that a worker went on with, if here."""
        return self._calls.take_answer(call)

    def go_on(self, run: WorkflowRun, sink: StepSink, call: Call, behind: str) -> bool:
        """Take in a call that a worker went on with; False: none did."""
        return self._calls.go_on(sink, call)


class PlacementLog:
    """The last choices for the steps of all runs of this node."""

    def __init__(self, me: str, calls: Calls) -> None:
        self._me = me
        self._calls = calls
        self._choices: OrderedDict[tuple[bytes, str], list[_Choice]] = OrderedDict()
        self._chances = 0
        self._last: tuple[Wanted, float, tuple[CandidateVerdict, ...]] | None = None

    def hand_over(
        self,
        run: "WorkflowRun",
        sink: StepSink,
        call: Call,
        parts: tuple[Buffer, ...],
        then: Followers | None,
    ) -> None:
        """Give the call of a step to the node, and note where it goes and why."""
        now = time.monotonic()
        wanted = Wanted(call.function, call.version, call.resources, call.node)
        # Before the call is taken in: it would count itself.
        verdicts = self._verdicts(wanted, now)
        node = self._calls.receive(sink, call, parts, then)
        self._note(run, sink, _Choice(wanted, now, verdicts, node))

    def take_answer(
        self, run: "WorkflowRun", effect: StartStep, call: Call, behind: str
    ) -> tuple[str, JobDone] | None:
        """Return version and result of a call that a worker went on with, if here.

        It is noted that it did.
        """
        found = self._calls.take_answer(call)
        if found is not None:
            self._note_follower(run, effect, call, behind)
        return found

    def go_on(
        self, run: "WorkflowRun", sink: StepSink, call: Call, behind: str
    ) -> bool:
        """Take in a call that a worker went on with, and note that it did."""
        if not self._calls.go_on(sink, call):
            return False
        self._note_follower(run, sink, call, behind)
        return True

    def _note_follower(
        self, run: "WorkflowRun", of: StepSink | StartStep, call: Call, behind: str
    ) -> None:
        now = time.monotonic()
        wanted = Wanted(call.function, call.version, call.resources, call.node)
        # The loads are those of the moment in which the first of them was sent.
        before = self._choices.get((run.id, behind), ())
        choice = _Choice(wanted, now, before[-1].loads if before else (), self._me)
        choice.behind, choice.reasons = behind, self._calls.router.reasons(wanted, now)
        self._note(run, of, choice)

    def of(self, run: "WorkflowRun", step: str) -> tuple[StepChoice, ...]:
        """Return what is remembered of a step, in the order of being sent."""
        return tuple(
            choice.told(self._calls.router, run.began_s)
            for choice in self._choices.get((run.id, step), ())
        )

    def _verdicts(self, wanted: Wanted, now: float) -> tuple[CandidateVerdict, ...]:
        """Return what the router knows; of many nodes, as it was a moment ago."""
        if self._last is not None:
            asked, at, verdicts = self._last
            if asked == wanted and now - at < MOMENT_S and len(verdicts) > MOST_NODES:
                return verdicts
        self._calls.look_at_own_load(now)
        verdicts = self._calls.router.explain(wanted, now)
        self._last = (wanted, now, verdicts)
        return verdicts

    def _note(
        self, run: "WorkflowRun", of: StepSink | StartStep, choice: "_Choice"
    ) -> None:
        choice.attempt, choice.part = of.attempt, of.part
        self._choices.setdefault((run.id, of.step), []).append(choice)
        self._chances += choice.weight
        while self._chances > MOST_CHANCES:
            oldest, choices = next(iter(self._choices.items()))
            self._chances -= choices.pop(0).weight
            if not choices:
                del self._choices[oldest]


def _said(part: Part) -> str:
    if isinstance(part, int):
        return f"item [{part}]"
    return {"call": "", "split": "taking apart"}.get(part, f"the {part}")


def _chances(
    verdicts: tuple[CandidateVerdict, ...], chosen: str
) -> tuple[NodeChance, ...]:
    shown = verdicts[:MOST_NODES]
    if len(verdicts) > MOST_NODES:
        left_out = [v for v in verdicts[MOST_NODES:] if v.node == chosen]
        shown = (*shown[: MOST_NODES - len(left_out)], *left_out)
    return tuple(map(_chance, shown))


def _chance(verdict: CandidateVerdict) -> NodeChance:
    report = verdict.reported
    return NodeChance(
        node=verdict.node,
        reason=verdict.reason,
        in_flight=verdict.in_flight,
        score=verdict.score,
        running=None if report is None else report.running,
        queued=None if report is None else report.queued,
        slots=None if report is None else report.slots,
    )


class RunProxy:
    """The questions that are under way through this node, and the runs followed."""

    def __init__(self, peer_sender: PeerSender) -> None:
        self._peer_sender = peer_sender
        self._asked: dict[bytes, tuple[str, Sink]] = {}  # question -> node, who
        self._spaces: dict[bytes, tuple[str, Sink]] = {}  # space -> node, whose
        self._followed: dict[bytes, tuple[str, list[Sink]]] = {}  # run -> node, who

    def pass_on(self, sink: Sink, relay: Relay) -> None:
        """Send what a client said to the node that it is for."""
        message = relay.message
        if not isinstance(message, Cancel | SpaceClose):
            self._asked[message.id] = (relay.node, sink)
        match message:
            case SpaceOpen(id=space):
                self._spaces[space] = (relay.node, sink)
            case SpaceClose(id=space):
                self._spaces.pop(space, None)
            case RunWatch(run=run) | RunResume(new=run):
                _, sinks = self._followed.setdefault(run, (relay.node, []))
                if sink not in sinks:
                    sinks.append(sink)
            case _:
                pass
        self._peer_sender.send(relay.node, message)

    def answered(self, message: Any, parts: tuple[Buffer, ...]) -> bool:
        """Pass on what a node said; False if nobody waits for it here."""
        _, followers = self._followed.get(message.id, ("", []))
        _, asker = self._asked.pop(message.id, ("", None))
        for sink in followers if asker is None else (asker,):
            sink.send(message, parts)
        if isinstance(message, RunFollowed) and message.run.status != "running":
            self._followed.pop(message.run.run, None)
        elif isinstance(message, RunState) and message.status != "running":
            self._followed.pop(message.id, None)
        return asker is not None or bool(followers)

    def sink_lost(self, sink: Sink) -> None:
        """Tell a client that is gone nothing more."""
        self._asked = {
            key: pair for key, pair in self._asked.items() if pair[1] is not sink
        }
        for space, (node, owner) in list(self._spaces.items()):
            if owner is sink:
                del self._spaces[space]
                self._peer_sender.send(node, SpaceClose(id=space))
        for run, (_, sinks) in list(self._followed.items()):
            if sink in sinks:
                sinks.remove(sink)
            if not sinks:
                del self._followed[run]

    def node_gone(self, node: str, reason: str) -> None:
        """Answer all that `node` was asked, and all who follow its runs."""
        failure = Failure(kind="node_lost", message=reason, node=node)
        asked = [key for key, (to, _) in self._asked.items() if to == node]
        followed = [run for run, (to, _) in self._followed.items() if to == node]
        for key in (*asked, *followed):
            self.answered(Failed(id=key, failure=failure), ())
        for space in [key for key, (to, _) in self._spaces.items() if to == node]:
            del self._spaces[space]
        for run in followed:
            self._followed.pop(run, None)


REMEMBERED_RUNS = 100
"""Ended runs whose results can still be fetched; the oldest go first."""

REMEMBERED_BYTES = 256 << 20
"""Of all of them, without what nodes keep in their stores, which have a limit. Runs
that their callers hold no more are within it on each node, stores included. The newest
stays, however large it is."""

REMEMBERED_ROWS = 1000
"""Runs of which nothing is left but what a table shows."""


class EndedRuns:
    """What ended runs take in bytes, on which node, and which has to go.

    A result that several runs have counts once.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._runs: OrderedDict[bytes, WorkflowRun] = OrderedDict()
        self._own: dict[bytes, int] = {}  # run -> its size here, without the store
        self._own_bytes = 0
        self._unheld: OrderedDict[bytes, tuple[ResultRef, ...]] = OrderedDict()
        self._by_node: Counter[str] = Counter()  # what those take, stores included
        self._users: Counter[bytes] = Counter()  # of a result, among them

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: WorkflowRun) -> None:
        """Take in a run that has just ended."""
        self._runs[run.id] = run
        self._own[run.id] = size = run.size_bytes()
        self._own_bytes += size
        if not run.subscribers:
            self.unhold(run.id)

    def unhold(self, run_id: bytes) -> None:
        """Note that the caller of a run asks for nothing of it any more."""
        run = self._runs.get(run_id)
        if run is None or run_id in self._unheld:
            return
        self._unheld[run_id] = kept = tuple(run.kept())
        self._by_node[self._me] += self._own[run_id]
        for one in kept:
            self._users[one.id] += 1
            if self._users[one.id] == 1:
                self._by_node[one.owner] += one.size_bytes

    def hold(self, run_id: bytes) -> None:
        """Note that somebody may ask for results of a run again."""
        unheld = self._unheld.pop(run_id, None)
        if unheld is None:
            return
        self._by_node[self._me] -= self._own[run_id]
        for one in unheld:
            self._users[one.id] -= 1
            if not self._users[one.id]:
                del self._users[one.id]
                self._by_node[one.owner] -= one.size_bytes

    def surplus(self) -> Iterator[WorkflowRun]:
        """Yield runs to be forgotten until the others are within the limits."""
        while (len(self._runs) > REMEMBERED_RUNS) or (
            self._own_bytes > REMEMBERED_BYTES and len(self._runs) > 1
        ):
            yield self._drop(next(iter(self._runs)))
        newest = next(reversed(self._runs), b"")
        for run_id in [run_id for run_id in self._unheld if run_id != newest]:
            if max(self._by_node.values()) <= REMEMBERED_BYTES:
                return
            yield self._drop(run_id)

    def _drop(self, run_id: bytes) -> WorkflowRun:
        self.hold(run_id)
        self._own_bytes -= self._own.pop(run_id)
        return self._runs.pop(run_id)


class WorkflowService:
    """All runs of one node, by id, oldest first."""

    def __init__(
        self,
        me: str,
        *,
        calls: Calls,
        peer_requests: PeerRequests,
        store: ResultStore,
        peer_sender: PeerSender,
    ) -> None:
        self._me = me
        self._calls = calls
        self._placement_log = PlacementLog(me, calls)
        self._unnoted = Unnoted(calls)
        self._peer_requests = peer_requests
        self._store = store
        self._peer_sender = peer_sender
        self._inputs = InputResolver(me, store, peer_requests)
        self._ids = Ids()
        self._plans = RunPlans()
        self.run_proxy = RunProxy(peer_sender)
        self._runs: OrderedDict[bytes, WorkflowRun] = OrderedDict()
        self._ended = EndedRuns(me)
        self._rows: OrderedDict[bytes, RunSummary] = OrderedDict()  # of forgotten ones
        self._uses: Counter[bytes] = Counter()  # of a result, by runs after the first

    @property
    def under_way(self) -> int:
        """Runs that have not ended."""
        return len(self._runs) - len(self._ended)

    def start(self, sink: Sink, request: RunStart, parts: tuple[Buffer, ...]) -> None:
        """Check the workflow and begin to execute it."""
        try:
            run = self._made(sink, request, parts, self._placement_log, self._remember)
        except InvalidWorkflow as error:
            failure = Failure(kind="bad_request", message=str(error))
            sink.send(Failed(id=request.id, failure=failure))
            return
        self._runs[request.id] = run
        run.start()

    async def resume(self, sink: Sink, request: RunResume) -> None:
        """Begin a run of what has no result in another, which must have ended."""
        old = self._known(sink, request.id, request.run)
        if old is None:
            return
        if old.machine.status == "running":
            text = (
                "the run has not ended; wait for its end or cancel it, then resume it"
            )
            failure = Failure(kind="bad_request", message=text)
            sink.send(Failed(id=request.id, failure=failure))
            return
        done = finished(old)
        shared = {kept.id: kept for one in done.values() for kept in kept_by(one)}
        self._uses.update(shared.keys())  # `old` may be forgotten meanwhile
        held = await self._held(shared.values())
        start = _replace(
            old.request,
            id=request.new,
            steps=newest(old.request.steps, dict(request.versions)),
        )
        run = self._made(
            sink,
            start,
            old.parts,
            self._placement_log,
            self._remember,
            reusable(old, done, held),
        )
        reused = {kept.id for kept in run.kept()}
        for kept in shared.values():
            if kept.id not in reused:
                self._let_go(kept)
        self._runs[run.id] = run
        sink.send(_told(request.id, run))
        run.start()

    async def _held(self, kept: Iterable[ResultRef]) -> frozenset[bytes]:
        """Return the ids of those results that are still held, by whatever node."""
        by_owner: dict[str, list[ResultRef]] = {}
        for one in kept:
            by_owner.setdefault(one.owner, []).append(one)
        own = by_owner.pop(self._me, ())
        answers = await asyncio.gather(
            *(self._peer_requests.held(owner, each) for owner, each in by_owner.items())
        )
        mine = {one.id for one in own if self._store.get(one.id) is not None}
        return frozenset(mine).union(*answers)

    def prepare(self, sink: Sink, request: RunStart) -> WorkflowRun:
        """Return a run of this process's own, to be started and released by it.

        It is in no list of runs, and nobody else can ask for its results.

        Raises:
            InvalidWorkflow: its steps could never all be run.
        """
        return self._made(sink, request, (), self._unnoted, lambda run: None)

    def _made(
        self,
        sink: Sink,
        request: RunStart,
        parts: tuple[Buffer, ...],
        placement: Placement,
        on_end: Callable[[WorkflowRun], None],
        done: Mapping[str, StepDone] | None = None,
    ) -> WorkflowRun:
        return WorkflowRun(
            request,
            parts,
            sink,
            me=self._me,
            calls=self._calls,
            store=self._store,
            placement=placement,
            ids=self._ids,
            on_end=on_end,
            plans=self._plans,
            done=done,
        )

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages about runs."""
        return {
            RunStart: self.start,
            RunResume: without_parts(self.resume),
            StepFetch: without_parts(self.fetch),
            **self.view_handlers(),
        }

    def view_handlers(self) -> dict[type, Handler]:
        """Return the handlers of messages that only look at runs."""
        return {
            RunWatch: without_parts(self.watch),
            RunList: without_parts(self.list),
            ExplainStep: without_parts(self.why),
        }

    def cancel(self, run_id: bytes) -> bool:
        """Cancel a run; False if there is none of this id."""
        run = self._runs.get(run_id)
        if run is None:
            return False
        run.cancel()
        return True

    def list(self, sink: Sink, request: RunList) -> None:
        """Answer with all runs, newest first."""
        runs = (run.summary() for run in reversed(self._runs.values()))
        rows = (*runs, *reversed(self._rows.values()))
        sink.send(Runs(id=request.id, runs=rows))

    def watch(self, sink: Sink, request: RunWatch) -> None:
        """Answer with all that is known of a run, and tell `sink` of it from now."""
        run = self._known(sink, request.id, request.run)
        if run is not None:
            sink.send(_told(request.id, run))
            run.subscribers.add(sink)  # of a run that has ended: who holds it
            self._ended.hold(run.id)

    def why(self, sink: Sink, request: ExplainStep) -> None:
        """Answer with what there was to choose from for a step."""
        run = self._known(sink, request.id, request.run)
        if run is None:
            return
        choices = self._placement_log.of(run, request.step)
        sink.send(StepExplanation(id=request.id, choices=choices))

    async def fetch(self, sink: Sink, request: StepFetch) -> None:
        """Answer with the result or the failure of a step, once it has ended."""
        run = self._known(sink, request.id, request.run)
        if run is None:
            return
        try:
            answer, parts = await self.outcome(run, request.step, request.id)
        except KeyError:
            text = f"the run has no step {request.step!r}"
            failure = Failure(kind="bad_request", message=text)
            answer, parts = Failed(id=request.id, failure=failure), ()
        sink.send(answer, parts)

    async def outcome(
        self, run: WorkflowRun, step: str, answer_id: bytes
    ) -> tuple[Reply | Failed, tuple[Buffer, ...]]:
        """Wait for the end of a step; return its result or failure as an answer."""
        end = await run.ended(step)
        if isinstance(end, bytes):
            return Reply(id=answer_id, payload=end, node=self._me), ()
        if isinstance(end, ResultRef | ResultRefs | EngineRef):
            return await self._found(end, answer_id)
        failed, parts = end
        return msgspec.structs.replace(failed, id=answer_id), parts

    async def _found(
        self, result: ResultRef | ResultRefs | EngineRef, answer_id: bytes
    ) -> tuple[Reply | Failed, tuple[Buffer, ...]]:
        found = await self._inputs.one(result)
        if isinstance(found, Failure):  # its step did run
            failure = msgspec.structs.replace(found, lost=())
            return Failed(id=answer_id, failure=failure), ()
        node = result.owner if isinstance(result, ResultRef) else self._me
        if isinstance(found, bytes):
            return Reply(id=answer_id, payload=found, node=node), ()
        try:
            found = await brought(found)
        except LookupError as error:
            gone = Failure(kind="gone", message=str(error), node=node)
            return Failed(id=answer_id, failure=gone), ()
        return Reply(id=answer_id, payload=b"", node=node), found

    def sink_lost(self, sink: Sink) -> None:
        """Tell a caller that is gone nothing more; its runs go on."""
        self.run_proxy.sink_lost(sink)
        for run in self._runs.values():
            run.sink_lost(sink)
            if not run.subscribers:
                self._ended.unhold(run.id)
        self._forget_surplus()

    def unhold(self, sink: Sink, run_id: bytes) -> None:
        """Let an ended run go first, once none of its callers needs anything of it."""
        run = self._runs.get(run_id)
        if run is None or run.machine.status == "running":
            return
        run.sink_lost(sink)
        if not run.subscribers:
            self._ended.unhold(run_id)
            self._forget_surplus()

    def _known(
        self, sink: Sink, request_id: bytes, run_id: bytes
    ) -> WorkflowRun | None:
        run = self._runs.get(run_id)
        if run is None:
            text = "it has no record of the run"
            if run_id in self._rows:
                text = (
                    f"it keeps the last {REMEMBERED_RUNS} runs, up to "
                    f"{REMEMBERED_BYTES >> 20} MB, and this one had to go"
                )
            failure = Failure(kind="gone", message=text, node=self._me)
            sink.send(Failed(id=request_id, failure=failure))
        return run

    def _remember(self, run: WorkflowRun) -> None:
        self._ended.add(run)
        self._forget_surplus()

    def _forget_surplus(self) -> None:
        for old in self._ended.surplus():
            del self._runs[old.id]
            self._rows[old.id] = old.summary()
            self.release(old)
        while len(self._rows) > REMEMBERED_ROWS:
            self._rows.popitem(last=False)

    def release(self, run: WorkflowRun) -> None:
        """Let go of the results that are held for a run, on whatever node."""
        for kept in run.kept():
            self._let_go(kept)

    def _let_go(self, kept: ResultRef) -> None:
        if self._uses[kept.id]:  # a run that was resumed, or another that resumed it
            self._uses -= Counter((kept.id,))
        elif kept.owner == self._me:
            self._store.release(kept.id)
        else:
            self._peer_sender.send(kept.owner, Release(ids=(kept.id,)))


def _told(request_id: bytes, run: WorkflowRun) -> RunFollowed:
    return RunFollowed(
        id=request_id,
        run=run.snapshot(),
        plans=run.bare_plans(),
        lines=run.subscribers.lines.all,
    )
