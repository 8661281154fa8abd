"""Where the files of a user's clusters are."""

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

LONGEST_STEM = 100
"""Bytes; most systems end file names at 255, and suffixes come on top."""


def state_folder() -> Path:
    """Return `$XDG_STATE_HOME/mpreg_nb`, else `~/.local/state/mpreg_nb`."""
    base = _absolute("XDG_STATE_HOME")
    if base is None:
        base = Path(os.path.expanduser("~"), ".local", "state")
    return base / "mpreg_nb"


def ledger_folders() -> tuple[Path, ...]:
    """Return where ledger files may be; the first is where new ones are written.

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


def file_stem(name: str) -> str:
    """Return a file name for `name`, whatever is in it; no two share one.

    >>> file_stem("calm-otter"), file_stem(".."), file_stem("ß")
    ('calm-otter', '%2E%2E', '%C3%9F')
    """
    # Without dots it is no hidden file, no way up, and its suffix is ours.
    stem = quote(name, safe=" ").replace(".", "%2E")
    if len(stem) <= LONGEST_STEM:
        return stem
    return hashlib.sha256(name.encode()).hexdigest()


def _absolute(variable: str) -> Path | None:
    # Relative ones are to be ignored, says the XDG base directory specification.
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else None
