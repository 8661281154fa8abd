"""Starts nodes as jobs of Slurm, which call back once they run.

Each node is a job of its own. `sbatch` queues a script that runs `launcher/pilot.py`;
when Slurm starts it, on whichever machine, it connects to this process over TLS, proves
that it is the job, and gets the token and commands as a host of ssh does. What it needs
for that is a file in the folder of the cluster, which only this user can read: the home
must be shared between the machines, as it is on most clusters.

A job waits for its turn for seconds or for days. Its node joins when it starts.
"""

import asyncio
import hmac
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from mpreg_nb.client.loop_thread import LoopThread, LoopThreadOnDemand
from mpreg_nb.cures import cure
from mpreg_nb.errors import HostFailure, HostsFailed
from mpreg_nb.launcher.child import TOKEN_VARIABLE, node_environment
from mpreg_nb.launcher.host_messages import (
    EnterCluster,
    KillNode,
    PortReserved,
    ReservePort,
    TerminateNode,
)
from mpreg_nb.launcher.launcher import (
    LOG_LINES,
    LaunchContext,
    Launcher,
    RemoteOptions,
)
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.node_spec import NodeSpec, Wanted, checked, read_spec
from mpreg_nb.launcher.pilot import PilotTicket
from mpreg_nb.launcher.process import LOOPBACK
from mpreg_nb.launcher.remote_host import HostError, RemoteHost, RemoteNode
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.tls import read_tls
from mpreg_nb.user_files import write_private

LOG = logging.getLogger("mpreg_nb.launcher.slurm")

COMMAND_S = 30.0
"""In which sbatch, squeue and scancel must be done; a busy controller takes long."""

FIRST_LOOK_S = 0.5
LONGEST_LOOK_S = 10.0
"""Between two looks at the queue, which many share: half as long again each time."""

HELLO_S = 10.0
"""In which a job that has connected must prove itself."""

UNREACHED_S = 15
"""After so many seconds without an answer a machine is gone: each few seconds it is
told that the starter is there."""

LINE_BYTES = 1 << 22
"""Longest report; it has lines of a log."""

WantedJobs: TypeAlias = Wanted | Mapping[str, Wanted]
"""What `up` accepts for nodes that are jobs."""

WAITING = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "RESIZING")

ENDINGS: Mapping[str, tuple[str, str]] = {
    "TIMEOUT": ("its time limit is over", "Ask for more, as --time=4:00:00"),
    "DEADLINE": ("its deadline has passed", "Ask for a later one"),
    "CANCELLED": ("it was cancelled in the queue", "Run the same line again"),
    "NODE_FAIL": ("its machine failed", "Run the same line again, for another machine"),
    "BOOT_FAIL": ("its machine did not start", "Run the same line again"),
    "PREEMPTED": ("a job of higher priority took its place", "Run it again later"),
    "OUT_OF_MEMORY": ("it took more memory than it had", "Ask for more, as --mem=16G"),
}
"""Why a job has ended, by the state that Slurm tells, and what cures it."""


class JobState(msgspec.Struct, frozen=True):
    """What Slurm says about one job."""

    state: str
    reason: str = ""  # why it waits

    @property
    def is_over(self) -> bool:
        """Whether it will never run any more."""
        return self.state not in WAITING

    def __str__(self) -> str:
        if self.state == "PENDING":
            return f"waits in the queue ({self.reason})"
        return ENDINGS.get(self.state, (self.state.lower(), ""))[0]


GONE = JobState("GONE")
"""Slurm does not know the job any more."""


def read_queue(output: str) -> dict[str, JobState]:
    """Return the state of each job by its id, from lines of `squeue`.

    >>> read_queue("7|PENDING|Resources\\n")
    {'7': JobState(state='PENDING', reason='Resources')}
    """
    lines = (line.split("|") for line in output.splitlines())
    return {line[0]: JobState(line[1], line[2]) for line in lines if len(line) == 3}


def controller_of(config: str) -> str:
    """Return the address of the controller, from `scontrol show config`.

    >>> controller_of("SlurmctldHost[0] = head(10.0.0.2)\\n")
    '10.0.0.2'
    """
    found = re.search(r"^SlurmctldHost\S*\s*=\s*([^\s(]+)(?:\((.+?)\))?", config, re.M)
    return (found[2] or found[1]) if found else ""


