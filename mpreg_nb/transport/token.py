"""The secret that the processes of one user share, and where it is kept.

Who has it can run code as that user, so a token whose file others could read
or replace is refused rather than used. The token itself never travels: each
role proves itself with a key derived from it (see `handshake`).

The key of one role can be issued as a token of its own: who has the key of clients
can call functions and cannot join as a node, and a viewer can only look.

A token is rotated by replacing its file. The one before is kept beside it for a while,
so that processes that have not seen the new one are still let in. `current` and
`accepted` read the files again when they have changed.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from mpreg_nb.errors import NotTrusted
from mpreg_nb.user_files import state_folder

Role: TypeAlias = Literal["client", "node", "viewer"]
"""What the dialling side is. Each role proves itself with a key of its own.

A viewer is a client that may look at everything and change nothing."""

SECRET_BYTES = 32
LONGEST_SECRET = 1024
"""Bytes of a token file; more cannot be a token."""

SHORTEST_SECRET = 22
"""Letters of base64url that hold 128 bit. A listener proves itself to whoever asks, so
a stranger can try tokens offline: a shorter one would be found."""

OVERLAP_S = 24 * 3600.0
"""How long the token before the last rotation is accepted, unless said otherwise."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_ISSUED: dict[str, Role] = {"client": "client", "read-only": "viewer"}
"""What issued tokens begin with, before a dot: no other token has a dot."""


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

    `source` says where it came from, for messages to people; `path` is its file, if
    it came from one.
    """

    __slots__ = ("_keys", "_secret", "issued_for", "path", "source")

    def __init__(
        self, secret: str, *, source: str = "the argument", path: Path | None = None
    ) -> None:
        """Take a secret that was made at random, or one that was issued.

        Raises:
            NotTrusted: it is too short to be safe, or no token at all.
        """
        kind, dot, letters = secret.rpartition(".")
        self.issued_for: Role | None = _ISSUED.get(kind)
        """The only role that this token is for; None: for all of them."""
        if not letters or not _BASE64URL.fullmatch(letters):
            raise NotTrusted(
                f"{source} is not a token: a token is one line of letters, digits, "
                "'-' and '_'. Show yours: mpreg-nb token show"
            )
        if dot and (self.issued_for is None or len(_decoded(letters)) != SECRET_BYTES):
            raise NotTrusted(
                f"{source} is not a whole token: it was cut off or changed on its way. "
                "Issue it again where the cluster runs: mpreg-nb token issue"
            )
        if len(letters) < SHORTEST_SECRET:
            raise NotTrusted(
                f"{source} is too short to be a safe token ({len(letters)} "
                f"characters; at least {SHORTEST_SECRET}, made at random). Use the one "
                "that mpreg-nb makes: mpreg-nb token show"
            )
        self._secret = secret
        self._keys: dict[str, bytes] = {}  # role -> key, made when first asked
        if self.issued_for is not None:
            self._keys[self.issued_for] = _decoded(letters)
        self.source = source
        self.path = path

    def key(self, role: Role) -> bytes:
        """Return the 32 bytes that prove `role`; the token cannot be told from it.

        Raises:
            NotTrusted: the token was issued for another role.
        """
        key = self._keys.get(role)
        if key is None:
            if self.issued_for is not None:
                raise NotTrusted(
                    f"{self.source} is a token for {_WHAT[self.issued_for]}, and "
                    f"cannot be used by {_WHAT[role]}. Use the token of the cluster: "
                    "mpreg-nb token show, where it runs"
                )
            info = b"mpreg_nb " + role.encode()
            key = self._keys[role] = hkdf(self._secret.encode(), info)
        return key

    def key_id(self, role: Role) -> str:
        """Return 16 hex digits that tell the key of `role` from others, and no more."""
        return hmac.digest(self.key(role), b"mpreg_nb key id", "sha256")[:8].hex()

    def issue(self, role: Role) -> str:
        """Return a token that is good for `role` and nothing else."""
        [kind] = [kind for kind, of in _ISSUED.items() if of == role]
        letters = urlsafe_b64encode(self.key(role)).decode().rstrip("=")
        return f"{kind}.{letters}"

    @property
    def caller_role(self) -> Role:
        """What a program that calls functions with this token is."""
        return "viewer" if self.issued_for == "viewer" else "client"

    def matches(self, offered: str) -> bool:
        """Whether `offered` is the secret; takes as long where it nearly is."""
        return _same(offered, self._secret)

    def role_of(self, offered: str) -> Role | None:
        """Return what a foreign client that shows `offered` is; None: a stranger."""
        if self.matches(offered) or _same(offered, self.issue("client")):
            return "client"
        return "viewer" if _same(offered, self.issue("viewer")) else None

    def reveal(self) -> str:
        """Return the secret itself, to be carried to another machine."""
        return self._secret

    def __repr__(self) -> str:
        return f"<Token from {self.source}>"


_WHAT: dict[Role, str] = {
    "client": "clients",
    "node": "nodes",
    "viewer": "clients that only look",
}


def _same(offered: str, right: str) -> bool:
    # Digests, since compare_digest itself shows a difference in length.
    return hmac.compare_digest(
        hashlib.sha256(offered.encode(errors="replace")).digest(),
        hashlib.sha256(right.encode()).digest(),
    )


def _decoded(letters: str) -> bytes:
    try:
        return urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    except ValueError:
        return b""


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's token is kept unless something else is said."""
    return state_folder(environ) / "token"


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
    return read_token(path, whole_line=True)


