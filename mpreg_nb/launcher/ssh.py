"""Starts nodes on hosts that ssh reaches, by one connection a host.

Trust is the user's own: host keys of known_hosts, keys of files and agent, jump hosts,
as ~/.ssh/config says. A host whose key is not known is refused, and no password is
asked for.

On each host `mpreg-nb host` (`launcher/host.py`) starts the nodes; its one channel
carries commands, ready lines and logs of all of them. Links of nodes and clients run
through tunnels of the same connection (`launcher/tunnel.py`).
"""

import asyncio
import os
import secrets
import shlex
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar
from weakref import WeakSet

import msgspec

from mpreg_nb.client.loop_thread import LoopThread, LoopThreadOnDemand
from mpreg_nb.cures import cure
from mpreg_nb.errors import HostFailure, HostsFailed
from mpreg_nb.launcher.cluster_files import LedgerRow, RecordedNode
from mpreg_nb.launcher.host_messages import (
    ClusterEnded,
    ClusterEntered,
    CommandDone,
    EndCluster,
    EnterCluster,
    ExposeSocket,
    HostMessage,
    Listed,
    ListNodes,
    PortReserved,
    ReleasePort,
    ReservePort,
    StartNode,
    TakeUpCluster,
)
from mpreg_nb.launcher.launcher import (
    AS_FOUND,
    LOG_LINES,
    LaunchContext,
    Launcher,
    RemoteOptions,
)
from mpreg_nb.launcher.node_spec import NodeSpec, WantedHosts, own_name, read_hosts
from mpreg_nb.launcher.remote_host import ALIVE_S, HostError, RemoteHost, RemoteNode
from mpreg_nb.launcher.remote_python import (
    MINOR,
    SENDS_WHEEL,
    Environment,
    install_script,
    marked,
    own_wheel,
    probe_script,
    read_probe,
    wanted_packages,
)
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport import local_socket
from mpreg_nb.working_folder import machine

try:
    import asyncssh

    from mpreg_nb.launcher.tunnel import TunnelTo, port_of, socket_name, tunnel_from
except ImportError as error:
    raise ImportError(
        "nodes over ssh need the package asyncssh. Install it: "
        "pip install 'mpreg_nb[ssh]'"
    ) from error

CONNECT_S = 10.0
"""From the first packet to the answer of an ssh server."""

LOGIN_S = 20.0
"""From that answer to a login; a jump host has its own."""

PROBE_S = 30.0
"""Python starts within a second, but not on a cold network disk."""

REACHED_S = 3.0
"""In which a connection to a port of a host must be there, or a firewall drops it."""

CLOSE_S = 8.0
"""In which the nodes of a host leave when all is over."""

PORTS_TRIED = 20

Connection: TypeAlias = asyncssh.SSHClientConnection

T = TypeVar("T")
R = TypeVar("R", bound=HostMessage)

# ---------------------------------------------------------------------- connection


_CONNECTIONS: WeakSet[Any] = WeakSet()
"""All of this process; a forked child must not hold them open."""


def _close_in_child() -> None:
    for connection in list(_CONNECTIONS):
        found = connection.get_extra_info("socket")
        if found is not None and found.fileno() >= 0:
            os.close(found.fileno())
    _CONNECTIONS.clear()


os.register_at_fork(after_in_child=_close_in_child)


class Login(msgspec.Struct, frozen=True):
    """How to log in at one host, as the files of the user say."""

    host: str
    """As the user names it."""

    options: asyncssh.SSHClientConnectionOptions
    known_hosts: list[str]

    @classmethod
    async def read(cls, host: str) -> Self:
        """Read the files of the user.

        Raises:
            HostError: one of them makes no sense.
        """
        user, _, name = host.rpartition("@")
        name, _, port = name.partition(":")  # of a jump host
        who: dict[str, Any] = {"username": user} if user else {}
        if port.isdecimal():
            who["port"] = int(port)
        try:
            options = await asyncssh.SSHClientConnectionOptions.construct(
                host=name, config=(), **who
            )
        except (asyncssh.Error, OSError, ValueError) as error:
            raise HostError(
                host, "key", str(error), f"What does this say? ssh {host}"
            ) from error
        return cls(host, options, _known_hosts(options))

    @property
    def jumps(self) -> list[str]:
        """The hosts on the way."""
        found = self.options.tunnel
        return found.split(",") if isinstance(found, str) and found else []