def address_toward(host: str) -> str:
    """Return the address of this machine on the way to `host`; "": there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # nothing is sent
        except OSError:
            return ""
        return str(probe.getsockname()[0])


# ------------------------------------------------------------------------------ jobs


class SlurmNode(RemoteNode):
    """One node that is a job, as `LaunchedNode`."""

    def __init__(self, name: str, log: Path, host: RemoteHost, cancel: Any) -> None:
        """Be queued. cancel: takes the job out of the queue."""
        super().__init__(name, "", log, host)
        self._cancel: Callable[[], object] = cancel
        self.is_unwanted = False
        """Whether this process has asked for its end."""

    def terminate(self, drain: float = 10.0) -> None:
        """Ask it to leave; a job that waits for its turn is cancelled."""
        self._end(TerminateNode(node=self.name, drain_s=drain))

    def kill(self) -> None:
        """End it at once."""
        self._end(KillNode(node=self.name))

    def _end(self, command: TerminateNode | KillNode) -> None:
        self.is_unwanted = True
        if self.host.is_up:
            self.host.send(command)
        elif not self.ended.done():
            self._cancel()
            self.has_ended(-signal.SIGTERM)


class SlurmJob:
    """A job and its node."""

    def __init__(
        self,
        settings: NodeSettings,
        log: Path,
        workers: int,
        context: LaunchContext,
        thread: LoopThread,
    ) -> None:
        """Be not queued yet."""
        self.id = ""
        self.key = secrets.token_urlsafe(32)
        self.settings = replace(settings, host_name="")  # that of its machine
        self.workers = workers
        self.ticket = log.with_suffix(".job")
        self.output = log.with_suffix(".out")
        self.state = JobState("PENDING", "None")
        self.writer: asyncio.StreamWriter | None = None
        self.host = RemoteHost(settings.name, context, thread, self._write)
        self.node = SlurmNode(settings.name, log, self.host, self.cancel)
        self.host.nodes[settings.name] = self.node
        self._log = log

    def queue(self, options: str, ticket: PilotTicket, python: str) -> None:
        """Put it into the queue.

        Raises:
            HostsFailed: Slurm refused it, or is not there.
        """
        write_private(self.ticket, msgspec.json.encode(ticket))
        pilot = [python, "-P", "-m", "mpreg_nb.launcher.pilot", str(self.ticket)]
        words = [
            *("sbatch", "--parsable", "--no-requeue", f"--job-name={self.node.name}"),
            *(f"--output={self.output}", *shlex.split(options)),
        ]
        environment = node_environment()
        environment.pop(TOKEN_VARIABLE, None)  # Slurm would keep it with the job
        done = run(words, f"#!/bin/sh\nexec {shlex.join(pilot)}\n", environment)
        if done.returncode:
            self.forget_files()
            raise HostsFailed(
                (
                    HostFailure(
                        self.node.name,
                        "queue",
                        f"Slurm rejected the job: {_last_line(done.stderr)}",
                        f"Its options were: {options or 'none'}. "
                        "Partitions and their limits: sinfo",
                    ),
                )
            )
        self.id = done.stdout.strip().partition(";")[0]

    def cancel(self) -> None:
        """Take it out of the queue, or end it there."""
        if self.id:
            run(["scancel", self.id])

    def forget_files(self) -> None:
        """Remove what is for this job alone."""
        for path in (self.ticket, self.output):
            path.unlink(missing_ok=True)

    def failure(self, reason: str, how: str = "") -> HostFailure:
        """Return why it has no node, with what it wrote."""
        log: tuple[str, ...] = ()
        with suppress(OSError):  # it never ran, so it wrote nothing
            log = LogFile(self.output).last(LOG_LINES)
        return HostFailure(
            self.node.name, "queue", f"job {self.id}: {reason}", how, log
        )

    def has_ended(self, state: JobState) -> None:
        """Say why its node is gone."""
        reason, how = ENDINGS.get(
            state.state,
            ("it ended before its node was ready", "Its last lines say why"),
        )
        failure = self.failure(reason, how)
        if self.node.is_running:
            self.node.failed(failure)
            self.node.has_ended(-signal.SIGTERM)
        said = f"node {self.node.name} has ended, job {self.id}: {reason}. {how}"
        self.node.write((f"mpreg_nb: {said}",))
        LOG.warning("%s", said)

    def _write(self, line: str) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(line.encode())


def run(
    words: Collection[str],
    given: str = "",
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm; one that is not there or hangs fails like others."""
    try:
        return subprocess.run(  # noqa: S603 - commands of the user's own Slurm
            list(words),
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(words), 1, "", str(error))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ") if lines else "it did not say why"


# -------------------------------------------------------------------------- launcher


