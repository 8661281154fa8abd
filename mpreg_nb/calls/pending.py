"""Calls in progress: where each one is, what is known of its fate, what follows.

A caller and a node on the way know the same about a call: who has it, whether that
one said that it waits or runs, and until when an outcome is of use. So both keep
their calls in one machine. It does no I/O, and reads no clock: each event comes with
its moment, and what is to be done is the answer. The shells (`client/calls.py` and
`node/calls.py`) send, and set one timer for `deadline`.

The rules:

- A call has exactly one outcome. Who has it says so; an answer of anybody else is of
  an attempt that is over.
- `executed="no"` is said only on certainty: nobody has the call, or who had it gave it
  back or refused it, or it never reached that one. That a call was said to wait, and
  not to run, is no certainty: the word that it runs may be lost on its way.
- Only a call that certainly did not run, or one that may run twice, goes elsewhere.
  A node in between repeats only the first kind; the caller decides about the second.
- Every retry is bounded: by the budget, by attempts, by a deadline, or, where nodes
  are full, by the time since anything went on.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from mpreg_nb.calls.deadlines import Deadlines
from mpreg_nb.calls.retry import (
    MOST_TRIES,
    OVERLOAD_PATIENCE_S,
    Jitter,
    RetryBudget,
    backoff_s,
    judge,
)
from mpreg_nb.calls.waiting_line import WaitingLine
from mpreg_nb.calls.work_stealing import Stealing
from mpreg_nb.errors import Executed
from mpreg_nb.protocol.messages import Failed, Failure, Reply
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted

Outcome: TypeAlias = Reply | Failed

CANCEL_GRACE_S = 0.1
"""How long the deadline of a call that waits elsewhere is stretched, so that the node
can say whether it ran. Without its word it would have to be called unknown."""

MOST_REROUTES = 3
"""By a node, of a call that has not run; after that its caller hears why."""

REFUSALS = frozenset(("no_route", "no_code", "draining", "overloaded"))
"""Answers of a node that did not run the call; another one may."""

ASK_ENTRY = REFUSALS | {"node_lost"}
"""Ends of an attempt at a node that was called directly, after which the entry node
is asked."""

MOST_RESUMES = 3
"""Entries in a row that may die under a call, before it is given up."""

GIVEN_BACK = frozenset(("draining", "overloaded", "node_lost", "cancelled"))
"""Ends of an attempt that say nothing which a caller who cancelled must know."""


class NodesFull(msgspec.Struct, frozen=True):
    """Why a call is not with a node."""

    refusal: Failure
    since: float  # nothing went on from then on
    ended: int  # calls that had ended then


@dataclass(eq=False, kw_only=True)
class CallState:
    """Where one call is, and what is known of its fate.

    Whoever keeps calls adds what it needs besides; `PendingCalls` alone writes these.
    What each call begins with is kept once, in the class: without slots a field with
    `init=False` costs a new call nothing.
    """

    id: bytes = b""
    idempotent: bool = False  # it may run twice
    # Who has it: a link, or this node; None: it is held here
    place: object = field(default=None, init=False)
    # The node that has it, "" where another one chooses that
    to: str = field(default="", init=False)
    began: float = field(default=0.0, init=False)  # when it came here
    sent: float = field(default=0.0, init=False)
    # How much had been sent to its place before it
    mark: float = field(default=0.0, init=False)
    # When its outcome is of no use any more
    due: float = field(default=math.inf, init=False)
    # Times that it was sent, and not given back
    attempts: int = field(default=0, init=False)
    crashes: int = field(default=0, init=False)  # workers that died under it
    # Nodes that could not take it
    avoid: tuple[str, ...] = field(default=(), init=False)
    under_way: bool = field(default=False, init=False)  # it counts as load of its place
    waiting: bool = field(default=False, init=False)  # who has it said so
    started: float = field(default=0.0, init=False)  # when who has it said so
    cancelled: bool = field(default=False, init=False)
    withdrawn: bool = field(default=False, init=False)  # it is to end unless it runs
    # Who sent it takes it back, unless it runs
    returning: bool = field(default=False, init=False)
    expired: bool = field(default=False, init=False)  # its deadline has passed
    # Its outcome is told; the rest is clean-up
    answered: bool = field(default=False, init=False)
    executed: Executed = field(default="no", init=False)  # by attempts before this one
    # Where it is held since nodes are full
    full: "NodesFull | None" = field(default=None, init=False)
    # The node that had passed it on, and is lost
    resuming: str = field(default="", init=False)
    resumes: int = field(default=0, init=False)  # times that it was asked for elsewhere

    @property
    def wanted(self) -> Wanted:
        """What it asks of a node."""
        raise NotImplementedError

    @property
    def is_movable(self) -> bool:
        """Whether another node may be found for it from here, while it waits."""
        raise NotImplementedError


class Finish(msgspec.Struct, frozen=True):
    """It is over. `failure`: why, where that is not what was just heard."""

    failure: Failure | None = None


class Elsewhere(msgspec.Struct, frozen=True):
    """Send it now, to `target` where that is known."""

    target: Chosen | None = None


class Retry(msgspec.Struct, frozen=True):
    """It is held; `tick` says when to send it again."""


class RegisterAgain(msgspec.Struct, frozen=True):
    """Its code is lost: register that again, then send it."""


class Stop(msgspec.Struct, frozen=True):
    """Cancel it where it is; the answer to that, or the next tick, is its end."""


Verdict: TypeAlias = Finish | Elsewhere | Retry | RegisterAgain | Stop

AS_HEARD: Final = Finish()
NOW: Final = Elsewhere()


class Rules(Protocol):
    """What one kind of process does about a failed attempt that was not wanted."""

    def count_call(self, now: float) -> None:
        """Take note of a new call."""
        ...

    def verdict(
        self, call: CallState, failure: Failure, now: float, ended: int
    ) -> tuple[Verdict, float]:
        """Return what follows, and for `Retry` when. `ended`: calls so far."""
        ...


class CallerRules:
    """Those of the process that made the call: it alone repeats what may run twice."""

    def __init__(self, chance: Jitter) -> None:
        self._chance = chance
        self._budget = RetryBudget()
        self.unretried = 0
        """Calls that ended with a loss because the budget for retries was spent."""

    def count_call(self, now: float) -> None:
        """Let the budget for retries grow."""
        self._budget.count_call(now)

    def verdict(
        self, call: CallState, failure: Failure, now: float, ended: int
    ) -> tuple[Verdict, float]:
        """Return what follows, and for `Retry` when."""
        certain = failure.executed == "no"
        refused = certain and failure.kind in ASK_ENTRY
        if refused and call.to and call.attempts < MOST_TRIES:
            # The view of this client was late; the entry knows better, or says why.
            call.avoid = (*call.avoid, call.to)
            call.to = ""
            return NOW, now
        if failure.kind == "worker_crashed":
            call.crashes += 1
        found = judge(
            failure,
            idempotent=call.idempotent,
            attempts=call.attempts,
            crashes=call.crashes,
        )
        if found == "register first":
            return RegisterAgain(), now
        if found == "again later":
            return self._when_full(call, failure, now, ended)
        if found == "give up":
            return AS_HEARD, now
        if not certain and not self._budget.take(now):
            self.unretried += 1
            return Finish(replace(failure, retry_budget_exhausted=True)), now
        call.avoid = (*call.avoid, failure.node)
        if call.attempts < 2 or not certain:
            return NOW, now
        return Retry(), now + backoff_s(call.attempts, self._chance)

    def _when_full(
        self, call: CallState, failure: Failure, now: float, ended: int
    ) -> tuple[Verdict, float]:
        full = call.full
        goes_on = full is None or full.ended != ended
        since = now if full is None or goes_on else full.since
        call.full = NodesFull(failure, since, ended)
        if now - since >= OVERLOAD_PATIENCE_S:
            return AS_HEARD, now
        pause_s = backoff_s(call.attempts, self._chance)
        return Retry(), now + pause_s + failure.retry_after_ms / 1e3


class RouterRules:
    """Those of a node on the way: it finds another node for what has not run."""

    def count_call(self, now: float) -> None:
        """Do nothing: a node has no budget, since it repeats nothing that ran."""

    def verdict(
        self, call: CallState, failure: Failure, now: float, ended: int
    ) -> tuple[Verdict, float]:
        """Return what follows."""
        lost = failure.kind == "node_lost" and failure.executed == "no"
        if not lost and failure.kind not in REFUSALS:
            return AS_HEARD, now
        if call.attempts > MOST_REROUTES or not call.is_movable:
            return AS_HEARD, now
        call.avoid = (*call.avoid, call.to)
        return NOW, now


C = TypeVar("C", bound=CallState)


def _is_answered(call: CallState) -> bool:
    return call.answered


class PendingCalls(Generic[C]):
    """The calls in progress of one process, by id."""

    def __init__(
        self,
        rules: Rules,
        router: Router,
        loads: Loads,
        breakers: Breakers,
        *,
        here: object = None,
        on_breaker: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """Have no calls yet.

        here: this process as a place, if it runs calls itself. It always knows
            whether a call of its own has started.
        on_breaker: hears a node, "breaker open" or "breaker closed", and a function.
        """
        self._rules = rules
        self._count_call = rules.count_call
        self._here = here
        self._on_breaker = on_breaker
        self._loads = loads
        self._breakers = breakers
        self.calls: dict[bytes, C] = {}
        """All of them, by id. To be changed by the machine alone."""
        self._at: dict[object, int] = {}  # calls under way, by place
        self._parked: dict[bytes, C] = {}  # wait until something changes
        self.lines: dict[Wanted, WaitingLine[C]] = {}
        """What is held until there is room, by what it asks for."""
        self._due = Deadlines()
        self._pauses = Deadlines()
        self._stealing = Stealing(router, loads)
        self.waiters = self._stealing.waiters
        """Empty while no call waits that could go elsewhere."""
        self.ended = 0

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self.calls.values()))

    def has(self, place: object, call: C) -> bool:
        """Whether `place` has the call; else what it says is of an attempt before."""
        return call.place is place

    def under_way(self, place: object) -> int:
        """Return how many calls `place` has."""
        return self._at.get(place, 0)

    @property
    def deadline(self) -> float:
        """When `tick` has something to say; infinity while it has not."""
        return min(self._due.next, self._pauses.next)

    # ------------------------------------------------------------- its course

    def add(self, call: C, now: float, due: float = math.inf) -> None:
        """Begin to keep a call, which nobody has yet."""
        self.calls[call.id] = call
        call.began = now
        self._count_call(now)
        if due < math.inf:
            call.due = due
            self._due.add(call.id, due)

    def resume(self, call: C, failure: Failure) -> bool:
        """Say whether to look for a call that a lost node had passed on.

        If so, it is to be asked for at the next entry, and noted as `resumed`.
        """
        uncertain = failure.executed == "unknown" and not call.to
        stopped = call.cancelled or call.withdrawn or call.expired or call.answered
        if not uncertain or stopped or call.resumes >= MOST_RESUMES:
            return False
        call.executed = "unknown"
        call.resuming = failure.node
        call.resumes += 1
        return True

    def resumed(self, call: C, place: object, now: float) -> None:
        """Note that `place` was asked for a call that may run somewhere."""
        # That `place` is lost, even in order, tells nothing of the run.
        self.sent(call, place, "", now, mark=-math.inf)
        call.attempts -= 1
        call.resuming = ""

    def sent(
        self, call: C, place: object, to: str, now: float, mark: float = 0.0
    ) -> None:
        """Note that `place` has the call from now on.

        mark: how much was sent to it before, see `lost`.
        """
        call.place = place
        call.to = to
        call.sent = now
        call.mark = mark
        call.waiting = False
        call.started = 0.0
        call.attempts += 1
        call.under_way = True
        self._at[place] = self._at.get(place, 0) + 1
        if to:
            self._loads.sent(to)
            if self._breakers:
                self._breakers.sent(to, call.wanted.function, now)

    def arrived(self, call: C, place: object, mark: float) -> None:
        """Note that a call is written to `place` that waited for it to be there."""
        self._count_out(call)
        call.place = place
        call.mark = mark
        call.under_way = True
        self._at[place] = self._at.get(place, 0) + 1

    def park(self, call: C, until: float = math.inf) -> None:
        """Hold a call until `unpark`, or until `tick` says that it is time."""
        call.place = None
        self._parked[call.id] = call
        if until < math.inf:
            self._pauses.add(call.id, until)

    def unpark(self) -> Iterator[C]:
        """Yield the calls that were parked; each is to be sent before the next."""
        calls = list(self._parked.values())
        self._parked.clear()
        for call in calls:
            self._pauses.drop(call.id)
        for call in calls:
            if not call.answered:  # what became of another may have ended it
                yield call

    def started(self, call: C, now: float) -> None:
        """Note that who has the call runs it."""
        call.started = now
        call.waiting = False
        if self.waiters:
            self._stealing.drop(call.id, now)

    def told_waiting(
        self, ids: Iterable[bytes], place: object, *, movable: bool
    ) -> list[C]:
        """Note that these calls wait at `place`; return those that is new of.

        movable: they wait for a slot, and so might run elsewhere before.
        """
        told: list[C] = []
        for call_id in ids:
            call = self.calls.get(call_id)
            if call is None or not self.has(place, call):
                continue
            call.started = 0.0
            if not call.waiting:
                call.waiting = True
                told.append(call)
            if movable and call.is_movable and not call.cancelled:
                self._stealing.waits(call_id, call.wanted, call.to, call.avoid)
        return told

    def recalls(self, now: float, target: str = "") -> list[tuple[str, list[C]]]:
        """Return the calls to ask back from the nodes where they wait.

        target: only what this node has room for, instead of all idle ones.
        """
        if not self.waiters:
            return []
        found = self._stealing.recalls(now, target)
        return [(node, [self.calls[i] for i in ids]) for node, ids in found.items()]

    def target(self, call: C, now: float) -> Chosen | None:
        """Return where a call goes that waits here and was asked back."""
        return self._stealing.given_back(call.id, now)

    def took_back(self, call: C, now: float) -> None:
        """Note that a call which waited here is to be sent on."""
        self._leave(call, None, now)
        call.place = None
        call.attempts -= 1  # it was none

    # ------------------------------------------------------ what waits for room

    def hold(self, call: C) -> None:
        """Keep a call until there is room where it could go."""
        call.place = None
        line = self.lines.get(call.wanted)
        if line is None:
            line = self.lines[call.wanted] = WaitingLine(_is_answered)
        if call.sent:  # it was given back
            line.insert(call)
        else:
            line.add(call)

    def is_held(self, wanted: Wanted) -> bool:
        """Whether others that ask for the same wait already."""
        return wanted in self.lines

    def next_held(self, wanted: Wanted, now: float) -> C | None:
        """Return the call to send next of those that ask for `wanted`."""
        call = self.lines[wanted].next(now) if wanted in self.lines else None
        if call is None:
            self.lines.pop(wanted, None)
        return call

    def release(self, call: C) -> None:
        """Take the call out of its line that `next_held` returned."""
        self.lines[call.wanted].take(call)

    # ----------------------------------------------------------- how it ends

    def answered(self, call: C, outcome: Outcome, now: float) -> None:
        """Count the answer to an attempt, whatever it says."""
        to = call.to
        if not to:
            self._leave(call, None, now)
            return
        elsewhere_s = (outcome.queued_us + outcome.run_us) / 1e6
        self._leave(call, now - call.sent - elsewhere_s, now)
        if outcome.load is not None:
            self._loads.report(to, outcome.load, now)
        if isinstance(outcome, Failed) and outcome.failure.kind == "worker_crashed":
            self._blame(call, now)
        elif self._breakers:
            function = call.wanted.function
            closed = self._breakers.succeeded(to, function, now)
            if closed and self._on_breaker is not None:
                self._on_breaker(to, "breaker closed", function)

    def failed(self, call: C, failure: Failure, now: float) -> Verdict:
        """Say what follows on the failure of an attempt."""
        self._leave(call, None, now)
        certain = failure.executed == "no"
        target = self._stealing.given_back(call.id, now) if self.waiters else None
        if call.answered:
            return AS_HEARD
        if call.expired:
            return Finish(self.late(failure))
        if call.cancelled or (call.withdrawn and certain):
            if certain and failure.kind in GIVEN_BACK:
                return Finish(Failure(kind="cancelled", node=failure.node))
            return AS_HEARD
        if target is not None and certain and failure.kind == "overloaded":
            call.attempts -= 1  # it was none
            return Elsewhere(target)
        if self.waiters:
            self._stealing.drop(call.id, now)
        if call.returning and certain:
            return AS_HEARD
        verdict, at = self._rules.verdict(call, failure, now, self.ended)
        over = isinstance(verdict, Finish)
        if not over and not certain and call.executed != "yes":
            call.executed = failure.executed
        if isinstance(verdict, Retry | RegisterAgain):
            call.place = None
        if isinstance(verdict, Retry):
            self._pauses.add(call.id, at)
        return verdict

    def returned(self, call: C, now: float) -> Verdict:
        """Say what follows where a worker gave a call back that it never began."""
        self._leave(call, None, now)
        if call.answered:
            return AS_HEARD
        if call.expired:
            return Finish(Failure(kind="deadline", node=call.to))
        if call.cancelled or call.withdrawn:
            return Finish(Failure(kind="cancelled", node=call.to))
        call.place = None
        call.attempts -= 1  # it was none
        return NOW

    def lost(
        self,
        place: object,
        now: float,
        *,
        node: str,
        reason: str,
        received: float = math.inf,
    ) -> list[tuple[C, Failed]]:
        """Return the calls that `place` had, each with the failure for `failed`.

        received: how much of what was sent to it can have come there, by the `mark`
            of each call. What was sent after that certainly did not run.
        """
        if not self._at.get(place):
            return []
        gone: list[tuple[C, Failed]] = []
        for call in self:
            if call.under_way and call.place is place:
                sure = call.mark >= received
                if not sure:
                    self._blame(call, now)
                gone.append((call, self._lost(call, now, node, reason, sure=sure)))
        return gone

    def unsent(self, call: C, now: float, *, node: str, reason: str) -> Failed:
        """Return the failure of an attempt that never reached `node`."""
        self._blame(call, now)
        return self._lost(call, now, node, reason, sure=True)

    def _lost(
        self, call: C, now: float, node: str, reason: str, *, sure: bool
    ) -> Failed:
        self._leave(call, None, now)
        executed: Executed = "no" if sure else "unknown"
        failure = Failure(
            kind="node_lost", message=reason, node=node, executed=executed
        )
        return Failed(id=call.id, failure=failure)

    def _blame(self, call: C, now: float) -> None:
        """Count a failure of the node that has the call."""
        function = call.wanted.function
        opened = bool(call.to) and self._breakers.failed(call.to, function, now)
        if opened and self._on_breaker is not None:
            self._on_breaker(call.to, "breaker open", function)

    def cancel(self, call: C, now: float) -> bool:
        """Mark a call as cancelled; False: it was before. Who has it is to be told."""
        if call.cancelled:
            return False
        call.cancelled = True
        if self.waiters:
            self._stealing.drop(call.id, now)
        return True

    def withdraw(self, call: C, now: float) -> bool:
        """Mark a call as one to end unless it runs; False: it was before."""
        if call.cancelled or call.withdrawn:
            return False
        call.withdrawn = True
        if self.waiters:
            self._stealing.drop(call.id, now)
        return True

    def answer_early(self, call: C) -> bool:
        """Note that its outcome is told before its end; False: it was before."""
        if call.answered:
            return False
        call.answered = True
        return True

    def end(self, call: C, now: float) -> bool:
        """Forget a call; return whether its outcome is still to be told."""
        if self.calls.pop(call.id, None) is None:
            return False
        self.ended += 1
        if call.under_way:
            self._leave(call, None, now)
        if call.due < math.inf:
            self._due.drop(call.id)
        if self._pauses.due:
            self._pauses.drop(call.id)
        if self._parked:
            self._parked.pop(call.id, None)
        if self.waiters:
            self._stealing.drop(call.id, now)
        owed = not call.answered
        call.answered = True
        return owed

    def tick(self, now: float) -> Iterator[tuple[C, Verdict]]:
        """Yield what is to be done by now; each is to be done before the next.

        A call may end by what becomes of another, or at a deadline that falls due
        together with its pause. Then it is not sent any more.
        """
        for call_id in self._due.tick(now):
            call = self.calls.get(call_id)
            if call is not None:
                yield call, self._expire(call, now)
        for call_id in self._pauses.tick(now):
            call = self.calls.get(call_id)
            if call is not None and not call.answered:
                self._parked.pop(call_id, None)
                yield call, NOW

    def _expire(self, call: C, now: float) -> Verdict:
        """Return how a call goes on whose deadline has passed."""
        if call.place is None:
            if call.full is not None:
                return Finish(call.full.refusal)
            return Finish(Failure(kind="deadline"))
        waits = call.waiting or (call.place is self._here and not call.started)
        if waits and not call.expired:
            call.expired = True
            self._due.add(call.id, now + CANCEL_GRACE_S)
            return Stop()
        call.expired = True
        return Finish(Failure(kind="deadline", executed="unknown", node=call.to))

    def truth(self, call: C, failed: Failed) -> Failed:
        """Return the outcome of a call, with what is known of all its attempts."""
        failure = failed.failure
        if call.executed == "no" or failure.executed == "yes":
            return failed
        whole = replace(failure, executed=call.executed)
        return replace(failed, failure=whole)

    def late(self, failure: Failure) -> Failure:
        """Return the failure of a call that was stopped since its time was over."""
        executed, node = failure.executed, failure.node
        return Failure(kind="deadline", executed=executed, node=node)

    def _leave(self, call: C, latency_s: float | None, now: float) -> None:
        """Take a call out of the load of its place, once."""
        if not call.under_way:
            return
        self._count_out(call)
        if call.to:
            self._loads.answered(call.to, latency_s, now)

    def _count_out(self, call: C) -> None:
        call.under_way = False
        left = self._at[call.place] - 1
        if left:
            self._at[call.place] = left
        else:
            del self._at[call.place]
