"""Hosts that ssh reaches: real sshds, each with a home of its own.

They are on loopback, or where hosts of `tests/support/hosts.py` are.

They run as the user of the tests, on ports of their own, with host keys and authorized
keys of their own. `SshHosts.config` writes the ~/.ssh of the side that connects.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.support.hosts import Host

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

LOOPBACK = Host("127.0.0.1")

SOON_S = 60.0

LOOK_S = 0.02

_PASSED_ON = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA")
"""Variables by which packages are found, also on a host."""


def make_key(path: Path) -> str:
    """Make a key pair; return its public line."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path],
        check=True,
    )
    return path.with_suffix(".pub").read_text()


class SshHost:
    """One sshd, and the home that its users have."""

    def __init__(self, name: str, folder: Path, key: str, host: Host) -> None:
        """Start it; it accepts `key` alone."""
        assert SSHD is not None, "apt-get install openssh-server"
        self.name = name
        self.address = host.address
        self.home = folder / name
        self.home.mkdir()
        self.bin = self.home / "bin"
        self.bin.mkdir()
        own = folder / f"{name}-sshd"
        own.mkdir()
        self.host_key = make_key(own / "host_key")
        (own / "authorized").write_text(key)
        with socket.socket() as free:
            free.bind(("127.0.0.1" if host.prefix else host.address, 0))
            self.port = free.getsockname()[1]
        listening = "0.0.0.0" if host.prefix else host.address  # noqa: S104
        self._path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        variables = {
            "HOME": str(self.home),
            "PATH": self._path,
            "XDG_STATE_HOME": str(self.home / "state"),
            **{k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)},
        }
        passed = " ".join(f'{k}="{v}"' for k, v in variables.items())
        (own / "config").write_text(
            f"Port {self.port}\nListenAddress {listening}\nHostKey {own}/host_key\n"
            f"AuthorizedKeysFile {own}/authorized\nPidFile none\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin yes\nPrintMotd no\nSetEnv {passed}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._log = (own / "log").open("w")
        self.sshd = subprocess.Popen(
            [*host.prefix, SSHD, "-D", "-e", "-f", own / "config"], stderr=self._log
        )
        self._await_port()

    def _await_port(self) -> None:
        deadline = time.monotonic() + SOON_S
        while True:  # sshd does not report that it listens
            try:
                socket.create_connection((self.address, self.port), 1).close()
            except ConnectionRefusedError:
                assert self.sshd.poll() is None, "sshd ended"
                assert time.monotonic() < deadline
                time.sleep(LOOK_S)
            else:
                return

    def has(self, program: str) -> bool:
        """Whether a login finds this program."""
        return shutil.which(program, path=self._path) is not None

    def sessions(self) -> list[psutil.Process]:
        """Return the processes of sshd that serve logins."""
        return psutil.Process(self.sshd.pid).children()

    def processes(self) -> list[psutil.Process]:
        """Return what runs in this home, but for sshd."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def left(self) -> list[str]:
        """Return a description of each process and file that remains on the host."""
        deadline = time.monotonic() + SOON_S
        while left := self._left():
            if time.monotonic() > deadline:
                break
            time.sleep(LOOK_S)
        return left

    def _left(self) -> list[str]:
        clusters = self.home / "state" / "mpreg_nb" / "clusters"
        # What is left of a kept cluster goes with the next one that starts.
        kept = {
            p.stem for p in clusters.glob("*.json") if b'"keep":true' in p.read_bytes()
        }
        return [
            *(f"process {' '.join(_words(p))}" for p in self.processes()),
            *(
                f"file {path}"
                for path in clusters.rglob("*")
                if path.name != ".lock"
                and path.relative_to(clusters).parts[0].partition(".json")[0]
                not in kept
            ),
        ]

    def stop(self) -> None:
        """End sshd and all that it serves."""
        served = psutil.Process(self.sshd.pid).children(recursive=True)
        self.sshd.terminate()
        self.sshd.wait()
        for process in served:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._log.close()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ["?"]


class SshHosts:
    """Several hosts, and one user with a key for each of them."""

    def __init__(
        self, *names: str, places: Sequence[Host] = (LOOPBACK, LOOPBACK)
    ) -> None:
        """Start the hosts. places: where they are."""
        # Names of Unix sockets are short, so not in a folder of pytest.
        self._folder = Path(tempfile.mkdtemp(prefix="mpreg-ssh-"))
        self.home = self._folder / "user"
        self.ssh = self.home / ".ssh"
        self.ssh.mkdir(parents=True, mode=0o700)
        key = make_key(self.ssh / "id_ed25519")
        self.hosts: Mapping[str, SshHost] = {
            name: SshHost(name, self._folder, key, place)
            for name, place in zip(names, places, strict=False)
        }
        self.config()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for host in self.hosts.values():
            host.stop()
        shutil.rmtree(self._folder)

    def __getitem__(self, name: str) -> SshHost:
        return self.hosts[name]

    def config(self, extra: str = "", *, unknown: str = "") -> None:
        """Write the files of the user. unknown: a host whose key is not known."""
        text = extra
        known = ""
        for name, host in self.hosts.items():
            text += f"Host {name}\n  HostName {host.address}\n  Port {host.port}\n"
            if name != unknown:
                known += f"[{host.address}]:{host.port} {host.host_key}"
        (self.ssh / "config").write_text(text)
        (self.ssh / "known_hosts").write_text(known)
