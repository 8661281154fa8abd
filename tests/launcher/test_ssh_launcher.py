"""Nodes on a host are launched as any nodes are; hosts that fail say where and why.

The hosts are real sshds on loopback, whose login shell prints a greeting.
"""

import os
import secrets
import signal
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from mpreg_nb.errors import HostFailure
from mpreg_nb.launcher import remote_python
from mpreg_nb.launcher.launcher import AS_FOUND, LaunchContext, RemoteOptions
from mpreg_nb.launcher.pid import await_end
from mpreg_nb.launcher.remote_python import MINOR, own_version
from mpreg_nb.launcher.ssh import SshLauncher
from mpreg_nb.transport.token import Token
from tests.support.launcher_contract import SOON_S, Launched, LauncherContract
from tests.support.leaks import nothing_left
from tests.support.ssh_hosts import SshHost, SshHosts, make_key

pytestmark = pytest.mark.live


def context(keep: bool = False, lease_s: float = 30.0) -> LaunchContext:
    return LaunchContext(
        token=Token("t" * 43),
        cluster=f"c-{secrets.token_hex(4)}",
        cluster_id="a" * 32,
        keep=keep,
        lease_s=lease_s,
    )


def make_launcher(keep: bool) -> SshLauncher:
    return SshLauncher(context(keep))


