"""A history checker: did each call end as its caller was told, whatever happened?

Clients note each call and its outcome. The functions note when they start and end, in
a file that all processes append to. Meanwhile nodes are killed, paused, cut off,
removed and started again, and workers die. Then the two sides are compared:

- a call has exactly one outcome;
- a result is that of the call, and its function ran to the end;
- what is said not to have run never started, what is said to have run did start;
- a call that is not idempotent starts at most once, and one that is idempotent ends at
  most once in each node process, unless its worker died before it could answer;
- an outcome is unknown, and a call fails, only during or shortly after a fault.
  Removing a healthy node is no fault.

`python -m tests.live.history 1 2 3` (`make history SEEDS="1 2 3"`) runs one history per
seed and prints a table, and the story of each violation. A seed fixes the faults and
the calls; what the machine makes of their timing differs from run to run.
"""

import argparse
import asyncio
import bisect
import contextlib
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import pytest

import mpreg_nb as mp
from mpreg_nb.client.future import when_over
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import MpregError
from mpreg_nb.launcher.cluster_files import ClusterFiles, RecordedNode
from mpreg_nb.launcher.node_spec import NodeSpec
from mpreg_nb.launcher.started_nodes import Via
from tests.support.leaks import own_folders
from tests.support.noted_work import work
from tests.support.ssh_hosts import SshHosts
from tests.support.tls_nodes import local_nodes_over_tls

# ------------------------------------------------------------------------ the history

