"""What strangers, holders of lesser tokens and slow readers can do: with real nodes.

The numbers S1 to S27 are those of the table of threats in tests/live/README.md.
"""

import contextlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.cli import main
from mpreg_nb.errors import NodeLost, NotTrusted
from mpreg_nb.transport.framing import FrameMac
from mpreg_nb.transport.token import Token, load_token

pytestmark = pytest.mark.live

COMMAND = [str(Path(sys.executable).with_name("mpreg-nb"))]
GREETING = "A" * 200


FOLDERS = ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")


@dataclass(frozen=True)
class User:
    """Whoever started the cluster: each test has folders of its own, and is another."""

    secret: str
    folders: dict[str, str]


@pytest.fixture(scope="module")
def user() -> User:
    return User(load_token().reveal(), {name: os.environ[name] for name in FOLDERS})


@pytest.fixture(scope="module")
def cluster(user: User) -> Iterator[mp.Cluster]:
    with mp.up({"n1": "a", "n2": "b"}, fresh=True) as cluster:
        yield cluster


def node_refused(*words: str, token: str) -> subprocess.CompletedProcess[str]:
    """Start a node that cannot join; return how it ended."""
    return subprocess.run(
        [*COMMAND, "node", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "MPREG_NB_TOKEN": token},
        timeout=60,
    )


def url_of(cluster: mp.Cluster, node: str) -> str:
    nodes = cluster.refresh().nodes
    [url] = [one.record.urls[0] for one in nodes if one.record.name == node]
    return url


def own_processes() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "mpreg_nb" in " ".join(one.cmdline())]


# -------------------------------------------------------------- what can be reached


