"""Two hosts with addresses of their own, on this machine.

Where the system allows it they are network namespaces, whose only way to each other
and to the tests is a bridge; elsewhere they are two addresses of loopback.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Of this process: other runs of the tests have networks of their own.
NETWORK = f"10.{200 + os.getpid() // 250 % 50}.{os.getpid() % 250}"


@dataclass(frozen=True, slots=True)
class Host:
    """One of them."""

    address: str
    prefix: tuple[str, ...] = ()
    """Before a command that shall run there."""


LOOPBACK_HOSTS = (Host("127.0.0.2"), Host("127.0.0.3"))


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that reach each other and are reached from here."""
    names = [f"mp{os.getpid()}{letter}" for letter in "ab"]
    bridge = f"mpbr{os.getpid()}"
    try:
        if _made(bridge, names):
            first, second = (
                Host(f"{NETWORK}.{number}", ("ip", "netns", "exec", name))
                for number, name in enumerate(names, 2)
            )
            yield first, second
        else:
            yield LOOPBACK_HOSTS
    finally:
        for name in names:
            _ip(f"netns del {name}")
        _ip(f"link del {bridge}")


def _made(bridge: str, names: list[str]) -> bool:
    steps = [
        f"link add {bridge} type bridge",
        f"addr add {NETWORK}.1/24 dev {bridge}",
        f"link set {bridge} up",
    ]
    for number, name in enumerate(names, 2):
        near, far = f"{name}n", f"{name}f"
        inside = f"-n {name}"
        steps += [
            f"netns add {name}",
            f"link add {near} type veth peer name {far} netns {name}",
            f"link set {near} master {bridge}",
            f"link set {near} up",
            f"{inside} link set lo up",
            f"{inside} addr add {NETWORK}.{number}/24 dev {far}",
            f"{inside} link set {far} up",
        ]
    return shutil.which("ip") is not None and all(map(_ip, steps))


def _ip(words: str) -> bool:
    if shutil.which("ip") is None:
        return False
    done = subprocess.run(["ip", *words.split()], capture_output=True, check=False)
    return done.returncode == 0
