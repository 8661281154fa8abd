"""All errors of this package.

::

    MpregError
    ├── NoCluster (LookupError, RuntimeError)  there is no cluster yet
    │   ├── ClusterDown                the cluster was shut down
    │   └── ForkedProcess              the cluster belongs to the parent process
    ├── StartFailed (RuntimeError)     a node did not start
    │   └── HostsFailed                nodes of other machines did not start
    ├── NoRoute (LookupError)          no live node has function and resources
    ├── RemoteError                    the function raised; also the original class
    ├── WorkflowFailed (ExceptionGroup)  steps of a run failed
    ├── NodesFailed (ExceptionGroup)   a cell failed on some of several nodes
    ├── InvalidWorkflow (ValueError)   rejected before anything ran
    ├── NoRun (LookupError)            no node remembers this run
    ├── NoStep (KeyError)              the run or workflow has no such step
    ├── StepSkipped (LookupError)      the step did not run, so it has no result
    ├── CallTimeout (TimeoutError)     no result before the deadline
    ├── CallCancelled (CancelledError of concurrent.futures)
    ├── NodeLost (ConnectionError)     the node that ran the call is lost
    ├── WorkerCrashed (RuntimeError)   the process that ran the function died
    ├── Overloaded (RuntimeError)      the queues of all nodes that fit are full
    ├── NotPicklable (TypeError)       an object cannot be pickled
    ├── NotComputed (TypeError)        only Dask can compute an argument
    ├── PayloadTooLarge (ValueError)   an object is larger than a call may carry
    ├── BadRequest (ValueError)        a malformed or impossible request
    └── NotTrusted (PermissionError)   token missing, wrong, or not proven

Each error carries fields, survives pickling, and ends with what to do next, in the
form that fits the place where the user reads it (`cures`). Messages contain no port,
process id or time of day, so that they can be compared.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Literal, Self

import msgspec

from mpreg_nb.cures import (
    cure,
    list_nodes,
    list_own,
    register,
    start_cluster,
    start_node,
)

Executed = Literal["no", "yes", "unknown"]
"""Whether the function of a failed call ran, as far as this can be known."""


def _rebuild(
    cls: type[BaseException], args: tuple[object, ...], state: dict[str, object]
) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _names_of(
    some: Sequence[Exception], names: Sequence[str], errors: Sequence[Exception]
) -> tuple[str, ...]:
    """Return the names of `some` of the errors; a part of one has its name."""

    def is_of(error: Exception, whole: Exception) -> bool:
        if isinstance(error, ExceptionGroup) and isinstance(whole, ExceptionGroup):
            return error.message == whole.message
        return error is whole

    return tuple(
        next(name for name, whole in zip(names, errors, strict=True) if is_of(e, whole))
        for e in some
    )


class MpregError(Exception):
    """Base class of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class NoCluster(MpregError, LookupError, RuntimeError):
    """This process has no cluster, or the user has none of that name.

    message: the text; by default that there is no cluster yet, and how to get one.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0]) or f"no cluster yet. {start_cluster()}"


class ClusterDown(NoCluster):
    """This cluster was shut down or disconnected."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        again = cure(
            magic="Start it again: %mpreg up",
            python="Start another: mp.up(3)",
            command="Start a node: mpreg-nb node --name n1",
        )
        return f"this cluster has been shut down. {again}"


