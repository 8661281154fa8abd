"""Where relative paths of a call lead to: the working folder of who calls.

It travels with the call, after a mark of the machine, and counts on this machine
only.
"""

import os
import platform
from collections.abc import Callable
from functools import cache
from hashlib import sha256

_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_hidden = b""
_told: Callable[[], bool] = lambda: True  # noqa: E731 - replaced as a whole


@cache
def machine() -> bytes:
    """Return a mark of this machine, or container, since it was started."""
    try:
        with open(_BOOT_ID, "rb") as file:
            boot = file.read()
    except OSError:  # no Linux
        boot = b""
    return sha256(platform.node().encode() + boot).hexdigest()[:12].encode()


def here() -> bytes:
    """Return what tells a worker where the caller is; b"" leaves it in its own."""
    if not _told():
        return b""
    try:
        folder = os.getcwdb()
    except OSError:  # it was removed
        return b""
    return b"" if folder == _hidden else b"%b:%b" % (machine(), folder)


def folder_of(said: bytes) -> bytes:
    """Return the folder that `here` named on this machine, else b""."""
    mark, _, folder = said.partition(b":")
    return folder if folder and mark == machine() else b""


def hide(folder: bytes) -> None:
    """Tell nobody of `folder`: it is a worker's own."""
    global _hidden
    _hidden = folder


def tell_if(condition: Callable[[], bool]) -> None:
    """Ask `condition` for each call whether the folder of this process is told."""
    global _told
    _told = condition