async def connect(host: str, seen: tuple[str, ...] = ()) -> list[Connection]:
    """Log in at `host`; return all connections on the way, that to it last.

    seen: hosts whose way leads through this one.

    Raises:
        HostError: stage connect or key; no connection is left.
    """
    if host in seen:
        raise HostError(host, "connect", "its ProxyJump leads back to itself")
    login = await Login.read(host)
    made: list[Connection] = []
    try:
        for jump in login.jumps[:1]:
            made += await connect(jump, (*seen, host))
        for jump in login.jumps[1:]:
            made.append(await _connect(await Login.read(jump), made[-1]))
        made.append(await _connect(login, made[-1] if made else None))
    except BaseException:
        for connection in made:
            connection.abort()
        raise
    return made


async def _connect(login: Login, tunnel: Connection | None) -> Connection:
    host, options = login.host, login.options
    try:
        made = await asyncssh.connect(
            options=options,
            host=options.host,
            port=options.port,
            tunnel=tunnel,
            known_hosts=login.known_hosts,
            password_auth=False,
            kbdint_auth=False,
            connect_timeout=CONNECT_S,
            login_timeout=LOGIN_S,
            keepalive_interval=ALIVE_S,
            keepalive_count_max=3,
            compression_algs=["none"],
            encryption_algs="^aes128-gcm@openssh.com",
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise _key_unknown(login) from error
    except asyncssh.PermissionDenied as error:
        tried = ", ".join(await _keys_of(options)) or "none"
        raise HostError(
            host,
            "key",
            f"it refused {options.username}; keys that were offered: {tried}",
            f"This must log in without a password: ssh {host}",
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise HostError(
            host, "key", str(error), "Give the key to your agent: ssh-add KEY"
        ) from error
    except TimeoutError as error:
        raise HostError(
            host, "connect", f"no answer within {CONNECT_S:g} s", _try(host)
        ) from error
    except (asyncssh.Error, OSError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise HostError(host, "connect", text, _try(host)) from error
    _CONNECTIONS.add(made)
    return made


def _try(host: str) -> str:
    return f"Does this log in? ssh {host}"


def _known_hosts(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """Return the files with keys of hosts, as ssh reads them.

    asyncssh trusts any key where ~/.ssh/config says `UserKnownHostsFile none`, and
    does not look into the file of the machine; ssh does neither.
    """
    config: Any = options.config
    own = config.get("UserKnownHostsFile", None)
    if own is None:
        own = ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]
    machines = config.get("GlobalKnownHostsFile", None)
    if machines is None:
        machines = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
    files = [os.path.expanduser(str(file)) for file in (*own, *machines)]
    # With no file at all asyncssh would look for the usual one.
    return [file for file in files if os.access(file, os.R_OK)] or [os.devnull]


def _key_unknown(login: Login) -> HostError:
    host, options = login.host, login.options
    port = options.port if options.port != asyncssh.DEFAULT_PORT else None
    alias = options.host_key_alias or options.host
    match: Any = asyncssh.match_known_hosts
    if match(login.known_hosts, alias, "", port)[0]:
        return HostError(
            host,
            "key",
            "its host key is not the one in known_hosts: it was changed, or somebody "
            "else answers",
            f"If it was changed on purpose, remove the old one: ssh-keygen -R {host}",
        )
    return HostError(
        host,
        "key",
        "its host key is not known",
        f"Run this once, and compare the key: ssh {host}",
    )


async def _keys_of(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """Return the keys that were offered, in words."""
    held: Any = options.client_keys
    keys = [_described(key) for key in held or ()]
    if options.agent_path:
        try:
            agent = await asyncssh.connect_agent(str(options.agent_path))
        except (OSError, asyncssh.Error):
            return keys
        async with agent:
            keys += [f"{_described(key)} (agent)" for key in await agent.get_keys()]
    return list(dict.fromkeys(keys))


def _described(key: Any) -> str:
    kind = key.algorithm.decode().removeprefix("ssh-")
    comment = key.get_comment()
    return f"{kind} {comment}" if comment else kind


# ------------------------------------------------------------------------------ host


class SshHost:
    """One host: its connection, the program there, tunnels and nodes."""

    def __init__(
        self,
        host: str,
        context: LaunchContext,
        options: RemoteOptions,
        thread: LoopThread,
        say: Callable[[str], None],
    ) -> None:
        """Be not connected yet. say: hears what happens, in a few words."""
        self.host = host
        self._context = context
        self._options = options
        self._thread = thread
        self._say = say
        self._connections: list[Connection] = []  # jump hosts first
        self._process: asyncssh.SSHClientProcess[str] | None = None
        self.nodes = RemoteHost(host, context, thread, self._write)
        self._folder = ""
        self._is_same_machine = False
        self._is_near = False
        self._kept: dict[str, RecordedNode] = {}
        self._tunnels: dict[int, TunnelTo] = {}
        self._exposed: set[int] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_up(self) -> bool:
        """Whether it is connected, and its program runs."""
        return self.nodes.is_up

    @property
    def address_here(self) -> str:
        """The address of this machine as the host sees it."""
        return str(self._connections[0].get_extra_info("sockname")[0])

    # ------------------------------------------------------------------------- open

    async def open(self, command: HostMessage) -> ClusterEntered:
        """Connect, and start the program there; it enters a cluster as asked.

        Raises:
            HostError: it failed; nothing is left.
        """
        try:
            await self._start_program()
            entered = await self._enter(command)
        except BaseException:
            await self.close()
            raise
        self.nodes.is_up = True
        return entered

    async def open_for_ledger(self) -> None:
        """Connect, and start the program there, which enters no cluster.

        Raises:
            HostError: it failed; nothing is left.
        """
        try:
            await self._start_program()
        except BaseException:
            await self.close()
            raise

    async def _start_program(self) -> None:
        self._say("connecting")
        self._connections = await connect(self.host)
        self._say("looking for Python")
        python = await self._find_python()
        self._say("starting the program there")
        await self._run(python)

    async def _find_python(self) -> str:
        options = self._options
        environment = None
        if options.install:
            environment = Environment(packages=wanted_packages(options.packages))
        elif options.packages:
            raise HostError(
                self.host,
                "python",
                "packages= names what a new environment has, and none was asked for",
                "Add install=True",
            )
        mark = _mark()
        given = "" if environment else options.python
        script = probe_script(mark, given, environment.key if environment else "")
        output, errors = await self._script(script)
        found = read_probe(mark, output)
        for python in found:
            if python.fits:
                return python.path
        if environment is not None:
            return await self._install(environment)
        if not any(marked(mark, output)):
            raise HostError(
                self.host,
                "python",
                "its shell ran no script",
                f"What does this print? ssh {self.host} 'echo hello'",
                [*output.splitlines(), *errors.splitlines()],
            )
        right = [python for python in found if python.is_right_minor]
        name = cure(
            magic="--install",
            python="mp.up(..., install=True)",
            command="--install",
        )
        raise HostError(
            self.host,
            "import" if right else "python",
            "no Python there has what a node needs"
            if right
            else f"no Python {MINOR} was found there",
            f"To make an environment there: {name}; or name one: python=PATH",
            [str(python) for python in found],
        )

    async def _install(self, environment: Environment) -> str:
        mark = _mark()
        script = install_script(mark, environment, self._options.python)
        process = await self._shell()
        process.stdin.write(f"{script}\n".encode())
        lines: list[str] = []

        async def errors() -> None:
            async for line in process.stderr:
                lines.append(line.decode(errors="replace").rstrip())

        reading = asyncio.ensure_future(errors())
        done = False
        async for line in process.stdout:
            for said in marked(mark, line.decode(errors="replace")):
                if said == SENDS_WHEEL:
                    process.stdin.write(own_wheel())
                    process.stdin.write_eof()
                    continue
                done = said == "done"
                self._say(said)
        await reading
        await process.wait()
        if not done:
            raise HostError(
                self.host,
                "python",
                "no environment could be made there",
                "Its last lines say why",
                lines,
            )
        mark = _mark()
        output, _ = await self._script(probe_script(mark, "", environment.key))
        for python in read_probe(mark, output):
            if python.fits:
                return python.path
        raise HostError(
            self.host, "import", "the new environment cannot run nodes", log=lines
        )

    @property
    def _connection(self) -> Connection:
        return self._connections[-1]

    async def _shell(self) -> "asyncssh.SSHClientProcess[bytes]":
        try:
            return await self._connection.create_process("exec sh -s", encoding=None)
        except (asyncssh.Error, OSError) as error:
            raise HostError(
                self.host, "python", f"it runs no commands: {error}", _try(self.host)
            ) from error

    async def _script(self, script: str) -> tuple[str, str]:
        process = await self._shell()
        try:
            async with asyncio.timeout(PROBE_S):
                output, errors = await process.communicate(script.encode())
        except TimeoutError:
            raise HostError(
                self.host,
                "python",
                f"its shell did not answer within {PROBE_S:g} s",
                f"What does this print? ssh {self.host} 'echo hello'",
            ) from None
        return (output or b"").decode(errors="replace"), (errors or b"").decode(
            errors="replace"
        )

    async def _run(self, python: str) -> None:
        mark = _mark()
        words = [python, "-P", "-m", "mpreg_nb.launcher.host", mark]
        try:
            self._process = process = await self._connection.create_process(
                f"exec {shlex.join(words)}"
            )
        except (asyncssh.Error, OSError) as error:
            raise HostError(
                self.host, "import", f"it runs no commands: {error}", _try(self.host)
            ) from error
        self._spawn(self._read_errors(process))
        process.stdin.write(f"{self._context.token.reveal()}\n")
        try:
            async with asyncio.timeout(PROBE_S):
                async for line in process.stdout:
                    if line.rstrip("\n") == mark:
                        break
                else:
                    await process.wait()
                    raise HostError(
                        self.host,
                        "import",
                        f"{python} could not start nodes",
                        "Its last lines say why",
                        self.nodes.errors,
                    )
        except TimeoutError:
            raise HostError(
                self.host,
                "import",
                f"{python} did not start within {PROBE_S:g} s",
                log=self.nodes.errors,
            ) from None
        self._spawn(self._read(process))

    async def _read_errors(self, process: "asyncssh.SSHClientProcess[str]") -> None:
        with suppress(asyncssh.Error):  # the end of the connection is heard elsewhere
            async for line in process.stderr:
                self.nodes.errors = [*self.nodes.errors, line.rstrip()][-LOG_LINES:]

    async def _enter(self, command: HostMessage) -> ClusterEntered:
        entered = await self.nodes.enter(command)
        self._folder = entered.sockets
        folders = map(str, local_socket.folders())
        # This machine and this user: links find each other without a tunnel.
        self._is_same_machine = entered.machine == machine().decode()
        self._is_near = self._is_same_machine and entered.sockets in folders
        self._kept = {node.name: node for node in entered.nodes}
        if not self._context.keep:
            self._spawn(self.nodes.beat())
        return entered

    # ------------------------------------------------------------------------ nodes

    async def start(
        self, settings: NodeSettings, log: Path, workers: int
    ) -> RemoteNode:
        """Start a node; returns when its URL is known.

        Raises:
            HostError: there is no way to it.
        """
        name = settings.name
        kept = self._kept.pop(name, None)
        if kept is not None and kept.resources == tuple(sorted(settings.resources)):
            return self.take_up(kept, log)
        if kept is not None:
            await self.nodes.end(kept, log)
        if self._context.issue is not None:
            return await self._start_over_tls(settings, log, workers)
        reserved = await self._reserve_port()
        url = f"ws://127.0.0.1:{reserved.port}"
        node = self.nodes.expect(name, url, log)
        await self.expose(settings.join)
        self.nodes.write(
            StartNode(settings=settings, port=reserved.port, workers=workers)
        )
        return node

    async def _start_over_tls(
        self, settings: NodeSettings, log: Path, workers: int
    ) -> RemoteNode:
        """Start a node with a certificate, at the address that ssh reached."""
        reserved = await self.nodes.ask(
            lambda id: ReservePort(id=id, is_open=True), PortReserved
        )
        # As it is seen from here, where an address may be translated on the way.
        direct = len(self._connections) == 1
        seen = str(self._connection.get_extra_info("peername")[0]) if direct else ""
        await self._check_reached(seen or reserved.address, reserved.port)
        url = self.nodes.start_over_tls(settings, reserved, workers, seen=seen)
        return self.nodes.expect(settings.name, url, log)

    async def _check_reached(self, address: str, port: int) -> None:
        """Raise HostError unless this machine can connect to a port there."""
        try:
            async with asyncio.timeout(REACHED_S):
                _, writer = await asyncio.open_connection(address, port)
        except OSError as error:  # TimeoutError is one
            why = error.strerror or f"no answer within {REACHED_S:g} s"
            raise HostError(
                self.host,
                "bind",
                f"a node there would listen at {address} port {port}, which cannot be "
                f"reached from here: {why}",
                "Open TCP ports between the machines, or leave out via='tls': tunnels "
                "of ssh need none",
            ) from error
        writer.close()

    def open_tunnel(self, kept: RecordedNode) -> None:
        """Let this machine reach a node that runs there."""
        port = port_of(kept.url)
        tunnel = self._tunnel(port) if port else None
        if tunnel is not None and port not in self._tunnels:
            tunnel.take_port()
            tunnel.open()
            self._tunnels[port] = tunnel

    def take_up(self, kept: RecordedNode, log: Path) -> RemoteNode:
        """Return a node that runs there since an earlier connection."""
        self.open_tunnel(kept)
        return self.nodes.take_up(kept, log)

    async def _reserve_port(self) -> PortReserved:
        """Hold a port there that is free here too, and open the tunnel to it."""
        for _ in range(PORTS_TRIED):
            reserved = await self.nodes.ask(lambda id: ReservePort(id=id), PortReserved)
            port = reserved.port
            tunnel = self._tunnel(port)
            if tunnel is None:
                return reserved
            if tunnel.take_port() or self._is_same_machine:
                tunnel.open()
                self._tunnels[port] = tunnel
                return reserved
            self.nodes.write(ReleasePort(port=port))
        raise HostError(
            self.host, "bind", f"of {PORTS_TRIED} ports, none was free on both machines"
        )

    def _tunnel(self, port: int) -> TunnelTo | None:
        if self._is_near:
            return None
        path = f"{self._folder}/{socket_name(port)}"
        return TunnelTo(self._connection, port, path, self._spawn)

    async def expose(self, urls: Collection[str]) -> None:
        """Let nodes there reach these URLs.

        Raises:
            HostError: the host forbids it.
        """
        if self._is_near:
            return
        ports = {port_of(url) for url in urls} - {0, *self._exposed, *self._tunnels}
        for port in ports:
            name = socket_name(port)
            await self.nodes.ask(
                lambda id, name=name: ExposeSocket(id=id, socket=name),  # type: ignore[misc]
                CommandDone,
            )
            try:
                await tunnel_from(
                    self._connection, port, f"{self._folder}/{name}", self._spawn
                )
            except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
                raise HostError(
                    self.host,
                    "bind",
                    f"its sshd opens no tunnel: {error}",
                    "It must allow them: AllowStreamLocalForwarding yes and "
                    "AllowTcpForwarding yes in its sshd_config",
                ) from error
            self._exposed.add(port)

    # ------------------------------------------------------------------------ lines

    def _write(self, line: str) -> None:
        process = self._process
        if process is not None and not process.stdin.is_closing():
            process.stdin.write(line)

    async def _read(self, process: "asyncssh.SSHClientProcess[str]") -> None:
        reason = "the program on its host has ended"
        try:
            async for line in process.stdout:
                if line.endswith("\n"):  # else it was cut off with the connection
                    self.nodes.receive(line)
        except (asyncssh.Error, OSError) as error:
            reason = f"the connection to its host was lost: {error}"
        finally:
            self.nodes.lost(reason)
            self._close_tunnels()

    def _close_tunnels(self) -> None:
        while self._tunnels:
            self._tunnels.popitem()[1].close()
        self._exposed.clear()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the program there, which ends what is not kept, and disconnect."""
        self._close_tunnels()
        process = self._process
        try:
            if process is not None:
                process.stdin.write_eof()
                async with asyncio.timeout(CLOSE_S):
                    await process.wait_closed()
        except (TimeoutError, OSError, asyncssh.Error):
            self._say("it does not answer: its lease ends what is left there")
        finally:
            self.nodes.is_up = False
            for task in list(self._tasks):
                task.cancel()
            for connection in reversed(self._connections):
                connection.abort()


def _mark() -> str:
    return f"mpreg-{secrets.token_hex(8)}"


# -------------------------------------------------------------------------- launcher


class SshLauncher(Launcher[RemoteNode]):
    """Starts nodes on hosts; one of it serves one cluster."""

    def __init__(self, context: LaunchContext) -> None:
        """Connect to nothing yet."""
        self._context = context
        self._options = AS_FOUND
        self._hosts: dict[str, SshHost] = {}
        self._stages: dict[str, str] = {}
        self._thread = LoopThreadOnDemand("mpreg-ssh")

    @staticmethod
    def read(wanted: WantedHosts) -> tuple[NodeSpec, ...]:
        """Return the nodes that `wanted` names on hosts."""
        return read_hosts(wanted)

    @property
    def stages(self) -> Mapping[str, str]:
        """What happens on each host that is being prepared."""
        return dict(self._stages)

    @property
    def address_here(self) -> str:
        """The address of this machine as the first host sees it."""
        return next((h.address_here for h in self._hosts.values() if h.is_up), "")

    def prepare(
        self, hosts: Collection[str], options: RemoteOptions
    ) -> "Future[Mapping[str, HostFailure]]":
        """Connect to all of `hosts` at the same time."""
        self._options = options
        work = self._prepare(tuple(hosts))
        return asyncio.run_coroutine_threadsafe(work, self._thread.get().loop)

    async def _prepare(self, hosts: Collection[str]) -> Mapping[str, HostFailure]:
        failed = await asyncio.gather(*(self._open(host) for host in hosts))
        return {
            host: failure
            for host, failure in zip(hosts, failed, strict=True)
            if failure is not None
        }

    async def _open(self, name: str) -> HostFailure | None:
        present = self._hosts.get(name)
        if present is not None and present.is_up:
            return None
        context = self._context
        command = EnterCluster(
            cluster=f"{context.cluster}@{own_name(name)}",
            cluster_id=context.cluster_id,
            keep=context.keep,
            notebook=context.notebook,
            lease_s=context.lease_s,
            ca=context.ca,
        )
        host = self._new_host(name)
        try:
            await host.open(command)
        except HostError as error:
            self._stages[name] = f"failed ({error.failure.stage})"
            return error.failure
        self._stages[name] = "ready"
        self._hosts[name] = host
        return None

    def _new_host(self, name: str) -> SshHost:
        say = partial(self._stages.__setitem__, name)
        return SshHost(name, self._context, self._options, self._thread.get(), say)

    def start(
        self,
        settings: NodeSettings,
        *,
        host: str,
        log: Path,
        workers: int,
    ) -> RemoteNode:
        """Start a node, as `Launcher` says."""
        work = self._hosts[host].start(settings, log, workers)
        try:
            return self._thread.get().run(work)
        except HostError as error:
            raise HostsFailed((error.failure,)) from error

    def expose(self, urls: Collection[str]) -> Mapping[str, HostFailure]:
        """Let nodes on all hosts reach `urls`."""
        return self._thread.get().run(self._expose(urls))

    async def _expose(self, urls: Collection[str]) -> Mapping[str, HostFailure]:
        failures = {}
        for name, host in self._hosts.items():
            try:
                await host.expose(urls)
            except HostError as error:
                failures[name] = error.failure
        return failures

    def close(self) -> None:
        """Disconnect; nodes that are kept go on."""
        if not self._thread.runs_here:
            return
        self._thread.end_with(self._close())

    async def _close(self) -> None:
        hosts = list(self._hosts.values())
        self._hosts.clear()
        await asyncio.gather(*(host.close() for host in hosts))

    # ------------------------------------------------- clusters of earlier starters

    def take_up(self, host: str, cluster: str) -> ClusterEntered:
        """Connect to a kept cluster there, and open the tunnels to its nodes.

        Returns what is known of it, with its nodes that run.

        Raises:
            HostsFailed: there is no such cluster, or no way to it.
        """
        return self._run(self._take_up(host, cluster))

    async def _take_up(self, name: str, cluster: str) -> ClusterEntered:
        host = self._new_host(name)
        command = TakeUpCluster(cluster=cluster, lease_s=self._context.lease_s)
        entered = await host.open(command)
        self._hosts[name] = host
        for node in entered.nodes:
            host.open_tunnel(node)
        replace: Any = msgspec.structs.replace
        nodes = (replace(n, host=name, launcher="ssh") for n in entered.nodes)
        return replace(entered, nodes=tuple(nodes))  # type: ignore[no-any-return]

    def rows(self, host: str) -> tuple[LedgerRow, ...]:
        """Return the nodes of this user on a host, as `mp.ps` shows them.

        Raises:
            HostsFailed: there is no way to it.
        """
        said = self._run(self._asked(host, lambda id: ListNodes(id=id), Listed))
        return tuple(
            LedgerRow(
                cluster=row.cluster,
                node=row.node,
                state=row.state,
                resources=row.resources,
                pid=row.pid,
                notebook=row.notebook,
                started_at=datetime.fromtimestamp(row.started_s, UTC),
                by_hand=row.by_hand,
            )
            for row in said.rows
        )

    def end(self, host: str, cluster: str, drain_s: float) -> tuple[str, ...]:
        """End a cluster of this user on a host; return the names of its nodes.

        Raises:
            NoCluster: there is no such cluster.
            HostsFailed: there is no way to it.
        """
        return self._run(
            self._asked(
                host,
                lambda id: EndCluster(id=id, cluster=cluster, drain_s=drain_s),
                ClusterEnded,
            )
        ).nodes

    async def _asked(
        self, name: str, make: Callable[[int], HostMessage], answer: type[R]
    ) -> R:
        host = self._hosts.get(name)
        if host is not None and host.is_up:
            return await host.nodes.ask(make, answer)
        host = self._new_host(name)
        await host.open_for_ledger()
        try:
            return await host.nodes.ask(make, answer)
        finally:
            await host.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.get().run(work)
        except HostError as error:
            raise HostsFailed((error.failure,)) from error
