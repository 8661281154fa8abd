"""What this room gives to a worker process: `mp.current()` and joblib's backend.

The worker loads this file by its name, since its room lies below this one.
"""

from mpreg_nb.call_context import Home
from mpreg_nb.cluster import joblib_backend


def set_up() -> None:
    """Make the backend known to joblib in this process."""
    joblib_backend.register()


def connect(home: Home) -> None:
    """Connect to the node of this worker; that cluster becomes the current one."""
    # Only functions that call the cluster need these, and they take long to import.
    from mpreg_nb.cluster.cluster import Cluster
    from mpreg_nb.transport.token import Token

    token = Token(home.token, source="the node of this worker")
    Cluster([home.url], token, ca=home.ca)
