"""Plain mode: what is shown is the same in every run, so that it can be tested.

In plain mode cards, views and drawings leave out times, ports and process ids, and
nothing is updated live. Frames keep their columns.
"""

import os
import sys
from typing import TextIO

VARIABLE = "MPREG_NB_PLAIN"


def asked() -> bool:
    """Return whether the user asked for plain mode: MPREG_NB_PLAIN=1."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def plain() -> bool:
    """Return whether plain mode is on: requested, or there is no notebook or terminal.

    MPREG_NB_PLAIN=0 turns it off in all cases.
    """
    if os.environ.get(VARIABLE, ""):
        return asked()
    return not _in_kernel() and not is_terminal(sys.stdout)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream leads to a terminal.

    It is None in a process that was started with its standard files closed.
    """
    return stream is not None and stream.isatty()


def on_terminal() -> bool:
    """Return whether things are shown on a terminal, which takes text only."""
    return not _in_kernel() and is_terminal(sys.stdout)


def in_ipython_terminal() -> bool:
    """Return whether a person types at IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    return on_terminal() and ipython is not None and ipython.get_ipython() is not None


def _in_kernel() -> bool:
    # Looked up, not imported: where there is a kernel, it has done that.
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()
