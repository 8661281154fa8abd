"""The secret that the processes of one user share, and where it is kept.

Who has it can run code as that user, so a token whose file others could read
or replace is refused rather than used. The token itself never travels: each
role proves itself with a key derived from it (see `handshake`).
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from mpreg_nb.errors import NotTrusted

SECRET_BYTES = 32
LONGEST_SECRET = 1024
"""Bytes of a token file; more cannot be a token."""


def hkdf(secret: bytes, info: bytes, *, salt: bytes = b"", length: int = 32) -> bytes:
    """Return `length` bytes (at most 8160) made one-way from `secret` for `info`.

    Source: RFC 5869, HMAC-based key derivation, with SHA-256.
    """
    seed = hmac.digest(salt or bytes(32), secret, "sha256")
    block = made = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(seed, block + info + bytes((number,)), "sha256")
        made += block
    return made[:length]


class Token:
    """A secret shared by two processes; its repr does not show it.

    `source` says where it came from, for messages to people.
    """

    __slots__ = ("_keys", "_secret", "source")

    def __init__(self, secret: str, *, source: str = "the argument") -> None:
        if not secret or not secret.isascii() or not secret.isprintable():
            raise NotTrusted(
                f"{source} is not a token: a token is one line of ASCII letters and "
                "digits. Show yours: mpreg-nb token show"
            )
        self._secret = secret
        self._keys: dict[str, bytes] = {}  # role -> key, made when first asked
        self.source = source

    def key(self, role: str) -> bytes:
        """Return the 32 bytes that prove `role`; the token cannot be told from it."""
        key = self._keys.get(role)
        if key is None:
            info = b"mpreg_nb " + role.encode()
            key = self._keys[role] = hkdf(self._secret.encode(), info)
        return key

    def matches(self, offered: str) -> bool:
        """Whether `offered` is the secret; takes as long where it nearly is."""
        # Digests, since compare_digest itself shows a difference in length.
        return hmac.compare_digest(
            hashlib.sha256(offered.encode(errors="replace")).digest(),
            hashlib.sha256(self._secret.encode()).digest(),
        )

    def reveal(self) -> str:
        """Return the secret itself, to be carried to another machine."""
        return self._secret

    def __repr__(self) -> str:
        return f"<Token from {self.source}>"


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's token is kept unless something else is said."""
    state = environ.get("XDG_STATE_HOME")
    root = Path(state) if state else Path.home() / ".local" / "state"
    return root / "mpreg_nb" / "token"


def load_token(
    given: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> Token:
    """Return the token to use; the user's own is made on first use.

    The first of these that is set decides, and an error in it is not passed
    over: `given`, MPREG_NB_TOKEN, MPREG_NB_TOKEN_FILE, the file of the user.

    Raises:
        NotTrusted: the token is empty, or its file could be read or replaced
            by others; names the file and the cure.
    """
    if given is not None:
        return Token(given)
    if (secret := environ.get("MPREG_NB_TOKEN")) is not None:
        return Token(secret, source="MPREG_NB_TOKEN")
    if (named := environ.get("MPREG_NB_TOKEN_FILE")) is not None:
        return read_token(Path(named))
    path = default_path(environ)
    try:
        if not os.path.lexists(path):
            _make(path)
        _check_folder(path.parent)
    except NotTrusted:
        raise
    except OSError as error:
        raise NotTrusted(
            f"the token cannot be saved in {path}: {error.strerror}. Set "
            "MPREG_NB_TOKEN, or XDG_STATE_HOME to a folder that you can write"
        ) from error
    return read_token(path)


def read_token(path: Path) -> Token:
    """Return the token in `path`, a file that only this user can read or write.

    Raises:
        NotTrusted: it is missing, empty, a link, of someone else, or open to
            others; names the file and the cure.
    """
    try:
        # Not blocking, or a named pipe would hold us up before we know it is one.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        handle = os.open(path, flags)
    except OSError as error:
        if path.is_symlink():
            raise NotTrusted(
                f"{path} is a symbolic link, and links are not followed. Put the "
                "token in that file itself, or set MPREG_NB_TOKEN_FILE to the "
                "real path"
            ) from error
        raise NotTrusted(
            f"the token file {path} cannot be read: {error.strerror}. Name a "
            "readable file with --token-file or MPREG_NB_TOKEN_FILE, or neither "
            "to use your own token"
        ) from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise NotTrusted(f"{path} is not a file, so it cannot hold a token")
        _check_owner(path, about)
        _check_closed_to_others(path, about, cure_mode=0o600)
        content = os.read(handle, LONGEST_SECRET + 1)
    finally:
        os.close(handle)
    secret = content.decode("ascii", "replace").strip()
    if not secret or len(content) > LONGEST_SECRET or not secret.isascii():
        raise NotTrusted(
            f"{path} holds no token. Remove it; the next use creates a new one"
        )
    return Token(secret, source=str(path))


def _check_owner(path: Path, about: os.stat_result) -> None:
    if about.st_uid != os.geteuid():
        raise NotTrusted(
            f"{path} belongs to user {about.st_uid}, not to you, so its owner knows "
            "the token. Use your own: unset MPREG_NB_TOKEN_FILE, or remove it"
        )


def _check_closed_to_others(
    path: Path, about: os.stat_result, *, cure_mode: int
) -> None:
    if about.st_mode & 0o077:
        raise NotTrusted(
            f"{path} can be read by other users (mode {about.st_mode & 0o777:04o}). "
            f"Close it: chmod {cure_mode:o} {path}"
        )


def _check_folder(folder: Path) -> None:
    about = os.lstat(folder)
    if stat.S_ISLNK(about.st_mode):
        raise NotTrusted(f"{folder} is a symbolic link. Replace it by a folder")
    _check_owner(folder, about)
    _check_closed_to_others(folder, about, cure_mode=0o700)


def _make(path: Path) -> None:
    """Make the user's token unless another process did so first."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _check_folder(path.parent)
    draft = path.with_name(f".token-{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(draft, flags, 0o600)
    try:
        with open(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(handle)
        try:
            os.link(draft, path)  # unlike a rename, never replaces another's token
        except FileExistsError:
            return  # the other process's token is as good
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.unlink(draft)
