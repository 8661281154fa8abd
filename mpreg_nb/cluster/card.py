"""What a registration says of a function: version, place, size, captures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpreg_nb.view.units import count, size

if TYPE_CHECKING:
    from mpreg_nb.wire.messages import Registered
    from mpreg_nb.wire.payload import Capture, Shipped

LARGE_BYTES = 1_000_000
"""From here on a capture is worth a warning: it travels to every node."""

SHOWN_CAPTURES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A version that another took the place of, both numbered as they came here."""

    before: int
    now: int
    results: int  # that this process got of the version before

    def __str__(self) -> str:
        text = f"v{self.before} → v{self.now}"
        if self.results:
            stale = "is" if self.results == 1 else "are"
            text += f", {count(self.results, 'result')} {stale} now stale"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The outcome of one registration; its `str` is what a cell shows."""

    function: str
    version: str
    nodes: tuple[str, ...]
    resources: tuple[str, ...]
    size_bytes: int
    captures: "tuple[Capture, ...]"
    replaces: "Replaced | None" = None
    python: str = ""  # the only one that runs it, such as "Python 3.11"
    needs_worker: bool = False

    @classmethod
    def of(
        cls,
        shipped: "Shipped",
        registered: "Registered",
        replaces: "Replaced | None" = None,
    ) -> "Card":
        """Put the card together from what was sent and what was answered."""
        offer = registered.offer
        return cls(
            function=offer.function,
            version=offer.version,
            nodes=registered.nodes,
            resources=tuple(sorted(offer.resources)),
            size_bytes=shipped.size_bytes,
            captures=shipped.captures,
            replaces=replaces,
            python=f"Python {offer.python}" if offer.python else "",
            needs_worker=offer.needs_worker,
        )

    @property
    def needs(self) -> str:
        """What a node must have to serve the function."""
        worker = "a worker process" if self.needs_worker else ""
        return ", ".join(self.resources) or " and ".join(
            need for need in (self.python, worker) if need
        )

    @property
    def notice(self) -> str:
        """The change against the version before, "" for a first registration."""
        return "" if self.replaces is None else f"{self.function} {self.replaces}"

    def __str__(self) -> str:
        where = ", ".join(self.nodes) or (f"no node yet (needs {self.needs})")
        parts = [f"{self.function} {self.version[:6]} → {where}", size(self.size_bytes)]
        if self.captures:
            shown = [f"{c.name} ({c.type_name})" for c in self.captures]
            more = len(shown) - SHOWN_CAPTURES
            text = ", ".join(shown[:SHOWN_CAPTURES])
            parts.append(f"captures: {text}{f', {more} more' if more > 0 else ''}")
        lines = [" · ".join(parts)]
        if self.notice:
            lines.append(f"  {self.notice}")
        lines += [
            f"  {capture.name} is {size(capture.size_bytes)} and is sent to every "
            f"node that serves {self.function}: pass it as an argument, or load it "
            "inside the function"
            for capture in self.captures
            if capture.size_bytes > LARGE_BYTES
        ]
        return "\n".join(lines)
