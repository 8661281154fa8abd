"""Plain mode: what is shown is the same in every run, so that it can be tested.

In plain mode cards, views and drawings leave out times, ports and process ids, and
nothing is updated live. Frames keep their columns.
"""

import os
import sys

VARIABLE = "MPREG_NB_PLAIN"


def asked() -> bool:
    """Return whether the user asked for plain mode: MPREG_NB_PLAIN=1."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def plain() -> bool:
    """Return whether to show things plainly: asked for, or there is no front end.

    MPREG_NB_PLAIN=0 says that there is one.
    """
    if os.environ.get(VARIABLE, ""):
        return asked()
    # Looked up, not imported: where there is a kernel, it has done that.
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is None or not kernel.IPKernelApp.initialized()
