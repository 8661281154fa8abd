"""Standard input, output and error of a process that was started without them."""

import os
import sys


def fill_standard_files() -> None:
    """Open the null device in the place of standard files that are closed.

    Else a socket or pipe of ours would become standard input, output or error:
    what is printed would go to a node, and a child could not inherit it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def have_standard_files() -> None:
    """Let this process print also where it was started without standard files."""
    fill_standard_files()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
