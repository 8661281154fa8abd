"""The user's token (interface; the body follows)."""

import os
from collections.abc import Mapping
from pathlib import Path


class Token:
    """A secret that two processes share; its repr does not show it."""

    def __init__(self, secret: str, *, source: str = "argument") -> None:
        raise NotImplementedError

    def key(self, role: str) -> bytes:
        """Return the 32 bytes that prove `role`; made from the secret one-way."""
        raise NotImplementedError

    def matches(self, offered: str) -> bool:
        """Whether `offered` is the secret; takes the same time either way."""
        raise NotImplementedError

    def reveal(self) -> str:
        """Return the secret itself, to hand it to another machine."""
        raise NotImplementedError


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's token lives if nothing else is said."""
    raise NotImplementedError


def load_token(
    given: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> Token:
    """Return the token to use, making the user's own on first use.

    The first of these that is set decides, and an error in it is not passed
    over: `given`, MPREG_NB_TOKEN, MPREG_NB_TOKEN_FILE, the file of the user.

    Raises:
        NotTrusted: the token is empty, or its file cannot be read safely.
    """
    raise NotImplementedError