def read_token(path: Path, *, whole_line: bool = False) -> Token:
    """Return the token in `path`, a file that only this user can read or write.

    whole_line: it was written by this package, which ends it with a line feed: one
        without was cut short.

    Raises:
        NotTrusted: it is missing, empty, cut short, a link, of someone else, or open
            to others; names the file and the cure.
    """
    content = _content(path)
    try:
        secret = content.decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(content) > LONGEST_SECRET:
        raise NotTrusted(
            f"{path} holds no token. Remove it; the next use creates a new one"
        )
    if whole_line and not content.endswith(b"\n"):
        raise NotTrusted(
            f"{path} was cut short, so the token in it is not whole. Remove it; the "
            "next use creates a new one"
        )
    return Token(secret, source=str(path), path=path)


def _content(path: Path) -> bytes:
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
        return os.read(handle, LONGEST_SECRET + 1)
    finally:
        os.close(handle)


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


# ------------------------------------------------------------------ rotation


def rotate(token: Token, *, overlap_s: float = OVERLAP_S) -> Token:
    """Replace the token in its file; the old one is accepted for `overlap_s` more.

    Processes that read it from the file see the new one by themselves.

    Raises:
        NotTrusted: it did not come from a file, or is one that was issued.
        OSError: the file cannot be replaced.
    """
    if token.issued_for is not None:
        raise NotTrusted(
            f"{token.source} was issued from another token. Rotate that one, where the "
            "cluster runs"
        )
    if token.path is None:
        raise NotTrusted(
            f"the token from {token.source} is in no file that could be replaced. Set "
            "a new value where it is set, and start the nodes again"
        )
    until_s = time.time() + overlap_s
    _replace(_previous_path(token.path), f"{token.reveal()}\n{int(until_s)}\n")
    _replace(token.path, f"{secrets.token_urlsafe(SECRET_BYTES)}\n")
    return read_token(token.path)


def current(token: Token) -> Token:
    """Return what the file of `token` holds now; `token` itself without a file.

    A file that cannot be used now changes nothing: it may be back in a moment.
    """
    if token.path is None:
        return token
    stamp = _stamp(token.path)
    known, newest = _newest.get(token.path, (None, token))
    if stamp == known or stamp is None:
        return newest
    try:
        newest = read_token(token.path)
    except NotTrusted:
        return newest
    _newest[token.path] = (stamp, newest)
    return newest


def accepted(token: Token) -> tuple[Token, ...]:
    """Return the tokens to let in: the current one, and for a while the one before."""
    newest = current(token)
    if newest.path is None:
        return (newest,)
    try:
        lines = _content(_previous_path(newest.path)).decode("ascii").split()
        before, until_s = Token(lines[0]), float(lines[1])
    except (NotTrusted, ValueError, IndexError):
        return (newest,)  # there was no rotation
    # On the wall clock, which is what a person means by a day.
    return (newest, before) if time.time() < until_s else (newest,)


_newest: dict[Path, tuple[tuple[int, int] | None, Token]] = {}
"""Path -> stamp of the file that was read last, and what was in it."""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = os.lstat(path)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino


def _previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _replace(path: Path, content: str) -> None:
    draft = path.with_name(f".{path.name[:64]}-{secrets.token_hex(8)}")
    try:
        _write(draft, content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _write(path: Path, content: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _make(path: Path) -> None:
    """Make the user's token unless another process did so first."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _check_folder(path.parent)
    draft = path.with_name(f".token-{secrets.token_hex(8)}")
    try:
        _write(draft, f"{secrets.token_urlsafe(SECRET_BYTES)}\n")
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
        draft.unlink(missing_ok=True)