class ForkedProcess(NoCluster):
    """The cluster belongs to the parent of this forked process."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return (
            "this process was forked, and the connections of the cluster belong to "
            "its parent process. Connect here too: mp.connect(*cluster.urls), or "
            "start another cluster: mp.up(3)"
        )


class StartFailed(MpregError, RuntimeError):
    """A node was not ready in time, or ended while it started.

    `node` is its name, `log` are its last log lines.
    """

    def __init__(self, node: str, reason: str, log: Sequence[str] = ()) -> None:
        tail = "".join(f"\n  {line}" for line in log)
        super().__init__(
            f"node {node} did not start: {reason}."
            + (f" Its last log lines:{tail}" if tail else " It logged nothing.")
        )
        self.node = node
        self.reason = reason
        self.log = tuple(log)


class HostFailure(msgspec.Struct, frozen=True):
    """Why the nodes of one host did not start."""

    host: str
    stage: str
    """The stage that failed: connect, key, queue, python, import, bind or join."""

    reason: str
    cure: str = ""
    log: tuple[str, ...] = ()
    """The last log lines of the host."""

    def __str__(self) -> str:
        text = f"{self.host} ({self.stage}): {self.reason}"
        if self.cure:
            text += f". {self.cure}"
        return text + "".join(f"\n    {line}" for line in self.log)


class HostsFailed(StartFailed):
    """Nodes on other machines did not start; the nodes of the other hosts run.

    `failures` has one HostFailure for each host that failed.
    """

    def __init__(
        self, failures: Sequence[HostFailure], running: Sequence[str] = ()
    ) -> None:
        hosts = "a host" if len(failures) == 1 else f"{len(failures)} hosts"
        told = "".join(f"\n  {failure}" for failure in failures)
        if running:
            go_on = cure(
                magic="fix the cause and run the cell again, or use mp.current()",
                python="the same mp.up(...) again starts the rest; mp.current() is "
                "the cluster",
                command="the same line again starts the rest",
            )
            told += f"\n  {', '.join(running)} run: {go_on}"
        MpregError.__init__(self, f"{hosts} did not start:{told}")
        self.node = failures[0].host
        self.reason = failures[0].reason
        self.log = failures[0].log
        self.failures = tuple(failures)


def _before(executed: Executed) -> str:
    """Return a sentence about an earlier attempt of a rejected call, or ""."""
    if executed == "no":
        return ""
    ran = "ran" if executed == "yes" else "may have run"
    return f". The function {ran} before, on a node that was lost"


class NoRoute(MpregError, LookupError):
    """No live node holds `function` together with all of `resources`.

    `offers` maps each node that has the function to the resources that it
    offers with it; `held` maps every live node to the resources it holds.
    `pinned` is the node that the call was restricted to, if any; `reason` is any other
    reason why no node can run the call, with what to do. `executed` is "unknown" if an
    earlier attempt was lost with its node, and may have run there. `engine` is the URL
    of the Dask cluster whose workers are the nodes, if there is one.
    """

    def __init__(
        self,
        function: str,
        resources: frozenset[str],
        offers: Mapping[str, frozenset[str]],
        *,
        held: Mapping[str, frozenset[str]] | None = None,
        pinned: str | None = None,
        similar: str | None = None,
        reason: str = "",
        executed: Executed = "no",
        engine: str = "",
    ) -> None:
        super().__init__(function)
        self.engine = engine
        self.function = function
        self.resources = resources
        self.offers = dict(offers)
        self.held = dict(held or {})
        self.pinned = pinned
        self.similar = similar
        self.reason = reason
        self.executed: Executed = executed

    def __str__(self) -> str:
        return self._why() + _before(self.executed)

    def _why(self) -> str:
        if self.reason:
            return f"no live node can run {self.function!r}: {self.reason}"
        wanted = ", ".join(sorted(self.resources))
        if self.pinned is not None and self.pinned not in self.held:
            from difflib import get_close_matches

            known = ", ".join(sorted(self.held)) or "none"
            close = get_close_matches(self.pinned, sorted(self.held), n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            return (
                f"no live node is named {self.pinned!r}; live nodes: {known}. {hint}"
                f"Start it: {self._cure(self.pinned)}"
            )
        if not self.offers and not self.similar and self.resources:
            missing = self._lacking(self.held)
            if missing is not None and missing[1]:
                return (
                    f"no live node has {self.function!r} with all of: {wanted}. "
                    f"Nearest is {missing[0]}, which lacks: "
                    f"{', '.join(sorted(missing[1]))}. Start one: {self._cure()}"
                )
        if not self.offers:
            meant = f" Did you mean {self.similar!r}?" if self.similar else ""
            return (
                f"no live node has a function {self.function!r}.{meant} "
                f"Register it first: {register(self.function)}"
            )
        if self.pinned is not None and self.pinned not in self.offers:
            return (
                f"node {self.pinned!r} does not serve {self.function!r}; it is served "
                f"by {', '.join(sorted(self.offers))}. Remove node=, or start the "
                f"node with the resources of the function: {self._cure()}"
            )
        if self.pinned is not None and self.resources - self.offers[self.pinned]:
            return self._unfit(self.pinned)
        nearest = self._lacking(self.offers)
        if nearest is None or not nearest[1]:
            return (
                f"no live node can run {self.function!r} now. Start one: {self._cure()}"
            )
        return (
            f"no live node has {self.function!r} with all of: {wanted}. "
            f"Nearest is {nearest[0]}, which lacks: {', '.join(sorted(nearest[1]))}. "
            f"Start one: {self._cure()}"
        )

    def _lacking(
        self, nodes: Mapping[str, frozenset[str]]
    ) -> tuple[str, frozenset[str]] | None:
        lacks = {name: self.resources - held for name, held in nodes.items()}
        if not lacks:
            return None
        name = min(lacks, key=lambda node: (len(lacks[node]), node))
        return name, lacks[name]

    def _unfit(self, node: str) -> str:
        lacks = ", ".join(sorted(self.resources - self.offers[node]))
        fitting = [n for n, held in self.offers.items() if self.resources <= held]
        return f"node {node!r} cannot run {self.function!r}: it lacks {lacks}. " + (
            f"Remove node=, or choose one of: {', '.join(sorted(fitting))}"
            if fitting
            else f"Remove node=, and start a node that fits: {self._cure()}"
        )

    def _cure(self, name: str = "") -> str:
        return start_node(name or _free_name(self.held), self.resources, self.engine)


def _free_name(taken: Mapping[str, object]) -> str:
    number = len(taken) + 1
    while f"n{number}" in taken:
        number += 1
    return f"n{number}"


class RemoteError(MpregError):
    """The function raised an exception on its node.

    The caller catches an instance of a class made from this one and the class that
    the function raised, so that `except ValueError` works. `.original` is the
    exception itself, or None if it could not be pickled. `.remote_traceback` is the
    text of the traceback, with the lines of the cell that defined the function.
    `.argument_types` are the types of the arguments of the call, where its node
    reports them.
    """

    original: BaseException | None
    function: str
    node: str
    type_name: str
    remote_traceback: str
    argument_types: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        function: str = "",
        node: str = "",
        type_name: str = "",
        remote_traceback: str = "",
        original: BaseException | None = None,
    ) -> None:
        Exception.__init__(self, message)
        self.function = function
        self.node = node
        self.type_name = type_name
        self.remote_traceback = remote_traceback
        self.original = original

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


LONGEST_LINE = 300
"""Most characters of one error in a list of errors; `run[step]` has the full text."""


class WorkflowFailed(MpregError, ExceptionGroup[Exception]):
    """Steps of a run failed; one entry per failed step.

    `done`, `failed`, `skipped` and `undone` are names of steps; `not_undone` maps
    steps whose undo failed to the reasons; `run` is the run.
    """

    done: tuple[str, ...]
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    undone: tuple[str, ...]
    not_undone: dict[str, str]
    run: Any

    def __new__(cls, message: str, errors: Sequence[Exception]) -> Self:
        """Make the group as ExceptionGroup does; `of` fills the fields."""
        return super().__new__(cls, message, errors)

    @classmethod
    def of(
        cls,
        workflow: str,
        errors: Mapping[str, Exception],
        *,
        done: Sequence[str],
        skipped: Sequence[str],
        undone: Sequence[str] = (),
        not_undone: Mapping[str, str] | None = None,
        run: object = None,
    ) -> "WorkflowFailed":
        """Say what became of each step; `errors` maps failed steps to errors."""
        named = (f"{step} ({_in_a_line(error)})" for step, error in errors.items())
        parts = [f"failed: {', '.join(named)}"]
        if skipped:
            parts.append(f"skipped: {', '.join(skipped)}")
        if undone:
            parts.append(f"undone: {', '.join(undone)}")
        if not_undone:
            stay = (f"{step} ({reason})" for step, reason in not_undone.items())
            parts.append(f"NOT undone: {', '.join(stay)}")
        parts.append(f"done: {', '.join(done) or 'none'}")
        group = cls(
            f"workflow {workflow!r} failed ({'; '.join(parts)}). "
            "run.frame() lists the steps; run[step] gives the value or error of one",
            list(errors.values()),
        )
        group.done = tuple(done)
        group.failed = tuple(errors)
        group.skipped = tuple(skipped)
        group.undone = tuple(undone)
        group.not_undone = dict(not_undone or {})
        group.run = run
        return group

    def derive(self, excs: Sequence[Exception]) -> "WorkflowFailed":  # type: ignore[override]
        """Return the same failure with only `excs`, as `except*` asks for it."""
        group = WorkflowFailed(self.message, excs)
        group.__dict__.update(self.__dict__)
        group.failed = _names_of(excs, self.failed, self.exceptions)
        return group

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "run": None}  # a run is bound to its connection
        return _rebuild, (type(self), (self.message, list(self.exceptions)), state)


def _in_a_line(error: Exception) -> str:
    """Return the call of a step that failed, the class and first line of its error."""
    text = str(error).partition("\n")[0]
    if len(text) > LONGEST_LINE:
        text = text[: LONGEST_LINE - 1] + "…"
    name = type(error).__name__
    said = text if text.startswith(f"{name}: ") else f"{name}: {text}" if text else name
    return ", ".join(filter(None, (getattr(error, "where", ""), said)))


class NodesFailed(MpregError, ExceptionGroup[Exception]):
    """A cell that ran on several nodes failed on some; one entry per failed node.

    `failed` are the names of these nodes; `results` maps the other nodes to their
    values.
    """

    failed: tuple[str, ...]
    results: dict[str, Any]

    def __new__(cls, message: str, errors: Sequence[Exception]) -> Self:
        """Make the group as ExceptionGroup does; `of` fills the fields."""
        return super().__new__(cls, message, errors)

    @classmethod
    def of(
        cls, errors: Mapping[str, Exception], results: Mapping[str, Any]
    ) -> "NodesFailed":
        """Say where it failed; `errors` maps nodes to errors."""
        kept = (
            f" (done: {', '.join(results)}). The values of the other nodes are in "
            "`results` of this error; with -o NAME, in NAME"
        )
        group = cls(
            f"the cell failed on {', '.join(errors)}{kept if results else ''}",
            list(errors.values()),
        )
        group.failed = tuple(errors)
        group.results = dict(results)
        return group

    def derive(self, excs: Sequence[Exception]) -> "NodesFailed":  # type: ignore[override]
        """Return the same failure with only `excs`, as `except*` asks for it."""
        group = NodesFailed(self.message, excs)
        group.__dict__.update(self.__dict__)
        group.failed = _names_of(excs, self.failed, self.exceptions)
        return group

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self.message, list(self.exceptions)
        return _rebuild, (type(self), arguments, dict(self.__dict__))


class InvalidWorkflow(MpregError, ValueError):
    """The workflow was rejected before any step ran."""


class NoRun(MpregError, LookupError):
    """No node of the cluster coordinates or remembers this run."""


class NoStep(MpregError, KeyError):
    """The run has no step of this name."""

    def __str__(self) -> str:  # that of KeyError shows the message in quotes
        return str(self.args[0])


class StepSkipped(MpregError, LookupError):
    """`step` did not run: step `cause` has no result, or the condition was false.

    cause: "" if the condition that `.when` gave the step was false.
    """

    def __init__(self, step: str, cause: str = "") -> None:
        super().__init__(
            f"step {step!r} was skipped because step {cause!r} has no result. "
            f"run[{cause!r}] shows why"
            if cause
            else f"step {step!r} was skipped because the condition that .when gave it "
            "was false. To continue without its result, give the steps that use it a "
            ".fallback"
        )
        self.step = step
        self.cause = cause


class CallTimeout(MpregError, TimeoutError):
    """The call had no result before its deadline."""

    def __init__(
        self, function: str, timeout_s: float, *, executed: Executed = "unknown"
    ) -> None:
        super().__init__(function, timeout_s)
        self.function = function
        self.timeout_s = timeout_s
        self.executed: Executed = executed

    def __str__(self) -> str:
        return (
            f"{self.function} gave no result within {self.timeout_s:g} s (executed: "
            f"{self.executed}). Allow more time: .on(timeout=…) for a call, "
            f".timeout(…) for a step. Or see which nodes are busy: {list_nodes()}"
        )


class CallCancelled(MpregError, CancelledError):
    """The call was cancelled by its caller."""

    def __init__(self, function: str, *, executed: Executed = "unknown") -> None:
        super().__init__(f"the call of {function} was cancelled (executed: {executed})")
        self.function = function
        self.executed: Executed = executed


NOT_RETRIED = (
    "It was not tried again, though it is idempotent: too many calls were retried in "
    "the last 10 seconds. See in cluster.events() what fails, then call it again"
)
"""What errors say if the retry budget is exhausted."""


class NodeLost(MpregError, ConnectionError):
    """The node that ran the call is lost or unreachable.

    `node` is "" if no node was reachable; `at` lists the addresses that were tried.
    `reason` says how the loss was detected, `last_lines` are the function's last
    printed lines, `executed` is "no", "yes" or "unknown". `retry_budget_exhausted`:
    the call was not retried, because too many calls were retried shortly before.
    """

    def __init__(
        self,
        node: str,
        reason: str,
        *,
        function: str = "",
        executed: Executed,
        last_lines: Sequence[str] = (),
        at: str = "",
        retry_budget_exhausted: bool = False,
    ) -> None:
        super().__init__(node, reason)
        self.retry_budget_exhausted = retry_budget_exhausted
        self.node = node
        self.reason = reason
        self.function = function
        self.last_lines = tuple(last_lines)
        self.at = at
        self.executed: Executed = executed
        self.kept = ""
        """The name under which cells kept variables on the node, "" for other calls."""

    def __str__(self) -> str:
        if self.at:
            return (
                f"no node answers at {self.at}: {self.reason}. Check the URL, and "
                f"that the node is running. List your nodes here: {list_own()}"
            )
        if not self.node and not self.function:
            again = cure(
                magic="%mpreg up restarts ended nodes",
                python="mp.up(...) restarts ended nodes",
                command="See which nodes run: mpreg-nb ps",
            )
            return f"no node of the cluster is reachable: {self.reason}. {again}"
        node = f"node {self.node}" if self.node else "the node"
        call = f" during the call of {self.function}" if self.function else ""
        tail = "".join(f"\n  {line}" for line in self.last_lines)
        return f"{node} was lost{call} ({self.reason})." + (
            f" Last printed:{tail}\n{self._again()}" if tail else f" {self._again()}"
        )

    def _again(self) -> str:
        if self.kept:
            return (
                f"The variables kept as {self.kept!r} are lost with it. Run the cells "
                f"that made them again, with --keep {self.kept}"
            )
        what = "The function" if self.function else "The request"
        if self.executed == "no":
            return f"{what} did not run: call it again"
        if self.executed == "yes":
            return f"{what} did run"
        if not self.function:
            return f"{what} may have run; try again"
        if self.retry_budget_exhausted:
            return NOT_RETRIED
        return (
            f"{what} may have run: call it again if running it twice is safe, or "
            "register it with idempotent=True so that it is retried automatically"
        )


LOST_SPACE = "the worker that held its variables is gone"
"""How the reason of `NodeLost` begins if a call needs variables that are lost."""

REPLACED = " The node has started a new worker process."
"""What `WorkerCrashed` says of the node."""


class WorkerCrashed(MpregError, RuntimeError):
    """The worker process ended while it ran the function.

    `cause` is its exit code or signal ("exit code 3", "signal SIGSEGV"),
    `memory_mb` its memory when last measured, `last_lines` are the function's last
    printed lines. `retry_budget_exhausted`: the call was not retried, because too many
    calls were retried shortly before.
    """

    def __init__(
        self,
        function: str,
        node: str,
        cause: str,
        *,
        memory_mb: float | None = None,
        last_lines: Sequence[str] = (),
        executed: Executed = "yes",
        retry_budget_exhausted: bool = False,
    ) -> None:
        unretried = f" {NOT_RETRIED}." if retry_budget_exhausted else ""
        held = f", using {memory_mb:.0f} MB" if memory_mb is not None else ""
        tail = "".join(f"\n  {line}" for line in last_lines)
        super().__init__(
            f"the worker process on {node} ended while it ran {function}: {cause}"
            f"{held}.{REPLACED}{unretried}" + (f" Last printed:{tail}" if tail else "")
        )
        self.retry_budget_exhausted = retry_budget_exhausted
        self.function = function
        self.node = node
        self.cause = cause
        self.memory_mb = memory_mb
        self.last_lines = tuple(last_lines)
        self.executed: Executed = executed


class Overloaded(MpregError, RuntimeError):
    """The queue of every node that could run the call is full.

    `executed` is "unknown" if an earlier attempt was lost with its node, and may have
    run there.
    """

    def __init__(
        self, function: str, queued: int, *, executed: Executed = "no"
    ) -> None:
        super().__init__(function, queued)
        self.function = function
        self.queued = queued
        self.executed: Executed = executed

    def __str__(self) -> str:
        more = cure(
            magic="%mpreg up",
            python="cluster.add(name)",
            command="mpreg-nb node --name NAME --join URL",
        )
        return (
            f"every node that serves {self.function} has a full queue "
            f"({self.queued} calls wait). Send fewer at once, or add nodes: {more}"
            f"{_before(self.executed)}"
        )


class NotPicklable(MpregError, TypeError):
    """An object cannot be pickled; `path` names the part of it that cannot."""

    def __init__(self, path: str, reason: str, cure: str = "") -> None:
        super().__init__(
            f"{path} cannot be pickled: {reason}. "
            + (cure or "Create it inside the function, or pass what it is created from")
        )
        self.path = path
        self.reason = reason
        self.cure = cure


class NotComputed(MpregError, TypeError):
    """Only Dask can compute the value of an argument, and the cluster has no Dask.

    `path` names the argument, `kind` says what it is.
    """

    def __init__(self, path: str, kind: str) -> None:
        what = "future.result()" if kind.endswith("Future") else "value.compute()"
        super().__init__(
            f"{path} is a {kind}: only Dask can compute its value, and this cluster "
            f"does not run on Dask. Pass the value: {what}, or use the Dask cluster: "
            "mp.on_dask(client)"
        )
        self.path = path
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.kind)


class PayloadTooLarge(MpregError, ValueError):
    """An object is larger than the limit for one call."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{what}: {size_bytes / 1e6:.1f} MB is above the limit of "
            f"{limit_bytes / 1e6:.0f} MB for one call. Pass a path or a smaller "
            "piece, or start the nodes with a higher max_payload_bytes"
        )
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class BadRequest(MpregError, ValueError):
    """A request is malformed, or not possible in the current state."""


class NotTrusted(MpregError, PermissionError):
    """The token is missing or wrong, or the other end did not prove to know it."""
