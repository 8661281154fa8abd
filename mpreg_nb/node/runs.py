"""The runs that this node drives, and those that it remembers."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.node.asks import Asks
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.choices import Choices, HandOver
from mpreg_nb.node.inputs import Inputs
from mpreg_nb.node.lane import DataLane
from mpreg_nb.node.pending import Source
from mpreg_nb.node.relays import Relays
from mpreg_nb.node.resuming import finished, kept_by, newest, reusable
from mpreg_nb.node.run import ActiveRun
from mpreg_nb.node.run_step import StepSource
from mpreg_nb.node.store import Store
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.history import RunResume, RunTold, RunWatch, WhyAsk, WhyTold
from mpreg_nb.wire.ids import Ids
from mpreg_nb.wire.messages import Call, Failed, Failure, Gathered, Kept, Release, Reply
from mpreg_nb.wire.runs import RunList, Runs, RunStart, StepFetch, summary_of
from mpreg_nb.workflow.states import Done

_replace: Any = msgspec.structs.replace

REMEMBERED_RUNS = 100
"""Ended runs whose results can still be fetched; the oldest go first."""


class RunBook:
    """All runs of one node, by id, oldest first."""

    def __init__(
        self, me: str, *, calls: Calls, asks: Asks, store: Store, lane: DataLane
    ) -> None:
        self._me = me
        self._calls = calls
        self._choices = Choices(calls)
        self._asks = asks
        self._store = store
        self._lane = lane
        self._inputs = Inputs(me, store, asks)
        self._ids = Ids()
        self.relays = Relays(lane)
        self._runs: OrderedDict[bytes, ActiveRun] = OrderedDict()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._uses: Counter[bytes] = Counter()  # of a result, by runs after the first

    @property
    def under_way(self) -> int:
        """Runs that have not ended."""
        return len(self._runs) - len(self._ended)

    def start(
        self, source: Source, request: RunStart, parts: tuple[Buffer, ...]
    ) -> None:
        """Check the workflow and begin to execute it."""
        try:
            run = self._made(
                source, request, parts, self._choices.hand_over, self._remember
            )
        except InvalidWorkflow as error:
            failure = Failure(kind="bad_request", message=str(error))
            source.send(Failed(id=request.id, failure=failure))
            return
        self._runs[request.id] = run
        run.start()

    async def resume(self, source: Source, request: RunResume) -> None:
        """Begin a run of what has no result in another, which must have ended."""
        old = self._known(source, request.id, request.run)
        if old is None:
            return
        if old.machine.status == "running":
            text = (
                "the run has not ended; wait for its end or cancel it, then resume it"
            )
            failure = Failure(kind="bad_request", message=text)
            source.send(Failed(id=request.id, failure=failure))
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
            source,
            start,
            old.parts,
            self._choices.hand_over,
            self._remember,
            reusable(old, done, held),
        )
        reused = {kept.id for kept in run.kept()}
        for kept in shared.values():
            if kept.id not in reused:
                self._let_go(kept)
        self._runs[run.id] = run
        source.send(_told(request.id, run))
        run.start()

    async def _held(self, kept: Iterable[Kept]) -> frozenset[bytes]:
        """Return the ids of those results that are still held, by whatever node."""
        by_owner: dict[str, list[Kept]] = {}
        for one in kept:
            by_owner.setdefault(one.owner, []).append(one)
        own = by_owner.pop(self._me, ())
        answers = await asyncio.gather(
            *(self._asks.held(owner, each) for owner, each in by_owner.items())
        )
        mine = {one.id for one in own if self._store.get(one.id) is not None}
        return frozenset(mine).union(*answers)

    def prepare(self, source: Source, request: RunStart) -> ActiveRun:
        """Return a run of this process's own, to be started and released by it.

        It is in no list of runs, and nobody else can ask for its results.

        Raises:
            InvalidWorkflow: its steps could never all be run.
        """
        return self._made(source, request, (), self._unnoted, lambda run: None)

    def _made(
        self,
        source: Source,
        request: RunStart,
        parts: tuple[Buffer, ...],
        hand_over: HandOver,
        on_end: Callable[[ActiveRun], None],
        done: Mapping[str, Done] | None = None,
    ) -> ActiveRun:
        return ActiveRun(
            request,
            parts,
            source,
            me=self._me,
            calls=self._calls,
            store=self._store,
            hand_over=hand_over,
            ids=self._ids,
            on_end=on_end,
            done=done,
        )

    def _unnoted(
        self,
        run: ActiveRun,
        source: StepSource,
        call: Call,
        parts: tuple[Buffer, ...],
    ) -> None:
        self._calls.receive(source, call, parts)

    def cancel(self, run_id: bytes) -> bool:
        """Cancel a run; False if there is none of this id."""
        run = self._runs.get(run_id)
        if run is None:
            return False
        run.cancel()
        return True

    def list(self, source: Source, request: RunList) -> None:
        """Answer with all runs, newest first."""
        runs = (summary_of(run.picture()) for run in reversed(self._runs.values()))
        source.send(Runs(id=request.id, runs=tuple(runs)))

    def watch(self, source: Source, request: RunWatch) -> None:
        """Answer with all that is known of a run, and tell `source` of it from now."""
        run = self._known(source, request.id, request.run)
        if run is not None:
            source.send(_told(request.id, run))
            if run.machine.status == "running":
                run.audience.add(source)

    def why(self, source: Source, request: WhyAsk) -> None:
        """Answer with what there was to choose from for a step."""
        run = self._known(source, request.id, request.run)
        if run is None:
            return
        choices = self._choices.of(request.run, request.step)
        source.send(WhyTold(id=request.id, choices=choices))

    async def fetch(self, source: Source, request: StepFetch) -> None:
        """Answer with the result or the failure of a step, once it has ended."""
        run = self._known(source, request.id, request.run)
        if run is None:
            return
        try:
            answer, parts = await self.outcome(run, request.step, request.id)
        except KeyError:
            text = f"the run has no step {request.step!r}"
            failure = Failure(kind="bad_request", message=text)
            answer, parts = Failed(id=request.id, failure=failure), ()
        source.send(answer, parts)

    async def outcome(
        self, run: ActiveRun, step: str, answer_id: bytes
    ) -> tuple[Reply | Failed, tuple[Buffer, ...]]:
        """Wait for the end of a step; return its result or failure as an answer."""
        end = await run.ended(step)
        if isinstance(end, bytes):
            return Reply(id=answer_id, payload=end, node=self._me), ()
        if isinstance(end, Kept | Gathered):
            return await self._found(end, answer_id)
        failed, parts = end
        return msgspec.structs.replace(failed, id=answer_id), parts

    async def _found(
        self, result: Kept | Gathered, answer_id: bytes
    ) -> tuple[Reply | Failed, tuple[Buffer, ...]]:
        found = await self._inputs.one(result)
        if isinstance(found, Failure):
            return Failed(id=answer_id, failure=found), ()
        node = result.owner if isinstance(result, Kept) else self._me
        if isinstance(found, bytes):
            return Reply(id=answer_id, payload=found, node=node), ()
        return Reply(id=answer_id, payload=b"", node=node), found

    def source_lost(self, source: Source) -> None:
        """Tell a caller that is gone nothing more; its runs go on."""
        self.relays.source_lost(source)
        for run in self._runs.values():
            run.source_lost(source)

    def _known(
        self, source: Source, request_id: bytes, run_id: bytes
    ) -> ActiveRun | None:
        run = self._runs.get(run_id)
        if run is None:
            text = "it has no record of the run"
            failure = Failure(kind="gone", message=text, node=self._me)
            source.send(Failed(id=request_id, failure=failure))
        return run

    def _remember(self, run: ActiveRun) -> None:
        self._ended[run.id] = None
        while len(self._ended) > REMEMBERED_RUNS:
            old_id, _ = self._ended.popitem(last=False)
            self.release(self._runs.pop(old_id))

    def release(self, run: ActiveRun) -> None:
        """Let go of the results that are held for a run, on whatever node."""
        for kept in run.kept():
            self._let_go(kept)

    def _let_go(self, kept: Kept) -> None:
        if self._uses[kept.id]:  # a run that was resumed, or another that resumed it
            self._uses -= Counter((kept.id,))
        elif kept.owner == self._me:
            self._store.release(kept.id)
        else:
            self._lane.send(kept.owner, Release(ids=(kept.id,)))


def _told(request_id: bytes, run: ActiveRun) -> RunTold:
    return RunTold(
        id=request_id,
        run=run.picture(),
        plans=run.bare_plans(),
        lines=run.audience.lines.all,
    )