Executed: TypeAlias = Literal["no", "yes", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoked:
    """A call, as its client made it."""

    call: str
    at_s: float
    function: str = "once"
    idempotent: bool = False
    client: str = ""
    fate: str = "return"  # or "raise" or "exit": what the function is to do
    timeout_s: float | None = None
    pinned: bool = False  # to one node
    cancels: bool = False

    @property
    def may_be_stopped(self) -> bool:
        """Whether its worker is ended if the function does not end when it is told."""
        return self.cancels or self.timeout_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a client was told of a call."""

    call: str
    at_s: float
    error: str = ""  # name of the class; "" for a result
    executed: Executed = "yes"
    is_right: bool = True  # its result or exception is that of the call
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a function, as the function noted it."""

    call: str
    started_s: float
    ended_s: float | None = None
    node: str = ""  # name and process
    worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Something that was done to the cluster."""

    what: str
    began_s: float
    ended_s: float
    grace_s: float | None = (
        None  # how long after it calls may fail; None: it is no fault
    )

    def excuses(self, since_s: float, until_s: float) -> bool:
        """Whether a call that was under way in this time may have failed of it."""
        if self.grace_s is None:
            return False
        return self.began_s <= until_s and since_s <= self.ended_s + self.grace_s


@dataclass(frozen=True, slots=True)
class History:
    """Both sides of all calls, and what was done to the cluster."""

    invoked: Sequence[Invoked]
    ended: Sequence[Ended]
    runs: Sequence[Run]
    happened: Sequence[Happened] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """A call whose two sides do not agree."""

    rule: str
    call: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


# ------------------------------------------------------------------------ the checker

CRASH_GRACE_S = 5.0
"""A worker that a call ends takes with it what ran in it at that moment."""

CHOSEN = {"CallTimeout", "CallCancelled", "CancelledError"}
"""Ends that the caller chose: what ran at that moment may be unknown at any time."""

UNNOTED = 1
"""Calls of one history that were interrupted at the first instruction of their
function, before it could note anything, at most: that takes 0.2 us of a call."""

OF_FAULTS = {"NodeLost", "NoRoute", "Overloaded"}
"""Ends that need a fault of a node."""


def check(history: History) -> tuple[Violation, ...]:
    """Return all that contradicts the rules, in the order of the calls."""
    ended: dict[str, list[Ended]] = defaultdict(list)
    for one in history.ended:
        ended[one.call].append(one)
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs:
        runs[run.call].append(run)
    exits = sorted(
        (run.started_s, run.worker)
        for call in history.invoked
        for run in runs.get(call.call, ())
        if call.fate == "exit" or (call.may_be_stopped and run.ended_s is None)
    )
    found: list[Violation] = []
    interrupted: list[Violation] = []
    for call in history.invoked:
        broken = _Rules(call, ended[call.call], runs[call.call], history, exits)
        for rule, text in broken.all():
            list_of = interrupted if rule == INTERRUPTED else found
            list_of.append(Violation(rule, call.call, text))
    if len(interrupted) > UNNOTED:
        found += interrupted
    unknown = {*ended, *runs} - {call.call for call in history.invoked}
    found += [
        Violation("nothing comes from nowhere", call, "nobody made this call")
        for call in sorted(unknown)
        if ended[call] or runs[call]
    ]
    return tuple(found)


Broken: TypeAlias = Iterator[tuple[str, str]]

INTERRUPTED = "said to have run and to be interrupted: a start, but for one call"


class _Rules:
    """The rules, for one call."""

    def __init__(
        self,
        call: Invoked,
        ended: Sequence[Ended],
        runs: Sequence[Run],
        history: History,
        exits: Sequence[tuple[float, int]],
    ) -> None:
        self._call = call
        self._ended = ended
        self._runs = runs
        self._history = history
        self._exits = exits

    def all(self) -> Broken:
        """Yield (rule, what contradicts it)."""
        if len(self._ended) != 1:
            told = ", ".join(end.error or "a result" for end in self._ended)
            yield "exactly one outcome", f"it has {len(self._ended)}: {told or 'none'}"
        yield from self._runs_often()
        for end in self._ended:
            yield from self._contradicts(end)
            yield from self._is_without_cause(end)

    def _runs_often(self) -> Broken:
        if not self._call.idempotent and len(self._runs) > 1:
            where = ", ".join(run.node for run in self._runs)
            yield (
                "not idempotent: at most one start",
                f"it started {len(self._runs)} times: {where}",
            )
        ends = Counter(
            run.node
            for run in self._runs
            if run.ended_s is not None and not self._died_unanswered(run)
        )
        for node, count in ends.items():
            if count > 1:
                yield (
                    "at most one end in each node process",
                    f"it ended {count} times in {node}",
                )

    def _died_unanswered(self, run: Run) -> bool:
        """Whether another call may have ended the worker before it answered this."""
        ended_s = run.ended_s or run.started_s
        return any(
            worker == run.worker and abs(at_s - ended_s) <= CRASH_GRACE_S
            for at_s, worker in self._exits
        )

    def _contradicts(self, end: Ended) -> Broken:
        started = len(self._runs)
        finished = sum(run.ended_s is not None for run in self._runs)
        if not end.is_right:
            yield "the outcome is that of the call", f"another came: {end.text}"
        if not end.error and not finished:
            yield "a result comes of a function that ended", f"starts: {started}"
        if end.executed == "no" and started:
            yield (
                "said not to have run: no start",
                f"{end.error} says no, and it started on {self._runs[0].node}",
            )
        if end.executed == "yes" and not started:
            is_chosen = end.error in CHOSEN
            rule = INTERRUPTED if is_chosen else "said to have run: a start"
            yield rule, f"{end.error} says yes; no start"

    def _may_have_crashed(self, end: Ended) -> bool:
        """Whether a worker was ended by or for a call while this one was under way."""
        since = self._call.at_s - CRASH_GRACE_S
        first = bisect.bisect_left(self._exits, (since, 0))
        return first < len(self._exits) and self._exits[first][0] <= end.at_s

    def _is_without_cause(self, end: Ended) -> Broken:
        call = self._call
        since_s, until_s = call.at_s, end.at_s
        if not end.error or end.error in CHOSEN:
            return
        if end.error == "RemoteError":
            if call.fate != "raise":
                yield "calls fail only of a fault", f"{end.error}: {end.text}"
            return
        if end.error == "WorkerCrashed":
            if self._may_have_crashed(end):
                return
        elif end.error not in OF_FAULTS:
            yield "errors are those of the contract", f"{end.error}: {end.text}"
            return
        tried_again = call.idempotent and self._may_have_crashed(end)
        if call.pinned and (end.executed == "no" or tried_again):
            return  # its node may be gone in order
        if any(one.excuses(since_s, until_s) for one in self._history.happened):
            return
        rule = "calls fail only of a fault"
        if end.executed == "unknown":
            rule = "unknown only in a fault"
        yield rule, f"{end.error} ({end.executed}) without a fault: {end.text}"


STORY_S = 3.0
"""What was done so long before a call is a part of its story."""


def story(history: History, violation: Violation) -> str:
    """Return what happened around the call of a violation, in the order of time."""
    lines: list[tuple[float, str]] = []
    for call in history.invoked:
        if call.call == violation.call:
            kind = "idempotent" if call.idempotent else "not idempotent"
            given = f", timeout {call.timeout_s:g} s" if call.timeout_s else ""
            given += ", pinned" if call.pinned else ""
            given += ", to be cancelled" if call.cancels else ""
            text = f"{call.client} calls {call.function} ({kind}, {call.fate}{given})"
            lines.append((call.at_s, text))
    for run in history.runs:
        if run.call == violation.call:
            where = f"{run.node}, worker {run.worker}"
            lines.append((run.started_s, f"starts on {where}"))
            if run.ended_s is not None:
                lines.append((run.ended_s, f"ends on {where}"))
    for end in history.ended:
        if end.call == violation.call:
            told = f"{end.error} (executed {end.executed}): {end.text}"
            lines.append(
                (end.at_s, f"its caller is told: {told if end.error else 'ok'}")
            )
    first = min((at for at, _ in lines), default=0.0)
    last = max((at for at, _ in lines), default=0.0)
    for one in history.happened:
        if one.began_s <= last and one.ended_s >= first - STORY_S:
            lines.append((one.began_s, f"  {one.what}"))
            lines.append((one.ended_s, f"  over: {one.what}"))
    timed = [f"    {at - first:+8.3f} s  {text}" for at, text in sorted(lines)]
    return "\n".join([f"{violation.call}: {violation}", *timed])


# ------------------------------------------------------------ what functions noted


def read_runs(log: Path, nodes: Mapping[int, str]) -> list[Run]:
    """Return what the functions noted. nodes: names of node processes."""
    begun: dict[str, tuple[str, float, str, int]] = {}
    ended: dict[str, float] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        what, call, run, at_s, node = line.split()
        if what == "end":
            ended[run] = float(at_s)
        else:
            name = f"{nodes.get(int(node), 'an unknown node')}/{node}"
            begun[run] = (call, float(at_s), name, int(run.partition("-")[0]))
    return [
        Run(call=call, started_s=at_s, ended_s=ended.get(run), node=node, worker=worker)
        for run, (call, at_s, node, worker) in begun.items()
    ]


# ------------------------------------------------------------------------- the faults

NODES = ("n1", "n2", "n3", "n4")

Kind: TypeAlias = Literal["remove", "kill", "pause", "partition", "half-open"]

GRACE_S: Mapping[Kind, float | None] = {
    "remove": None,
    "kill": 5.0,
    "pause": 15.0,
    "partition": 15.0,
    "half-open": 15.0,
}
"""How long after a fault calls may fail of it. A silence must be noticed first."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do to the cluster, so many seconds after the one before."""

    kind: Kind
    node: str
    after_s: float
    seconds: float = 0.0
    other: tuple[str, ...] = ()  # the other side of a partition


def draw_faults(chance: random.Random, seconds: float) -> list[Fault]:
    """Draw what happens in so many seconds: first only what is no fault, then all."""
    faults: list[Fault] = []
    left_s, orderly_s = seconds, seconds * 2 / 3
    while left_s > 0:
        node = chance.choice(NODES)
        after_s = chance.uniform(0.2, 1.5)
        if left_s > orderly_s:
            fault = Fault("remove", node, after_s)
        else:
            kinds: tuple[Kind, ...] = ("remove", "kill", "pause", "partition")
            kind = chance.choice((*kinds, "half-open"))
            lasts_s = 0.0 if kind in ("remove", "kill") else chance.uniform(0.3, 6.0)
            others = [one for one in NODES if one != node]
            side = tuple(chance.sample(others, chance.randint(1, len(others))))
            fault = Fault(kind, node, after_s, lasts_s, side)
        faults.append(fault)
        # A node that is ended and started again takes about so long.
        left_s -= fault.after_s + fault.seconds / 2 + 1.0
    return faults


class Faults:
    """Does to a cluster what was drawn, and notes it."""

    def __init__(self, cluster: mp.Cluster, clients: Mapping[str, mp.Cluster]) -> None:
        self._cluster = cluster
        self._clients = clients
        self.happened: list[Happened] = []
        self.processes: dict[int, str] = {}
        self._specs = [
            NodeSpec(
                node.name,
                frozenset(node.resources),
                host=node.host,
                launcher=node.launcher,
            )
            for node in self._recorded()
        ]
        self._note_processes()

    def run(self, faults: Iterable[Fault], stop: threading.Event) -> None:
        """Do one after the other; pauses and the like overlap what follows."""
        for fault in faults:
            if stop.wait(fault.after_s):
                return
            began_s = time.monotonic()
            text = self._do(fault)
            ended_s = max(time.monotonic(), began_s + fault.seconds)
            self._note(text, began_s, ended_s, GRACE_S[fault.kind])
            stop.wait(fault.seconds / 2)

    def _do(self, fault: Fault) -> str:
        """Do one thing; return in words what it was, and what it was answered with."""
        text = f"{fault.kind} {fault.node}"
        try:
            match fault.kind:
                case "remove":
                    self._cluster.remove(fault.node)
                    self._cluster.grow(self._specs)
                case "kill":
                    self._cluster.kill(fault.node)
                    self._cluster.grow(self._specs)
                case "pause":
                    self._cluster.pause(fault.node, fault.seconds)
                    text += f" for {fault.seconds:.1f} s"
                case "partition":
                    self._cluster.partition(fault.node, fault.other, fault.seconds)
                    text += f" from {','.join(fault.other)} for {fault.seconds:.1f} s"
                case "half-open":
                    text += f" for {fault.seconds:.1f} s at {self._half_open(fault)}"
        except (MpregError, TimeoutError) as error:  # such as a drill on a dead node
            text += f" [{type(error).__name__}: {error}]"
            with contextlib.suppress(MpregError, TimeoutError):
                self._cluster.grow(self._specs)
        self._note_processes()
        return text

    def _half_open(self, fault: Fault) -> str:
        """Cut the links of all clients to a node; neither end is told."""
        cut: list[str] = []
        for name, client in self._clients.items():
            link = parts_of(client).client.links.get(fault.node)
            if link is None:
                continue

            def cut_link(client: mp.Cluster = client, link: Any = link) -> None:
                if link.is_open:
                    fault_there = link.cut()
                    loop = asyncio.get_running_loop()
                    loop.call_later(fault.seconds, fault_there.mend)

            parts_of(client).loop.call_soon(cut_link)
            cut.append(name)
        return ", ".join(cut) or "no client"

    def _note(
        self, text: str, began_s: float, ended_s: float, grace_s: float | None
    ) -> None:
        self.happened.append(
            Happened(what=text, began_s=began_s, ended_s=ended_s, grace_s=grace_s)
        )

    def _note_processes(self) -> None:
        for node in self._recorded():
            self.processes[node.process.pid] = node.name

    def _recorded(self) -> list[RecordedNode]:
        """Return the nodes of the cluster, as its file lists them."""
        return [
            node
            for entry in ClusterFiles().entries()
            if entry.cluster == self._cluster.name
            for node in entry.nodes
        ]


class MakeFaults(Protocol):
    """Makes what does faults to a cluster; the class `Faults` is one."""

    def __call__(
        self, cluster: mp.Cluster, clients: Mapping[str, mp.Cluster]
    ) -> Faults:
        """Return it. clients: those that make the calls."""


# -------------------------------------------------------------------------- the calls

BURST = 24
"""Calls that a client makes at once, at most."""

LEASED_BURST, LEASED_SHARE = 3, 0.4
"""The same where workers are to be leased, and the share of calls made then."""

OUTSTANDING = 150
"""Calls of one client that are under way at once, at most."""

LAST_OUTCOME_S = 60.0
"""How long after the last call its outcome may take."""

SETTLED_S = 1.0
"""After the last outcome: what starts later than it is told would show by then."""


class Caller:
    """Makes calls through one client, and notes what it is told."""

    def __init__(
        self,
        name: str,
        cluster: mp.Cluster,
        log: Path,
        chance: random.Random,
        burst: int,
    ) -> None:
        """burst: calls that are made at once, at most."""
        self._burst = burst
        self._name = name
        self._cluster = cluster
        self._log = str(log)
        self._chance = chance
        self._room = threading.Semaphore(OUTSTANDING)
        self._over: queue.SimpleQueue[tuple[str, float, Any] | None]
        self._over = queue.SimpleQueue()
        self.invoked: list[Invoked] = []
        self.ended: list[Ended] = []
        register = cluster.register
        # One code under several names, idempotent and not.
        self._functions = {
            f"{name}-once": register(work, name=f"{name}-once"),
            f"{name}-twin": register(work, name=f"{name}-twin"),
            f"{name}-again": register(work, name=f"{name}-again", idempotent=True),
        }

    def run(self, calls: int, seconds: float) -> None:
        """Make the calls, spread over the time, in bursts; then wait for the last."""
        reader = threading.Thread(target=self._read, name=f"{self._name}-outcomes")
        reader.start()
        began_s = time.monotonic()
        made = 0
        while made < calls:
            for _ in range(min(calls - made, self._chance.randint(1, self._burst))):
                self._room.acquire()
                self._call(f"{self._name}{made}")
                made += 1
            pause_s = began_s + seconds * made / calls - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s * self._chance.uniform(0.5, 1.5))
        until = time.monotonic() + LAST_OUTCOME_S
        for _ in range(OUTSTANDING):
            if not self._room.acquire(timeout=max(0.0, until - time.monotonic())):
                break
        self._over.put(None)
        reader.join()

    def _call(self, call: str) -> None:
        chance = self._chance
        function = chance.choice(list(self._functions))
        seconds = chance.choices(
            (0.0, chance.uniform(0.005, 0.04), chance.uniform(0.1, 0.6)),
            (70, 26, 4),
        )[0]
        fate = chance.choices(("return", "raise", "exit"), (97.2, 2.5, 0.3))[0]
        timeout_s = chance.uniform(0.02, 2.0) if chance.random() < 0.08 else None
        node = chance.choice(NODES) if chance.random() < 0.04 else None
        cancels = chance.random() < 0.03
        self.invoked.append(
            Invoked(
                call=call,
                at_s=time.monotonic(),
                function=function,
                idempotent=function.endswith("again"),
                client=self._name,
                fate=fate,
                timeout_s=timeout_s,
                pinned=node is not None,
                cancels=cancels,
            )
        )
        view = self._functions[function].on(node=node, timeout=timeout_s)
        future = view.submit(self._log, call, seconds, fate)
        when_over(future, lambda f: self._over.put((call, time.monotonic(), f)))
        if cancels:
            after_s = chance.uniform(0.0, 0.3)
            threading.Timer(after_s, future.cancel).start()

    def _read(self) -> None:
        """Rebuild outcomes as they come, apart from the thread of the client."""
        while (one := self._over.get()) is not None:
            self.ended.append(told(*one))
            self._room.release()


