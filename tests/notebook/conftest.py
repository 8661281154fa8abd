"""A real IPython shell for each test, with the extension loaded."""

from tests.support.shell import folders, run_cell, shell

__all__ = ["folders", "run_cell", "shell"]
