"""Every figure that can be turned, with its unit, default and reason.

The figures of membership are in `mpreg_nb.membership.config`.
"""

import msgspec

LONGEST_TIME_S = 1e7
"""That a call or a step may be given; about 115 days. Longer ones are mistakes."""

INLINE_BYTES = 64 * 1024
"""A payload of one part up to this size travels inside its message."""

FRAGMENT_BYTES = 256 * 1024
"""Size of one piece of a large payload; small messages go between pieces."""

RIDE_ALONG_BYTES = 16 * 1024
"""A step's result up to this size travels with the reply to whoever needs it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection or node accepts before it says no."""

    max_payload_bytes: int = 1 << 30
    """Arguments or result of one call. More memory per node if raised."""

    max_frame_bytes: int = 4 << 20
    """One WebSocket message; larger ones close the link with code 1009."""

    proof_timeout_s: float = 5.0
    """From accept to a right proof; bounds what a silent stranger can hold."""

    unproven_connections: int = 64
    """Links that have not proven themselves yet, at once."""

    connections: int = 1024
    """Links of one node in all."""

    backlog_bytes: int = 64 << 20
    """All that waits for one peer; more is let be only where it is one message, or
    the peer reads fast. Else close 1013."""

    calls_per_link: int = 256
    """Calls of one client on their way over one link; it holds the others back."""

    calls_per_node: int = 1024
    """Running and queued calls of one node; more are answered OVERLOADED."""

    queued_bytes: int = 256 << 20
    """Arguments waiting in one node; more are answered OVERLOADED."""


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one node runs; `mpreg-nb node` has an option for each."""

    name: str
    resources: frozenset[str] = frozenset()
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free port."""

    join: tuple[str, ...] = ()
    """URLs of nodes to join; none starts a new cluster."""

    cluster_id: str = ""
    """32 hex characters; empty takes the one of `join`, or a new one."""

    workers: int = 1
    """Processes that run user code. 0 runs only builtins and local functions."""

    slots: int = 1
    """Calls at once in one worker; more than 1 uses threads inside it."""

    profile: str = "local"
    """Figures of membership: local (loopback), lan or wan."""

    host_name: str = ""
    """Name of its machine in tables and views; empty takes the machine's own."""

    advertised: tuple[str, ...] = ()
    """URLs told to others; empty tells the address that was bound."""

    json_open: bool = False
    """Answer JSON calls without a token; only on loopback."""

    scratch: str = ""
    """Folder for workers' files; empty makes one and removes it at the end."""

    store_bytes: int = 1 << 30
    """Results of workflow steps held here; least recently used go first."""

    shared_memory_mb: int = 1024
    """For large values, of each worker; 0 sends them through sockets."""

    drain_s: float = 10.0
    """How long a leaving node waits for running calls."""

    limits: Limits = msgspec.field(default_factory=Limits)

    engine: str = ""
    """URL of what runs the calls in place of worker processes of nodes."""
