"""Unix sockets: links between processes of one user on one machine.

A node also listens on a Unix socket whose name is the address of its port, in a folder
that only its user can enter. Whoever dials the address with ws:// looks there first.
Each end asks the system which user the other one is; the proof of the token comes on
top. So neither needs a MAC on each message, and no other user of the machine can stand
between them: not even one who takes the port of a node that died.

Machines that share a home, and containers that share it, have folders of their own.
"""

import contextlib
import hashlib
import logging
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mpreg_nb.user_files import check_private_folder, private_folder, runtime_folders

LOG = logging.getLogger("mpreg_nb.transport")

LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the name of a Unix socket that the system takes."""

SEND_BUFFER_BYTES = 1 << 20
"""What may be on its way to the other end. With the usual 200 kB the two ends of a
large payload wait for each other at each fragment."""

_SO_PEERCRED = getattr(socket, "SO_PEERCRED", None)
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS and the BSDs; not in Python's socket module


def folders() -> tuple[Path, ...]:
    """Return where the sockets of this machine may be; new ones go to the first."""
    try:
        network = os.stat("/proc/self/ns/net").st_ino  # a container has its own ports
    except OSError:
        network = 0
    machine = f"{platform.node()} {network}".encode()
    # The dot keeps it apart from the folders of clusters, which have none.
    name = f".links-{hashlib.sha256(machine).hexdigest()[:8]}"
    return tuple(folder / name for folder in runtime_folders())


class LocalSocket(msgspec.Struct, frozen=True):
    """A Unix socket that listens; `close` removes its file."""

    path: Path
    listening: socket.socket
    _inode: int

    def close(self) -> None:
        """Remove the file, unless it is another's by now; again does nothing."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        _remove_if_empty(self.path.parent)


def bind(host: str, port: int, *, backlog: int) -> LocalSocket | None:
    """Listen for those who dial `host` and `port`, which this process has bound.

    Returns None where the user has no folder that is private and whose name is short
    enough; then links are TCP.
    """
    for folder in folders():
        try:
            private_folder(folder)
            return _bind(folder / _name(host, port), backlog)
        except OSError as error:
            LOG.info("no Unix socket in %s: %s", folder, error)
    return None


def path_for(name: str) -> Path | None:
    """Return where a process of this user may listen under `name`; None: nowhere."""
    for folder in folders():
        try:
            return private_folder(folder) / name
        except OSError as error:
            LOG.info("no Unix socket in %s: %s", folder, error)
    return None


def remove(path: Path) -> None:
    """Remove the socket of a process that is gone, if there is one."""
    path.unlink(missing_ok=True)
    _remove_if_empty(path.parent)


def listening_at(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, in a folder that is private.

    Raises:
        OSError: the folder is not, or the system takes no such name.
    """
    check_private_folder(path.parent)
    return _bind(path, backlog=8).listening


def connected_to(path: Path) -> socket.socket:
    """Return a socket to a process of this user that listens at `path`.

    It does not wait: what it cannot send or receive at once raises BlockingIOError.

    Raises:
        OSError: there is none, or it is of another user.
    """
    check_private_folder(path.parent)
    link = _connect(path)
    if not is_own(link):
        link.close()
        raise PermissionError(f"{path} is of a process of another user")
    widen(link)
    return link


def connect(host: str, port: int) -> socket.socket | None:
    """Return a connected socket of the node of this user that has this address.

    Returns None when there is none, or its other end is of another user.
    """
    for folder in folders():
        path = folder / _name(host, port)
        try:
            check_private_folder(folder)
            link = _connect(path)
        except ConnectionRefusedError:  # it died: names are given once it listens
            path.unlink(missing_ok=True)
            continue
        except OSError:  # there is none, or it takes no more now
            continue
        if is_own(link):
            widen(link)
            return link
        LOG.warning("%s is not used: a process of another user listens there", path)
        link.close()
    return None


def peer_uid(link: socket.socket) -> int:
    """Return the user of the process at the other end, as the system knows it."""
    if _SO_PEERCRED is not None:
        credentials = link.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, 12)
        uid: int = struct.unpack("iII", credentials)[1]
        return uid
    credentials = link.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)  # a struct xucred
    uid = struct.unpack_from("II", credentials)[1]
    return uid


def widen(link: socket.socket) -> None:
    """Let more be on its way from this end, as far as the system allows."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def is_own(link: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is of this user."""
    return peer_uid(link) == os.geteuid()


def sweep() -> None:
    """Remove the sockets of nodes that were killed, and folders without any."""
    for folder in folders():
        try:
            check_private_folder(folder)
            paths = list(folder.iterdir())
        except OSError:  # there is none, or it is not ours
            continue
        for path in paths:
            try:
                _connect(path).close()
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # removed meanwhile, or alive and busy
                continue
        _remove_if_empty(folder)


def _name(host: str, port: int) -> str:
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    return f"{host}-{port}"


def _bind(path: Path, backlog: int) -> LocalSocket:
    unready = path.with_name(f".{os.getpid()}-{path.name}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        with _address(unready) as address:
            listening.bind(address)
        listening.listen(backlog)
        inode = unready.lstat().st_ino
        unready.rename(path)  # what had the name is of a process that is dead
    except BaseException:
        listening.close()
        unready.unlink(missing_ok=True)
        raise
    return LocalSocket(path, listening, inode)


def _connect(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.setblocking(False)
        with _address(path) as address:
            link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield a name of `path` that is short enough for the system.

    Raises:
        OSError: this system has none.
    """
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    if sys.platform != "linux":
        raise OSError(f"the name {path} is too long for a Unix socket")
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is in use, or gone
        folder.rmdir()
