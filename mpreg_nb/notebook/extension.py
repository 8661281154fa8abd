"""What `%load_ext mpreg_nb` does: one magic, one line of text, no node."""

from typing import TYPE_CHECKING

from mpreg_nb.notebook.completion import complete
from mpreg_nb.notebook.magics import MpregMagics
from mpreg_nb.notebook.session import end_session, session_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Add `%mpreg` and `%%mpreg` to `shell`; called by `%load_ext mpreg_nb`."""
    session = session_of(shell)
    shell.register_magics(MpregMagics(shell, session))
    session.attach(complete(shell, session))
    print(  # noqa: T201 - the one line that tells how to go on
        "mpreg_nb is ready: %mpreg up starts nodes here, %mpreg? shows all it can do"
    )


def unload_ipython_extension(shell: "InteractiveShell") -> None:
    """Remove the magics; called by `%unload_ext mpreg_nb`. Nodes continue to run."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("mpreg", None)
    end_session()