def told(call: str, at_s: float, future: Any) -> Ended:
    """Return what the future of a call tells its caller."""
    try:
        value = future.result(0)
    except (MpregError, CancelledError) as error:
        is_remote = isinstance(error, mp.errors.RemoteError)
        name = "RemoteError" if is_remote else type(error).__name__
        said: Executed = "unknown"
        if is_remote or isinstance(error, mp.errors.NoRoute):
            said = "yes" if is_remote else "no"
        said = getattr(error, "executed", said)
        return Ended(
            call=call,
            at_s=at_s,
            error=name,
            executed=said,
            is_right=not is_remote or call in str(error),
            text=str(error).partition("\n")[0][:160],
        )
    return Ended(call=call, at_s=at_s, is_right=value == call, text=repr(value)[:80])


# --------------------------------------------------------------------------- one seed


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one seed."""

    seed: int
    history: History
    violations: tuple[Violation, ...]
    seconds: float

    def row(self) -> tuple[str, ...]:
        """Return what the table shows of it."""
        said = Counter(_said(end) for end in self.history.ended)
        done = self.history.happened
        return (
            str(self.seed),
            str(len(self.history.invoked)),
            *(str(said[kind]) for kind in ("ok", "raised", "no", "yes", "unknown")),
            str(said["chosen"]),
            str(len(done)),
            f"{self.seconds:.0f}",
            str(len(self.violations)),
        )


HEAD = (
    "seed",
    "calls",
    "ok",
    "raised",
    "failed: no",
    "yes",
    "unknown",
    "timeout/cancel",
    "events",
    "s",
    "violations",
)


def _said(end: Ended) -> str:
    if not end.error:
        return "ok"
    if end.error == "RemoteError":
        return "raised"
    return "chosen" if end.error in CHOSEN else end.executed


def record(
    cluster: mp.Cluster,
    seed: int,
    *,
    calls: int,
    seconds: float,
    folder: Path,
    faults: Sequence[Fault] | None = None,
    burst: int = BURST,
    make_faults: MakeFaults = Faults,
) -> History:
    """Make so many calls on a cluster of `NODES` while faults happen to it.

    faults: what to do in place of what the seed draws, all of it however long it takes.
    burst: calls that a client makes at once, at most.
    """
    chance = random.Random(seed)
    drawn = draw_faults(chance, seconds) if faults is None else faults
    log = folder / f"history-{seed}.log"
    entry = cluster.urls[chance.randrange(len(cluster.urls))]
    with contextlib.closing(_Connected(entry, cluster.ca)) as connected:
        clients = {"direct": cluster, "via": connected.cluster}
        callers = [
            Caller(name, client, log, random.Random(chance.random()), burst)
            for name, client in clients.items()
        ]
        doing = make_faults(cluster, clients)
        stop = threading.Event()
        threads = [
            threading.Thread(target=caller.run, args=(calls // 2, seconds))
            for caller in callers
        ]
        breaking = threading.Thread(target=doing.run, args=(drawn, stop))
        for thread in (*threads, breaking):
            thread.start()
        for thread in threads:
            thread.join()
        if faults is None:
            stop.set()
        breaking.join()
        time.sleep(SETTLED_S)
        return History(
            invoked=[call for caller in callers for call in caller.invoked],
            ended=[end for caller in callers for end in caller.ended],
            runs=read_runs(log, doing.processes),
            happened=doing.happened,
        )


class _Connected:
    """A second client, which sends all calls through the node that it entered by."""

    def __init__(self, url: str, ca: str) -> None:
        self.cluster = mp.connect(url, direct=False, ca=ca or None)

    def close(self) -> None:
        self.cluster.disconnect()


@contextlib.contextmanager
def nodes_on_hosts() -> Iterator[dict[str, dict[str, tuple[str, ...]]]]:
    """Start two hosts that ssh reaches; yield what `up` takes, half of `NODES` each."""
    with SshHosts("first", "second") as hosts, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(hosts.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield {
            host: dict.fromkeys(NODES[at : at + 2], ())
            for host, at in (("first", 0), ("second", 2))
        }


def run_seed(
    seed: int, *, calls: int, seconds: float, tls: bool = False, ssh: bool = False
) -> Result:
    """Run one seed on a cluster of its own.

    tls: its nodes have certificates. ssh: they are on two hosts that ssh reaches, and
        links go through tunnels, unless `tls`.
    """
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="history-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        own_folders(Path(name), patch)
        # Half of the seeds have calls go straight to workers, of one slot or of two:
        # nodes lease them where they are idle now and then.
        leased = seed % 2 == 0
        slots = 1 if seed % 4 == 0 else 2
        with contextlib.ExitStack() as stack:
            if ssh:
                hosts = stack.enter_context(nodes_on_hosts())
                via: Via | None = "tls" if tls else None
                cluster = mp.up(ssh=hosts, via=via, slots=slots, timeout=90, fresh=True)
            else:
                if tls:
                    stack.enter_context(local_nodes_over_tls(Path(name)))
                cluster = mp.up(len(NODES), slots=slots, fresh=True)
            stack.enter_context(cluster)
            history = record(
                cluster,
                seed,
                calls=int(calls * LEASED_SHARE) if leased else calls,
                seconds=seconds,
                folder=Path(name),
                burst=LEASED_BURST if leased else BURST,
            )
    return Result(seed, history, check(history), time.monotonic() - began_s)


DASK_SHARE = 0.25
"""Share of the calls that are made where each is a task of Dask."""


def run_seed_on_dask(seed: int, *, calls: int, seconds: float) -> Result:
    """Run one seed on a gateway to a Dask cluster, whose workers are killed."""
    from tests.support.dask_faults import cluster_on_dask, draw_dask_faults

    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="history-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        own_folders(Path(name), patch)
        with cluster_on_dask() as (cluster, make_faults):
            history = record(
                cluster,
                seed,
                calls=int(calls * DASK_SHARE),
                seconds=seconds,
                folder=Path(name),
                faults=draw_dask_faults(random.Random(seed), seconds),
                make_faults=make_faults,
            )
    return Result(seed, history, check(history), time.monotonic() - began_s)


def main(words: Sequence[str], *, say: Callable[[str], object] = print) -> int:
    """Run the seeds that `words` name; return how many had violations."""
    parser = argparse.ArgumentParser(prog="history", description=__doc__.split("\n")[0])
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--tls", action="store_true", help="all links over TLS")
    parser.add_argument("--ssh", action="store_true", help="nodes on hosts of ssh")
    parser.add_argument("--dask", action="store_true", help="on workers of Dask")
    parser.add_argument("--stories", type=int, default=2, help="of each rule, at most")
    options = parser.parse_args(words)
    say("  ".join(HEAD))
    wrong = 0
    for seed in options.seeds:
        length = {"calls": options.calls, "seconds": options.seconds}
        if options.dask:
            result = run_seed_on_dask(seed, **length)
        else:
            result = run_seed(seed, **length, tls=options.tls, ssh=options.ssh)
        say(
            "  ".join(f"{v:>{len(h)}}" for h, v in zip(HEAD, result.row(), strict=True))
        )
        told = Counter[str]()
        for violation in result.violations:
            told[violation.rule] += 1
            if told[violation.rule] <= options.stories:
                say(story(result.history, violation))
        for rule, count in told.items():
            say(f"  {count} against: {rule}")
        wrong += bool(result.violations)
    say(f"{len(options.seeds)} histories, {wrong} with violations")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