@pytest.fixture(scope="module")
def hosts() -> Iterator[SshHosts]:
    with SshHosts("gpu-1", "box") as hosts, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(hosts.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        (hosts["gpu-1"].home / ".bashrc").write_text("echo Welcome; echo {} >&2\n")
        yield hosts


@pytest.fixture(autouse=True)
def _nothing_is_left_on_the_hosts(hosts: SshHosts) -> Iterator[None]:
    yield
    hosts.config()
    assert {name: host.left() for name, host in hosts.hosts.items()} == {
        "gpu-1": [],
        "box": [],
    }


@pytest.fixture
def launched(tmp_path: Path, hosts: SshHosts) -> Iterator[Launched]:
    with nothing_left(tmp_path) as leaks:
        launched = Launched(make_launcher, tmp_path, "gpu-1")
        yield launched
        launched.close()
        leaks.forget_files()  # sockets of tunnels of a process that was killed


class TestSshLauncher(LauncherContract):
    """Node processes on a host."""


@pytest.fixture
def launcher(tmp_path: Path, hosts: SshHosts) -> Iterator[SshLauncher]:
    with nothing_left(tmp_path):
        launcher = SshLauncher(context(lease_s=2.0))
        yield launcher
        launcher.close()


def prepared(
    launcher: SshLauncher, *hosts: str, options: RemoteOptions = AS_FOUND
) -> Mapping[str, HostFailure]:
    return launcher.prepare(hosts, options).result(SOON_S)


def test_nodes_leave_when_their_host_receives_nothing_on_an_open_connection(
    launched: Launched, hosts: SshHosts
) -> None:
    launched.make = lambda keep: SshLauncher(context(lease_s=1.0))
    node = launched.start("n1")
    node.ready.result(SOON_S)
    stopped = [
        process
        for session in hosts["gpu-1"].sessions()
        for process in (session, *session.children())
        if process.name() == "sshd"
    ]

    for process in stopped:
        process.suspend()
    try:
        left = await_end([node.stamp], timeout=SOON_S)
    finally:
        for process in stopped:
            process.resume()

    assert stopped
    assert left
    assert node.wait(SOON_S) is not None


def test_a_host_whose_key_is_not_known_is_not_trusted(
    launcher: SshLauncher, hosts: SshHosts
) -> None:
    hosts.config("Host box\n  UserKnownHostsFile none\n")

    failures = prepared(launcher, "box", "gpu-1")

    assert set(failures) == {"box"}
    assert failures["box"].stage == "key"
    assert "its host key is not known" in failures["box"].reason
    assert "ssh box" in failures["box"].cure


def test_a_host_with_a_changed_key_is_distinguished_from_an_unknown_host(
    launcher: SshLauncher, hosts: SshHosts
) -> None:
    known = hosts.ssh / "known_hosts"
    known.write_text(f"[127.0.0.1]:{hosts['box'].port} {hosts['gpu-1'].host_key}")

    failure = prepared(launcher, "box")["box"]

    assert failure.stage == "key"
    assert "not the one in known_hosts" in failure.reason


def test_a_host_that_refuses_the_key_says_which_keys_were_offered(
    launcher: SshLauncher, hosts: SshHosts
) -> None:
    other = hosts.ssh / "other"
    if not other.exists():
        make_key(other)
    hosts.config(f"Host box\n  IdentityFile {other}\n  IdentitiesOnly yes\n")

    failure = prepared(launcher, "box")["box"]

    assert failure.stage == "key"
    assert "keys that were offered: ed25519" in failure.reason


def test_a_host_that_nobody_answers_at_fails_alone(
    launcher: SshLauncher, hosts: SshHosts
) -> None:
    hosts.config("Host nowhere\n  HostName 127.0.0.1\n  Port 9\n")

    failures = prepared(launcher, "nowhere", "box")

    assert set(failures) == {"nowhere"}
    assert failures["nowhere"].stage == "connect"
    assert "ssh nowhere" in failures["nowhere"].cure


def stand_in(folder: Path, name: str, python: str, packages: Collection[str]) -> None:
    """Put an interpreter into `folder` that answers as another one would."""
    needed = ("mpreg_nb", "msgspec", "psutil", "websockets", "cloudpickle")
    has = {name: own_version() if name in packages else "" for name in needed}
    said = f'{{"path": "/opt/{name}", "python": "{python}", "has": {has}}}'
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n".replace("': '", '": "'))
    path.write_text(path.read_text().replace("'END'", "END").replace("'", '"'))
    path.chmod(0o755)


def test_a_host_without_a_python_that_fits_lists_those_that_it_has(
    launcher: SshLauncher, hosts: SshHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here every interpreter of this machine is there too; these hide them.
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    box, gpu = hosts["box"].bin, hosts["gpu-1"].bin
    for folder in (box, gpu):
        stand_in(folder, "python3", "3.9.2", ["mpreg_nb"])
        stand_in(folder, f"python{MINOR}", "3.9.2", [])
    stand_in(gpu, f"python{MINOR}", f"{MINOR}.0", ["msgspec", "psutil"])

    try:
        failures = prepared(launcher, "box", "gpu-1")
    finally:
        for folder in (box, gpu):
            for file in folder.iterdir():
                file.unlink()

    assert failures["box"].stage == "python"
    assert f"no Python {MINOR} was found there" in failures["box"].reason
    assert "/opt/python3 (Python 3.9.2): lacks msgspec" in failures["box"].log[1]
    assert failures["gpu-1"].stage == "import"
    assert "lacks mpreg_nb, websockets, cloudpickle" in failures["gpu-1"].log[0]
    assert "install=True" in failures["gpu-1"].cure


def small_package(folder: Path) -> Path:
    """Make a wheel of a package that nobody else has."""
    wheel = folder / "own_words-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("own_words.py", "GREETING = 'hello'\n")
        about = "own_words-1.0.dist-info"
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: own_words\nVersion: 1.0\n",
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


def environments_of(host: SshHost) -> list[Path]:
    folder = host.home / "state" / "mpreg_nb" / "environments"
    return [path for path in folder.iterdir() if path.is_symlink()]


def is_made_by_uv(environment: Path) -> bool:
    return "uv = " in (environment / "pyvenv.cfg").read_text()


def test_an_environment_is_made_there_once_with_the_packages_that_were_named(
    hosts: SshHosts, launched: Launched, tmp_path: Path
) -> None:
    wheel = small_package(tmp_path)
    options = RemoteOptions(install=True, python=sys.executable, packages=[str(wheel)])
    launcher = SshLauncher(context())
    try:
        failures = prepared(launcher, "gpu-1", options=options)
    finally:
        launcher.close()
    again = SshLauncher(context())
    try:
        failures_again = prepared(again, "gpu-1", options=options)
        [made] = environments_of(hosts["gpu-1"])
        programs = {Path(p.cmdline()[0]) for p in hosts["gpu-1"].processes()}
    finally:
        again.close()
    python = made / "bin" / "python"
    code = "import own_words, msgspec; print(own_words.GREETING, msgspec.__version__)"
    said = subprocess.run([python, "-c", code], capture_output=True, check=True)

    assert (failures, failures_again) == ({}, {})
    assert made.parent in {program.parents[2] for program in programs}
    assert said.stdout.decode().split() == ["hello", version("msgspec")]
    assert is_made_by_uv(made) == hosts["gpu-1"].has("uv")


def test_where_there_is_no_uv_an_environment_is_made_with_venv_and_pip(
    launcher: SshLauncher, hosts: SshHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_python, "USED_IF_THERE", ())  # pip takes its time
    start_up = hosts["box"].home / ".bashrc"
    start_up.write_text("PATH=/usr/bin:/bin\n")

    try:
        options = RemoteOptions(install=True, python=sys.executable)
        failures = prepared(launcher, "box", options=options)
        [made] = environments_of(hosts["box"])
    finally:
        start_up.unlink()

    assert failures == {}
    assert not is_made_by_uv(made)
    assert (made / "bin" / "pip").exists()


def test_an_environment_that_cannot_be_made_shows_its_last_lines(
    launcher: SshLauncher, hosts: SshHosts, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing-1.0-py3-none-any.whl")
    options = RemoteOptions(install=True, python=sys.executable, packages=[missing])

    failure = prepared(launcher, "box", options=options)["box"]

    assert (failure.stage, failure.cure) == ("python", "Its last lines say why")
    assert "missing-1.0-py3-none-any.whl" in "\n".join(failure.log)


def test_packages_without_an_environment_are_refused(launcher: SshLauncher) -> None:
    options = RemoteOptions(packages=["own-words"])

    failure = prepared(launcher, "box", options=options)["box"]

    assert (failure.stage, failure.cure) == ("python", "Add install=True")


def test_a_host_is_reached_through_another_one(
    launcher: SshLauncher, hosts: SshHosts
) -> None:
    port = hosts["box"].port
    hosts.config(
        f"Host inner\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump gpu-1\n"
    )

    assert prepared(launcher, "inner") == {}


def test_a_forked_child_does_not_hold_the_connection(
    launched: Launched, hosts: SshHosts
) -> None:
    node = launched.start("n1")
    node.ready.result(SOON_S)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b".")
        signal.pause()
        os._exit(0)

    os.read(read, 1)  # it runs, and has closed what it must not hold
    try:
        descriptors = psutil.Process(child).net_connections(kind="tcp")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)

    assert hosts["gpu-1"].port not in {
        link.raddr.port
        for link in descriptors
        if link.status == psutil.CONN_ESTABLISHED
    }


def test_without_asyncssh_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpreg_nb.launcher import launchers

    monkeypatch.delitem(sys.modules, "mpreg_nb.launcher.ssh")
    monkeypatch.setitem(sys.modules, "asyncssh", None)

    with pytest.raises(ImportError, match=r"pip install 'mpreg_nb\[ssh\]'"):
        launchers.find("ssh")
