"""How long a link waits, and what it accepts."""

from dataclasses import dataclass, field

from mpreg_nb.settings import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Seconds that a link waits for its other end before it acts."""

    ping_s: float = 20.0
    """Silence before a ping, and again before the link is given up. A dead
    machine sends no goodbye: this bounds how long its links seem alive."""

    drain_s: float = 10.0
    """A peer that takes nothing for so long is cut off with code 1013."""

    close_s: float = 2.0
    """From our goodbye to the peer's; then the socket is dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What one side of a link holds the other to."""

    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