class SlurmLauncher(Launcher[SlurmNode]):
    """Starts nodes as jobs; one of it serves one cluster."""

    is_queue = True

    def __init__(self, context: LaunchContext) -> None:
        """Have no job yet."""
        self._context = context
        self._python = sys.executable
        self._jobs: dict[str, SlurmJob] = {}  # by node
        self._thread = LoopThreadOnDemand("mpreg-slurm")
        self._server: asyncio.Server | None = None
        self._address = ""
        self._port = 0
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @staticmethod
    def read(wanted: WantedJobs) -> tuple[NodeSpec, ...]:
        """Return the nodes that `wanted` names, with the options of sbatch of each.

        >>> [node] = SlurmLauncher.read({"--time=1:00:00": {"train": "gpu"}})
        >>> node.host, str(node)
        ('--time=1:00:00', 'train:gpu')
        """
        if not (isinstance(wanted, Mapping) and _has_options(wanted)):
            return read_spec(wanted, numbered="job-")
        nodes: list[NodeSpec] = []
        for options, each in wanted.items():
            if not options.lstrip().startswith("-"):
                raise ValueError(
                    f"{options!r} stands among options of sbatch, which begin with a "
                    "dash. Nodes of no options: {'': {'name': 'resource'}}"
                    if options
                    else "nodes of no options have a dict of their own"
                )
            try:
                shlex.split(options)
            except ValueError as error:
                raise ValueError(f"options of sbatch: {options!r}: {error}") from None
            read = read_spec(each, numbered="job-")
            nodes += (replace(node, host=options) for node in read)
        return checked(nodes)

    @property
    def stages(self) -> Mapping[str, str]:
        """What happens with each job, in a few words."""
        return {
            name: f"job {job.id} {job.state}"
            for name, job in list(self._jobs.items())  # others queue and end some
            if job.state.state == "PENDING"
        }

    @property
    def address_here(self) -> str:
        """The address of this machine as jobs see it."""
        return self._address

    def prepare(
        self, hosts: Collection[str], options: RemoteOptions
    ) -> "Future[Mapping[str, HostFailure]]":
        """Wait for jobs to connect."""
        self._python = options.python or sys.executable
        work = self._prepare(tuple(hosts))
        return asyncio.run_coroutine_threadsafe(work, self._thread.get().loop)

    async def _prepare(self, hosts: Collection[str]) -> Mapping[str, HostFailure]:
        try:
            await self._listen()
        except HostError as error:
            return dict.fromkeys(hosts, error.failure)
        return {}

    async def _listen(self) -> None:
        if self._server is not None:
            return
        context = self._context
        if context.issue is None:
            raise HostError(
                "slurm",
                "queue",
                "its nodes need TLS, and this cluster was started without",
                "Start it anew: "
                + cure(
                    magic="%mpreg up --fresh",
                    python="mp.up(..., fresh=True)",
                    command="mp.up(..., fresh=True)",
                ),
            )
        if context.keep:
            raise HostError(
                "slurm",
                "queue",
                "keep=True is not for jobs, which Slurm ends in its own time",
                "Leave it out",
            )
        if shutil.which("sbatch") is None:
            raise HostError(
                "slurm",
                "queue",
                "there is no sbatch on this machine",
                "Run this where you submit jobs",
            )
        self._address = os.environ.get("MPREG_NB_ADDRESS", "") or (
            await asyncio.to_thread(_address_here)
        )
        tls = context.issue("starter", (self._address,))
        self._server = await asyncio.start_server(
            lambda reader, writer: self._spawn(self._called(reader, writer)),
            self._address,
            0,
            ssl=await asyncio.to_thread(_accepting, tls),
            limit=LINE_BYTES,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def start(
        self,
        settings: NodeSettings,
        *,
        host: str,
        log: Path,
        workers: int,
    ) -> SlurmNode:
        """Queue a job for a node, as `Launcher` says. host: options of sbatch.

        workers: those of the cluster here; each job has a machine of its own for it.
        """
        job = SlurmJob(
            settings, log, settings.workers, self._context, self._thread.get()
        )
        ticket = PilotTicket(
            address=self._address, port=self._port, ca=self._context.ca, key=job.key
        )
        self._jobs[settings.name] = job  # before Slurm can start it
        try:
            job.queue(host, ticket, self._python)
        except BaseException:
            del self._jobs[settings.name]
            raise
        job.node.ended.add_done_callback(
            lambda _: self._thread.get().call_soon(self._forget_job, job)
        )
        self._thread.get().call_soon(self._look)
        return job.node

    # ------------------------------------------------------------------- the queue

    def _look(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._spawn(self._watch_queue())

    async def _watch_queue(self) -> None:
        """Look at the queue until all jobs have connected or ended."""
        wait_s = FIRST_LOOK_S
        while True:
            jobs = list(self._jobs.values())  # another thread queues some
            waiting = [j for j in jobs if j.writer is None and j.id]
            if not waiting:
                return
            states = await asyncio.to_thread(_queue)
            for job in waiting:
                if job.writer is None and states is not None:
                    job.state = states.get(job.id, GONE)
                    if job.state.is_over:
                        job.has_ended(job.state)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, LONGEST_LOOK_S)

    def _forget_job(self, job: SlurmJob) -> None:
        """Forget a job whose node has ended; the rest of it ends by itself."""
        if job.writer is not None:
            job.writer.close()
        if self._jobs.get(job.node.name) is job:
            del self._jobs[job.node.name]
        job.forget_files()

    # ------------------------------------------------------------ jobs that connect

    async def _called(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._heard(reader, writer)
        finally:
            # TLS ends with an answer of the other side, which may never come.
            writer.transport.abort()

    async def _heard(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        job = None
        try:
            async with asyncio.timeout(HELLO_S):
                key = (await reader.readline()).strip()
            jobs = list(self._jobs.values())  # another thread queues some
            job = next((j for j in jobs if _same(j.key, key) and not j.writer), None)
            if job is None:
                LOG.warning("somebody connected who is no job of this cluster")
            else:
                job.writer = writer
                await self._serve(job, reader, writer)
        except (OSError, ValueError) as error:  # TimeoutError is one; a line too long
            LOG.info("a job: %s", error)
        finally:
            writer.close()
        if job is not None:
            await self._job_disconnected(job)

    async def _serve(
        self, job: SlurmJob, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        link: socket.socket = writer.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            link.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREACHED_S * 1000
            )
        writer.write(f"{self._context.token.reveal()}\n".encode())
        starting = self._spawn(self._start_node(job))
        try:
            while line := await reader.readline():
                job.host.receive(line.decode())
        finally:
            starting.cancel()

    async def _start_node(self, job: SlurmJob) -> None:
        context = self._context
        try:
            await job.host.enter(
                EnterCluster(
                    cluster=f"{context.cluster}@{job.node.name}",
                    cluster_id=context.cluster_id,
                    keep=False,
                    notebook=context.notebook,
                    lease_s=context.lease_s,
                    ca=context.ca,
                )
            )
            job.host.is_up = True
            reserved = await job.host.ask(
                lambda id: ReservePort(id=id, is_open=True), PortReserved
            )
        except HostError as error:
            job.node.failed(error.failure)
            job.cancel()
            return
        job.node.url = job.host.start_over_tls(job.settings, reserved, job.workers)
        job.state = JobState("RUNNING")
        await job.host.beat()

    async def _job_disconnected(self, job: SlurmJob) -> None:
        """A job has disconnected: say why, unless it was asked to end."""
        job.host.lost(f"job {job.id} has ended")
        wait_s = FIRST_LOOK_S
        while not job.node.is_unwanted and wait_s < LONGEST_LOOK_S:
            states = await asyncio.to_thread(_queue)
            state = states.get(job.id, GONE) if states is not None else job.state
            if state.is_over:
                if state.state in ENDINGS:
                    job.has_ended(state)
                return
            await asyncio.sleep(wait_s)
            wait_s *= 1.5
        await asyncio.to_thread(job.cancel)  # it may have lost the connection alone

    # ------------------------------------------------------------------------- end

    def close(self) -> None:
        """Cancel all jobs, and listen no more."""
        if not self._thread.runs_here:
            return
        for job in list(self._jobs.values()):
            if not job.node.ended.done():  # else it ends in order
                job.cancel()
        self._thread.end_with(self._close())

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for job in list(self._jobs.values()):
            self._forget_job(job)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _has_options(wanted: Mapping[Any, Any]) -> bool:
    return any(isinstance(k, str) and k.lstrip().startswith("-") for k in wanted)


def _same(key: str, said: bytes) -> bool:
    return hmac.compare_digest(key.encode(), said)


def _queue() -> dict[str, JobState] | None:
    """Return the states of all jobs of this user; None: Slurm does not answer."""
    done = run(["squeue", "--noheader", "--states=all", "--me", "--format=%i|%T|%r"])
    return read_queue(done.stdout) if done.returncode == 0 else None


def _address_here() -> str:
    controller = controller_of(run(["scontrol", "show", "config"]).stdout)
    return address_toward(controller or socket.gethostname()) or LOOPBACK


def _accepting(tls: Any) -> Any:
    import tempfile

    # Python reads certificates from files alone.
    with tempfile.TemporaryDirectory(prefix="mpreg-") as folder:
        return read_tls(tls.write(Path(folder), "starter")).accept
