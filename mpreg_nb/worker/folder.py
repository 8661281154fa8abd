"""The working folder in which functions run."""

import os
import sys
import threading

from mpreg_nb.wire.working_folder import folder_of

_CLONE_FS = 0x200
"""Of Linux' <sched.h>: what a thread shares of working folder and umask."""


class Folder:
    """Takes calls to the folder of their caller, else to the scratch folder."""

    def __init__(self, scratch: str) -> None:
        self._scratch = os.fsencode(os.path.abspath(scratch))
        self._asked: bytes | None = None  # None: look again
        self._now = b""

    def enter(self, asked: bytes) -> None:
        """Go where a call belongs: functions may have moved, folders may be gone."""
        if asked == self._asked:
            try:
                if os.getcwdb() == self._now:
                    return
            except OSError:  # it was removed
                pass
        self._asked = asked
        folder = folder_of(asked)
        if folder:
            try:
                os.chdir(folder)
            except OSError:  # it is gone, or not for this user
                self._asked = None
            else:
                self._now = os.getcwdb()
                return
        os.makedirs(self._scratch, exist_ok=True)
        os.chdir(self._scratch)
        self._now = os.getcwdb()


class Folders:
    """A folder for each thread of a worker with several slots.

    Linux lets a thread have a working folder of its own. Where it does not, as on
    other systems or in some containers, the call that began last decides for all;
    so it does among async functions, which share a thread.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._own = threading.local()

    def enter(self, asked: bytes) -> None:
        """Go where a call belongs, in this thread."""
        folder: Folder | None = getattr(self._own, "folder", None)
        if folder is None:
            _separate()
            folder = self._own.folder = Folder(self._scratch)
        folder.enter(asked)


def _separate() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).unshare(_CLONE_FS)  # where it is forbidden, all share one
