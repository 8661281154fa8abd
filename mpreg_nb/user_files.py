"""Folders and files of this user that nobody else can read, replace or enter.

What others could have written is refused with the cure, never used.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return `$XDG_STATE_HOME/mpreg_nb`, else `~/.local/state/mpreg_nb`."""
    base = _absolute("XDG_STATE_HOME", environ)
    if base is None:
        base = Path(os.path.expanduser("~"), ".local", "state")
    return base / "mpreg_nb"


def runtime_folders() -> tuple[Path, ...]:
    """Return where files of running nodes may be; the first is where new ones go.

    Both are read, since a user's kernel and terminal may differ in whether they
    have a folder for run-time files. After `su` it may be another user's.
    """
    runtime = _absolute("XDG_RUNTIME_DIR")
    own = (
        runtime is not None
        and os.access(runtime, os.W_OK | os.X_OK)
        and runtime.stat().st_uid == os.geteuid()
    )
    fallback = state_folder() / "clusters"
    return (runtime / "mpreg_nb", fallback) if runtime and own else (fallback,)


def _absolute(variable: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    # Relative ones are to be ignored, says the XDG base directory specification.
    value = environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else None


LARGEST_BYTES = 4 << 20
"""Of a file that is read whole; the files of this package are far smaller."""


def private_folder(path: Path) -> Path:
    """Return `path`, made with mode 0700 if it is not there.

    Raises PermissionError, with the cure, when it is there and others may enter
    it, somebody else owns it, or it is a link; OSError when it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    check_private_folder(path)
    return path


def check_private_folder(path: Path) -> None:
    """Raise what `private_folder` raises, but make nothing."""
    status = path.lstat()
    _check_owner(path, status)
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{path} is not a folder. Move it away")
    if status.st_mode & 0o077:
        raise PermissionError(
            f"other users can enter {path}. Close it: chmod 700 '{path}'"
        )


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its user can have written.

    Raises FileNotFoundError, and PermissionError, with the cure, as
    `private_folder` does; ValueError when it is far too large.
    """
    _check_owner(path, path.lstat())
    # Not blocking: in place of a file there may be a pipe.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _check_owner(path, status)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a file. Move it away")
        if status.st_mode & 0o077:
            raise PermissionError(
                f"other users can open {path}. Close it: chmod 600 '{path}'"
            )
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"{path} is too large to be one of this package's files")
    return content


def write_private(path: Path, content: bytes) -> None:
    """Replace the file `path` as a whole: a reader sees the old or the new one."""
    # The hidden name is never taken for a file that is ready.
    unready = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(unready, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unready, path)
    except BaseException:
        unready.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let nobody else of this user into the same block, in any process or thread.

    Blocks until the others are out; the system frees what a dead process held.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / ".lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(
            f"{path} is a symbolic link, and links are not followed. Remove it"
        )
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user. Move it away")