def test_every_listening_socket_of_nodes_and_workers_is_of_loopback(
    cluster: mp.Cluster,
) -> None:
    """S12."""
    cluster.call("echo", 1)

    found = [
        connection.laddr.ip
        for process in [psutil.Process(), *own_processes()]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert len(found) >= 2
    assert set(found) <= {"127.0.0.1", "::1"}


def test_the_token_is_in_no_command_line_environment_or_log(
    cluster: mp.Cluster, user: User
) -> None:
    """S14."""

    def environment() -> list[str]:
        return [f"{name}={value}" for name, value in os.environ.items()]

    secret = user.secret
    said = cluster.on(node="n1").call(environment)

    for process in own_processes():
        assert secret not in " ".join(process.cmdline())
        assert secret not in str(process.environ())
    assert secret not in "\n".join(said)
    for folder in user.folders.values():
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.name != "token":
                assert secret not in path.read_text(errors="replace"), path
    assert secret not in repr(cluster)


def test_links_of_this_machine_are_unix_sockets(cluster: mp.Cluster) -> None:
    """S27."""
    found = [
        connection
        for process in [psutil.Process(), *own_processes()]
        for connection in process.net_connections(kind="unix")
        if "/.links-" in str(connection.laddr)
    ]

    assert len(found) >= 2  # those that listen, and the links that they accepted
    for connection in found:
        folder = Path(str(connection.laddr)).parent
        assert folder.stat().st_mode & 0o077 == 0


class Marked:
    """Notes in a file by which process it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"open({self.path!r}, 'a').write(str(__import__('os').getpid()) + ' ')"
        return eval, (code,)


def test_arguments_are_unpickled_by_a_worker_alone(
    cluster: mp.Cluster, user: User, tmp_path: Path
) -> None:
    """S16: neither the node that passes a call on nor the one that runs it looks."""
    path = tmp_path / "pids"
    with mp.connect(
        url_of(cluster, "n1"), token=user.secret, direct=False
    ) as through_first:
        view = through_first.on(node="n2")
        worker = view.call(os.getpid)
        view.call(str, Marked(path))

    assert path.read_text().split() == [str(worker)]


# ------------------------------------------------------------------ in the middle


@contextmanager
def stranger(port: int, change: Callable[[bytes], bytes]) -> Iterator[str]:
    """Pass bytes on to a node, and change what it answers; yield the URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = [listening]

    def pump(
        here: socket.socket, there: socket.socket, edit: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := here.recv(65536):
                there.sendall(edit(data))
        except OSError:
            return  # one of the two ends has gone
        finally:
            there.close()

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return  # the block has ended
            far = socket.create_connection(("127.0.0.1", port))
            ends.extend((near, far))
            for here, there, edit in ((near, far, bytes), (far, near, change)):
                work = (here, there, edit)
                threading.Thread(target=pump, args=work, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        for end in ends:
            with contextlib.suppress(OSError):  # it has gone already
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            end.close()


class Forgery:
    """Puts a pickle that makes a file in the place of a result of the same length."""

    def __init__(self, canary: Path) -> None:
        plain = pickle.dumps(GREETING, 5)
        evil = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
        assert len(evil) <= len(plain)
        self.plain, self.evil = plain, evil.ljust(len(plain), b".")
        self.done = threading.Event()

    def __call__(self, data: bytes) -> bytes:
        if self.plain in data:
            self.done.set()
        return data.replace(self.plain, self.evil)


def through(url: str, user: User) -> mp.Cluster:
    return mp.connect(url, direct=False, token=user.secret)


def greet() -> str:
    return "A" * 200


def test_a_result_that_was_changed_on_its_way_is_not_unpickled(
    cluster: mp.Cluster, user: User
) -> None:
    """S7: a stranger has the port, passes the proofs on and changes what follows."""
    short = Path(f"/tmp/{os.getpid()}-c")  # noqa: S108 - it must be short
    forgery = Forgery(short)
    port = urlsplit(url_of(cluster, "n1")).port
    assert port is not None
    with stranger(port, forgery) as url, through(url, user) as victim:
        function = victim.register(greet)

        with pytest.raises(NodeLost):
            function.on(node="n1", timeout=60).call()

    assert forgery.done.is_set()
    assert not short.exists()


def test_without_the_check_of_the_mac_the_pickle_of_the_stranger_would_run(
    cluster: mp.Cluster, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path(f"/tmp/{os.getpid()}-d")  # noqa: S108 - it must be short
    forgery = Forgery(short)
    monkeypatch.setattr(FrameMac, "checked", lambda mac, data: memoryview(data)[:-16])
    port = urlsplit(url_of(cluster, "n1")).port
    assert port is not None
    try:
        with stranger(port, forgery) as url, through(url, user) as victim:
            victim.register(greet).on(node="n1", timeout=60).call()

        assert short.exists()
    finally:
        short.unlink(missing_ok=True)


# ---------------------------------------------------------------- tokens for less


def issued(user: User, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `mpreg-nb token issue` prints for the token of `user`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPREG_NB_TOKEN", user.secret)
        assert main(["token", "issue", kind]) == 0
    return capsys.readouterr().out.strip()


def test_a_token_for_clients_calls_functions_and_cannot_join_as_a_node(
    cluster: mp.Cluster, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(cluster, "n1")
    token = issued(user, "--client", capsys)

    with mp.connect(url, token=token) as client:
        assert client.call("echo", 3) == 3
    joined = node_refused("--name", "x1", "--join", url, token=token)

    assert joined.returncode == 1
    assert "a token for clients, and cannot be used by nodes" in joined.stderr
    assert "x1" not in list(cluster.nodes()["node"])


def test_a_read_only_token_sees_frames_and_can_run_and_change_nothing(
    cluster: mp.Cluster, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    token = issued(user, "--read-only", capsys)

    with mp.connect(url_of(cluster, "n1"), token=token) as viewer:
        nodes = set(viewer.nodes()["node"])
        functions = set(viewer.functions()["function"])
        runs = list(viewer.runs()["run"])
        for change in (
            lambda: viewer.call("echo", 1),
            lambda: viewer.register(greet, name="of-a-viewer"),
            lambda: viewer.workflow("w").step("s", "echo", 1).run(),
        ):
            with pytest.raises(NotTrusted, match="this token is read-only"):
                change()

    assert nodes == {"n1", "n2"}
    assert "echo" in functions
    assert runs == []
    assert "of-a-viewer" not in set(cluster.functions()["function"])


def test_functions_in_workers_hold_a_token_for_clients(cluster: mp.Cluster) -> None:
    def token_here() -> str:
        from mpreg_nb.call_context import home

        node = home()
        assert node is not None
        return node.token

    assert cluster.call(token_here).startswith("client.")


def found_in_memory(start: str, rest: str) -> bool:
    """Whether this process holds `start` and `rest` one after the other."""
    from pathlib import Path

    # In two: what is looked for must not be found where it is looked for.
    first, last = start.encode(), rest.encode()
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            begin, end = (int(bound, 16) for bound in span.split("-"))
            if "rw" not in mode:
                continue
            memory.seek(begin)
            held = memory.read(end - begin)
            at = held.find(first)
            while at >= 0:
                after = at + len(first)
                if held[after : after + len(last)] == last:
                    return True
                at = held.find(first, after)
    return False


def test_workers_do_not_hold_the_token_of_the_cluster(
    user: User, cluster: mp.Cluster
) -> None:
    """Whoever reads their memory can call functions, as they can, and no more."""
    secret = user.secret
    ours = Token(secret).issue("client")

    assert cluster.call(found_in_memory, ours[:12], ours[12:])
    assert not cluster.call(found_in_memory, secret[:12], secret[12:])


def test_a_rotation_reaches_nodes_that_run_and_old_holders_stay_for_a_while(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = load_token().reveal()
    node = subprocess.Popen(
        [*COMMAND, "node", "--name", "r1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    try:
        url = json.loads(node.stdout.readline())["url"]
        with mp.connect(url) as before:
            assert main(["token", "rotate"]) == 0
            said = capsys.readouterr().out
            with mp.connect(url, token=old) as holder:
                assert holder.call("echo", 1) == 1
            with mp.connect(url) as after:
                assert after.call("echo", 2) == 2
            assert main(["token", "rotate", "--overlap", "0"]) == 0
            with pytest.raises(NotTrusted, match="has a different token"):
                mp.connect(url, token=old)
            with mp.connect(url) as later:
                assert later.call("echo", 3) == 3
            assert before.call("echo", 4) == 4  # links that are open stay open
    finally:
        node.terminate()
        node.communicate(timeout=20)

    assert "The old one is accepted for 24 more hours" in said
    assert load_token().reveal() != old


# ------------------------------------------------------------------ refused joins

AT_ONCE_S = 12.0
"""A node that did not know the cause would wait 15 s."""


def test_a_node_with_another_token_ends_at_once_and_says_why(
    cluster: mp.Cluster,
) -> None:
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=99) > AT_ONCE_S:
        began = time.monotonic()
        refused = node_refused(
            *("--name", "w1", "--join", url_of(cluster, "n1")),
            token="another-token-0123456789",
        )
        took_s.append(time.monotonic() - began)

    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert re.search(r"different token than MPREG_NB_TOKEN.*mpreg-nb token show", last)
    assert min(took_s) < AT_ONCE_S


def test_a_node_of_another_cluster_ends_at_once_and_says_why(
    cluster: mp.Cluster, user: User
) -> None:
    join = ("--join", url_of(cluster, "n1"), "--cluster-id", "0" * 32)
    refused = node_refused("--name", "w1", *join, token=user.secret)

    assert refused.returncode == 1
    assert "could not join" in refused.stderr
    assert f"not {'0' * 32}" in refused.stderr.strip().splitlines()[-1]


# --------------------------------------------------------------- few descriptors


def test_strangers_cannot_starve_a_node_with_few_descriptors() -> None:
    """S20, and ulimit -n 64."""
    script = f"ulimit -n 64; exec {COMMAND[0]} node --name few"
    node = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)
    silent: list[socket.socket] = []
    try:
        assert node.stdout is not None
        line = node.stdout.readline()
        match = re.search(r"ws://127\.0\.0\.1:(\d+)", line)
        assert match is not None, line
        for _ in range(100):
            silent.append(socket.create_connection(("127.0.0.1", int(match[1]))))
        with mp.connect(match[0]) as cluster:
            assert cluster.call("echo", 5) == 5
        busy = psutil.Process(node.pid).cpu_times()
        assert busy.user + busy.system < 20
    finally:
        for one in silent:
            one.close()
        node.terminate()
        node.wait(60)
        if node.stdout is not None:
            node.stdout.close()
