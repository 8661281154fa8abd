"""The records of all other nodes, and what this node alone knows about them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpreg_nb.membership.suspicion import Suspicion
from mpreg_nb.wire.gossip import Load, MemberRecord, MemberState, NodeName

LEAST_REMEMBERED = 64
"""Dead and gone records that are kept in any case, as long as they are young."""

MOST_REMEMBERED = 10_000


@dataclass(slots=True)
class Entry:
    """One other node."""

    record: MemberRecord
    since_s: float  # when it came into its state
    suspicion: Suspicion | None = None  # while SUSPECT
    rtt_s: float | None = None
    load: Load | None = None
    load_serial: int = -1
    contradicted_at_s: float = -math.inf  # when it was last told what we hold of it
    dialled_at_s: float = -math.inf  # when it was last dialled as a dead member
    deaf_rounds: int = 0  # in a row, in which it answered others but not us
    refused: tuple[bytes, int] | None = None  # epoch, incarnation when it refused us


class Table:
    """Entries by name, in the order in which they were met."""

    def __init__(self) -> None:
        self.entries: dict[NodeName, Entry] = {}
        self.suspects: dict[NodeName, Suspicion] = {}
        self.revision = 0
        """Rises with every change of a record."""
        self._active: dict[NodeName, None] | None = None
        self._alive: tuple[NodeName, ...] | None = None

    def get(self, name: NodeName) -> Entry | None:
        """Return the entry of `name`."""
        return self.entries.get(name)

    def add(self, record: MemberRecord, since_s: float) -> Entry:
        """Enter a node that was unknown."""
        entry = self.entries[record.name] = Entry(record, since_s)
        self._changed()
        return entry

    def replace(self, entry: Entry, record: MemberRecord) -> None:
        """Put a newer record in place of the one in `entry`."""
        moved = entry.record.state is not record.state
        entry.record = record
        self.revision += 1
        if moved:
            self._changed()

    def doubt(self, entry: Entry, suspicion: Suspicion | None) -> None:
        """Set or end the suspicion of a node."""
        entry.suspicion = suspicion
        if suspicion is None:
            self.suspects.pop(entry.record.name, None)
        else:
            self.suspects[entry.record.name] = suspicion

    @property
    def active(self) -> dict[NodeName, None]:
        """Names that are ALIVE or SUSPECT."""
        if self._active is None:
            self._active = {
                name: None
                for name, entry in self.entries.items()
                if entry.record.state <= MemberState.SUSPECT
            }
        return self._active

    @property
    def alive(self) -> tuple[NodeName, ...]:
        """Names that are ALIVE."""
        if self._alive is None:
            self._alive = tuple(
                name
                for name, entry in self.entries.items()
                if entry.record.state is MemberState.ALIVE
            )
        return self._alive

    @property
    def deadline(self) -> float:
        """When the first suspicion ends."""
        return min((s.deadline for s in self.suspects.values()), default=math.inf)

    def dead(self) -> list[Entry]:
        """Return the entries that are DEAD, not those that LEFT."""
        return [
            entry
            for entry in self.entries.values()
            if entry.record.state is MemberState.DEAD
        ]

    def told(self, now: float, memory_s: float) -> Sequence[MemberRecord]:
        """Return the records that others should have too, gone ones not too old."""
        return [
            entry.record
            for entry in self.entries.values()
            if entry.record.state <= MemberState.SUSPECT
            or now - entry.since_s < memory_s
        ]

    def forget_old(self, now: float, *, memory_s: float, mult: int) -> list[NodeName]:
        """Drop records of the dead and the gone that are too old or too many.

        Returns whose they were.
        """
        gone = [
            (entry.since_s, name)
            for name, entry in self.entries.items()
            if entry.record.state > MemberState.SUSPECT
        ]
        cap = min(MOST_REMEMBERED, max(LEAST_REMEMBERED, mult * (len(self.active) + 1)))
        gone.sort()
        dropped = [
            name
            for place, (since_s, name) in enumerate(gone)
            if now - since_s > memory_s or len(gone) - place > cap
        ]
        for name in dropped:
            del self.entries[name]
            self._changed()
        return dropped

    def _changed(self) -> None:
        self.revision += 1
        self._active = None
        self._alive = None
