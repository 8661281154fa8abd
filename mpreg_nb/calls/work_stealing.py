"""Which calls that wait on a busy node go to an idle one instead.

A caller spreads its calls by what it knows. A call of somebody else that takes
long is not known to it, so some of its calls may wait behind that one while other
nodes have nothing to do. A node says which calls wait in its queue; those are
asked back while there is room elsewhere, oldest first, and sent on when they were
given back. What has begun meanwhile is not given back, so no call runs twice.

Whoever sends calls has one of these. It neither sends nor waits itself.
"""

from collections.abc import Collection
from itertools import count
from typing import TypeAlias

import msgspec

from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted

MOST_RECALLS = 3
"""Of one call; after that it stays where it is."""


class _Waiter(msgspec.Struct, eq=False):
    """A call, from the first time that it is said to wait until it begins or ends."""

    wanted: Wanted
    node: str  # where it waits, or where it was sent when it was given back
    avoid: Collection[str]
    number: int  # the smaller, the longer it waits
    recalls: int = 0
    target: Chosen | None = None  # where it is to go once it is given back


_Line: TypeAlias = dict[bytes, _Waiter]


class Stealing:
    """The waiting calls of one sender.

    A call is in its line exactly while it waits and may be recalled. The slot of
    its target is reserved from then on, so that no other call takes it.
    """

    def __init__(self, router: Router, loads: Loads) -> None:
        self._router = router
        self._loads = loads
        self.waiters: dict[bytes, _Waiter] = {}  # empty while nothing waits
        self._lines: dict[Wanted, _Line] = {}  # none of them is empty
        self._count = count()

    def waits(
        self, call_id: bytes, wanted: Wanted, node: str, avoid: Collection[str] = ()
    ) -> None:
        """Note that a call waits in the queue of `node`; `avoid` is not for it."""
        waiter = self.waiters.get(call_id)
        if waiter is None:
            waiter = _Waiter(wanted, node, avoid, 0)
            self.waiters[call_id] = waiter
        elif waiter.target is not None:
            return  # it is on its way back
        waiter.node = node
        waiter.number = next(self._count)
        if waiter.recalls < MOST_RECALLS:
            self._lines.setdefault(waiter.wanted, {})[call_id] = waiter

    def recalls(self, now: float, target: str = "") -> dict[str, list[bytes]]:
        """Return what to ask back, by the node where it waits.

        target: only what this node has room for, instead of all idle ones.
        """
        found: dict[str, list[bytes]] = {}
        if not self._lines or (target and not self._room(target, now)):
            return found
        fits: dict[str, list[tuple[_Line, Chosen]]] = {}
        for wanted, line in self._lines.items():
            for chosen in self._router.fitting(wanted, now):
                if target in ("", chosen.node):
                    fits.setdefault(chosen.node, []).append((line, chosen))
        for node, lines in fits.items():
            for _ in range(self._room(node, now)):
                oldest = _oldest(node, lines)
                if oldest is None:
                    break
                call_id, chosen = oldest
                waiter = self.waiters[call_id]
                self._leave_line(call_id, waiter)
                waiter.recalls += 1
                waiter.target = chosen
                self._loads.sent(node)
                found.setdefault(waiter.node, []).append(call_id)
        return found

    def given_back(self, call_id: bytes, now: float) -> Chosen | None:
        """Return where a call goes that its node will not run; None: not asked for."""
        waiter = self.waiters.get(call_id)
        if waiter is None or waiter.target is None:
            return None
        target, waiter.target = waiter.target, None
        self._loads.answered(target.node, None, now)  # whoever sends it counts it
        waiter.node = target.node
        return target

    def drop(self, call_id: bytes, now: float) -> None:
        """Forget a call that has begun, has ended, or is not to be moved."""
        waiter = self.waiters.pop(call_id, None)
        if waiter is None:
            return
        if waiter.target is not None:
            self._loads.answered(waiter.target.node, None, now)
        self._leave_line(call_id, waiter)

    def _room(self, node: str, now: float) -> int:
        return self._loads[node].free_slots(now)

    def _leave_line(self, call_id: bytes, waiter: _Waiter) -> None:
        line = self._lines.get(waiter.wanted, {})
        if line.pop(call_id, None) is not None and not line:
            del self._lines[waiter.wanted]


def _oldest(
    node: str, lines: list[tuple[_Line, Chosen]]
) -> tuple[bytes, Chosen] | None:
    """Return the call that waits longest for what `node` could do for it."""
    best: tuple[int, bytes, Chosen] | None = None
    for line, chosen in lines:
        for call_id, waiter in line.items():
            if waiter.node != node and node not in waiter.avoid:
                if best is None or waiter.number < best[0]:
                    best = waiter.number, call_id, chosen
                break
    return None if best is None else best[1:]
