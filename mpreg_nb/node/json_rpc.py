"""Calls of programs that are not in Python: JSON text in, one answer for each.

The commands of a request are the steps of a run of this node. It is answered when
all have ended, as soon as one has failed, or when its time is up; then what is
left of it is cancelled. Nothing is pickled on the way.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from mpreg_nb.errors import (
    InvalidWorkflow,
    NodeLost,
    NoRoute,
    Overloaded,
    WorkerCrashed,
)
from mpreg_nb.node.workflow_run import WorkflowRun
from mpreg_nb.node.workflows import WorkflowService
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.messages import (
    Failed,
    Failure,
    Ids,
    RunStart,
    RunState,
    StepPlan,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.router import NoCandidate as NowhereToGo
from mpreg_nb.routing.router import Router, Wanted
from mpreg_nb.serialize.exceptions import execution_failed
from mpreg_nb.serialize.json_rpc import (
    FAILED,
    LATE,
    MALFORMED,
    NOT_FOUND,
    JsonRefused,
    JsonRequest,
    JsonStep,
    read_request,
    results_answer,
)
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection


class JsonCalls:
    """The requests of JSON clients that are under way on one node."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        runs: WorkflowService,
        catalog: Catalog,
        router: Router,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._name = name
        self._limits = limits
        self._runs = runs
        self._catalog = catalog
        self._router = router
        self._spawn = spawn
        self._ids = Ids()
        self._open: dict[Connection, set[OpenRequest]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def receive(self, link: Connection, text: str) -> None:
        """Take in one text message; it is answered on the same link."""
        try:
            request = read_request(text)
            try:
                self._begin(link, request)
            except JsonRefused as refused:
                refused.u = request.u
                raise
            except Exception as error:
                text = f"node {self._name} could not handle it: {error}"
                link.send_text(JsonRefused(FAILED, text, u=request.u).answer)
                raise  # to the handler of the loop
        except JsonRefused as refused:
            link.send_text(refused.answer)

    def _begin(self, link: Connection, request: JsonRequest) -> None:
        if not request.steps:
            link.send_text(results_answer(request.u, {}))
            return
        most = self._limits.calls_per_node
        if len(self) >= most:
            raise JsonRefused(FAILED, str(Overloaded("requests", most)))
        if link not in self._open:
            self._open[link] = set()
            self._spawn(self._await_end(link))
        opened = OpenRequest(
            request,
            self._answerer(link),
            runs=self._runs,
            spawn=self._spawn,
            limits=self._limits,
        )
        start = RunStart(
            id=self._ids.next(),
            workflow=f"request {request.u}",
            steps=tuple(map(self._plan, request.steps)),
            quiet=True,
        )
        try:
            run = self._runs.prepare(opened, start)
        except InvalidWorkflow as error:
            raise JsonRefused(MALFORMED, f"malformed request: {error}") from error
        for step in request.steps:
            self._check(step)
        self._open[link].add(opened)
        opened.begin(run)

    def _answerer(self, link: Connection) -> Callable[["OpenRequest", str], None]:
        def answer(opened: OpenRequest, text: str) -> None:
            self._open.get(link, set()).discard(opened)
            link.send_text(text)

        return answer

    def _plan(self, step: JsonStep) -> StepPlan:
        offer = self._catalog.newest(step.function)
        return StepPlan(
            name=step.name,
            function=step.function,
            payload=step.payload,
            resources=step.resources,
            inputs=step.inputs,
            idempotent=offer is not None and offer.idempotent,
            json=True,
        )

    def _check(self, step: JsonStep) -> None:
        """Refuse, before anything runs, what no live node could run."""
        wanted = Wanted(step.function, resources=step.resources)
        choice = self._router.choose(wanted, time.monotonic())
        if isinstance(choice, NowhereToGo):
            failure = Failure(
                kind="no_route",
                node=self._name,
                offers=choice.offers,
                held=choice.held,
                similar=choice.similar,
                lines=tuple(sorted(choice.resources)),
            )
            raise _refusal(step.name, step.function, failure)

    async def _await_end(self, link: Connection) -> None:
        """Cancel what came over a link that is gone: nobody waits for it."""
        try:
            await link.wait_closed()
        finally:
            for opened in self._open.pop(link):
                opened.drop()


class OpenRequest:
    """One request that is under way. Its run reports here."""

    def __init__(
        self,
        request: JsonRequest,
        answer: Callable[["OpenRequest", str], None],
        *,
        runs: WorkflowService,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        limits: Limits,
    ) -> None:
        self._runs = runs
        self._spawn = spawn
        self._limits = limits
        self._request = request
        self._answer = answer
        self._functions = {step.name: step.function for step in request.steps}
        self._concluding = False  # what the run says is of no interest any more
        self._ended = False

    def begin(self, run: WorkflowRun) -> None:
        """Start the run and the clock."""
        self._run = run
        timeout_s = self._request.timeout_s
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._late)
        run.start()

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Take in what the run says; a `Source` of it."""
        if self._concluding or not isinstance(message, RunState):
            return
        failed = [step.name for step in message.steps if step.status == "failed"]
        if failed or message.status != "running":
            self._concluding = True
            work = self._tell_failure(failed[0]) if failed else self._tell_results()
            self._spawn(work)

    def drop(self) -> None:
        """End the work; there is nobody to answer."""
        self._concluding = self._ended = True
        self._timer.cancel()
        self._run.cancel()
        self._runs.release(self._run)

    def _end(self, text: str) -> None:
        if not self._ended:  # a result may still be fetched when the time is up
            self._answer(self, text)
            self.drop()

    def _late(self) -> None:
        text = (
            f"no result within {self._request.timeout_s:g} s; the remaining commands "
            "were cancelled"
        )
        self._refuse(JsonRefused(LATE, text))

    def _refuse(self, refused: JsonRefused) -> None:
        refused.u = self._request.u
        self._end(refused.answer)

    async def _tell_failure(self, step: str) -> None:
        answer, _ = await self._runs.outcome(self._run, step, self._run.id)
        if isinstance(answer, Failed):
            self._refuse(_refusal(step, self._functions[step], answer.failure))

    async def _tell_results(self) -> None:
        results: dict[str, bytes] = {}
        room = self._limits.max_frame_bytes
        for step in self._run.outputs:
            answer, parts = await self._runs.outcome(self._run, step, self._run.id)
            if isinstance(answer, Failed):
                self._refuse(_refusal(step, self._functions[step], answer.failure))
                return
            size_bytes = sum(map(len, parts)) or len(answer.payload)
            room -= size_bytes
            if room < 0:
                self._refuse(_too_large(step, size_bytes))
                return
            results[step] = b"".join(parts) or answer.payload
        self._end(results_answer(self._request.u, results))


def _too_large(step: str, size_bytes: int) -> JsonRefused:
    return JsonRefused(
        FAILED,
        f"the result of {step} ({size_bytes / 1e6:.1f} MB) is too large for one "
        "answer. Add a last command that reduces it",
        {"command": step, "size_bytes": size_bytes},
    )


def _refusal(step: str, function: str, failure: Failure) -> JsonRefused:
    """Return what to answer when `step` failed."""
    details = {
        "command": step,
        "function": function,
        "node": failure.node,
        "kind": failure.kind,
        "executed": failure.executed,
    }
    match failure.kind:
        case "application":
            types = list(failure.argument_types)
            details |= {"type": failure.types[0] if failure.types else ""}
            line = execution_failed(function, failure.message, types)
            return JsonRefused(FAILED, line, {**details, "args_types": types})
        case "no_route" | "no_code":
            return JsonRefused(NOT_FOUND, _words(function, failure), details)
        case "deadline":
            return JsonRefused(LATE, f"{function} gave no result in time", details)
        case "bad_request":
            return JsonRefused(MALFORMED, failure.message, details)
    return JsonRefused(FAILED, _words(function, failure), details)


def _words(function: str, failure: Failure) -> str:
    """Say what happened to a call that did not fail by itself."""
    match failure.kind:
        case "no_route" | "no_code":
            error: Exception = NoRoute(
                function,
                frozenset(failure.lines),
                dict(failure.offers),
                held=dict(failure.held),
                similar=failure.similar or None,
                reason=failure.cause,
            )
        case "overloaded":
            error = Overloaded(function, failure.size_bytes)
        case "node_lost" | "draining" | "gone":
            reason = failure.message or failure.kind
            error = NodeLost(
                failure.node,
                reason,
                function=function,
                executed=failure.executed,
            )
        case "worker_crashed":
            error = WorkerCrashed(
                function, failure.node, failure.cause, executed=failure.executed
            )
        case _:
            return f"{function} has no result: {failure.message or failure.kind}"
    return str(error)
